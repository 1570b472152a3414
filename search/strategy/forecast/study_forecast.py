"""A study in the eyes of the forecast: which of its trials may still give the answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.special import gammaln, ndtr, stdtr

from search.strategy.forecast.features import Array, Scale
from search.strategy.forecast.model import End, Forecast
from search.study import lineages
from search.study.attributes import CONTINUES, REPEATS

_STEPS = np.linspace(0.0, 1.0, 33)
# a forecast is believed as if it had been right so many times; it is looked back at after these
# shares of a training, and one error counts no more than this
_BELIEVED, _LOOKED_BACK, _WORST = 3.0, (1 / 6, 1 / 4, 1 / 2), 25.0
# so many complete trials tell whether forecasts are right of another training program, and errors
# are too large that are so many times what was claimed: of complete trials drawn at random, from
# the eighth on, they are 1.0 to 1.2 times as large on recorded faces, 1.5 to 2.5 on digits and on
# boosting by rounds (once 1.1), 1.0 to 1.9 on small scenes
CHECKED, _TRUSTED = 8, 1.3
# deviations beyond which a Student tail no longer counts
_TAIL = 7.0


@dataclass(frozen=True)
class Competitors:
    """What a trial's end is held against, on the scale of `features.Scale`.

    best: of the complete trials, None before the first. running: ends of other running trials.
    newcomer: mean and deviation of one not yet begun. to_come: how many of those count.
    """

    best: float | None
    running: Sequence[End]
    newcomer: tuple[float, float]
    to_come: int

    def chance(self, end: End, margin: float = 0.0) -> float:
        """Probability that a trial ends above all of them by more than a margin."""
        if self.best is not None and self.to_come == 0 and not self.running:
            return end.above(self.best + margin)
        low, high = (end.means + side * _TAIL * end.deviations for side in (-1, 1))
        if self.best is not None:
            low = np.maximum(low, self.best + margin)
        # each part of the mixture on a grid of its own: one may be far narrower than another
        grid = low + np.maximum(high - low, 0.0) * _STEPS[:, None]
        level = grid - margin
        beaten = ndtr((level - self.newcomer[0]) / self.newcomer[1]) ** self.to_come
        for other in self.running:
            beaten = beaten * (1 - _above(other, level))
        parts = np.trapezoid(_densities(end, grid) * beaten, grid, axis=0)
        return float(min(1.0, end.weights @ parts))


def _densities(end: End, grid: Array) -> Array:
    """Density of each part of a mixture [N] at its places in a grid [steps, N]."""
    z = (grid - end.means) / end.deviations
    nu = end.freedoms
    peak = np.exp(gammaln((nu + 1) / 2) - gammaln(nu / 2)) / np.sqrt(nu * np.pi) / end.deviations
    return np.asarray(peak * (1 + z**2 / nu) ** (-(nu + 1) / 2))


def _above(end: End, level: Array) -> Array:
    """Probability of ending above each of some levels, of any shape."""
    z = (end.means - level[..., None]) / end.deviations
    return np.asarray(stdtr(end.freedoms, z) @ end.weights)


class StudyForecast:
    """Keeps a forecast in step with a study. configurations: a sample of the space."""

    def __init__(self, fresh: Forecast, configurations: Iterable[Mapping[str, Any]]) -> None:
        self._fresh = fresh
        self._configurations = list(configurations)
        self._running: list[FrozenTrial] = []
        self._reset()

    def _reset(self) -> None:
        self.forecast = self._fresh.copy()
        self.learned = 0
        self.complete = 0
        self.best: float | None = None
        # whether every score has a place on the scale; else nothing here means anything
        self.fits = True
        self._settled: set[int] = set()
        self._places = 0
        self._newcomer: tuple[float, float] | None = None
        self._misses: list[float] = []

    @property
    def scale(self) -> Scale:
        """On what the study's scores are forecast."""
        return self.forecast.features.scale

    def update(self, rows: Sequence[FrozenTrial]) -> None:
        """Take in what has happened since the last time. rows: the study's, as they are."""
        # of a thousand rows all but a few are known: what is finished changes no more
        news = [row for row in rows if row.number not in self._settled]
        ended = [row for row in news if row.state.is_finished()]
        if any(CONTINUES in row.user_attrs for row in ended):
            # a parked trial went on: what it had shown before must not count twice
            self._reset()
            news = list(rows)
            ended = [row for row in rows if row.state.is_finished()]
        self.fits &= all(self.scale.holds(row.intermediate_values.values()) for row in news)
        for one in lineages.merged(ended):
            self._learn(one)
        self._settled.update(row.number for row in ended)
        self._places += len(lineages.finished(ended))
        self._running = [
            lineages.up_to(rows, row)
            for row in news
            if row.state == TrialState.RUNNING and REPEATS not in row.user_attrs
        ]

    def _learn(self, one: FrozenTrial) -> None:
        if one.state == TrialState.FAIL or not one.intermediate_values or lineages.diverged(one):
            return
        value = lineages.value(one)
        if one.state == TrialState.COMPLETE and value is not None:
            self._misses.append(self._miss(one, float(self.scale.to_log(value))))
        self.forecast.learn(one.params, one.intermediate_values)
        self.learned += 1
        self._newcomer = None
        if one.state == TrialState.COMPLETE and value is not None:
            self.complete += 1
            value = float(self.scale.to_log(value))
            self.best = value if self.best is None else max(self.best, value)

    @property
    def newcomer(self) -> tuple[float, float]:
        """Mean and deviation of the end of a trial not yet begun."""
        if self._newcomer is None:
            self._newcomer = self.forecast.newcomer(self._configurations)
        return self._newcomer

    def to_come(self, total: int) -> int:
        """How many of `total` trials have not begun."""
        begun = sum(CONTINUES not in one.user_attrs for one in self._running)
        return max(0, total - self._places - begun)

    def newcomers(self, total: int) -> int:
        """How many of the trials to come a trial is held against.

        No more than have come to their end: until then what they will bring is guesswork.
        """
        return min(self.to_come(total), self.complete)

    def end(self, one: FrozenTrial) -> End:
        """Where a trial will end, as surely as forecasts have been right in this study."""
        found = self.forecast.end(one.params, one.intermediate_values)
        return dataclasses.replace(found, deviations=found.deviations * self.doubt)

    @property
    def doubt(self) -> float:
        """How many times larger than claimed the errors of forecasts are in this study, from 1."""
        square = (_BELIEVED + sum(self._misses)) / (_BELIEVED + len(self._misses))
        return max(1.0, math.sqrt(square))

    def trusted(self, checked: int) -> bool:
        """Whether forecasts have been right in this study, on at least so many complete trials."""
        return len(self._misses) >= checked and self.doubt <= _TRUSTED

    def _miss(self, one: FrozenTrial, end: float) -> float:
        """Squared error of earlier forecasts of a complete trial, in claimed variances."""
        epochs = self.forecast.features.epochs
        found = []
        for share in _LOOKED_BACK:
            seen = {at: it for at, it in one.intermediate_values.items() if at <= share * epochs}
            if seen:
                then = self.forecast.end(one.params, seen)
                found.append(min(_WORST, ((end - then.mean) / then.deviation) ** 2))
        return sum(found) / len(found) if found else 1.0

    def competitors(self, *, but: int, to_come: int) -> Competitors:
        """What trial `but` is held against. to_come: trials not yet begun that count."""
        running = [
            self.end(one) for one in self._running if one.number != but and one.intermediate_values
        ]
        return Competitors(self.best, running, self.newcomer, to_come)
