"""Configurations repeated with other seeds: how sure their means and differences are.

Scores are few (2 to 10 seeds), their noise differs between configurations and is skewed: trainings
get stuck, or are lucky. So

- an interval is that of t on its own scores, bent by Hall's transformation towards the long tail,
  at most half as far again as plain t, or twice as far where the scores decided when to stop
  (`interval`);
- a pair is compared with Welch's degrees of freedom, bent likewise; Shaffer's steps keep the error
  over all pairs, and spending it over equally spaced looks keeps it over all looks (`compare`);
- "equal" rests on two one-sided tests against +-margin inside the same error;
- a study whose scores decide when to stop takes intervals that are a little wider (`looks`).

The constants were chosen by simulation on five families of noise and checked on six others; how
often it then errs, and at which price, stands in `scripts/benchmarks/README.md` (intervals over
seeds). Two seeds give plain t: some 9 deviations to either side. With a fixed number of seeds it
stops holding under strong skewness, as of exponential noise. Nor does it hold for a plan that is
changed after a look: a cap raised because nothing was decided adds an error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Verdict = Literal["first", "second", "equal"]
_Bend = tuple[float, float]

# how many times as skewed the noise is taken to be as the scores are: few of them seldom hold one
# of the long tail; and how many times as far as plain t an interval reaches towards that tail, at
# most: the skewness of three or four scores is mostly chance
_BEND: _Bend = (1.5, 1.5)
# of scores that themselves decided when to stop: they stop more often without the long tail
_BEND_LOOKED_AT: _Bend = (1.5, 2.0)
_STRAIGHT = 1e-6
# of the error that an interval may have, what t is given: reaching further on one side leaves some
# unspent, unless the scores themselves decided when to stop, which uses it up
_FIXED_SHARE = 1.2
# the same for verdicts, whose small errors on one side skewness multiplies
_VERDICT_SHARE = 0.3
_QUANTILES = 4096
# the error spent by look k of K grows as (k / K) to this power: few scores tell least, and their
# tails least of all
_SPENDING_POWER = 2


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, in units of the scores."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two configurations compared.

    difference: mean of the first less mean of the second. low, high: the difference's interval
    that the verdict rests on, widened for all pairs and looks; infinite where one of both has a
    single score. verdict: which is better, "equal" for practical purposes (the interval lies
    within the margin), or None: not decided.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    verdict: Verdict | None

    @property
    def ranked(self) -> tuple[str, str] | None:
        """The better and the worse one; None where neither is told to be better."""
        order = {"first": (self.first, self.second), "second": (self.second, self.first)}
        return order.get(self.verdict or "")


# --------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class _Sample:
    """Moments of one configuration's scores.

    variance, third: of one score, the third about its mean; both None for a single one.
    """

    count: int
    mean: float
    variance: float | None
    third: float | None


def _sample(scores: Sequence[float]) -> _Sample:
    """Raises ValueError for a score that is not finite."""
    count = len(scores)
    if strange := [score for score in scores if not math.isfinite(score)]:
        raise ValueError(f"a score is {strange[0]}; leave out trainings that diverged")
    mean = math.fsum(scores) / count
    if count < 2:
        return _Sample(count, mean, None, None)
    variance = math.fsum((score - mean) ** 2 for score in scores) / (count - 1)
    third = math.fsum((score - mean) ** 3 for score in scores) / count
    return _Sample(count, mean, variance, (count / (count - 1)) ** 1.5 * third)


def interval(scores: Sequence[float], *, level: float = 0.95, looks: int = 1) -> Interval | None:
    """Where the mean over all seeds lies, from the scores of some; None below two scores.

    scores: one for each seed. looks: how often the scores were to be looked at to decide whether
    to go on; above 1 the interval is wider, since a chance that stops also flatters.
    Raises ValueError for a score that is not finite.
    """
    if len(scores) < 2:
        return None
    share = _FIXED_SHARE if looks == 1 and len(scores) > 2 else 1.0
    return _interval(scores, (1 - level) * share, _BEND if looks == 1 else _BEND_LOOKED_AT)


def _interval(scores: Sequence[float], error: float, bend: _Bend = _BEND) -> Interval:
    sample = _sample(scores)
    return Interval(sample.mean, *_around(sample.mean, [(1, sample)], error, bend))


def over_images(per_image: Sequence[Sequence[float]]) -> Interval | None:
    """Where the mean over all images lies, for the networks at hand; None below two images.

    per_image: [seed][image], each image's score under every seed's network; its mean over seeds
    is what varies. Says nothing of other seeds, as `interval` says nothing of other images.
    Raises ValueError where the seeds scored different numbers of images.
    """
    if len(counts := sorted({len(scores) for scores in per_image})) > 1:
        raise ValueError(f"per_image: seeds with {counts} images; score the same for each")
    means = [math.fsum(scores) / len(scores) for scores in zip(*per_image, strict=True)]
    return None if len(means) < 2 else _interval(means, 0.05)


def seed_deviation(scores: Mapping[str, Sequence[float]]) -> float | None:
    """Standard deviation between seeds, pooled; None where no configuration has two scores."""
    samples = [_sample(own) for own in scores.values() if len(own) >= 2]
    freedom = sum(one.count - 1 for one in samples)
    if not freedom:
        return None
    return math.sqrt(
        math.fsum((one.count - 1) * (one.variance or 0.0) for one in samples) / freedom
    )


def chance_best(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How likely each has the highest mean, in [0, 1]; together 1.

    Each mean is given a t distribution around its scores' mean, a single score that of the pooled
    deviation. Configurations without scores are left out; without any repeat all are alike.
    """
    samples = {name: _sample(own) for name, own in scores.items() if own}
    pooled = seed_deviation(scores)
    if pooled is None:
        return dict.fromkeys(samples, 1 / len(samples)) if samples else {}
    freedom = sum(one.count - 1 for one in samples.values())
    spread = {
        name: (pooled, freedom)
        if one.variance is None
        else (math.sqrt(one.variance / one.count), one.count - 1)
        for name, one in samples.items()
    }
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    chances = {}
    for name, one in samples.items():
        error, own_freedom = spread[name]
        means = one.mean + error * stdtrit(own_freedom, at)
        below = [
            _below(means, samples[other].mean, *spread[other]) for other in samples if other != name
        ]
        chances[name] = float(np.prod(below, axis=0).mean()) if below else 1.0
    total = sum(chances.values())
    return {name: chance / total for name, chance in chances.items()}


