"""Families of real trainings that are cheap enough to repeat: what `scripts/bench truth` searches.

Each is a training that this project was not made for, or was never tuned to: other data, another
network, another course of the score. One process trains many at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from search.strategy.forecast.features import Array
from space import Concrete

# trainings and their data for tuning this project's rules, and others for the figures that it tells
HALVES = ("tuning", "figures")
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


def batched(
    curves: Callable[[Sequence[Training]], Array], trainings: Sequence[Training], at_once: int
) -> Array:
    """What `curves` gives, for at most so many trainings at once."""
    parts = [trainings[at : at + at_once] for at in range(0, len(trainings), at_once)]
    return np.concatenate([curves(part) for part in parts])


def mean_f_score(said: Tensor, truth: Tensor, classes: int) -> Array:
    """Mean F-score of the classes, float64 [N]. said: [N, places] of `truth` [places]."""
    scores = []
    for number in range(classes):
        found, there = said == number, truth == number
        hits = (found & there).sum(1).double()
        scores.append(2 * hits / (found.sum(1) + there.sum() + 1e-9))
    return np.asarray(torch.stack(scores).mean(0))


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
    from scripts.benchmarks.families import boosting, digits, scenes

    return {
        "digits": lambda half: digits.Digits(half, rate_searched=True),
        "digits, fixed rate": lambda half: digits.Digits(half, rate_searched=False),
        "scenes": scenes.Scenes,
        "boosting": boosting.Boosting,
    }
