"""Learning rate of every optimiser step: cosine cycles with warm restarts, and a warm-up."""

from __future__ import annotations

import math


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
    step: int, *, ends: list[int], peak: float, eta_min: float, warmup_steps: int = 0
) -> float:
    """Learning rate of step `step`, counted from 0.

    ends: of `cycle_ends`. A cycle falls from peak at its first step to eta_min at its last; a
    cycle of one step is at peak. During the first warmup_steps the rate is scaled up linearly.

    >>> [round(lr_at(s, ends=[3, 6], peak=1.0, eta_min=0.0), 3) for s in range(6)]
    [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]
    """
    start = 0
    for end in ends:
        if step < end:
            break
        start = end
    length = end - start
    share = (step - start) / (length - 1) if length > 1 else 0.0
    rate = eta_min + (peak - eta_min) * (1 + math.cos(math.pi * min(1.0, share))) / 2
    if step < warmup_steps:
        rate *= (step + 1) / warmup_steps
    return rate
