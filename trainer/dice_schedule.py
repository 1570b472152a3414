"""Weight of the Dice term over a training.

Every schedule moves from `start` to `end` around the same mean level, so that level and ramp can
be searched apart: start = level - ramp / 2, end = level + ramp / 2. `progress` is the share of
the optimiser steps done, in [0, 1]: budgets are thought in steps, not in epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType


def constant(progress: float, *, start: float, end: float) -> float:
    """Dice weight at the mean level throughout; the ramp is inert.

    >>> constant(0.9, start=1.3, end=1.7)
    1.5
    """
    return (start + end) / 2


def step(progress: float, *, start: float, end: float) -> float:
    """Dice weight at start, the mean level and end, each for a third of the steps.

    >>> [step(p, start=1.3, end=1.7) for p in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)]
    [1.3, 1.3, 1.5, 1.5, 1.7, 1.7]
    """
    if progress < 1 / 3:
        return start
    if progress < 2 / 3:
        return (start + end) / 2
    return end


def linear(progress: float, *, start: float, end: float) -> float:
    """Dice weight moving evenly from start to end.

    >>> linear(0.5, start=1.3, end=1.7)
    1.5
    """
    return start + (end - start) * progress


def cosine(progress: float, *, start: float, end: float) -> float:
    """Dice weight moving from start to end along half a cosine: slow, fast, slow.

    >>> [round(cosine(p, start=1.0, end=2.0), 3) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [1.0, 1.146, 1.5, 1.854, 2.0]
    """
    return start + (end - start) * (1 - math.cos(math.pi * progress)) / 2


SCHEDULES: Mapping[str, Callable[..., float]] = MappingProxyType(
    {"constant": constant, "step": step, "linear": linear, "cosine": cosine}
)


def ends(level: float, ramp: float) -> tuple[float, float]:
    """Dice weight at the first and at the last step.

    level: mean Dice weight; ramp: end minus start.

    >>> ends(1.5, 0.5)
    (1.25, 1.75)
    """
    return level - ramp / 2, level + ramp / 2


def dice_weight_at(progress: float, *, level: float, ramp: float, schedule: str) -> float:
    """Dice weight after `progress` of the optimiser steps.

    progress: share of the steps done, in [0, 1].
    level: mean weight over the training; ramp: end minus start, inert under `constant`.
    schedule: constant, step, linear or cosine.
    Raises ValueError if the schedule is unknown, progress lies outside [0, 1], or a schedule
    other than constant would start or end below 0.

    >>> [round(dice_weight_at(p, level=1.5, ramp=0.4, schedule="step"), 3) for p in (0, 0.5, 1)]
    [1.3, 1.5, 1.7]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"dice_schedule: {schedule!r} is none of {', '.join(SCHEDULES)}")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress}")
    if schedule == "constant":
        return level  # not the mean of both ends: that would differ in the last digit
    start, end = ends(level, ramp)
    if min(start, end) < 0:
        raise ValueError(
            f"dice_weight {level} with dice_ramp {ramp} runs from {start:g} to {end:g}, below 0"
        )
    return SCHEDULES[schedule](progress, start=start, end=end)
