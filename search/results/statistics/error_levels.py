"""How an allowed error is shared out over the looks at a study and over its pairs."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

# the error spent by look k of K grows as (k / K) to this power: few scores tell least, and their
# tails least of all
_SPENDING_POWER = 2


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
