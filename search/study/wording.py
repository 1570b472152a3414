"""Numbers, durations, parameters and Markdown in words, and a line of them on a console."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from search.study.attributes import REPEATS
from search.study.lineages import rows_of
from search.study.search_space import format_value

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-~=+*#"


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """A curve in one line of at most `width` characters; later values weigh as earlier ones.

    >>> sparkline([0.0, 0.5, 1.0], 8)
    '▁▅█'
    """
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    if not values or width < 1:
        return ""
    if len(values) > width:
        step = len(values) / width
        values = [values[int((i + 1) * step) - 1] for i in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(blocks[round((v - low) / span * (len(blocks) - 1))] for v in values)


def counted(number: float, noun: str) -> str:
    """A number of things.

    >>> counted(1, "trial"), counted(0, "worker"), counted(1.0, "GPU"), counted(0.5, "GPU")
    ('1 trial', '0 workers', '1 GPU', '0.5 GPUs')
    """
    text = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{text} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Seconds as text.

    >>> duration(None), duration(42), duration(130), duration(7300)
    ('?', '42 s', '2 min 10 s', '2 h 1 min')
    """
    if seconds is None:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters in one line."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def name_of(row: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
    """A row as users know it, by the number of its trial: revivals and repeats have their own."""
    if REPEATS in row.user_attrs:
        return f"trial {row.user_attrs[REPEATS]} (repeated as row {row.number})"
    first = rows_of(trials, row)[0].number
    if first == row.number:
        return f"trial {first}"
    return f"trial {first} (goes on as row {row.number})"


def tell(console: Console, text: str, style: str = "") -> None:
    """Print prose, broken between words on a terminal, whole in a file.

    A line with a command stays whole everywhere: it is there to be copied.
    """
    if not console.is_terminal or " -m " in text:
        console.print(Text(text, style=style), soft_wrap=True)
        return
    plain = text.lstrip(" ")
    # what is indented stays so where it is broken
    console.print(Padding(Text(plain, style=style), (0, 0, 0, len(text) - len(plain))))


def escaped(text: object) -> str:
    """Text on one line that Markdown, and HTML within it, shows as it is.

    >>> escaped("<script> a|b_c")
    '&lt;script&gt; a\\\\|b_c'
    """
    plain = html.escape(" ".join(str(text).split()), quote=False)
    # an underscore within a word marks nothing up
    return re.sub(r"([\\`*{}\[\]#|~!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", plain)


def code(text: str) -> str:
    """Text as it is, within a line.

    >>> code("a`b")
    '`` a`b ``'
    """
    fence = "`" * (_longest_run(text) + 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _longest_run(text: str) -> int:
    """Backticks that stand in a row."""
    return max(map(len, re.findall("`+", text)), default=0)
