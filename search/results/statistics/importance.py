"""How much each parameter mattered for reaching the top, by PED-ANOVA.

Random draws have fixed seeds, so that a report says the same twice.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.results.statistics.estimates import Estimate, spread
from storage.optuna_internals import set_trial_id

# fewer trials than this say nothing about importance
LEAST_TRIALS = 10
# as many as a resample needs; more make it slow, not surer
_MOST_TRIALS = 300
_RESAMPLES = 20


class _Resample(optuna.Study):
    """Trials as a study that is maximised, without a store."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self._given = trials

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE]

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._given


def importance_shares(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Each parameter's share of 1, the highest first; None below ten trials.

    trials: complete, one for each lineage.
    """
    return _shares(_numbered(trials)) if len(trials) >= LEAST_TRIALS else None


def importance_estimates(complete: Sequence[FrozenTrial]) -> dict[str, Estimate] | None:
    """Each parameter's share of 1, the highest first; None below ten trials, or without parameters.

    complete: complete trials, one for each lineage. Intervals: the middle 90 % of resampled trials.
    Of more trials than are needed an even sample stands for all.
    """
    if len(complete) < LEAST_TRIALS:
        return None
    trials = _numbered(spread(complete, _MOST_TRIALS))
    names = sorted({name for trial in trials for name in trial.params})
    if not names:
        return None
    rng = np.random.default_rng(0)
    drawn_shares = [_shares(trials)]
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(trials), size=len(trials))
        drawn_shares.append(_shares([trials[i] for i in drawn]))
    table = np.array([[own.get(name, 0.0) for name in names] for own in drawn_shares])
    # repeated trials in a resample favour small shares, so that all of them may lie above
    low = np.minimum(table[0], np.percentile(table[1:], 5, axis=0))
    high = np.maximum(table[0], np.percentile(table[1:], 95, axis=0))
    found = {
        name: Estimate(float(table[0, i]), float(low[i]), float(high[i]), len(trials))
        for i, name in enumerate(names)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _numbered(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Copies that the evaluator can tell apart: it does so by an id that only a store gives."""
    copies = [copy.copy(trial) for trial in trials]
    for number, trial in enumerate(copies):
        set_trial_id(trial, number)
    return copies


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    with warnings.catch_warnings():
        # marked experimental, and it notes parameters that few trials have
        warnings.simplefilter("ignore")
        found = PedAnovaImportanceEvaluator().evaluate(_Resample(list(trials)))
    total = sum(found.values()) or 1.0
    return {name: found[name] / total for name in sorted(found, key=lambda name: -found[name])}
