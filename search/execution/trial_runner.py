"""One trial under a lease: begun or gone on with, trained, ended or put back in the queue."""

from __future__ import annotations

import contextlib
import errno
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.execution.objective import Listener, suggest
from search.execution.trial_end import TrialEnd, finish, write_config
from search.execution.worker_context import WorkerContext
from search.strategy.loading import set_sampler_and_pruner
from search.study.attributes import (
    CANCELLED,
    COPIED_FROM,
    DIVERGED,
    EXCEPTIONS,
    REASON,
    SEED,
    STOPPED,
    TRACEBACK,
    VERDICT,
    attributes_of,
)
from search.study.lineages import curve_of, rows_of, utc
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.setup import trial_seed
from search.study.verdicts import Verdict
from search.study.wording import counted
from search.trainers.configs import trial_values
from search.trainers.contract import Task
from storage import Cause, Heartbeat, LeaseLost, StorageError
from trainer.cli import one_line
from trainer.errors import DeviceLost, Diverged, UserError
from trainer.history import f_scores
from trainer.runtime import first_line, is_lost

LOG = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 3
TRACEBACK_CHARACTERS = 6000
# the cause of a requeue after which the worker ends
GPU_LOST = "GPU lost"
# states of the file system that the user has to fix; no trial is at fault
_MACHINE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EFBIG,
        errno.EIO,
        errno.ENOENT,
        errno.ESTALE,
        errno.EMFILE,
    }
)


def take_up(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A row that storage has just started, as a trial to suggest and report with."""
    # Optuna's cache knows only rows that it has read
    study.get_trials(deepcopy=False)
    return optuna.trial.Trial(study, trial_id)


class _Leave(Exception):
    """Put the trial back in the queue."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


class _Stopped(Exception):
    """The user ended the trial with `queue stop`."""


@dataclass(frozen=True)
class Extra:
    """A revival or repeat, without a place of the budget. row: the new one; None: one that waits.

    known: how many such rows the study had when that was decided.
    """

    row: FrozenTrial | None
    known: int


def one_trial(context: WorkerContext, token: int, extra: Extra | None = None) -> None:
    """Run the next trial under the claim `token`, to its end or back into the queue.

    extra: what the claim is for, where it has no place of the budget; it is given back where
    another worker was quicker.

    Raises what ends the whole run: mistakes in data or config, a full disk, a lost store, too
    many failures in a row; DeviceLost where this process can no longer use its GPU. A claim that
    somebody else has now is dropped quietly.
    """
    trial_id: int | None = None
    lease = context.lease
    try:
        with Heartbeat(context.storage, token, lease.beat_s, lease.grace_s) as heartbeat:
            trial_id = _begun(context, token, extra)
            if trial_id is None:
                context.storage.release(token)
                return
            try:
                _train(context, trial_id, token, heartbeat)
            except (LeaseLost, UpdateFinishedTrialError, UserError, StorageError, _Leave):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
                    raise
                if is_lost(error):
                    raise DeviceLost(first_line(error)) from error
                if isinstance(error, KeyError) and _is_deleted(context, trial_id):
                    LOG.info(
                        f"a trial's row (trial_id {trial_id}) was deleted: its training is dropped"
                    )
                    context.storage.release(token)
                    return
                _failed(context, trial_id, token, error)
    except LeaseLost:
        return
    except UpdateFinishedTrialError:
        # ended through the dashboard: the trial is as the user wants it
        if trial_id is not None:
            _keep_verdict(context, trial_id, token)
        context.storage.release(token)
    except _Leave as leave:
        _put_back(context, trial_id, token, leave.cause)
    except DeviceLost as error:
        assert trial_id is not None, "a training has lost it"
        _lost(context, trial_id, token, error)
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _put_back(context, trial_id, token, _cause("disk full" if full else "runs folder", error))
        raise UserError(
            f"{error.filename or context.runs}: {error.strerror}: fix that and run the same"
            " command; the trial waits in the queue"
        ) from error
    except BaseException as error:
        text = {StorageError: "store away", UserError: "run ended"}
        cause = next((it for kind, it in text.items() if isinstance(error, kind)), "interrupted")
        _put_back(context, trial_id, token, _cause(cause, error))
        raise


def _begun(context: WorkerContext, token: int, extra: Extra | None) -> int | None:
    """The trial that the claim is for, running; None where somebody else has it."""
    if extra is None:
        trial_id = context.storage.pop_waiting(context.study_id, token)
        if trial_id is None and context.setup.draws:
            return context.storage.new_trial(context.study_id, token)
        return trial_id
    if extra.row is None:
        return context.storage.pop_waiting(context.study_id, token, uncounted=True)
    return context.storage.extra_trial(context.study_id, token, extra.row, extra.known)


def _keep_verdict(context: WorkerContext, trial_id: int, token: int) -> None:
    """Write down for `search.rebuild` how somebody else has ended the trial."""
    row = context.storage.get_trial(trial_id)
    out = _claim_folder(context, row.number, token)
    with contextlib.suppress(KeyError):
        write_config(context, row, trial_values(row, context.setup), out)


def _is_deleted(context: WorkerContext, trial_id: int) -> bool:
    try:
        context.storage.get_trial(trial_id)
    except KeyError:
        return True
    return False


def _cause(text: str, error: BaseException) -> Cause:
    return Cause(text, {"error": _one_line(error)})


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:300]}"


