"""`--space FILE`: the search space of a program that is not ours, as Python or YAML.

Python has `SPACE`, as in `space.py`, and perhaps `ONLY_IF`. YAML says the same in a line a key:

    loss.dice_weight: {low: .5, high: 4, log: true}   # a number
    model.layers: {low: 1, high: 4}                   # whole: both ends are, without a point
    model.width: {low: 8.0, high: 64.0, int: true}    # whole, said so; int: false is a number
    optimizer.name: [AdamW, SGD]                      # a choice
    optimizer.momentum: {low: .5, high: .99, only_if: {optimizer.name: SGD}}

A choice with a condition is `{choices: [...], only_if: ...}`. Sections may be nested.
"""

from __future__ import annotations

import difflib
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.study.search_space import matching
from space import Choice, EpochShare, Float, Int, Spec, Value
from trainer.errors import ConfigError
from trainer.notation import load_yaml, read_text, switch

_FORM = "{low: 0.1, high: 4} or a list of choices is needed"
_KEYS = ("low", "high", "log", "int", "choices", "only_if")


@dataclass(frozen=True)
class SpaceFile:
    """A search space. specs: key -> range or choices, in the file's order.

    only_if: key -> the values of other parameters under which it counts.
    """

    specs: dict[str, Spec]
    only_if: dict[str, dict[str, Value]]


def read_space(path: Path) -> SpaceFile:
    """The space of a `.py`, `.yaml` or `.yml`. Raises ConfigError with file, key, value and fix."""
    suffix = path.suffix.lower()
    if suffix not in (".py", ".yaml", ".yml"):
        raise ConfigError(f"{path}: its name ends in none of .py, .yaml, .yml; rename it")
    given = _of_python(path) if suffix == ".py" else _of_yaml(path)
    specs, conditions = {}, {}
    for key, entry, only_if in given:
        if key in specs:
            raise ConfigError(f"{path}: {key} stands there twice; keep one")
        specs[key] = _spec(entry, f"{path}: {key}")
        if only_if is not None:
            conditions[key] = only_if
    if not specs:
        raise ConfigError(f"{path}: holds no parameter; write one as in lr: {{low: 0.1, high: 1}}")
    return SpaceFile(specs, _checked(conditions, specs, path))


