"""Configurations of a space: drawn at random, and near to another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random

from search.study.search_space import Spec, Value, is_number
from space import Choice, Int

# how far `nearby` moves a number, in its range
_NEARBY = 0.1


def drawn(specs: Mapping[str, Spec], place: Callable[[], float]) -> dict[str, Value]:
    """A configuration at random, even in each parameter. place: draws from [0, 1).

    >>> from space import Choice, Float
    >>> drawn({"dropout": Float(0.0, 0.4), "T_0": Choice((24, 12))}, lambda: 0.5)
    {'dropout': 0.2, 'T_0': 12}
    """
    return {name: _at(spec, place()) for name, spec in specs.items()}


def _at(spec: Spec, place: float) -> Value:
    if isinstance(spec, Choice):
        return spec.choices[int(place * len(spec.choices))]
    low, high = (math.log(end) if spec.log else end for end in (spec.low, spec.high))
    value = low + place * (high - low)
    value = math.exp(value) if spec.log else value
    # a logarithm and back may miss an end by a digit
    return round(value) if isinstance(spec, Int) else min(max(value, spec.low), spec.high)


def nearby(params: Mapping[str, Value], specs: Mapping[str, Spec], rng: Random) -> dict[str, Value]:
    """A configuration like another one: about half of the parameters are moved a little."""
    return {
        name: _moved(spec, params[name], rng) if rng.random() < 0.5 else params[name]
        for name, spec in specs.items()
    }


def _moved(spec: Spec, value: Value, rng: Random) -> Value:
    if isinstance(spec, Choice):
        return rng.choice(spec.choices)
    assert is_number(value)
    low, high, at = (math.log(it) if spec.log else it for it in (spec.low, spec.high, value))
    place = (at - low) / (high - low) + rng.gauss(0, _NEARBY)
    return _at(spec, min(max(place, 0.0), 1.0))
