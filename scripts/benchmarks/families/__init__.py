"""Families of real trainings that are cheap enough to repeat: what `scripts/bench truth` searches.

Each is a training that this project was not made for, or was never tuned to: other data, another
network, another course of the score. One process trains many at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from search.strategy.forecast.features import Array
    from space import Concrete

# trainings and their data for tuning this project's rules, and others for the figures that it tells
HALVES = ("tuning", "figures")
# what `groups` has, for those who need the names alone
GROUPS = (
    *("digits", "digits, fixed rate", "scenes", "boosting", "partial fit"),
    *("tables, HPOBench", "tables, HPOLib", "tables, NASBench201"),
)
# seeds from here on are for the trainings that tell a configuration's true mean, and for no others
FRESH_FROM = 2**31


@dataclass(frozen=True)
class Training:
    """One training: a configuration and a seed; the same ones give the same curve."""

    params: Mapping[str, Any]
    seed: int


class Family(Protocol):
    """Trainings of one kind.

    epochs: of a whole training; 1 where only ends are known. specs: what is searched. fresh: how
    many seeds tell a configuration's true mean.
    """

    epochs: int
    fresh: int

    @property
    def specs(self) -> Mapping[str, Concrete]: ...

    def curves(self, trainings: Sequence[Training]) -> Array:
        """Score after each epoch, float64 [N, epochs] in [0, 1]; NaN from where one diverged."""


def family(name: str, half: str) -> Family:
    """A family by its name, on the data of one of `HALVES`. Raises KeyError."""
    return _families()[name](HALVES.index(half))


def names() -> list[str]:
    """All families."""
    return list(_families())


def groups(half: str) -> dict[str, tuple[str, ...]]:
    """Group -> the names of its families for one of `HALVES`, of which studies take turns."""
    from scripts.benchmarks.families import tables

    own = {
        f"tables, {group}": tuple(f"{group}: {name}" for name in known[HALVES.index(half) :: 2])
        for group, known in tables.group_tables().items()
    }
    return {**{name: (name,) for name in _trained()}, **own}


def _families() -> dict[str, Callable[[int], Family]]:
    from scripts.benchmarks.families import tables

    known = {
        f"{group}: {name}": functools.partial(_table, name)
        for group, names in tables.group_tables().items()
        for name in names
    }
    return {**_trained(), **known}


def _table(name: str, half: int) -> Family:
    from scripts.benchmarks.families import tables

    # each table is of one half, see `groups`
    return tables.Table(name)


def _trained() -> dict[str, Callable[[int], Family]]:
    from scripts.benchmarks.families import boosting, digits, partial_fit, scenes

    return {
        "digits": lambda half: digits.Digits(half, rate_searched=True),
        "digits, fixed rate": lambda half: digits.Digits(half, rate_searched=False),
        "scenes": scenes.Scenes,
        "boosting": boosting.Boosting,
        "partial fit": partial_fit.PartialFit,
    }
