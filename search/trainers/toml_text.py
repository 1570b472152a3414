"""Plain data as TOML; the standard library reads it, and does not write it."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import ConfigError


def toml_text(data: Mapping[str, Any]) -> str:
    """TOML of tables, lists, texts, numbers, dates, true and false. Raises ConfigError.

    >>> print(toml_text({"name": "a", "model": {"width": 8, "rates": [0.1, 1e-05]}}), end="")
    name = "a"
    <BLANKLINE>
    [model]
    width = 8
    rates = [0.1, 1e-05]
    """
    return "\n".join(_table(data, ())).lstrip("\n") + "\n"


def _table(data: Mapping[str, Any], path: Sequence[str]) -> Iterator[str]:
    """Values first: what follows the heading of an inner table belongs to that."""
    inner = {name: item for name, item in data.items() if isinstance(item, Mapping)}
    if path and (len(inner) < len(data) or not data):
        yield f"\n[{'.'.join(map(_key, path))}]"
    for name, item in data.items():
        if name not in inner:
            yield f"{_key(name)} = {_value(item, (*path, name))}"
    for name, item in inner.items():
        yield from _table(item, (*path, name))


def _value(value: Any, path: Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value:+f}".replace("+nan", "nan")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(_value(item, path) for item in value)}]"
    if isinstance(value, Mapping):
        items = (f"{_key(name)} = {_value(item, path)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    name = ".".join(map(str, path))
    raise ConfigError(f"{name}: TOML has no {value!r}; give it a value, or leave the key out")


def _key(name: object) -> str:
    text = str(name)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _text(text)


def _text(text: str) -> str:
    # as JSON, but for one letter that TOML wants spelt
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
