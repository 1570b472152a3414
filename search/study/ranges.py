"""Ranges of numeric parameters: where a value lies in one, and longer ones that can be trained."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import space
from search.study.search_space import check_ends
from search.study.setup import Setup, config_for
from trainer.errors import ConfigError

Range = space.Float | space.Int
Side = Literal["lower", "upper"]
SIDES: tuple[Side, Side] = ("lower", "upper")
# of a range, at either end: what lies there lies at the edge
EDGE = 0.1
# of a range, what a widened one gains: the longest that can be trained
_GAINS = (0.5, 0.25, 0.1)


def is_at_edge(spec: Range, value: float, side: Side) -> bool:
    """Whether a value lies in the outer tenth of a range.

    >>> is_at_edge(space.Float(0.0, 1.0), 0.95, "upper")
    True
    """
    share = width(spec, spec.low, value) / width(spec, spec.low, spec.high)
    return share <= EDGE if side == "lower" else share >= 1 - EDGE


def longer(setup: Setup, name: str, spec: Range, side: Side) -> Range | None:
    """The range stretched at one end, as far as a study can train it; None for not at all."""
    stretches = (_stretched(spec, side, share) for share in _GAINS)
    return next((it for it in stretches if it and is_trainable(setup, name, it)), None)


def is_trainable(setup: Setup, name: str, spec: Range) -> bool:
    """Whether a study can search a parameter in this range."""
    if setup.program is not None:
        # nothing is known here of what it can train
        return not isinstance(setup.specs()[name], space.Choice)
    try:
        config = config_for(setup, setup.defaults, seed=0)
        check_ends(config, {**setup.specs(), name: spec}, setup.fixed)
    except ConfigError:
        return False
    return True


def _stretched(spec: Range, side: Side, share: float) -> Range | None:
    """The range longer by a share of itself at one end; None where that is no change."""
    if side == "upper":
        return with_ends(spec, spec.low, moved(spec, spec.high, share))
    low = moved(spec, spec.low, -share)
    return with_ends(spec, max(0.0, low) if spec.low >= 0 else low, spec.high)


def with_ends(spec: Range, low: float, high: float) -> Range | None:
    """The range with ends rounded as a user would write them; None where none changes."""
    if isinstance(spec, space.Int):
        low, high = round(low), round(high)
        new: Range = dataclasses.replace(spec, low=low, high=max(high, low + 1))
    else:
        low, high = (float(f"{end:.3g}") for end in (low, high))
        new = dataclasses.replace(spec, low=low, high=high)
    return None if new == spec else new


def moved(spec: Range, value: float, share: float) -> float:
    """A value moved up by a share of the range's width, on its scale."""
    more = share * width(spec, spec.low, spec.high)
    return value * math.exp(more) if spec.log else value + more


def width(spec: Range, low: float, high: float) -> float:
    """From one value to another on the range's scale."""
    return math.log(high / low) if spec.log else high - low