def _put_back(context: WorkerContext, trial_id: int | None, token: int, cause: Cause) -> None:
    # a store that is away cannot take it back: the reaper of the next run does
    with contextlib.suppress(LeaseLost, StorageError):
        if trial_id is None:
            context.storage.release(token)
        else:
            context.storage.requeue(trial_id, token, cause)


def _failed(context: WorkerContext, trial_id: int, token: int, error: Exception) -> None:
    """Keep the traceback; the first time the trial waits again, the second time it is FAIL."""
    row = context.storage.get_trial(trial_id)
    times = attributes_of(row.user_attrs).exceptions + 1
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    context.storage.set_trial_user_attr(trial_id, EXCEPTIONS, times)
    context.storage.set_trial_user_attr(trial_id, TRACEBACK, text)
    line = _one_line(error)
    cause = _cause("exception", error)
    if times == 1:
        context.storage.requeue(trial_id, token, cause)
        LOG.info(f"trial {row.number}: {line}; it is tried once more", extra={"trial": row.number})
        return
    context.storage.set_trial_user_attr(trial_id, REASON, line)
    with context.storage.ending("failed", cause):
        context.storage.set_trial_state_values(trial_id, TrialState.FAIL)
    context.storage.release(token)
    LOG.info(f"trial {row.number}: FAIL, {line}", extra={"trial": row.number})
    _check_failures(context, line)


def _lost(context: WorkerContext, trial_id: int, token: int, error: DeviceLost) -> None:
    """Put the trial back for a process that can use the GPU.

    Raises UserError where the latest tries all ended so, none of them an epoch further or with
    smaller micro-batches: the next one would as well.
    """
    row = context.storage.get_trial(trial_id)
    micro_batch = attributes_of(row.user_attrs).micro_batch
    here = {"epochs": len(row.intermediate_values), "micro_batch": micro_batch}
    cause = Cause(GPU_LOST, {"error": str(error), **here})
    _put_back(context, trial_id, token, cause)
    losses = [e.detail for e in context.storage.events_of([trial_id]) if e.cause == GPU_LOST]
    latest = losses[-FAILURES_IN_A_ROW:]
    if len(latest) == FAILURES_IN_A_ROW and all(loss.items() >= here.items() for loss in latest):
        raise UserError(
            f"trial {row.number} lost the GPU {FAILURES_IN_A_ROW} times in a row, the last with"
            f" {error}: see with nvidia-smi whether the GPU is well; if it is, withdraw the trial"
            f" with `python -m search.queue cancel {row.number}`"
        ) from error
    LOG.info(f"trial {row.number} waits in the queue", extra={"trial": row.number})


def _check_failures(context: WorkerContext, line: str) -> None:
    """Raise UserError where the latest trials all failed: the next ones would as well."""
    ended = [
        trial
        for trial in context.study.get_trials(deepcopy=False)
        if trial.state.is_finished()
        and trial.datetime_complete is not None
        and trial.number not in context.failed_before
        and not trial.user_attrs.get(CANCELLED)
        and trial.user_attrs.get(COPIED_FROM) is None
    ]
    ended.sort(key=lambda trial: utc(cast(datetime, trial.datetime_complete)))
    latest = ended[-FAILURES_IN_A_ROW:]
    if len(latest) == FAILURES_IN_A_ROW and all(t.state == TrialState.FAIL for t in latest):
        raise UserError(
            f"{FAILURES_IN_A_ROW} trials in a row failed, the last with {line}: the whole "
            "traceback is the trial's attribute `traceback`"
        )


