"""A score's local mean along one parameter, and how sure it is.

A search draws its points unevenly and changes everything at once, so no formula is fitted to the
whole: parabolas to what lies around each point (a line would cut the top off), the width of the
window chosen by leaving out one point at a time, and resampled trials for the band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search.results.statistics.estimates import Array

# fewer trials, or fewer distinct values, than this carry no band
LEAST, LEAST_DISTINCT = 10, 5
# of the window, in shares of the range
_WIDTHS = (0.1, 0.15, 0.25, 0.4, 0.8)
# how strongly level, slope and curvature are drawn towards 0, in shares of the weight
_RIDGE = (0.0, 0.01, 0.03)
_GRID, _RESAMPLES = 41, 400
# of more points an even sample is as sure, and leaving out each in turn takes a square of time
_MOST = 400
# what bias and the chosen width add to the error, as tried on peaks, plateaus and flat scores
_BIAS = 1.15


@dataclass(frozen=True)
class Smooth:
    """x [G]: grid over the values seen. mean, low, high [G]: score, and the 95 % band of its mean.

    best: where the mean is highest; best_span: 95 % of the resamples have it there. flat: around
    it, where the mean cannot be told from its highest. cleared: whether linear effects of others
    were taken out of the scores before.
    """

    x: Array
    mean: Array
    low: Array
    high: Array
    best: float
    best_span: tuple[float, float]
    flat: tuple[float, float]
    cleared: bool = False


def smooth(x: Array, y: Array, *, log: bool = False, seed: int = 0) -> Smooth | None:
    """The mean of y [N] along x [N]; None where the points are too few to say.

    y [M, N]: draws of what is not known for sure, which widen the band.

    log: x is taken on a logarithmic scale, and must be above 0.
    """
    if len(x) < LEAST or len(np.unique(x)) < LEAST_DISTINCT:
        return None
    picked = np.linspace(0, len(x) - 1, min(len(x), _MOST)).astype(int)
    x = np.asarray(x, dtype=np.float64)[picked]
    y = np.atleast_2d(np.asarray(y, dtype=np.float64))[:, picked].T
    scaled = np.log(x) if log else x
    low, span = scaled.min(), float(np.ptp(scaled))
    u, grid = (scaled - low) / span, np.linspace(0, 1, _GRID)
    width = min(_WIDTHS, key=lambda it: _cross_validated(u, y, it)[0])
    draws = np.random.default_rng(seed).multinomial(len(u), np.full(len(u), 1 / len(u)), _RESAMPLES)
    # every resample has a draw of its own, and both move it
    own = np.arange(_RESAMPLES) % y.shape[1]
    means = _local_parabola(grid, u, y, width, np.ones((len(u), y.shape[1])))
    mean = means.mean(axis=1, keepdims=True)
    drawn = _local_parabola(grid, u, y[:, own], width, draws.T.astype(np.float64)) - means[:, own]
    apart = math.sqrt(1 + 1 / y.shape[1]) * (means - mean)[:, own]
    # resamples of few trials lie too near to each other: what the fit has used up is missing
    free = max(1.0, len(u) - _cross_validated(u, y, width)[1])
    reach = _BIAS * math.sqrt(len(u) / free) * stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)
    drawn, mean = mean + reach * drawn + apart, mean[:, 0]
    at_x = np.exp(low + span * grid) if log else low + span * grid
    top = int(mean.argmax())
    band = np.percentile(drawn, (2.5, 97.5), axis=1)
    tops = np.percentile(at_x[drawn.argmax(axis=0)], (2.5, 97.5))
    # the resamples share their trials, so differences are surer than the band's width says
    behind = np.percentile(drawn[top] - drawn, 2.5, axis=1) > 0
    left, right = run_around(top, ~behind)
    return Smooth(
        x=at_x,
        mean=mean,
        low=band[0],
        high=band[1],
        best=float(at_x[top]),
        best_span=(float(tops[0]), float(tops[1])),
        flat=(float(at_x[left]), float(at_x[right])),
    )


def _local_parabola(at: Array, u: Array, y: Array, width: float, counts: Array) -> Array:
    """Height at `at` [G] of parabolas fitted around it, a column for each of y, counts [N, B]."""
    matrix, right = _equations(at, u, y, width, counts)
    height = np.linalg.solve(matrix, right[..., None])[..., 0, 0]
    # a resample may have no point in reach
    return np.where(matrix[..., 0, 0] > 1e-6, height, y.mean(axis=0))


def _cross_validated(u: Array, y: Array, width: float) -> tuple[float, float]:
    """Mean squared error of each point as the others tell it; how many numbers the fit uses up."""
    matrix, right = _equations(u, u, y, width, np.ones(y.shape))
    inverse = np.linalg.inv(matrix[:, 0])
    height, own = np.einsum("ni,nbi->nb", inverse[:, 0], right), inverse[:, 0, 0]
    error = np.mean(((y - height) / np.maximum(1 - own, 1e-3)[:, None]) ** 2)
    return float(error), float(own.sum())


def _equations(at: Array, u: Array, y: Array, width: float, counts: Array) -> tuple[Array, Array]:
    """Normal equations of weighted parabolas: matrices [G, B, 3, 3], right sides [G, B, 3].

    y, counts [N, B]: scores, and how often each point is in each resample.
    """
    apart = (u[None, :] - at[:, None]) / width
    weights = [np.exp(-0.5 * apart**2)]
    while len(weights) < 5:
        weights.append(weights[-1] * apart)
    sums = [weight @ counts for weight in weights]
    matrix = np.stack([np.stack([sums[i + j] for j in range(3)], -1) for i in range(3)], -2)
    # a slope and a curvature that few points carry are drawn towards none
    matrix += sums[0][..., None, None] * np.diag(_RIDGE)
    matrix += 1e-12 * np.eye(3)
    return matrix, np.stack([weight @ (y * counts) for weight in weights[:3]], -1)


def run_around(index: int, true: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last index of the unbroken run of true values around `index`."""
    left = right = index
    while left > 0 and true[left - 1]:
        left -= 1
    while right < len(true) - 1 and true[right + 1]:
        right += 1
    return left, right
