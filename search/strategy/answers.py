"""The answer of a study: the configuration with the best mean over seeds, as far as it shows.

The highest score of a study is partly the luck of its seed. What is told here is what the same
configuration may be expected to score with a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from search.strategy.forecast.features import SHARES, Scale
from search.strategy.forecast.true_means import Shown, true_means
from search.study import lineages
from search.study.search_space import Spec, Value, matching

# of fewer complete trials nobody can say what is luck
LEAST = 8


@dataclass(frozen=True)
class Answer:
    """A complete trial. expected: its score with a fresh seed, in [0, 1]; error: the standard
    deviation of that; both None where the trials are too few."""

    trial: FrozenTrial
    expected: float | None = None
    error: float | None = None


def answer_of(
    rows: Sequence[FrozenTrial],
    specs: Mapping[str, Spec],
    repeats: Mapping[int, Sequence[float]] | None = None,
    scale: Scale = SHARES,
) -> Answer | None:
    """The answer of a study, None without a complete trial.

    Evidence is every complete trial: its own score, its repeats, and the scores of configurations
    near to it. rows: the study's, as they are. specs: what is searched. repeats: number of a trial
    -> scores of its configuration with fresh seeds. scale: of the scores.
    """
    complete = lineages.best_first(lineages.merged(rows))
    if not complete:
        return None
    # the same configuration may have been enqueued with several seeds
    alike: dict[tuple[tuple[str, Value], ...], list[FrozenTrial]] = {}
    for one in complete:
        if (params := _as_trained(one, specs)) is not None:
            alike.setdefault(tuple(params.items()), []).append(one)
    groups = list(alike.values())
    placed = scale.holds(one.value for group in groups for one in group if one.value is not None)
    if sum(map(len, groups)) < LEAST or not placed:
        return Answer(complete[0])
    beliefs = true_means(specs, [_shown(*item, repeats or {}, scale) for item in alike.items()])
    best = max(beliefs, key=lambda place: (beliefs[place].mean, -place))
    expected = scale.from_log(beliefs[best].mean)
    error = math.sqrt(beliefs[best].variance) * scale.wrong(expected)
    return Answer(groups[best][0], expected, error)


def _as_trained(one: FrozenTrial, specs: Mapping[str, Spec]) -> dict[str, Value] | None:
    """A trial's parameters; None where one is missing or lies outside its present range."""
    params: dict[str, Value] = {}
    for name, spec in specs.items():
        value = matching(one.params.get(name), spec)
        if value is None:
            return None
        params[name] = value
    if one.params.get("dice_schedule") == "constant" and "dice_ramp" in params:
        # it does nothing there
        params["dice_ramp"] = 0.0
    return params


def _shown(
    params: tuple[tuple[str, Value], ...],
    trials: Sequence[FrozenTrial],
    repeats: Mapping[int, Sequence[float]],
    scale: Scale,
) -> Shown:
    scores = [one.value or 0.0 for one in trials]
    for one in trials:
        scores += repeats.get(one.number, ())
    return Shown(dict(params), float(np.mean(scale.to_log(np.array(scores)))), len(scores))
