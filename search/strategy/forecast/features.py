"""A training's curve and configuration as numbers that compare across budgets and data.

Curves are read at equal shares of the budget, best so far, as the logarithm of what is still
wrong; configurations become standardised features, the same for every budget, with the place in
the learning rate's cycles among them.

K knot, P covariate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.study.search_space import Spec, Value, is_number
from space import Choice

Array = NDArray[np.floating[Any]]

# shares of the budget; the first tenth says almost nothing, most is decided before the middle
KNOTS: Array = np.array([4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24]) / 24
# scores of 1 have no logarithm
_HIGHEST = 1 - 1e-6
# and losses of 0
_LEAST_LOSS = 1e-12
# middle and spread of the parameters that recorded curves know, in their default ranges
_LEVEL, _LEVEL_SPREAD = math.log(1.8), 0.57
_STANDARD = {
    "dice_ramp": (0.0, 0.35),
    "label_smoothing": (0.1, 0.06),
    "dropout": (0.2, 0.115),
}
_DECAY, _DECAY_SPREAD = -3.5, 0.87
# rate, lead and length of a cycle
_CYCLE_MIDDLE, _CYCLE_SPREAD = (0.3, 0.0, 0.4), (0.3, 0.15, 0.3)
KNOWN = ("dice_weight", "dice_schedule", *_STANDARD, "weight_decay", "T_0")
FEATURES = 10


def to_log(score: float | Array) -> float | Array:
    """A score in [0, 1] as -log(1 - score): equal steps are equal shares of what is still wrong."""
    return -np.log1p(-np.clip(score, 0.0, _HIGHEST))


def from_log(value: float) -> float:
    """The inverse of `to_log`."""
    return -math.expm1(-value)


@dataclass(frozen=True)
class Scale:
    """On what scores are forecast: the logarithm of what is still wrong, as in `to_log`.

    loss: they are negatives of a loss above 0, which is itself what is wrong; else they lie in
    [0, 1]. plain: they are anything, and stand as they are.
    """

    loss: bool = False
    plain: bool = False

    def to_log(self, score: float | Array) -> float | Array:
        """Scores on this scale."""
        if self.plain:
            return np.asarray(score, dtype=np.float64)
        return -np.log(np.maximum(-np.asarray(score), _LEAST_LOSS)) if self.loss else to_log(score)

    def from_log(self, value: float) -> float:
        """The inverse of `to_log`."""
        if self.plain:
            return value
        return -math.exp(-value) if self.loss else from_log(value)

    def wrong(self, score: float) -> float:
        """What a score leaves: deviations on this scale, to first order, are shares of it."""
        if self.plain:
            return 1.0
        return -score if self.loss else 1 - score

    def holds(self, curve: Iterable[float]) -> bool:
        """Whether scores have a place on it."""
        return all(score <= 0 if self.loss else 0 <= score <= 1 for score in curve)


SHARES, PLAIN = Scale(), Scale(plain=True)


def readings(curve: Mapping[int, float], epochs: int, scale: Scale = SHARES) -> Array:
    """Best so far at the knots that a curve has come to, float64 [K or fewer], see `Scale`.

    curve: epoch, counted from 1 -> score. Between two epochs a straight line.
    """
    if not curve:
        return np.empty(0)
    at = sorted(curve)
    reached = KNOTS[: knots_by(at[-1], epochs)]
    best = np.maximum.accumulate([curve[epoch] for epoch in at])
    return np.asarray(scale.to_log(np.interp(reached * epochs, at, best)))


def knots_by(epoch: int, epochs: int) -> int:
    """How many knots a training has come to at the end of an epoch, counted from 1."""
    return int(np.searchsorted(KNOTS, epoch / epochs + 1e-9, side="right"))


def annealing(share: float, *, t_0: float, t_mult: int = 1) -> tuple[float, float]:
    """Where a share of the budget lies in the learning rate's cosine cycles.

    share, t_0: of the budget, above 0. Returns the rate as a share of its peak, and how much more
    than half of the peak it has been on average so far.

    >>> annealing(0.5, t_0=0.5), annealing(0.75, t_0=0.5)[0]
    ((0.0, 0.0), 0.5)
    """
    start, length = 0.0, t_0
    while share > start + length + 1e-9:
        start += length
        length *= t_mult
    phase = min(1.0, (share - start) / length)
    surplus = length * math.sin(math.pi * phase) / (2 * math.pi)
    return round((1 + math.cos(math.pi * phase)) / 2, 12), round(surplus / share, 12)


@dataclass
class ConfigurationFeatures:
    """Configurations of one study as features.

    epochs: the budget. defaults: name -> value of what a trial does not search. others: searched
    parameters that recorded curves know nothing of. t_mult: growth of the cycles. known: whether
    parameters of the names in KNOWN are those; not in another program. scale: of its scores.
    """

    epochs: int
    defaults: Mapping[str, Value] = field(default_factory=dict)
    others: Mapping[str, Spec] = field(default_factory=dict)
    t_mult: int = 1
    known: bool = True
    scale: Scale = SHARES
    _cycles: dict[float, Array] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """How many there are: the known ones, then those of `others`."""
        return FEATURES + sum(
            len(spec.choices) if isinstance(spec, Choice) else 2 for spec in self.others.values()
        )

    def of(self, params: Mapping[str, Any]) -> Array:
        """The features of a configuration, float64 [K, P]; a missing value is average."""
        own = {**self.defaults, **params}
        values = own if self.known else {}
        level = _standard(values.get("dice_weight"), _LEVEL, _LEVEL_SPREAD, math.log)
        constant = values.get("dice_schedule", "constant") == "constant"
        row = [1.0, level, level**2 - 1, 0.0 if constant else self._plain(values, "dice_ramp")]
        row += [self._plain(values, name) for name in ("label_smoothing", "dropout")]
        row.append(_standard(values.get("weight_decay"), _DECAY, _DECAY_SPREAD, math.log10))
        for name, spec in self.others.items():
            row += _scaled(own.get(name), spec)
        whole = np.empty((len(KNOTS), self.count))
        whole[:, : FEATURES - 3] = row[: FEATURES - 3]
        whole[:, FEATURES - 3 : FEATURES] = self._cycle(values.get("T_0"))
        whole[:, FEATURES:] = row[FEATURES - 3 :]
        return whole

    def _plain(self, values: Mapping[str, Value], name: str) -> float:
        return _standard(values.get(name), *_STANDARD[name])

    def _cycle(self, t_0: Value | None) -> Array:
        share = t_0 / self.epochs if isinstance(t_0, int | float) else 1.0
        if share not in self._cycles:
            places = [(*annealing(at, t_0=share, t_mult=self.t_mult), share) for at in KNOTS]
            self._cycles[share] = (np.array(places) - _CYCLE_MIDDLE) / _CYCLE_SPREAD
        return self._cycles[share]


def _standard(value, middle, spread, scale=float) -> float:  # type: ignore[no-untyped-def]
    return (scale(value) - middle) / spread if is_number(value) else 0.0


def _scaled(value: Value | None, spec: Spec) -> list[float]:
    """A parameter that no recorded curve knows: a number in its range, bent, or its choice."""
    if isinstance(spec, Choice):
        even = 1 / len(spec.choices)
        return [(1.0 if choice == value else 0.0) - even for choice in spec.choices]
    if not is_number(value):
        return [0.0, 0.0]
    low, high, at = (math.log(x) if spec.log else x for x in (spec.low, spec.high, float(value)))
    place = 2 * (at - low) / (high - low) - 1
    return [place, place**2 - 1 / 3]
