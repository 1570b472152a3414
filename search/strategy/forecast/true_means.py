"""What each configuration is truly worth: its mean over seeds, from all that a study has shown.

A Gaussian process over the searched parameters, with an effect of each configuration's own, and
noise between seeds that is told apart from both. Only trainings that came to their end are
evidence: on trainings of a new kind a forecast of the others errs by twice what it claims.

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


@dataclass(frozen=True)
class Shown:
    """What a study has shown of one configuration, on the scale of `features.to_log`.

    value: mean of its ends. seeds: how many trainings.
    """

    params: Mapping[str, Any]
    value: float
    seeds: int = 1


@dataclass(frozen=True)
class Belief:
    """Mean and variance of a configuration's true mean, on the scale of `features.to_log`."""

    mean: float
    variance: float


def true_means(specs: Mapping[str, Spec], shown: Sequence[Shown]) -> dict[int, Belief]:
    """Place in `shown` -> what that configuration is worth, on the scale of `features.to_log`.

    specs: what is searched. shown: at least one, each configuration once; of more than `_HELD` a
    part that holds the best.
    """
    values = np.array([one.value for one in shown])
    middle = float(np.median(values))
    upper = values[values >= middle] - middle
    scale = max(1e-4, math.sqrt(float(np.mean(upper**2))))
    seen = _Seen(
        _places(specs, [one.params for one in shown]),
        np.maximum((values - middle) / scale, -_FLOOR),
        np.array([one.seeds for one in shown], dtype=np.float64),
    )
    sizes = _fitted(seen.part(_spread(seen.values, _FITTED)))
    held = _spread(seen.values, _HELD)
    means, variances = _posterior(seen.part(held), sizes)
    return {
        int(place): Belief(middle + scale * float(mean), scale**2 * float(variance))
        for place, mean, variance in zip(held, means, variances, strict=True)
    }


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
    """Observations. at: D matrices [N, columns]; values, seeds: [N], scaled."""

    at: list[Array]
    values: Array
    seeds: Array

    def part(self, some: NDArray[np.intp]) -> _Seen:
        at = [columns[some] for columns in self.at]
        return _Seen(at, self.values[some], self.seeds[some])


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
        whole = cov + _LEVEL + np.diag(own + noise / seen.seeds + 1e-6)
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

    bounds = [(-2.5, 5.0)] * count + [(-3.0, 3.0), (-4.0, 1.5), (-3.0, 1.5)]
    found = minimize(
        unlikely, usual, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS}
    )
    return np.asarray(found.x)


def _posterior(seen: _Seen, sizes: Array) -> tuple[Array, Array]:
    """Means and variances of what was seen, own effects included, [N]."""
    own, noise = np.exp(2 * sizes[-2:])
    cov = _kernel(_apart(seen.at, seen.at), sizes)[0] + _LEVEL + own * np.eye(len(seen.values))
    gain = np.linalg.solve(cov + np.diag(noise / seen.seeds + 1e-6), cov).T
    middle = seen.values.mean()
    means = middle + gain @ (seen.values - middle)
    return means, np.maximum(np.diag(cov - gain @ cov), 1e-9)


@dataclass(frozen=True)
class Joint:
    """What several configurations are worth together, on the scale of `features.to_log`.

    means: [N]. covariances: [N, N], own effects included. noise: variance between seeds.
    """

    means: Array
    covariances: Array
    noise: float


def joint_means(
    specs: Mapping[str, Spec], shown: Sequence[Shown], others: Sequence[Mapping[str, Any]] = ()
) -> Joint:
    """Of the configurations in `shown`, in their order, then of `others`, which no one has trained.

    specs, shown: as in `true_means`, of which at most `_HELD`. others: configurations.
    """
    values = np.array([one.value for one in shown])
    middle = float(np.median(values))
    upper = values[values >= middle] - middle
    scale = max(1e-4, math.sqrt(float(np.mean(upper**2))))
    seen = _Seen(
        _places(specs, [one.params for one in shown]),
        np.maximum((values - middle) / scale, -_FLOOR),
        np.array([one.seeds for one in shown], dtype=np.float64),
    )
    sizes = _fitted(seen.part(_spread(seen.values, _FITTED)))
    own, noise = np.exp(2 * sizes[-2:])
    every = _places(specs, [*(one.params for one in shown), *others])
    cov = _kernel(_apart(every, every), sizes)[0] + _LEVEL + own * np.eye(len(shown) + len(others))
    count = len(shown)
    whole = cov[:count, :count] + np.diag(noise / seen.seeds + 1e-6)
    gain = np.linalg.solve(whole, cov[:count]).T
    level = seen.values.mean()
    means = level + gain @ (seen.values - level)
    return Joint(
        middle + scale * means, scale**2 * (cov - gain @ cov[:count]), scale**2 * float(noise)
    )
