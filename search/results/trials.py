"""The trials of a study in one view, whether they were searched here or imported.

`search.results.reading` makes it of what the store has; report, comparison, export and notebook
read it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.study.attributes import CONFIGURATION, NOTE, SEED
from search.study.search_space import as_number
from search.study.setup import Setup
from trainer.history import F_SCORE, best_epoch

DICE = "loss.dice_weight"
# more restarts are a typing error
_MOST_CYCLES = 10_000


@dataclass(frozen=True)
class Outcome:
    """One trial, all rows of its lineage together.

    name: of an imported run, else `trial N`. value: highest score, in [0, 1], of the study's
    metric. metrics: the columns of `search.study.training_metrics`. params: searched values by
    name. config: everything that is known of how it was trained, by dotted name, params included.
    series: what was recorded each epoch (val_f, train_f, lr, ...), name -> {epoch: number}, epochs
    from 1. per_class: F-score of the best epoch by class name, in [0, 1], None where a class is
    absent; empty where it was not kept. budget: epochs that were planned. continued: the run whose
    weights it started from. attrs: the trial's user attributes.
    """

    number: int
    name: str
    state: TrialState
    value: float | None
    metrics: Mapping[str, Any]
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    series: Mapping[str, Mapping[int, float]]
    per_class: Mapping[str, float | None]
    budget: int
    continued: str | None
    attrs: Mapping[str, Any]
    row: FrozenTrial

    @property
    def curve(self) -> Mapping[int, float]:
        """Epoch -> score on the validation part."""
        return self.series[F_SCORE]

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end."""
        return self.state == TrialState.COMPLETE

    @property
    def pruned(self) -> bool:
        return self.state == TrialState.PRUNED

    @property
    def note(self) -> str | None:
        """What was written beside an enqueued or first trial."""
        return self.attrs.get(NOTE)

    @property
    def label(self) -> str:
        """What was trained: the configuration that a repeat repeats, else the trial's name."""
        return str(self.attrs.get(CONFIGURATION) or self.name)

    @property
    def seed(self) -> int | None:
        return self.attrs.get(SEED)

    @property
    def dice_weight(self) -> float | None:
        """The mean level over training; None where it is not known."""
        return as_number(self.config.get(DICE))

    @property
    def ce_share(self) -> float | None:
        """Cross-entropy's share of the loss's weights, in [0, 1]; None where it is not known."""
        ce, dice = as_number(self.config.get("loss.ce_weight", 1.0)), self.dice_weight
        return None if ce is None or dice is None or ce + dice <= 0 else ce / (ce + dice)

    def metric(self, name: str) -> float | None:
        """A column of the comparison table as a number; None where it is not known."""
        return as_number(self.metrics.get(name))

    @property
    def still_rising(self) -> bool:
        """Whether the score was still going up when training ended."""
        return bool(self.metrics.get("still_rising"))

    @property
    def peak(self) -> int | None:
        """The epoch of the highest score, the earlier one on a tie; None without a curve."""
        return best_epoch(self.curve)

    @property
    def epochs_after_peak(self) -> int:
        """Epochs that were trained after the best one."""
        return 0 if self.peak is None else max(self.curve) - self.peak

    def fall_after(self, epochs: int) -> float | None:
        """Score of the best epoch less that of so many epochs later.

        An epoch that was not reported takes the last one before it. None where the trial was not
        trained on for so long.
        """
        peak = self.peak
        if peak is None or self.epochs_after_peak < epochs:
            return None
        at = max(epoch for epoch in self.curve if epoch <= peak + epochs)
        return self.curve[peak] - self.curve[at]

    @property
    def instability(self) -> float | None:
        """Standard deviation of the changes from epoch to epoch; None below three epochs."""
        known = self.metric("instability")
        if known is not None:
            return known
        scores = [self.curve[epoch] for epoch in sorted(self.curve)]
        changes = [later - earlier for earlier, later in pairwise(scores)]
        return statistics.stdev(changes) if len(changes) >= 2 else None


@dataclass(frozen=True)
class Results:
    """A study. metric: what a value is. setup: None where the trials were imported.

    rows: as the store has them, revivals on rows of their own. attrs: the study's user attributes.
    repeats: of its configurations, with fresh seeds, in the study that `search.confirm` made: label
    -> scores; empty where there is none on the same data and budget. troubles: a line for each
    thing that an earlier version stored and that cannot be used. expected_ends: makes the scores
    that pruned trials may be expected to end with, number -> [M] drawn together; None: no forecast.
    """

    name: str
    metric: str
    setup: Setup | None
    outcomes: Sequence[Outcome]
    rows: Sequence[FrozenTrial]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Sequence[float]] = field(default_factory=dict)
    troubles: Sequence[str] = ()
    expected_ends: Callable[[], Mapping[int, NDArray[np.float64]]] | None = None

    @property
    def imported(self) -> bool:
        return self.setup is None

    def scored(self) -> list[Outcome]:
        """Complete and pruned trials with a value, the best first, complete ones before pruned."""
        ended = [
            one for one in self.outcomes if one.value is not None and (one.complete or one.pruned)
        ]
        return sorted(
            ended,
            key=lambda one: (not one.complete, -(one.value or 0.0), one.number),
        )

    def complete(self) -> list[Outcome]:
        """Trials that were trained to their end, the best first."""
        return [one for one in self.scored() if one.complete]

    @property
    def best(self) -> Outcome | None:
        """The complete trial with the highest value."""
        return next(iter(self.complete()), None)


# -------------------------------------------------------------------------------- warm restarts


@dataclass(frozen=True)
class Cycles:
    """A run with warm restarts. planned, trained: epochs. ends: of each cycle that was planned.

    The last end lies behind `planned` where the plan stops within a cycle.
    """

    t_0: float
    t_mult: float
    planned: int
    trained: int
    ends: tuple[float, ...]

    @property
    def plan_is_whole(self) -> bool:
        return self.ends[-1] <= self.planned + 0.5

    @property
    def done(self) -> bool:
        """Trained to the end of the last cycle, after at least one restart."""
        return self.plan_is_whole and self.trained >= self.planned - 0.5

    @property
    def whole_cycles(self) -> int:
        return sum(end <= self.trained + 0.5 for end in self.ends)


def cycles_of(outcome: Outcome) -> Cycles | None:
    """The run's cycles; None where no restart was planned, or T_0 is not known."""
    t_0 = as_number(outcome.config.get("training.scheduler_params.T_0"))
    t_mult = as_number(outcome.config.get("training.scheduler_params.T_mult")) or 1.0
    scheduler = outcome.config.get("training.scheduler")
    planned = outcome.budget
    if scheduler is not None and "Restart" not in str(scheduler):
        return None
    # half an epoch is rounding, not a restart
    if t_0 is None or t_0 <= 0 or t_mult < 1 or t_0 > planned - 0.5:
        return None
    if planned > _MOST_CYCLES * t_0:
        return None
    ends, length = [t_0], t_0
    while ends[-1] < planned - 0.5:
        length *= t_mult
        ends.append(ends[-1] + length)
    trained = int(outcome.metrics.get("epochs_trained") or max(outcome.curve, default=0))
    return Cycles(t_0, t_mult, planned, trained, tuple(ends))
