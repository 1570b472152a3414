"""What a trial's curve will come to: from recorded curves, earlier studies and this one.

A curve is a Gaussian around a line in its features, with errors that are correlated along the
curve; what has been seen of it moves the rest. The line starts from recorded curves and gives way
to the study's own trials, the pruned ones included up to where they stood. How near the study is
to what was recorded is not assumed: several starting points compete, weighted by how well they
foretold the study's trials so far.

K knot, P covariate, D = P x K coefficient (covariate-major), see
`search.strategy.forecast.features`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, stdtr

from search.strategy.forecast.curve_banks import Recorded, seed_deviation
from search.strategy.forecast.features import (
    FEATURES,
    KNOTS,
    Array,
    ConfigurationFeatures,
    readings,
)

K = len(KNOTS)
# prior spread of a covariate's effect, in deviations between curves
_EFFECT = 0.6
_OTHER_EFFECT = 1.0
# errors along a curve: how far towards a plain shape, since few curves tell many covariances
_SHRINK, _REACH = 0.4, 1.0
_ROUNDS = 4
# a study's own line beside the recorded one: of the level, of every effect
NEAR, FAR = (0.3, 0.1), (10.0, 2.0)
# readings along a curve repeat each other: what each counts as evidence
_WORTH = 0.3
# how many readings the recorded size of errors is worth
_TRUST = 30.0
# a whole curve is foretold again from so many readings, to see whether forecasts are honest; what
# is claimed weighs as much as so many of these
_EARLY, _CLAIMED = 3, 4.0
# a curve further off than so many deviations a reading is held to be an outlier
_OUTLIER = 3.0


@dataclass(frozen=True)
class Prior:
    """A starting point: coefficients mean [D], cov [D, D]; errors along a curve [K, K].

    spread: covariance between whole curves [K, K]. noise: deviation of the end between seeds, on
    the scale of `to_log`.
    """

    mean: Array
    cov: Array
    errors: Array
    spread: Array
    noise: float


def prior_from(curves: Sequence[Recorded]) -> Prior:
    """The starting point that recorded curves give; all of one length, at least 3."""
    epochs = len(curves[0].val_f)
    features = ConfigurationFeatures(epochs)
    designs = [features.of(curve.params) for curve in curves]
    seen = np.array([readings(dict(enumerate(curve.val_f, 1)), epochs) for curve in curves])
    spread = _shrunk(np.cov(seen.T))
    errors = 0.5 * spread
    mean = np.concatenate([seen.mean(0), np.zeros((FEATURES - 1) * K)])
    cov = np.kron(np.diag([100.0] + [_EFFECT**2] * (FEATURES - 1)), spread)
    line = _fitted(mean, cov, errors, designs, seen)
    for _ in range(_ROUNDS):
        left = [line.left_over(*one) for one in zip(designs, seen, strict=True)]
        errors = _shrunk(np.mean(left, axis=0))
        line = _fitted(mean, cov, errors, designs, seen)
    deviation = seed_deviation(curves)
    rest = 1 - float(np.median([max(curve.val_f) for curve in curves]))
    noise = 0.7 * math.sqrt(errors[-1, -1]) if deviation is None else deviation / rest
    return Prior(line.mean, line.cov, errors, spread, noise)


def _fitted(mean: Array, cov: Array, errors: Array, designs: Sequence[Array], seen: Array) -> _Line:
    line = _Line(mean, cov, errors)
    for design, values in zip(designs, seen, strict=True):
        line.learn(design, values, robust=False)
    return line


def without_effects(prior: Prior) -> Prior:
    """A starting point that claims nothing of configurations: how curves go on, that alone."""
    mean, cov = prior.mean.copy(), np.zeros_like(prior.cov)
    # the first covariate is the level
    mean[K:] = 0.0
    cov[:K, :K] = prior.cov[:K, :K]
    return dataclasses.replace(prior, mean=mean, cov=cov)


def vague_prior() -> Prior:
    """Where nothing was recorded: curves that rise and level off, at a height that anything has."""
    deviations = 0.05 + 0.2 * np.exp(-6 * (KNOTS - KNOTS[0]))
    spread = _shrunk(np.diag(deviations**2), towards=1.0)
    mean = np.concatenate([1.5 * (1 - np.exp(-5 * KNOTS)), np.zeros((FEATURES - 1) * K)])
    cov = np.kron(np.diag([100.0] + [_EFFECT**2] * (FEATURES - 1)), spread)
    return Prior(mean, cov, 0.2 * spread, spread, noise=0.01)


def _shrunk(cov: Array, towards: float = _SHRINK) -> Array:
    """A covariance along curves, drawn towards one whose correlation fades with the distance."""
    deviations = np.sqrt(np.diag(cov))
    apart = np.abs(np.subtract.outer(np.log(KNOTS), np.log(KNOTS)))
    plain = np.outer(deviations, deviations) * np.exp(-apart / _REACH)
    return np.asarray((1 - towards) * cov + towards * plain)


class _Line:
    """One hypothesis about a study: a Gaussian over coefficients, errors of a size learned too."""

    def __init__(self, mean: Array, cov: Array, errors: Array, noise: float = 0.0) -> None:
        self.mean, self.cov, self.errors, self.noise = mean, cov, errors, noise
        self.freedom, self.squares = _TRUST, _TRUST
        self._ended, self._surprise = _CLAIMED, _CLAIMED

    @property
    def size(self) -> float:
        """Variance of the errors, as a multiple of the recorded one; never below it.

        Early readings that are all as foretold say little of what is still to come.
        """
        return max(1.0, self.squares / self.freedom)

    @property
    def _dishonest(self) -> float:
        """By how much the variance of ends has been claimed too small so far; at least 1."""
        return max(1.0, self._surprise / self._ended)

    def _projected(self, design: Array, reached: int) -> tuple[Array, Array, Array]:
        """Mean [k] and covariance [k, k] of a curve at knots, and cov x design [D, k]."""
        features = design.shape[1]
        # the coefficient of covariate p at knot k acts at knot k alone
        blocks = self.cov.reshape(-1, features, K)[:, :, :reached]
        across = np.einsum("dpk,kp->dk", blocks, design[:reached])
        means = np.einsum("pk,kp->k", self.mean.reshape(features, K)[:, :reached], design[:reached])
        rows = across.reshape(features, K, reached)[:, :reached]
        return means, np.einsum("pjk,jp->jk", rows, design[:reached]), across

    def learn(self, design: Array, values: Array, *, robust: bool = True) -> float:
        """Take in a curve, design [K, P], values [k]; returns its log density beforehand.

        robust: whether it may be an outlier, and tells the size of errors.
        """
        reached = len(values)
        means, line, across = self._projected(design, reached)
        errors = self.errors[:reached, :reached]
        rest = values - means
        whole = line + errors
        if robust and reached == K:
            mean, deviation = self.end(design, values[:_EARLY])
            self._surprise += min(_OUTLIER**2, ((float(values[-1]) - mean) / deviation) ** 2)
            self._ended += 1
        distance = float(rest @ np.linalg.solve(whole, rest))
        density = self._density(distance, whole, reached)
        if robust:
            off = distance / (reached * self.size * _OUTLIER**2)
            if off > 1:
                whole = line + off * errors
            self.squares += _WORTH * min(distance, reached * self.size * _OUTLIER**2)
            self.freedom += _WORTH * reached
        gain = np.linalg.solve(whole, across.T)
        self.mean = self.mean + rest @ gain
        self.cov = self.cov - across @ gain
        return density

    def _density(self, distance: float, whole: Array, reached: int) -> float:
        """Student's log density of a curve, errors of unknown size."""
        freedom, size = self.freedom, self.size
        _, volume = np.linalg.slogdet(whole)
        return float(
            gammaln((freedom + reached) / 2)
            - gammaln(freedom / 2)
            - reached / 2 * math.log(freedom * math.pi * size)
            - volume / 2
            - (freedom + reached) / 2 * math.log1p(distance / (freedom * size))
        )

    def left_over(self, design: Array, values: Array) -> Array:
        """What the line leaves of a whole curve, with its own uncertainty, [K, K]."""
        means, line, _ = self._projected(design, K)
        return np.asarray(np.outer(values - means, values - means) + line)

    def end(self, design: Array, values: Array) -> tuple[float, float]:
        """Mean and deviation of a curve's end, given its first readings."""
        means, whole, _ = self._projected(design, K)
        whole = whole + self.errors
        mean, variance, reached = means[-1], whole[-1, -1], len(values)
        if reached:
            pull = np.linalg.solve(whole[:reached, :reached], whole[:reached, -1])
            mean = mean + pull @ (values - means[:reached])
            variance = variance - pull @ whole[:reached, -1]
        return float(mean), math.sqrt(max(float(variance), 1e-12) * self.size * self._dishonest)

    def ends(self, rows: Array) -> tuple[Array, Array]:
        """Means and deviations of ends not yet begun on, rows [N, P] at the last knot."""
        features = rows.shape[1]
        means = rows @ self.mean.reshape(features, K)[:, -1]
        last = self.cov.reshape(features, K, features, K)[:, -1, :, -1]
        variances = np.einsum("np,pq,nq->n", rows, last, rows) + self.errors[-1, -1]
        return means, np.sqrt(variances * self.size)

    def drawn(
        self, designs: Sequence[Array], seen: Sequence[Array], count: int, rng: np.random.Generator
    ) -> Array:
        """Ends of learned curves [count, N], drawn together. designs: [K, P] each; seen: [k] each.

        Each is the end to be expected under a line: what trainings of their own luck come to
        stays out, what the curves err by together is in.
        """
        # Student: errors of a size that is not known either, the same for all curves of a draw
        size = self.size * self._dishonest
        sizes = np.sqrt(size * self.freedom / rng.chisquare(self.freedom, count))
        values, vectors = np.linalg.eigh(self.cov)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        lines = self.mean + sizes[:, None] * (rng.normal(size=(count, len(self.mean))) @ root.T)
        found = np.empty((count, len(designs)))
        for place, (design, shown) in enumerate(zip(designs, seen, strict=True)):
            reached = len(shown)
            whole = np.einsum("npk,kp->nk", lines.reshape(count, -1, K), design)
            pull = np.linalg.solve(self.errors[:reached, :reached], self.errors[:reached, -1])
            found[:, place] = whole[:, -1] + (shown - whole[:, :reached]) @ pull
        return found


