"""What each configuration is truly worth: its mean over seeds, from all that a study has shown.

A Gaussian process over the searched parameters, with an effect of each configuration's own, and
noise between seeds that is told apart from both.

N configurations, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

from search.strategy.forecast.features import Array
from search.study.search_space import Spec, is_number
from space import Choice

# values are scaled by their spread above the median; what lies so far below is no worse than that
_FLOOR = 4.0
# prior medians, and their spreads on a log scale, of: how far a parameter reaches (logarithm of
# a multiple of its range, half the logarithm of their number added); the height of the landscape;
# the own effect of each configuration; noise between seeds. The last three in spreads above the
# median
_REACH, _HEIGHT, _OWN, _NOISE = (-0.3, 1.0), (1.2, 0.3), (0.2, 0.5), (0.5, 0.6)
# variance of the level of it all
_LEVEL = 0.25
# so many decide how far each parameter reaches, and so many are looked at
_FITTED, _HELD = 150, 400
_ROUNDS = 40
_ROOT5 = math.sqrt(5.0)
# leading configurations for which one more seed is looked at, and what its score may come to, in
# standard deviations: the middles of equal shares
_REPEATED = 20
_OUTCOMES: Array = ndtri((np.arange(200) + 0.5) / 200)


@dataclass(frozen=True)
class Shown:
    """What a study has shown of one configuration, on the scale of `features.to_log`.

    value: mean of its ends. seeds: how many trainings. doubt: variance of the value beyond that of
    seeds, where the end is a forecast.
    """

    params: Mapping[str, Any]
    value: float
    seeds: int = 1
    doubt: float = 0.0


@dataclass(frozen=True)
class Belief:
    """Mean and variance of a configuration's true mean, on the scale of `features.to_log`."""

    mean: float
    variance: float


class TrueMeans:
    """What a study's configurations are worth, on the scale of `features.to_log`.

    specs: what is searched. shown: at least one, each configuration once; of more than `_HELD` a
    part that holds the best. noise: deviation between seeds.
    """

    def __init__(self, specs: Mapping[str, Spec], shown: Sequence[Shown]) -> None:
        self._specs = specs
        values = np.array([one.value for one in shown])
        self._middle = float(np.median(values))
        upper = values[values >= self._middle] - self._middle
        self._scale = max(1e-4, math.sqrt(float(np.mean(upper**2))))
        seen = self._seen(shown, values)
        self._sizes = _fitted(seen.part(_spread(seen.values, _FITTED)))
        self._held = _spread(seen.values, _HELD)
        self._posterior = _Posterior(seen.part(self._held), self._sizes)
        self.noise = self._scale * math.exp(float(self._sizes[-1]))

    def _seen(self, shown: Sequence[Shown], values: Array) -> _Seen:
        return _Seen(
            _places(self._specs, [one.params for one in shown]),
            np.maximum((values - self._middle) / self._scale, -_FLOOR),
            np.array([one.seeds for one in shown], dtype=np.float64),
            np.array([one.doubt for one in shown]) / self._scale**2,
        )

    def beliefs(self) -> dict[int, Belief]:
        """Place in `shown` -> what that configuration is worth."""
        means, variances = self._posterior.of_seen()
        return {
            int(place): Belief(
                self._middle + self._scale * float(mean), self._scale**2 * float(variance)
            )
            for place, mean, variance in zip(self._held, means, variances, strict=True)
        }

    def gains(
        self, configurations: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]] = ()
    ) -> Array:
        """By how much each of some other configurations may be expected to beat the best, [M].

        beside: those that are being trained now; they are believed to come to their means.
        """
        posterior = self._posterior
        best = float(posterior.of_seen()[0].max())
        if beside:
            posterior = posterior.joined_by(_places(self._specs, beside))
        means, variances = posterior.elsewhere(_places(self._specs, configurations))
        deviations = np.sqrt(variances)
        above = (means - best) / deviations
        density = np.exp(-0.5 * above**2) / math.sqrt(2 * math.pi)
        return self._scale * deviations * (above * ndtr(above) + density)

    def gains_of_repeats(self, among: Sequence[int]) -> dict[int, float]:
        """Place in `shown` -> by how much one more seed may be expected to raise the best mean.

        In deviations between seeds, for the leading configurations. One more score moves the means
        of all; the best is then another, or not. among: places of those that may be the best.
        """
        rows = np.flatnonzero(np.isin(self._held, among))
        means, cov = self._posterior.together()
        means, cov = means[rows], cov[np.ix_(rows, rows)]
        noise = math.exp(2 * float(self._sizes[-1]))
        gains = {}
        for row in np.argsort(-means, kind="stable")[:_REPEATED]:
            moves = cov[row] / math.sqrt(cov[row, row] + noise)
            after = (means[:, None] + moves[:, None] * _OUTCOMES).max(axis=0)
            gain = max(0.0, float(after.mean() - means.max())) / math.sqrt(noise)
            gains[int(self._held[rows[row]])] = gain
        return gains

    def chance_of_rise(self, start: Mapping[str, Any], end: Mapping[str, Any]) -> float:
        """Probability that the landscape is higher at one configuration than at another."""
        (here, there), cov = self._posterior.landscape(_places(self._specs, [start, end]))
        deviation = math.sqrt(max(1e-12, float(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])))
        return float(ndtr((there - here) / deviation))


