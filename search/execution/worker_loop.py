"""A worker's loop: budget slot after budget slot, one trial under a lease at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.execution.trial_runner import Revival, one_trial, refresh
from search.execution.worker_context import WorkerContext
from search.strategy.revival import Revivals, revival_row
from search.study.attributes import CONTINUES
from search.study.lineages import finished, nothing_better_for, under_way
from search.study.lookup import deletion_refused
from search.study.setup import StudyError
from search.study.shared_state import total_of
from storage import Reaper, ReaperThread

LOG = logging.getLogger(__name__)
_PAUSE_S = 0.5


def work(context: WorkerContext) -> int:
    """Train trials until the budget is used up and no parked trial is worth going on with, nothing
    better comes, or somebody asks to leave.

    Returns 0. Raises UserError and StorageError for what the user has to fix; the trial at hand
    then waits in the queue.
    """
    with (
        ReaperThread(Reaper(context.storage, context.study_id, context.lease.grace_s)),
        deletion_refused(context.storage, context.study.study_name),
    ):
        _work(context)
    return 0


def _work(context: WorkerContext) -> None:
    revivals = Revivals(context.study, context.runs, LOG.info)
    while not context.leaving():
        trials = context.study.get_trials(deepcopy=False)
        if context.stop_after is not None and nothing_better_for(trials) >= context.stop_after:
            return
        total = total_of(context.study)
        if total is None:
            raise StudyError(
                f'study "{context.study.study_name}" has no budget: run search.run on it'
            )
        refresh(context)
        revival = _revival(context, revivals, trials, total)
        if revival is None and len(finished(trials)) >= total and not under_way(trials):
            return
        if not context.setup.draws and not any(t.state == TrialState.WAITING for t in trials):
            if not any(t.state == TrialState.RUNNING for t in trials):
                # one failed or was withdrawn: the total stays out of reach
                return
            context.signals.asked.wait(_PAUSE_S)
            continue
        # before a place is taken: faces that cannot be read are no trial's fault
        context.trainer.ready(context.setup)
        # one that was begun, or parked, has had its place
        budget = total if revival is None else None
        token = context.storage.take_slot(context.study_id, budget, context.owner)
        if token is not None:
            one_trial(context, token, revival)
        else:
            # all places are taken: if an owner dies, its trial comes to us
            context.signals.asked.wait(_PAUSE_S)


def _revival(
    context: WorkerContext, revivals: Revivals, trials: Sequence[FrozenTrial], total: int
) -> Revival | None:
    known = sum(CONTINUES in trial.user_attrs for trial in trials)
    if any(trial.state == TrialState.WAITING for trial in under_way(trials)):
        return Revival(None, known)
    number = revivals.next(trials, context.setup, total)
    if number is None:
        return None
    return Revival(revival_row(next(row for row in trials if row.number == number)), known)
