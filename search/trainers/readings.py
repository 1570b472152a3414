"""Epochs and scores as a program tells them, whatever it counts from.

A program counts its epochs from 1, from 0 or not at all; here they count from 1. Scores that are no
finite numbers are passed on. What has been told is not told again, unless it has changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.notation import decimal

EPOCH_KEYS = ("epoch", "epochs")
# remembered for a message, and letters of each
_MOST_ODD, _SHORT = 5, 120


@dataclass(frozen=True)
class Reading:
    """What a program tells of one epoch. epoch: from 1. figures: other numbers, by dotted name."""

    epoch: int
    score: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Readings:
    """What has been read of one run of a program.

    after: the epoch that the run goes on from, where it resumes: those without a number come next.
    from_zero: whether the program counts from 0, found out when it names an epoch 0 first; hand it
    to the readers of a run that goes on. odd: what was passed over, in short.
    """

    def __init__(self, *, after: int = 0, from_zero: bool = False) -> None:
        self.from_zero = from_zero
        self.odd: list[str] = []
        self._after = self._last = after
        self._begins_at: int | None = None
        self._known: dict[int, tuple[str, Mapping[str, str]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, present: int = 0) -> None:
        """A file is read from its start, and so counted.

        present: how many epochs without a number stand in it. A program that resumes keeps those
        before, or begins a file of its own: the first look tells by their number.
        """
        if self._begins_at is None:
            own = present < self._after or present == 1
            self._begins_at = self._after if own else 0
        self._last = self._begins_at

    def of_row(self, row: Mapping[str, Any], score_key: str) -> Iterator[Reading]:
        """The reading of a row that has a score; none where it is known or odd."""
        figures = {
            name: number
            for name, value in leaves(row)
            if name != score_key and name not in EPOCH_KEYS
            if (number := as_number(value)) is not None
        }
        return self.of(epoch_of(row), at(row, score_key), figures)

    def of(
        self, given: object, score: object, figures: Mapping[str, float] | None = None
    ) -> Iterator[Reading]:
        """As `of_row`. given: the epoch as the program counts; None: the next one."""
        epoch = self._last + 1 if given is None else self._epoch(given)
        number = as_number(score)
        if epoch is None or number is None:
            name, value = ("epoch", given) if epoch is None else ("score", score)
            self.pass_over(f"{name} {value!r}")
            return
        # as texts, since NaN is not equal to itself
        told = repr(number), {name: repr(value) for name, value in (figures or {}).items()}
        self._last = epoch
        if self._known.get(epoch) != told:
            self._known[epoch] = told
            yield Reading(epoch, number, figures or {})

    def pass_over(self, what: str) -> None:
        """Remember something odd, for a message."""
        short = what if len(what) <= _SHORT else f"{what[: _SHORT - 1]}…"
        if short not in self.odd and len(self.odd) < _MOST_ODD:
            self.odd.append(short)

    def _epoch(self, given: object) -> int | None:
        number = as_number(given)
        if number is None or not number.is_integer():
            return None
        if number == 0 and not self._known:
            self.from_zero = True
        epoch = int(number) + self.from_zero
        return epoch if epoch >= 1 else None


def as_number(value: object) -> float | None:
    """A number, also one that is spelt, NaN and infinity among them; None for anything else.

    >>> as_number("0.71"), as_number(" nan "), as_number(True), as_number("71 %")
    (0.71, nan, None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        spelt = decimal(text)
        if spelt is None and text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            return float(text)
        return None if spelt is None else float(spelt)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def leaves(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything in nested mappings.

    >>> list(leaves({"epoch": 1, "val": {"f": 0.7}}))
    [('epoch', 1), ('val.f', 0.7)]
    """
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def at(row: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key, or at a key that has these dots itself; None for nothing.

    >>> at({"val": {"f": 0.7}}, "val.f"), at({"val.f": 0.7}, "val.f"), at({}, "val.f")
    (0.7, 0.7, None)
    """
    if key in row:
        return row[key]
    first, dot, rest = key.partition(".")
    inner = row.get(first)
    return at(inner, rest) if dot and isinstance(inner, Mapping) else None


def epoch_of(row: Mapping[str, Any]) -> object:
    """The epoch that a row names; None where it names none."""
    return next((row[key] for key in EPOCH_KEYS if row.get(key) not in (None, "")), None)