def _below(values: np.ndarray, mean: float, error: float, freedom: int) -> np.ndarray:
    """How likely a mean lies below each value. values: float64 [N]."""
    if error == 0:
        return (np.sign(values - mean) + 1) / 2
    return np.asarray(stdtr(freedom, (values - mean) / error))


# ------------------------------------------------------------------------------------- comparisons


def compare(
    scores: Mapping[str, Sequence[float]],
    *,
    margin: float | None = None,
    look: int = 1,
    looks: int = 1,
    alpha: float = 0.05,
) -> list[Pair]:
    """Every pair of configurations, in their order.

    alpha: chance that any verdict on any pair at any look is wrong. margin: differences within
    +-margin are none for practical purposes; default: one pooled standard deviation between seeds.
    look: which one this is, 1 to looks, the number planned. A configuration without scores is left
    out, one with a single score is undecided. Raises ValueError for a look that was not planned
    and for a score that is not finite.
    """
    if not 1 <= look <= looks:
        raise ValueError(f"look {look} of {looks}: none such was planned")
    samples = {name: _sample(own) for name, own in scores.items() if own}
    couples = list(combinations(samples, 2))
    if not couples:
        return []
    within = seed_deviation(scores) if margin is None else margin
    found: dict[tuple[str, str], Pair] = {}
    # step by step, as Shaffer 1986: what is told apart leaves fewer pairs that could mislead
    todo = couples
    while todo:
        together = max(count for count in equal_pair_counts(len(samples)) if count <= len(todo))
        error = nominal_levels(looks, _VERDICT_SHARE * alpha / together)[look - 1]
        # a true difference lies beyond one end of the margin at most: each is tested on one side
        near = nominal_levels(looks, 2 * alpha / len(todo))[look - 1]
        step = {couple: _pair(*couple, samples, within, error, near) for couple in todo}
        found |= step
        rest = [it for it in todo if step[it].ranked is None]
        if len(rest) == len(todo):
            break
        todo = rest
    return [found[couple] for couple in couples]


