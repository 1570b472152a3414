"""The answer of a study: the configuration with the best mean over seeds, as far as it shows.

The highest score of a study is partly the luck of its seed. What is told here is what the same
configuration may be expected to score with a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    -> scores of its configuration with fresh seeds in another study.
    """
    best = lineages.best_of(rows)
    if best is None:
        return None
    found = evidence(rows, specs, repeats)
    if sum(len(one.trials) for one in found) < LEAST:
        return Answer(best)
    beliefs = TrueMeans(specs, [one.shown for one in found]).beliefs()
    place = max(beliefs, key=lambda place: (beliefs[place].mean, -place))
    expected = from_log(beliefs[place].mean)
    # to first order: the scale is -log(1 - score)
    error = math.sqrt(beliefs[place].variance) * (1 - expected)
    return Answer(found[place].trials[0], expected, error)


@dataclass(frozen=True)
class Trained:
    """A configuration with the complete trials that trained it, the highest first."""

    trials: Sequence[FrozenTrial]
    shown: Shown


def evidence(
    rows: Sequence[FrozenTrial],
    specs: Mapping[str, Spec],
    repeats: Mapping[int, Sequence[float]] | None = None,
) -> list[Trained]:
    """The configurations that were trained to their end, that of the highest score first.

    repeats: in another study, as in `answer_of`; those within the study are in `rows`.
    """
    # the same configuration may have been enqueued with several seeds
    alike: dict[tuple[tuple[str, Value], ...], list[FrozenTrial]] = {}
    for one in lineages.best_first(lineages.merged(rows)):
        if (params := inside_ranges(one.params, specs)) is not None:
            alike.setdefault(tuple(as_trained(params).items()), []).append(one)
    again = [lineages.repeated_scores(rows), repeats or {}]
    return [Trained(own, _shown(params, own, again)) for params, own in alike.items()]


def _shown(
    params: tuple[tuple[str, Value], ...],
    trials: Sequence[FrozenTrial],
    repeats: Iterable[Mapping[int, Sequence[float]]],
) -> Shown:
    scores = [one.value or 0.0 for one in trials]
    for known in repeats:
        for one in trials:
            scores += known.get(one.number, ())
    return Shown(dict(params), float(np.mean(to_log(np.array(scores)))), len(scores))
