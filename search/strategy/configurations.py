"""A trial's parameters as the models of a study see them."""

from __future__ import annotations

from collections.abc import Mapping

from search.study.search_space import Spec, Value, matching


def inside_ranges(
    params: Mapping[str, Value], specs: Mapping[str, Spec]
) -> dict[str, Value] | None:
    """The searched parameters; None where one is missing or lies outside its present range."""
    found: dict[str, Value] = {}
    for name, spec in specs.items():
        value = matching(params.get(name), spec)
        if value is None:
            return None
        found[name] = value
    return found


def as_trained(params: Mapping[str, Value]) -> dict[str, Value]:
    """A configuration without what does nothing in it: a ramp under a constant schedule."""
    trained = dict(params)
    if trained.get("dice_schedule") == "constant" and "dice_ramp" in trained:
        trained["dice_ramp"] = 0.0
    return trained
