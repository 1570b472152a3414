"""Learning rate of every optimiser step: cycles of one shape with restarts, and a warm-up.

A schedule is the shape of a cycle, and `training.scheduler` takes the names in SCHEDULES. One more
is a function here and its entry there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType


def cosine(progress: float) -> float:
    """Height above eta_min, 1 at the peak, after `progress` of a cycle: slow, fast, slow.

    >>> [round(cosine(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"CosineAnnealingWarmRestarts": cosine}
)


def cycle_ends(total_steps: int, *, t_0_steps: float, t_mult: int = 1) -> list[int]:
    """Steps after which a cycle is over, up to total_steps; the last cycle may be cut short.

    t_0_steps: length of the first cycle, a fraction allowed; each further one is t_mult times as
    long. Ends are rounded one by one, so that equal shares of a budget end exactly with it.

    >>> cycle_ends(100, t_0_steps=100 / 3)
    [33, 67, 100]
    >>> cycle_ends(70, t_0_steps=10, t_mult=2)
    [10, 30, 70]
    """
    if t_0_steps <= 0:
        raise ValueError(f"t_0_steps must be above 0, got {t_0_steps}")
    ends: list[int] = []
    end, length = 0.0, t_0_steps
    while not ends or ends[-1] < total_steps:
        end += length
        length *= t_mult
        # half a step at the end is rounding, not a cycle of its own
        at = total_steps if end > total_steps - 0.5 else round(end)
        if at > (ends[-1] if ends else 0):
            ends.append(at)
    return ends


def lr_at(
    step: int,
    *,
    ends: list[int],
    peak: float,
    eta_min: float,
    warmup_steps: int = 0,
    schedule: str = "CosineAnnealingWarmRestarts",
) -> float:
    """Learning rate of step `step`, counted from 0.

    ends: of `cycle_ends`. A cycle goes from its first step to its last as `schedule` says, one of
    SCHEDULES; a cycle of one step is at peak. During the first warmup_steps the rate is scaled up
    linearly.

    >>> [round(lr_at(s, ends=[3, 6], peak=1.0, eta_min=0.0), 3) for s in range(6)]
    [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]
    """
    start = 0
    for end in ends:
        if step < end:
            break
        start = end
    length = end - start
    progress = (step - start) / (length - 1) if length > 1 else 0.0
    rate = eta_min + (peak - eta_min) * SCHEDULES[schedule](min(1.0, progress))
    if step < warmup_steps:
        rate *= (step + 1) / warmup_steps
    return rate
