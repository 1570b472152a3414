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


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Spearman's rho of x [N] and y [N] with its interval; None where N is small.

    None too where one of both never varies. The interval is Fisher's with the variance of Bonett
    and Wright (Psychometrika 65, 2000). Resampled pairs would not do where many values are equal:
    one trial that peaked early and scored well decided the matter in half of all studies.
    """
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(one) < LEAST_RANKED or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    count, rho = len(one), float(stats.spearmanr(one, other).statistic)
    # half of what two neighbours that change places take from a perfect order
    most = 1 - 6 / (count**3 - count)
    bounded = max(-most, min(most, rho))
    reach = float(stats.norm.ppf(0.975)) * math.sqrt((1 + bounded**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(bounded) + it) for it in (-reach, reach))
    return Estimate(rho, min(low, rho), max(high, rho), count)


def mean_difference(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Mean of `one` less mean of `other`, with Welch's interval; None below three of either."""
    if min(len(one), len(other)) < 3:
        return None
    parts = [float(np.var(it, ddof=1)) / len(it) for it in (one, other)]
    apart, variance = float(np.mean(one) - np.mean(other)), sum(parts)
    freedom = sum(part**2 / (len(it) - 1) for part, it in zip(parts, (one, other), strict=True))
    reach = 0.0
    if variance > 0:
        reach = float(stats.t.ppf(0.975, variance**2 / freedom)) * variance**0.5
    return Estimate(apart, apart - reach, apart + reach, len(one) + len(other))


def without_others(y: Array, own: Array, others: Sequence[Sequence[Any]]) -> tuple[Array, bool]:
    """Scores y [N] less what the other parameters explain linearly, and whether that was possible.

    own [N]: the parameter that is looked at, which is fitted beside the others as a parabola so
    that they do not take its share. others: each a column [N] of numbers or choices. Left as they
    are where there are not at least four trials for each coefficient.
    """
    columns = [column for values in others for column in _columns(values)]
    if not columns or len(y) < 4 * (len(columns) + 3):
        return y, False
    scaled = (own - own.mean()) / (own.std() or 1.0)
    shape = np.column_stack([np.ones(len(y)), scaled, scaled**2])
    rest = np.column_stack(columns)
    weights = np.linalg.lstsq(np.column_stack([shape, rest]), y, rcond=None)[0]
    return y - (rest - rest.mean(axis=0)) @ weights[3:], True


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
