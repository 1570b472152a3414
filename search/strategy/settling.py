"""Whether a search has settled: no further trial may be expected to improve the answer (much)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.strategy.answers import LEAST
from search.strategy.configurations import as_trained, evidence, in_training
from search.strategy.forecast.priors import KeptForecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import TrueMeans
from search.study import lineages
from search.study.drawing import drawn
from search.study.search_space import Spec, Value
from search.study.setup import Setup

# configurations that are looked at, and the gain, in standard deviations between seeds, below which
# a trial is not worth its epochs
_LOOKED_AT, _LEAST_GAIN = 256, 0.05


def settled(
    rows: Sequence[FrozenTrial],
    specs: Mapping[str, Spec],
    study_forecast: StudyForecast,
    fixed: Mapping[str, Value] | None = None,
) -> bool:
    """Whether one more training of no configuration may be expected to raise the best mean enough.

    Not while a trial waits, which somebody has asked for, nor with few complete ones. rows: the
    study's, as they are. specs: what is searched. fixed: values that every new trial takes.
    """
    if any(row.state == TrialState.WAITING and not lineages.is_extra(row) for row in rows):
        return False
    study_forecast.update(rows)
    trained = evidence(rows, specs, study_forecast)
    if sum(len(one.complete) for one in trained) < LEAST:
        return False
    means = TrueMeans(specs, [one.shown for one in trained])
    rng = random.Random(0)
    sample = [as_trained({**drawn(specs, rng.random), **(fixed or {})}) for _ in range(_LOOKED_AT)]
    gains = means.gains(sample, in_training(rows, specs), one_seed=True)
    return float(gains.max()) < _LEAST_GAIN * means.noise


class Settling:
    """How many trials a study is to reach, asked once for each state of it."""

    def __init__(self, kept: KeptForecast) -> None:
        self._kept = kept
        self._seen: tuple[Setup, int, int, int] | None = None
        self._settled = False

    def settled(self, rows: Sequence[FrozenTrial], setup: Setup) -> bool:
        """See `settled`."""
        running = sum(row.state == TrialState.RUNNING for row in rows)
        seen = (setup, len(rows), sum(row.state.is_finished() for row in rows), running)
        if seen != self._seen:
            self._settled = settled(rows, setup.specs(), self._kept.of(setup), setup.fixed)
            self._seen = seen
        return self._settled

    def total(self, rows: Sequence[FrozenTrial], setup: Setup, total: int) -> int:
        """The total, or no more trials than have begun where the study has settled before that."""
        begun = sum(
            lineages.counts(row) or (not row.state.is_finished() and not lineages.is_extra(row))
            for row in rows
        )
        return begun if begun < total and self.settled(rows, setup) else total