def _places(specs: Mapping[str, Spec], configurations: Sequence[Mapping[str, Any]]) -> list[Array]:
    """Configurations as points, for each parameter a matrix [N, columns].

    Numbers lie in [0, 1] of their range; the values of a choice without an order are all as far
    from one another as the ends of a range.
    """
    return [
        np.array([_place(one, name, spec) for one in configurations]).reshape(
            len(configurations), -1
        )
        for name, spec in specs.items()
    ]


def _place(configuration: Mapping[str, Any], name: str, spec: Spec) -> list[float]:
    value = configuration[name]
    if isinstance(spec, Choice):
        if not all(map(is_number, spec.choices)):
            return [math.sqrt(0.5) if choice == value else 0.0 for choice in spec.choices]
        numbers = [float(choice) for choice in spec.choices]
        low, high, log = min(numbers), max(numbers), min(numbers) > 0
    else:
        low, high, log = spec.low, spec.high, spec.log
    at = float(value)
    if log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return [(at - low) / (high - low) if high > low else 0.5]


@dataclass(frozen=True)
class _Seen:
    """Observations. at: D matrices [N, columns]; values, seeds, doubts: [N], scaled."""

    at: list[Array]
    values: Array
    seeds: Array
    doubts: Array

    def part(self, some: NDArray[np.intp]) -> _Seen:
        at = [columns[some] for columns in self.at]
        return _Seen(at, self.values[some], self.seeds[some], self.doubts[some])

    def errors(self, noise: float) -> Array:
        """Variances of the values about their true means, [N]. noise: variance between seeds."""
        return np.asarray(noise / self.seeds + self.doubts + 1e-6)


