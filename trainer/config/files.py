"""Configurations in files: read from YAML of any age, written as YAML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer import notation
from trainer.config.checks import config_from_dict
from trainer.config.keys import as_spelt, leaf_paths, takes_text
from trainer.config.old_files import translate
from trainer.config.sections import Config, to_dict
from trainer.errors import ConfigError
from trainer.notation import KeyPath, dump_yaml, read_text

# keys of an export's record that hold text
_RECORD_TEXTS = {"study", "study_uid", "metric", "preset", "command", "note", "name", "fingerprint"}


def _config_texts(path: KeyPath) -> bool:
    if path[:1] == ("search",):
        return path[-1] in _RECORD_TEXTS
    return path in leaf_paths() and takes_text(".".join(path))


def load_yaml(text: str, where: str, texts: Callable[[KeyPath], bool] = _config_texts) -> Any:
    """Plain data of a YAML text, by the rule of `trainer.notation`.

    texts: whether the key at the end of a path takes text; by default as in a config. Raises
    ConfigError naming `where` and the line.
    """
    return notation.load_yaml(text, where, texts)


def read_yaml(path: Path, texts: Callable[[KeyPath], bool] = _config_texts) -> Any:
    """Plain data of a YAML file, as `load_yaml`. Raises ConfigError if it cannot be read."""
    return load_yaml(read_text(path), str(path), texts)


def read_raw(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A file's own keys in today's layout, unchecked, and what the translation changed.

    Raises ConfigError if the file cannot be read or does not hold sections.
    """
    data = read_yaml(path)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: sections such as `model:` are needed, got {str(data)[:60]!r}")
    return as_today(data)


def as_today(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Nested values of any age in today's layout, read as spelt; and a line per key touched."""
    today, notes = translate(data)
    spelt, more = as_spelt(today)
    return spelt, [*notes, *more]


def read_config(path: Path) -> tuple[Config, list[str]]:
    """A checked config from a file, and one line per key that was renamed or dropped."""
    data, notes = read_raw(path)
    return config_from_dict(data, str(path)), notes


def value_text(value: Any) -> str:
    """A value as `key=value` takes it.

    >>> value_text(1e-4), value_text([0.9, 1.1]), value_text("1e-4"), value_text(None)
    ('0.0001', '[0.9, 1.1]', "'1e-4'", 'null')
    """
    # in a list, for a lone scalar is followed by an end mark
    return dump_yaml([value], width=math.inf).strip()[1:-1]


def to_yaml(config: Config, search: Mapping[str, Any] | None = None) -> str:
    """The config as YAML; `search` is written as the record of an export."""
    data = to_dict(config)
    data["search"] = dict(search) if search is not None else data["search"]
    if data["search"] is None:
        del data["search"]
    return dump_yaml(data)
