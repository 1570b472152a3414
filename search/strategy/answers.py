"""The answer of a study: the configuration with the best mean over seeds, as far as it shows.

The highest score of a study is partly the luck of its seed. What is told here is what the same
configuration may be expected to score with a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.strategy.configurations import best_complete, evidence
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import TrueMeans
from search.study import lineages
from search.study.search_space import Spec

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
    study_forecast: StudyForecast,
    repeats: Mapping[int, Sequence[float]] | None = None,
) -> Answer | None:
    """The answer of a study, None without a complete trial.

    Evidence is every trial: its own score, or its forecast where it was parked (without those the
    lucky ones alone would speak), its repeats, and the scores of configurations near to it.

    rows: the study's, as they are. specs: what is searched. study_forecast: of the study. repeats:
    see `evidence`.
    """
    best = lineages.best_of(rows)
    if best is None:
        return None
    study_forecast.update(rows)
    trained = evidence(rows, specs, study_forecast, repeats)
    if sum(len(one.complete) for one in trained) < LEAST:
        return Answer(best)
    beliefs = TrueMeans(specs, [one.shown for one in trained]).beliefs()
    place = best_complete(trained, beliefs)
    scale = study_forecast.scale
    expected = scale.from_log(beliefs[place].mean)
    error = math.sqrt(beliefs[place].variance) * scale.wrong(expected)
    return Answer(trained[place].complete[0], expected, error)
