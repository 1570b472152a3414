"""Numbers with their intervals: correlations and differences of means. Knows no sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search.study.search_space import as_number

Array: TypeAlias = NDArray[np.float64]
Item = TypeVar("Item")

# fewer trials than this have no rank correlation worth an interval
LEAST_RANKED = 8
# degrees of freedom of a variance that is known
_KNOWN = 1e9


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval. count: of trials behind it."""

    value: float
    low: float
    high: float
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0, else 0: not decided."""
        return int(self.low > 0) - int(self.high < 0)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of them, evenly from the first to the last.

    >>> spread("abcdefg", 3), spread("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    places = np.linspace(0, len(items) - 1, min(len(items), most)).astype(int)
    return [items[place] for place in places]


def pooled(values: Array, variances: Array, freedom: float, level: float = 0.95) -> Array:
    """Mean and ends of the interval of one number from M draws of what is not known: [3].

    values, variances [M]: the number and its sampling variance in each draw, `freedom` degrees of
    it. Rubin's rules, with the freedom of Barnard and Rubin (Biometrika 86, 1999). One draw gives
    plain t.
    """
    count, inside = len(values), float(variances.mean())
    between = (1 + 1 / count) * float(values.var(ddof=1)) if count > 1 else 0.0
    whole = inside + between
    if between > 0:
        missing = between / whole
        seen = (freedom + 1) / (freedom + 3) * freedom * (1 - missing)
        draws = (count - 1) / missing**2
        freedom = draws * seen / max(draws + seen, 1e-12)
    reach = float(stats.t.ppf((1 + level) / 2, max(freedom, 1e-3))) * math.sqrt(whole)
    reach = reach if whole > 0 else 0.0
    return float(values.mean()) + reach * np.array([0.0, -1.0, 1.0])


def rank_correlation(
    x: Sequence[float] | Array, y: Sequence[float] | Array, level: float = 0.95
) -> Estimate | None:
    """Spearman's rho of x [N] and y [N] with its interval; None where N is small.

    y [M, N]: draws of what is not known for sure, which widen it, see `pooled`.

    None too where one of both never varies. The interval is Fisher's with the variance of Bonett
    and Wright (Psychometrika 65, 2000). Resampled pairs would not do where many values are equal:
    one trial that peaked early and scored well decided the matter in half of all studies.
    """
    one, draws = np.asarray(x, dtype=np.float64), np.atleast_2d(np.asarray(y, dtype=np.float64))
    if len(one) < LEAST_RANKED or np.ptp(one) == 0 or np.ptp(draws, axis=1).min() == 0:
        return None
    count = len(one)
    ranks, others = (stats.rankdata(it, axis=1) for it in (np.atleast_2d(one), draws))
    ranks, others = (it - it.mean(axis=1, keepdims=True) for it in (ranks, others))
    rhos = others @ ranks[0] / np.sqrt((ranks**2).sum() * (others**2).sum(axis=1))
    # half of what two neighbours that change places take from a perfect order
    most = 1 - 6 / (count**3 - count)
    bounded = np.clip(rhos, -most, most)
    variances = (1 + bounded**2 / 2) / (count - 3)
    # the variance is taken as known: endless freedom
    _, low, high = np.tanh(pooled(np.arctanh(bounded), variances, _KNOWN, level))
    rho = float(rhos.mean())
    return Estimate(rho, min(float(low), rho), max(float(high), rho), count)


def mean_difference(
    one: Sequence[float] | Array, other: Sequence[float] | Array
) -> Estimate | None:
    """Mean of `one` less mean of `other`, with Welch's interval; None below three of either.

    [M, N] each: draws of what is not known for sure, which widen it, see `pooled`.
    """
    sides = [np.atleast_2d(np.asarray(it, dtype=np.float64)) for it in (one, other)]
    counts = [it.shape[1] for it in sides]
    if min(counts) < 3:
        return None
    parts = [it.var(axis=1, ddof=1) / count for it, count in zip(sides, counts, strict=True)]
    apart, variances = sides[0].mean(axis=1) - sides[1].mean(axis=1), parts[0] + parts[1]
    squares = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    freedom = float(np.mean(variances**2 / np.maximum(squares, 1e-300)))
    value, low, high = map(float, pooled(apart, variances, max(freedom, 1.0)))
    return Estimate(value, low, high, sum(counts))


def without_others(y: Array, own: Array, others: Sequence[Sequence[Any]]) -> tuple[Array, bool]:
    """Scores y [M, N] less what other parameters explain linearly, and whether that was possible.

    own [N]: the parameter that is looked at, which is fitted beside the others as a parabola so
    that they do not take its share. others: each a column [N] of numbers or choices. Left as they
    are where there are not at least four trials for each coefficient.
    """
    columns = [column for values in others for column in _columns(values)]
    if not columns or y.shape[1] < 4 * (len(columns) + 3):
        return y, False
    scaled = (own - own.mean()) / (own.std() or 1.0)
    shape = np.column_stack([np.ones(len(own)), scaled, scaled**2])
    rest = np.column_stack(columns)
    weights = np.linalg.lstsq(np.column_stack([shape, rest]), y.T, rcond=None)[0]
    return y - ((rest - rest.mean(axis=0)) @ weights[3:]).T, True


def _columns(values: Sequence[Any]) -> list[Array]:
    """A parameter as standardised columns; a choice as one column for each value but the first."""
    numbers = [as_number(value) for value in values]
    if all(number is not None for number in numbers):
        column = np.array(numbers, dtype=np.float64)
        spread = column.std()
        return [(column - column.mean()) / spread] if spread > 0 else []
    texts = [str(value) for value in values]
    return [
        np.array([text == choice for text in texts], np.float64)
        for choice in sorted(set(texts))[1:]
    ]