def _train(context: WorkerContext, trial_id: int, token: int, heartbeat: Heartbeat) -> None:
    """Train the trial from wherever it stands, and tell how it ended."""
    if cause := context.leaving():
        raise _Leave(cause)
    refresh(context)
    trial = take_up(context.study, trial_id)
    suggest(trial, context.setup)
    if SEED not in trial.user_attrs:
        trial.set_user_attr(SEED, trial_seed(context.setup.seed, trial.number))
    rows = context.study.get_trials(deepcopy=False)
    lineage = rows_of(rows, context.storage.get_trial(trial_id))
    training = context.trainer.begin(_task(context, trial, token, lineage))
    row = context.storage.get_trial(trial_id)
    out = _claim_folder(context, trial.number, token)
    write_config(context, row, training.config, out)
    taken_over = f_scores(training.take_over())
    look = partial(_look, context, token, heartbeat)
    listener = Listener(trial, context.setup.epochs, curve_of(lineage), look)
    value: float | None = None
    end = TrialEnd(TrialState.COMPLETE, "finished")
    if not taken_over:
        if listener.begun:
            LOG.info(
                f"trial {trial.number} begins anew: there is nothing that it could go on from",
                extra={"trial": trial.number},
            )
        context.storage.record(trial_id, "started")
    else:
        last = max(taken_over)
        context.storage.record(trial_id, "resumed", Cause(detail={"epoch": last}))
    try:
        if taken_over:
            LOG.info(
                f"trial {trial.number} goes on from epoch {last}", extra={"trial": trial.number}
            )
            listener.catch_up(taken_over)
        value = training.run(listener)
    except optuna.TrialPruned as stop:
        verdict: Verdict | None = getattr(context.study.pruner, "verdict", None)
        known = {} if verdict is None else verdict.as_dict()
        end = TrialEnd(TrialState.PRUNED, "pruned", Cause("pruner", known))
        if known:
            trial.set_user_attr(VERDICT, known)
        trial.set_user_attr(REASON, f"pruned {stop}")
    except Diverged as reason:
        end = TrialEnd(TrialState.PRUNED, "pruned", Cause(DIVERGED, {"error": str(reason)}))
        if DIVERGED not in trial.constraints:
            trial.set_constraint(DIVERGED, 1.0)
        trial.set_user_attr(REASON, f"diverged: {reason}")
    except _Stopped:
        end = TrialEnd(TrialState.PRUNED, "stopped", Cause("queue stop"))
        trial.set_user_attr(STOPPED, True)
    finally:
        if listener.replaced:
            LOG.info(
                f"trial {trial.number}: begun anew, {counted(len(listener.replaced), 'epoch')}"
                " came out otherwise than before and took the place of what was reported",
                extra={"trial": trial.number},
            )
    finish(context, trial, token, end, training, out, value)


def _task(
    context: WorkerContext, trial: optuna.Trial, token: int, lineage: Sequence[FrozenTrial]
) -> Task:
    """What the trainer is given."""
    setup, name = context.setup, context.study.study_name
    return Task(
        setup=setup,
        number=trial.number,
        config=trial_values(trial, setup),
        seed=trial.user_attrs[SEED],
        epochs=setup.epochs,
        out=_claim_folder(context, trial.number, token),
        folders=[trial_folder(context.runs, name, one.number) for one in lineage],
        known=trial.user_attrs,
        remember=trial.set_user_attr,
    )


def _claim_folder(context: WorkerContext, number: int, token: int) -> Path:
    return trial_folder(context.runs, context.study.study_name, number) / str(token)


def refresh(context: WorkerContext) -> None:
    """Take over ranges, fixed values and how to search, which another run has changed since."""
    setup = load_setup(context.study)
    if setup != context.setup:
        context.setup = setup
        set_sampler_and_pruner(context.study, setup)


def _look(context: WorkerContext, token: int, heartbeat: Heartbeat, done: bool) -> None:
    """Raise where the claim is lost, or somebody wants an end. done: nothing is left to train."""
    if heartbeat.lost.is_set():
        raise heartbeat.failure or LeaseLost(token)
    if heartbeat.last.ended:
        raise UpdateFinishedTrialError(f"claim {token}: the trial was ended by somebody else")
    if done:
        # it ends as what it is
        return
    if heartbeat.last.request == "stop":
        raise _Stopped
    if heartbeat.last.request == "requeue":
        raise _Leave(Cause("asked to requeue"))
    if cause := context.leaving():
        raise _Leave(cause)