@dataclass(frozen=True)
class End:
    """Where a trial will end, on the scale of `to_log`: a mixture of Student distributions, [N]."""

    weights: Array
    means: Array
    deviations: Array
    freedoms: Array

    @property
    def mean(self) -> float:
        return float(self.weights @ self.means)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.weights @ (self.deviations**2 + (self.means - self.mean) ** 2))

    def above(self, level: float) -> float:
        """Probability of ending above a level."""
        return float(self.weights @ stdtr(self.freedoms, (self.means - level) / self.deviations))


class Forecast:
    """Foretells the ends of a study's trials; give it what has ended with `learn`.

    priors: starting points, the most general first; without any, see `vague_prior`. features:
    of the study.
    """

    def __init__(self, priors: Sequence[Prior], features: ConfigurationFeatures) -> None:
        priors = priors or (vague_prior(),)
        self.features = features
        self._spread = priors[0].spread
        self._lines = [
            *(_line_at(prior, features, NEAR) for prior in priors),
            _line_at(priors[0], features, FAR),
        ]
        self._evidence = np.zeros(len(self._lines))

    def copy(self) -> Forecast:
        """One that learns apart from this one."""
        other = copy.copy(self)
        other._lines = [copy.copy(line) for line in self._lines]
        other._evidence = self._evidence.copy()
        return other

    def learn(self, params: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        """Take in a trial that has ended, or been parked."""
        values = readings(curve, self.features.epochs, self.features.scale)
        if len(values):
            design = self.features.of(params)
            self._evidence += [_WORTH * line.learn(design, values) for line in self._lines]

    def prior(self) -> Prior:
        """The starting point that this study gives to a later one of the same store."""
        line = self._lines[int(np.argmax(self._evidence))]
        known = FEATURES * K
        return Prior(
            line.mean[:known],
            line.cov[:known, :known],
            line.errors * line.size,
            self._spread * line.size,
            line.noise * math.sqrt(line.size),
        )

    @property
    def weights(self) -> Array:
        """How much each starting point counts, float64 [N], the last one the strange study."""
        weights = np.exp(self._evidence - self._evidence.max())
        return np.asarray(weights / weights.sum())

    @property
    def noise(self) -> float:
        """Deviation of the end between seeds, on the scale of `to_log`."""
        sizes = [line.noise * math.sqrt(line.size) for line in self._lines]
        return float(self.weights @ sizes)

    def end(self, params: Mapping[str, Any], curve: Mapping[int, float]) -> End:
        """Where a trial will end, given what it has shown."""
        values = readings(curve, self.features.epochs, self.features.scale)
        design = self.features.of(params)
        kept = [(w, line) for w, line in zip(self.weights, self._lines, strict=True) if w > 0.01]
        ends = np.array([line.end(design, values) for _, line in kept])
        weights = np.array([w for w, _ in kept])
        return End(
            weights / weights.sum(),
            ends[:, 0],
            ends[:, 1],
            np.array([line.freedom for _, line in kept]),
        )

    def drawn_ends(
        self,
        trials: Sequence[tuple[Mapping[str, Any], Mapping[int, float]]],
        count: int,
        rng: np.random.Generator,
    ) -> Array:
        """Ends that learned trials may be expected to have: float64 [count, N], see `to_log`.

        trials: parameters and curve of each, which `learn` has taken in. One draw is one starting
        point and one line for all of them, so that they err together where they would.
        """
        designs = [self.features.of(params) for params, _ in trials]
        seen = [readings(curve, self.features.epochs, self.features.scale) for _, curve in trials]
        shares = rng.multinomial(count, self.weights)
        parts = [
            line.drawn(designs, seen, share, rng)
            for line, share in zip(self._lines, shares, strict=True)
            if share
        ]
        return rng.permutation(np.concatenate(parts))

    def newcomer(self, configurations: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
        """Mean and deviation of the end of a trial not yet begun, over configurations."""
        rows = np.array([self.features.of(params)[-1] for params in configurations])
        means, deviations = (
            np.array(x) for x in zip(*(line.ends(rows) for line in self._lines), strict=True)
        )
        mean = self.weights @ means.mean(1)
        square = self.weights @ (deviations**2 + (means - mean) ** 2).mean(1)
        return float(mean), math.sqrt(square)


def _line_at(prior: Prior, features: ConfigurationFeatures, distance: tuple[float, float]) -> _Line:
    """A study's line at a distance from a starting point."""
    more = features.count - FEATURES
    level, effect = distance
    own = np.diag([level**2] + [effect**2] * (FEATURES - 1) + [_OTHER_EFFECT**2] * more)
    cov = np.kron(own, prior.spread)
    known = FEATURES * K
    cov[:known, :known] += prior.cov
    mean = np.concatenate([prior.mean, np.zeros(more * K)])
    return _Line(mean, cov, prior.errors, prior.noise)
