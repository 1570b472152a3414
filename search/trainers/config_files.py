"""The config of a program that is not ours: YAML, JSON or TOML, of which a search changes values.

Everything else passes as it was for the program's own reader: YAML means here what PyYAML's safe
loader takes it for, not what a config of ours means (`trainer.notation`). Values are what JSON can
hold, so that a study can keep them: a date is `{"!date": "2024-01-01"}`, a mapping with keys that
are no texts `{"!pairs": [[0, 1.5], ...]}`.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from search.trainers.readings import leaves
from search.trainers.toml_text import toml_text
from trainer.errors import ConfigError
from trainer.notation import decimal, read_text, switch

Format = Literal["yaml", "json", "toml"]
_FORMATS: Mapping[str, Format] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".toml": "toml",
}
_DATE, _PAIRS = "!date", "!pairs"
# keys that are named where one is not there
_NAMED = 8


@dataclass(frozen=True)
class ConfigFile:
    """A program's config. values: see the module. format: what it is written in."""

    values: dict[str, Any]
    format: Format


def read_config(path: Path) -> ConfigFile:
    """A config by the end of its name. Raises ConfigError that names file, place and fix."""
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        raise ConfigError(f"{path}: its name ends in none of {', '.join(_FORMATS)}; rename it")
    values = _plain(_LOADS[known](read_text(path), path), str(path))
    if not isinstance(values, dict) or _PAIRS in values:
        raise ConfigError(f"{path}: keys with values are needed, got {str(values)[:60]!r}")
    return ConfigFile(values, known)


def written(values: Mapping[str, Any], form: Format) -> str:
    """The text of a config. Raises ConfigError where the format has no such value."""
    data = _own(values)
    if form == "yaml":
        return str(
            yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
        )
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return toml_text(data)


# ----------------------------------------------------------------------------------------- values


def put_values(
    values: Mapping[str, Any], changes: Mapping[str, Any], *, new_keys: bool = False
) -> dict[str, Any]:
    """A copy with values at dotted keys; `layers.0.width` leads through a list.

    A value keeps the kind of what it replaces: 3.0 is 3 where a whole number stands. new_keys:
    whether keys may be added. Raises ConfigError for a key that is not there, with the nearest.
    """
    made = copy.deepcopy(dict(values))
    for key, value in changes.items():
        _put(made, key, value, new_keys)
    return made


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key; of `1e-4`, which PyYAML takes for a text, the number.

    Raises ConfigError as `put_values`.
    """
    holder, place = _place(values, key, new_keys=False)
    value = holder[place]
    number = decimal(value) if isinstance(value, str) else None
    return number if isinstance(number, float) else value


def _put(made: dict[str, Any], key: str, value: Any, new_keys: bool) -> None:
    holder, place = _place(made, key, new_keys)
    present = holder[place] if isinstance(holder, list) else holder.get(place)
    if isinstance(present, dict | list) and present:
        inner = next((f"{key}.{name}" for name, _ in leaves(_as_mapping(present))), key)
        raise ConfigError(f"{key}: holds more than one value; name one of them, such as {inner}")
    holder[place] = _of_kind(value, present)


def _of_kind(value: Any, present: Any) -> Any:
    """A number as the present one is written, whole or with a point; yes and no as a switch."""
    if isinstance(present, bool):
        return switch(value)
    if isinstance(value, bool):
        return value
    if isinstance(present, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(present, float) and isinstance(value, int):
        return float(value)
    return value


def _place(values: Any, key: str, new_keys: bool) -> tuple[Any, Any]:
    """The mapping or list that holds the value of a key, and its place there."""
    node, rest = values, key
    while True:
        step = _step(node, rest, new_keys)
        if step is None:
            _refuse(values, key)
        place, rest = step
        if not rest:
            return node, place
        if new_keys and isinstance(node, dict):
            node.setdefault(place, {})
        node = node[place]


def _step(node: Any, key: str, new_keys: bool) -> tuple[Any, str] | None:
    """Where a dotted key leads to from here, and what is left of it; None for nowhere."""
    name, _, rest = key.partition(".")
    if isinstance(node, list):
        return (int(name), rest) if name.isdecimal() and int(name) < len(node) else None
    if not isinstance(node, Mapping):
        return None
    if key in node:
        # it may have dots itself
        return key, ""
    return (name, rest) if name in node or (new_keys and all(key.split("."))) else None


def _refuse(values: Mapping[str, Any], key: str) -> NoReturn:
    known = [name for name, _ in leaves(_as_mapping(values))]
    leaf = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == leaf]
    near += difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    by_leaf = {name.rpartition(".")[2]: name for name in known}
    near += [by_leaf[hit] for hit in difflib.get_close_matches(leaf, by_leaf, n=1)]
    some = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
    hint = f"did you mean {near[0]}?" if near else f"there are {some or 'none'};"
    raise ConfigError(f"{key}: no such key in the config: {hint} --new-key adds it")


def _as_mapping(value: Any) -> Any:
    """Lists as mappings by place, so that their values have dotted names."""
    if isinstance(value, list):
        value = {str(place): item for place, item in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(name): _as_mapping(item) for name, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------- reading


def _yaml(text: str, path: Path) -> Any:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not read: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    return {} if data is None else data


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}; fix that place") from None


def _toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; fix that place") from None


_LOADS: Mapping[Format, Callable[[str, Path], Any]] = {"yaml": _yaml, "json": _json, "toml": _toml}


def _plain(value: Any, where: str) -> Any:
    """What a reader gives as what JSON can hold."""
    if isinstance(value, dict):
        pairs = [(name, _plain(item, where)) for name, item in value.items()]
        if all(isinstance(name, str) for name, _ in pairs):
            return dict(pairs)
        return {_PAIRS: [[_plain(name, where), item] for name, item in pairs]}
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return {_DATE: value.isoformat()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(
        f"{where}: {str(value)[:40]!r} is a {type(value).__name__}, which no config here can hold;"
        " write it as text"
    )


def _own(value: Any) -> Any:
    """The opposite of `_plain`."""
    if isinstance(value, Mapping):
        if value.keys() == {_DATE}:
            return _date(value[_DATE])
        if value.keys() == {_PAIRS}:
            return {_own(name): _own(item) for name, item in value[_PAIRS]}
        return {name: _own(item) for name, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _date(text: str) -> datetime.date | datetime.time:
    for kind in (datetime.date, datetime.datetime, datetime.time):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    raise ConfigError(f"{text!r} is no date; write it like 2024-01-01")


class _Dumper(yaml.SafeDumper):
    """Writes what every reader takes for the same number; nothing twice by an anchor."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    node = yaml.SafeDumper.represent_float(dumper, value)
    if "e" in node.value and "." not in node.value:
        # else a text for PyYAML
        node.value = node.value.replace("e", ".0e")
    return node


_Dumper.add_representer(float, _represent_float)
