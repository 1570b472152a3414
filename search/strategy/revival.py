"""Parked, not killed: which pruned trial to go on with, and how much that may cost.

A revival is a new row with the attribute `continues`: it has the parent's parameters, seed and
runtime, goes on from its checkpoint, and is not counted. `trial_to_revive` depends on the trials
alone, so that the same evidence always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.strategy.forecast.priors import KeptForecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.pruners import THRESHOLDS, Thresholds
from search.strategy.saved_epochs import parkable, saved, spent
from search.study import lineages
from search.study.attributes import CONTINUES, RUNTIME, SEED
from search.study.lineages import revivals, rows_of, under_way
from search.study.run_folders import trial_folder
from search.study.setup import Setup
from search.trainers.configs import trial_values
from search.trainers.selection import trainer_of
from trainer.errors import ConfigError

# of the epochs that pruning has saved, what `auto` spends at most
SHARE = 0.25
# what the rows of one trial have in common; all else says how a row came or ended
_INHERITED = (SEED, RUNTIME)


def trial_to_revive(
    trials: Sequence[FrozenTrial],
    study_forecast: StudyForecast,
    *,
    epochs: int,
    total: int,
    limit: int | None,
    risk: float,
    without: Collection[int] = (),
    thresholds: Thresholds = THRESHOLDS,
) -> int | None:
    """The parked trial to go on with now: the number of its last row; None for none now.

    trials: the study's rows. epochs: budget of a trial. total: finished trials wanted. limit: so
    many revivals in all, once every place is used up, the most promising first; None: as many as
    are worth it, within `SHARE` of what was saved; a trial for which the evidence has turned need
    not wait for the end. risk: accepted risk of an answer that is worse by more than the noise
    between seeds. without: numbers of rows that cannot be gone on from.
    """
    study_forecast.update(trials)
    at_end = study_forecast.to_come(total) == 0
    if limit is not None and len(revivals(trials)) >= limit:
        return None
    if not at_end and (limit is not None or study_forecast.best is None):
        return None
    best = max(
        (
            one
            for one in candidates(trials, study_forecast, epochs, total)
            if one.number not in without
        ),
        key=lambda one: (one.worth, -one.number),
        default=None,
    )
    if best is None:
        return None
    if limit is None and not (at_end and study_forecast.best is None and not under_way(trials)):
        # what has just been parked must not come back at once
        least = 2 * risk * (thresholds.again if at_end else thresholds.park)
        if best.worth < least or best.epochs_left > allowance(trials, epochs):
            return None
    return best.number


@dataclass(frozen=True)
class Candidate:
    """A parked trial. number: of its last row. worth: chance of the answer per whole training."""

    number: int
    worth: float
    epochs_left: int


def candidates(
    trials: Sequence[FrozenTrial], study_forecast: StudyForecast, epochs: int, total: int
) -> list[Candidate]:
    """What each parked trial is worth, while trials are to come, or at the end of the budget."""
    to_come = study_forecast.newcomers(total)
    margin = study_forecast.forecast.noise if study_forecast.to_come(total) == 0 else 0.0
    found = []
    for number, one in parked(trials):
        competitors = study_forecast.competitors(but=one.number, to_come=to_come)
        left = epochs - max(one.intermediate_values)
        chance = competitors.chance(study_forecast.end(one), margin)
        found.append(Candidate(number, chance * epochs / left, left))
    return found


def parked(trials: Sequence[FrozenTrial]) -> list[tuple[int, FrozenTrial]]:
    """Each trial that may go on: the number of its last row, and its rows merged.

    Not one that diverged, was stopped by the user or copied, nor one whose revival failed or was
    withdrawn. One that was revived and pruned again waits for another that began later and is
    complete: without new evidence it would be pruned again.
    """
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    latest_complete = max((t.number for t in trials if t.state == TrialState.COMPLETE), default=-1)
    merged = {one.number: one for one in lineages.merged(trials)}
    found = []
    for row in trials:
        attrs = row.user_attrs
        if row.state != TrialState.PRUNED or row.number in continued or not parkable(row):
            continue
        if CONTINUES in attrs and row.number > latest_complete:
            continue
        one = merged.get(rows_of(trials, row)[0].number)
        if one is not None and one.intermediate_values:
            found.append((row.number, one))
    return found


def allowance(trials: Sequence[FrozenTrial], epochs: int) -> float:
    """Epochs that `auto` may still spend."""
    return SHARE * saved(trials, epochs) - spent(trials, epochs)


def revival_row(parent: FrozenTrial) -> FrozenTrial:
    """A running row that goes on from `parent`."""
    attrs = {key: parent.user_attrs[key] for key in _INHERITED if key in parent.user_attrs}
    return create_trial(
        state=TrialState.RUNNING,
        params=parent.params,
        distributions=parent.distributions,
        user_attrs=attrs | {CONTINUES: parent.number},
    )


class Revivals:
    """Looks for the next revival of a study, in the folder where its checkpoints lie.

    tell: gets one line about each chosen trial whose checkpoint is gone; it is passed over.
    """

    def __init__(self, kept: KeptForecast, runs: Path, tell: Callable[[str], None]) -> None:
        self._kept = kept
        self._runs = runs
        self._tell = tell
        self._gone: set[int] = set()

    def next(self, trials: Sequence[FrozenTrial], setup: Setup, total: int) -> int | None:
        """See `trial_to_revive`."""
        limit = None if setup.revive == "auto" else int(setup.revive)
        limit = limit if setup.goes_on else 0
        if limit == 0 or not parked(trials):
            return None
        while True:
            number = trial_to_revive(
                trials,
                self._kept.of(setup),
                epochs=setup.epochs,
                total=total,
                limit=limit,
                risk=setup.prune_risk,
                without=self._gone,
            )
            if number is None:
                return None
            rows = rows_of(trials, next(trial for trial in trials if trial.number == number))
            if self._has_checkpoint(rows, setup):
                return number
            self._gone.add(number)
            self._tell(f"trial {rows[0].number} cannot go on: its checkpoint is gone; passed over")

    def left(self, trials: Sequence[FrozenTrial], setup: Setup, total: int) -> bool:
        """Whether a revival is under way or still to come."""
        return bool(under_way(trials)) or self.next(trials, setup, total) is not None

    def _has_checkpoint(self, rows: Sequence[FrozenTrial], setup: Setup) -> bool:
        folders = [trial_folder(self._runs, setup.name, row.number) for row in rows]
        try:
            config = trial_values(rows[-1], setup)
        except (KeyError, ConfigError):
            # never begun by search.run, or of a config that can no longer be trained
            return False
        return bool(trainer_of(setup).kept(setup, config, folders))
