"""A worker's loop: budget slot after budget slot, one trial under a lease at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.execution.options import LOST_ITS_GPU
from search.execution.trial_runner import Extra, one_trial, refresh
from search.execution.worker_context import WorkerContext
from search.strategy.forecast.priors import KeptForecast
from search.strategy.repeating import Repeats, repeat_row
from search.strategy.revival import Revivals, revival_row
from search.strategy.settling import Settling
from search.strategy.widening import Widenings, widen
from search.study.lineages import finished, is_extra, merged, nothing_better_for, under_way
from search.study.lookup import deletion_refused
from search.study.setup import StudyError
from search.study.shared_state import total_of
from storage import Reaper, ReaperThread
from trainer.errors import DeviceLost

LOG = logging.getLogger(__name__)
_PAUSE_S = 0.5


def work(context: WorkerContext) -> int:
    """Train trials until the budget is used up and no parked trial is worth going on with, nor a
    leading one worth repeating, nothing better comes, or somebody asks to leave.

    Returns the exit code: 0, or LOST_ITS_GPU where another process has to go on. Raises UserError
    and StorageError for what the user has to fix; the trial at hand then waits in the queue.
    """
    with (
        ReaperThread(Reaper(context.storage, context.study_id, context.lease.grace_s)),
        deletion_refused(context.storage, context.study.study_name),
    ):
        try:
            _work(context)
        except DeviceLost as error:
            # the launcher passes on the last line
            LOG.info(str(error))
            return LOST_ITS_GPU
    return 0


def _work(context: WorkerContext) -> None:
    kept = KeptForecast(context.study)
    revivals, repeats = Revivals(kept, context.runs, LOG.info), Repeats(kept)
    settling, widenings = Settling(kept), Widenings(kept)
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
        if context.stop_when_settled:
            total = settling.total(trials, context.setup, total)
        extra = _extra(context, revivals, repeats, trials, total)
        if extra is None and len(finished(trials)) >= total and not under_way(trials):
            return
        if not context.setup.draws and not any(t.state == TrialState.WAITING for t in trials):
            if not any(t.state == TrialState.RUNNING for t in trials):
                # one failed or was withdrawn: the total stays out of reach
                return
            context.signals.asked.wait(_PAUSE_S)
            continue
        if extra is None and _to_draw(trials, total):
            _widen(context, widenings, trials)
        # before a place is taken: faces that cannot be read are no trial's fault
        context.trainer.ready(context.setup)
        # one that was begun, or parked, has had its place; a repeat takes none
        budget = total if extra is None else None
        token = context.storage.take_slot(context.study_id, budget, context.owner)
        if token is not None:
            one_trial(context, token, extra)
        else:
            # all places are taken: if an owner dies, its trial comes to us
            context.signals.asked.wait(_PAUSE_S)


def _to_draw(trials: Sequence[FrozenTrial], total: int) -> bool:
    """Whether the next trial is the sampler's to choose."""
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    running = sum(not trial.state.is_finished() and not is_extra(trial) for trial in trials)
    return not waiting and len(finished(trials)) + running < total


def _widen(context: WorkerContext, widenings: Widenings, trials: Sequence[FrozenTrial]) -> None:
    """Widen a range where the trials ask for it: the next trial is drawn from it."""
    found = widenings.next(trials, context.setup)
    if found and widen(context.storage, context.study, context.setup, found, context.owner):
        LOG.info(found.text)
    if found:
        # also where another worker was quicker
        refresh(context)


def _extra(
    context: WorkerContext,
    revivals: Revivals,
    repeats: Repeats,
    trials: Sequence[FrozenTrial],
    total: int,
) -> Extra | None:
    """What is worth training without a place of the budget: one that waits, a revival, a repeat."""
    known = sum(map(is_extra, trials))
    if any(trial.state == TrialState.WAITING for trial in under_way(trials)):
        return Extra(None, known)
    number = revivals.next(trials, context.setup, total)
    if number is not None:
        return Extra(revival_row(next(row for row in trials if row.number == number)), known)
    repeat = repeats.next(trials, context.setup, total)
    if repeat is None:
        return None
    repeated = next(one for one in merged(trials) if one.number == repeat.number)
    return Extra(repeat_row(repeated, repeat.gain), known)
