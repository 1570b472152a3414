"""Runs that were trained elsewhere, as read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run, as its file tells it.

    name: None where the file gives none. where: file and run, for messages. config: nested, as it
    was written. f_scores: of every epoch, in [0, 1]; empty for a row of a table. series: what
    else was recorded, name -> one number per epoch. metrics: columns of
    `search.study.training_metrics` that a table gave. metric: what its file says that the score
    is. notes: what was left out.
    """

    name: str | None
    where: str
    config: dict[str, Any]
    f_scores: tuple[float, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    note: str | None = None
    metric: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> float:
        """The highest score."""
        return max(self.f_scores, default=self.metrics.get("best_val_f", 0.0))


@dataclass(frozen=True)
class Unfinished:
    """A row without a score. why: what stands in its place."""

    where: str
    why: str