def _spread(values: Array, count: int) -> NDArray[np.intp]:
    """Places of at most `count` values: half of them the highest, the others even by height."""
    if len(values) <= count:
        return np.arange(len(values))
    order = np.argsort(-values, kind="stable")
    best, rest = order[: count // 2], order[count // 2 :]
    even = np.linspace(0, len(rest) - 1, count - len(best)).round().astype(np.intp)
    return np.sort(np.concatenate([best, rest[even]]))


def _apart(one: list[Array], other: list[Array]) -> Array:
    """Squared distances along each parameter, [D, N, M]."""
    return np.stack(
        [((a[:, None] - b[None]) ** 2).sum(-1) for a, b in zip(one, other, strict=True)]
    )


def _kernel(apart: Array, sizes: Array) -> tuple[Array, Array]:
    """Covariance of the landscape [N, M], a Matern kernel of 5/2, and its slope by the distance.

    sizes: logarithms of D reaches, of the height, of the own effect, of the noise.
    """
    count = len(apart)
    reaches, height = np.exp(-2 * sizes[:count]), math.exp(2 * sizes[count])
    far = _ROOT5 * np.sqrt(np.tensordot(reaches, apart, 1) + 1e-12)
    fading = height * np.exp(-far)
    return fading * (1 + far + far**2 / 3), fading * (1 + far) * 5 / 3


def _fitted(seen: _Seen) -> Array:
    """The likeliest sizes, given what is usual; see `_kernel`."""
    apart = _apart(seen.at, seen.at)
    count = len(apart)
    reach = (_REACH[0] + 0.5 * math.log(count), _REACH[1])
    usual, spread = np.array([reach] * count + [_HEIGHT, _OWN, _NOISE]).T
    usual[count:] = np.log(usual[count:])
    rest = seen.values - seen.values.mean()

    def unlikely(sizes: Array) -> tuple[float, Array]:
        cov, slope = _kernel(apart, sizes)
        own, noise = np.exp(2 * sizes[-2:])
        whole = cov + _LEVEL + np.diag(own + seen.errors(noise))
        inverse = np.linalg.inv(whole)
        pull = inverse @ rest
        off = (sizes - usual) / spread
        loss = 0.5 * (rest @ pull + np.linalg.slogdet(whole)[1] + off @ off)
        weight = inverse - np.outer(pull, pull)
        by = np.empty_like(sizes)
        weighted = weight * slope
        for number in range(count):
            by[number] = 0.5 * np.sum(weighted * apart[number]) * math.exp(-2 * sizes[number])
        by[count] = np.sum(weight * cov)
        diagonal = np.diag(weight)
        by[-2:] = diagonal.sum() * own, (diagonal / seen.seeds).sum() * noise
        return float(loss), by + off / spread

    bounds = [(-2.5, 5.0)] * count + [(-3.0, 3.0), (-5.0, 1.5), (-5.0, 1.5)]
    found = minimize(
        unlikely, usual, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS}
    )
    return np.asarray(found.x)


class _Posterior:
    """What was seen, and what follows from it. sizes: see `_kernel`."""

    def __init__(self, seen: _Seen, sizes: Array) -> None:
        self._seen, self._sizes = seen, sizes
        self._own, noise = np.exp(2 * sizes[-2:])
        self._cov = _kernel(_apart(seen.at, seen.at), sizes)[0] + _LEVEL
        self._inverse = np.linalg.inv(self._cov + np.diag(self._own + seen.errors(float(noise))))
        self._level = float(seen.values.mean())

    def of_seen(self) -> tuple[Array, Array]:
        """Means and variances of what was seen, own effects included, [N]."""
        cov = self._cov + self._own * np.eye(len(self._seen.values))
        return self._given(cov, np.diag(cov))

    def elsewhere(self, at: list[Array]) -> tuple[Array, Array]:
        """Means and variances of other configurations, own effects included, [M]."""
        cov = _kernel(_apart(at, self._seen.at), self._sizes)[0] + _LEVEL
        height = math.exp(2 * self._sizes[-3])
        return self._given(cov, np.full(len(cov), height + _LEVEL + self._own))

    def together(self) -> tuple[Array, Array]:
        """Means and covariances of what was seen, own effects included, [N] and [N, N]."""
        cov = self._cov + self._own * np.eye(len(self._seen.values))
        means, _ = self._given(cov, np.diag(cov))
        return means, cov - cov @ self._inverse @ cov

    def landscape(self, at: list[Array]) -> tuple[Array, Array]:
        """Means and covariances at some configurations without own effects, [M] and [M, M]."""
        cov = _kernel(_apart(at, self._seen.at), self._sizes)[0] + _LEVEL
        prior = _kernel(_apart(at, at), self._sizes)[0] + _LEVEL
        means, _ = self._given(cov, np.diag(prior))
        return means, prior - cov @ self._inverse @ cov.T

    def _given(self, cov: Array, prior: Array) -> tuple[Array, Array]:
        gain = cov @ self._inverse
        means = self._level + gain @ (self._seen.values - self._level)
        return means, np.maximum(prior - np.sum(gain * cov, axis=1), 1e-9)

    def joined_by(self, at: list[Array]) -> _Posterior:
        """With other configurations that are believed to come to their means."""
        means, _ = self.elsewhere(at)
        seen = self._seen
        both = [np.concatenate(pair) for pair in zip(seen.at, at, strict=True)]
        ones = np.ones(len(means))
        values = np.concatenate([seen.values, means])
        joined = _Seen(
            both,
            values,
            np.concatenate([seen.seeds, ones]),
            np.concatenate([seen.doubts, 0 * ones]),
        )
        found = _Posterior(joined, self._sizes)
        found._level = self._level
        return found