def _pair(
    first: str,
    second: str,
    samples: Mapping[str, _Sample],
    margin: float | None,
    error: float,
    near: float,
) -> Pair:
    """error, near: two-sided ones, of the interval that tells apart and of the one for "equal"."""
    one, other = samples[first], samples[second]
    difference = one.mean - other.mean
    if margin is None or one.variance is None or other.variance is None:
        return Pair(first, second, difference, -math.inf, math.inf, None)
    parts = [(1, one), (-1, other)]
    low, high = _around(difference, parts, error)
    verdict: Verdict | None = "first" if low > 0 else "second" if high < 0 else None
    if verdict is None:
        least, most = _around(difference, parts, near)
        if -margin <= least and most <= margin:
            low, high, verdict = least, most, "equal"
    return Pair(first, second, difference, low, high, verdict)


def _around(
    middle: float, parts: Sequence[tuple[int, _Sample]], error: float, bend: _Bend = _BEND
) -> tuple[float, float]:
    """Ends of the interval of a sum of means. parts: sign and sample of each mean."""
    variances = [(one.variance or 0.0) / one.count for _, one in parts]
    total = math.fsum(variances)
    if not total:
        return middle, middle
    # Welch and Satterthwaite: each configuration has a noise of its own
    freedom = total**2 / math.fsum(
        own**2 / (one.count - 1) for own, (_, one) in zip(variances, parts, strict=True)
    )
    third = math.fsum(sign * (one.third or 0.0) / one.count**2 for sign, one in parts)
    below, above = _half_widths(error, freedom, third / total**1.5, bend)
    return middle - below * math.sqrt(total), middle + above * math.sqrt(total)


def _half_widths(error: float, freedom: float, skew: float, bend: _Bend) -> tuple[float, float]:
    """How far a t interval reaches below and above its middle, in standard errors.

    error: of both sides together. skew: of the estimate. Towards the long tail it reaches as far
    as Hall's transformation says, the other way no less than plain t. Source: Hall 1992, "On the
    removal of skewness by transformation".
    """
    plain = float(-stdtrit(freedom, error / 2))
    times, farthest = bend
    slant = times * skew / 3
    if abs(slant) < _STRAIGHT:
        return plain, plain

    def bent(value: float) -> float:
        return (math.cbrt(1 + 3 * slant * (value - slant / 2)) - 1) / slant

    most = farthest * plain
    return min(most, max(plain, bent(plain))), min(most, max(plain, -bent(-plain)))


# ----------------------------------------------------------- an error shared over looks and pairs


@lru_cache
def nominal_levels(looks: int, alpha: float) -> tuple[float, ...]:
    """Two-sided significance level of each look [looks], so that all together err in alpha.

    Equally spaced looks at a sum of normal numbers; of alpha the share (k / looks) ** 2 is spent by
    look k. Source: Kim and DeMets 1987, with the recursion of Armitage, McPherson and Rowe 1969;
    used as levels of t tests as in Jennison and Turnbull 2000, section 3.8.
    """
    spent = alpha * (np.arange(1, looks + 1) / looks) ** _SPENDING_POWER
    levels = [float(spent[0])]
    nodes, weights = np.polynomial.legendre.leggauss(64 + 4 * looks)
    edge = float(-ndtri(spent[0] / 2))
    at = edge * nodes
    # density of the sum among the paths that have crossed no bound yet
    density = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)
    for look in range(2, looks + 1):
        mass = density * edge * weights

        def crossed(bound: float, mass: np.ndarray = mass, at: np.ndarray = at) -> float:
            return float(mass @ (ndtr(at - bound) + ndtr(-bound - at)))

        step = float(spent[look - 1] - spent[look - 2])
        edge = brentq(lambda bound, goal=step: crossed(bound) - goal, 0.0, 12 * math.sqrt(look))
        levels.append(float(2 * ndtr(-edge / math.sqrt(look))))
        moved = edge * nodes
        density = np.exp(-((moved[:, None] - at) ** 2) / 2) @ mass / math.sqrt(2 * math.pi)
        at = moved
    return tuple(levels)


@lru_cache
def equal_pair_counts(configurations: int) -> frozenset[int]:
    """How many pairs can be truly equal: all those within groups of equal configurations.

    >>> sorted(equal_pair_counts(3)), sorted(equal_pair_counts(4))
    ([0, 1, 3], [0, 1, 2, 3, 6])
    """
    if configurations < 2:
        return frozenset({0})
    return frozenset(
        size * (size - 1) // 2 + others
        for size in range(1, configurations + 1)
        for others in equal_pair_counts(configurations - size)
    )
