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

from search.strategy.configurations import as_trained, inside_ranges
from search.strategy.forecast.features import from_log, to_log
from search.strategy.forecast.true_means import Shown, TrueMeans
from search.study import lineages
from search.study.search_space import Spec, Value

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
) -> Answer | None:
    """The answer of a study, None without a complete trial.

    Evidence is every complete trial: its own score, its repeats, and the scores of configurations
    near to it. rows: the study's, as they are. specs: what is searched. repeats: number of a trial
    -> scores of its configuration with fresh seeds.
    """
    complete = lineages.best_first(lineages.merged(rows))
    if not complete:
        return None
    # the same configuration may have been enqueued with several seeds
    alike: dict[tuple[tuple[str, Value], ...], list[FrozenTrial]] = {}
    for one in complete:
        if (params := inside_ranges(one.params, specs)) is not None:
            alike.setdefault(tuple(as_trained(params).items()), []).append(one)
    groups = list(alike.values())
    if sum(map(len, groups)) < LEAST:
        return Answer(complete[0])
    shown = [_shown(*item, repeats or {}) for item in alike.items()]
    beliefs = TrueMeans(specs, shown).beliefs()
    best = max(beliefs, key=lambda place: (beliefs[place].mean, -place))
    expected = from_log(beliefs[best].mean)
    # to first order: the scale is -log(1 - score)
    error = math.sqrt(beliefs[best].variance) * (1 - expected)
    return Answer(groups[best][0], expected, error)


def _shown(
    params: tuple[tuple[str, Value], ...],
    trials: Sequence[FrozenTrial],
    repeats: Mapping[int, Sequence[float]],
) -> Shown:
    scores = [one.value or 0.0 for one in trials]
    for one in trials:
        scores += repeats.get(one.number, ())
    return Shown(dict(params), float(np.mean(to_log(np.array(scores)))), len(scores))