def choice_of(text: str) -> tuple[str, Choice]:
    """`KEY=A,B` as a key and its choices, which are read as YAML. Raises ConfigError.

    >>> choice_of("optimizer.name=AdamW,SGD"), choice_of("amp=true,false")[1]
    (('optimizer.name', Choice(choices=('AdamW', 'SGD'))), Choice(choices=(True, False)))
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    where = f"--choice {text}"
    if not (key and equals and values):
        raise ConfigError(f"{where}: it is not KEY=A,B, for example optimizer.name=AdamW,SGD")
    return key, _choice(load_yaml(f"[{values}]", where, lambda _: False), where)


# ------------------------------------------------------------------------------------------ files

# a key, its range or choices, and its condition
_Given = Iterator[tuple[str, Any, Any]]


def _of_python(path: Path) -> _Given:
    read_text(path)
    try:
        found = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}; fix it") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}; fix it") from error
    for name in ("SPACE", "ONLY_IF"):
        if not isinstance(found.get(name, {}), Mapping):
            raise ConfigError(f"{path}: {name} must be a dict, got {found[name]!r}")
    if "SPACE" not in found:
        raise ConfigError(f'{path}: no SPACE in it; write SPACE = {{"lr": Float(0.1, 1)}}')
    conditions = dict(found.get("ONLY_IF", {}))
    for key, entry in found["SPACE"].items():
        yield str(key), entry, conditions.pop(key, None)
    for key in conditions:
        raise ConfigError(f"{path}: ONLY_IF of {key}: no such parameter{_nearest(key, found)}")


def _nearest(key: object, found: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(key), map(str, found["SPACE"]), n=1)
    return f"; did you mean {near[0]}?" if near else " in SPACE; leave it out"


def _of_yaml(path: Path) -> _Given:
    data = load_yaml(read_text(path), str(path), lambda _: False)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: keys with ranges are needed, got {str(data)[:60]!r}")
    yield from _flat(data, ())


def _flat(data: Mapping[str, Any], path: tuple[str, ...]) -> _Given:
    for name, entry in data.items():
        here = (*path, name)
        if not isinstance(entry, dict):
            yield ".".join(here), entry, None
        elif entry.keys() & {*_KEYS} or not all(
            isinstance(item, dict | list) for item in entry.values()
        ):
            own = dict(entry)
            yield ".".join(here), own, own.pop("only_if", None)
        else:
            yield from _flat(entry, here)


# ------------------------------------------------------------------------------------------ specs


def _spec(entry: Any, where: str) -> Spec:
    if isinstance(entry, Float | Int | Choice | EpochShare):
        return entry
    if isinstance(entry, list):
        return _choice(entry, where)
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {entry!r} is one value: {_FORM}; --fix holds one")
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(_KEYS)}"
            raise ConfigError(f"{where}: no {key!r} in a range: {hint}")
    if "choices" in entry:
        more = [key for key in entry if key != "choices"]
        if more:
            raise ConfigError(f"{where}: choices have no {more[0]}; leave it out")
        return _choice(entry["choices"], where)
    return _range(entry, where)


def _range(entry: Mapping[str, Any], where: str) -> Float | Int:
    ends = []
    for name in ("low", "high"):
        end = entry.get(name)
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise ConfigError(f"{where}: {name} is {end!r}, no number: {_FORM}")
        ends.append(end)
    for name in ("log", "int"):
        if not isinstance(entry.get(name, False), bool):
            raise ConfigError(f"{where}: {name} is {entry[name]!r}; write true or false")
    low, high = ends
    log = entry.get("log", False)
    try:
        if not entry.get("int", isinstance(low, int) and isinstance(high, int)):
            return Float(float(low), float(high), log)
        if low != int(low) or high != int(high):
            raise ConfigError(f"{where}: {low:g} to {high:g} are no whole numbers; leave int out")
        return Int(int(low), int(high), log)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _choice(values: Any, where: str) -> Choice:
    if not isinstance(values, list):
        raise ConfigError(f"{where}: choices are {values!r}; write a list, as in [AdamW, SGD]")
    for value in values:
        if not isinstance(value, str | bool | int | float):
            raise ConfigError(
                f"{where}: {value!r} cannot be a choice; take texts, numbers, true and false"
            )
    if all(isinstance(switch(value), bool) for value in values):
        # a program's reader takes yes and no for them
        values = [switch(value) for value in values]
    try:
        return Choice(tuple(values))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


# ------------------------------------------------------------------------------------- conditions


def _checked(
    conditions: Mapping[str, Any], specs: Mapping[str, Spec], path: Path
) -> dict[str, dict[str, Value]]:
    made: dict[str, dict[str, Value]] = {}
    for key, given in conditions.items():
        where = f"{path}: {key}: only_if"
        if not isinstance(given, Mapping) or not given:
            raise ConfigError(f"{where} is {given!r}; write it as {{optimizer.name: SGD}}")
        made[key] = {
            str(name): _met(str(name), value, specs, where) for name, value in given.items()
        }
    for key in made:
        _refuse_circle(key, made, (), path)
    return made


def _met(name: str, value: Any, specs: Mapping[str, Spec], where: str) -> Value:
    """The value of another parameter that a condition names."""
    spec = specs.get(name)
    if spec is None:
        near = difflib.get_close_matches(name, specs, n=1)
        hint = f"did you mean {near[0]}?" if near else "name one of this file"
        raise ConfigError(f"{where} names {name}, which is not searched: {hint}")
    found = None if isinstance(spec, EpochShare) else matching(value, spec)
    if found is None:
        some = f": one of {', '.join(map(str, spec.choices))}" if isinstance(spec, Choice) else ""
        raise ConfigError(f"{where} names {name}: {value!r}, which it never is{some}")
    return found


def _refuse_circle(
    key: str, made: Mapping[str, Mapping[str, Value]], way: tuple[str, ...], path: Path
) -> None:
    if key in way:
        raise ConfigError(f"{path}: {key}: only_if leads back to itself; leave one of them out")
    for name in made.get(key, ()):
        _refuse_circle(name, made, (*way, key), path)
