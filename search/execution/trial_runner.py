"""One trial under a lease: begun or gone on with, trained, ended or put back in the queue."""

from __future__ import annotations

import contextlib
import errno
import logging
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.execution.objective import run_trial, suggest
from search.execution.trial_end import TrialEnd, finish, write_config
from search.execution.worker_context import WorkerContext, load_data
from search.strategy.loading import set_sampler_and_pruner
from search.study.attributes import (
    CANCELLED,
    COPIED_FROM,
    DIVERGED,
    EXCEPTIONS,
    MICRO_BATCH,
    REASON,
    RUNTIME,
    RUNTIME_CHANGED,
    SEED,
    STOPPED,
    TRACEBACK,
    VERDICT,
    attributes_of,
)
from search.study.checkpoints import ResumePoint, clear_strangers, taken_over
from search.study.lineages import curve_of, rows_of, utc
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.setup import trial_config, trial_seed
from search.study.verdicts import Verdict
from storage import Cause, Heartbeat, LeaseLost, StorageError
from trainer.cli import one_line
from trainer.config import Config, to_dict, with_values
from trainer.errors import Diverged, UserError
from trainer.fit import FitResult, Progress
from trainer.history import f_scores
from trainer.runtime import choose_runtime

LOG = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 3
TRACEBACK_CHARACTERS = 6000
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
    many failures in a row. A claim that somebody else has now is dropped quietly.
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
    out = trial_folder(context.runs, context.study.study_name, row.number) / str(token)
    with contextlib.suppress(KeyError):
        write_config(context, row, trial_config(row, context.setup), out)


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
    config = _with_runtime(
        context, trial, trial_config(trial, context.setup, data_root=context.data_root)
    )
    data = load_data(context)
    folder = trial_folder(context.runs, context.study.study_name, trial.number)
    out = folder / str(token)
    row = context.storage.get_trial(trial_id)
    clear_strangers(out, context.setup)
    write_config(context, row, config, out)
    lineage = rows_of(context.study.get_trials(deepcopy=False), row)
    folders = [trial_folder(context.runs, context.study.study_name, one.number) for one in lineage]
    start = taken_over(folders, config, context.setup.uid, out)
    reported = set(curve_of(lineage))
    result: FitResult | None = None
    end = TrialEnd(TrialState.COMPLETE, "finished")
    if start is None:
        context.storage.record(trial_id, "started")
    else:
        context.storage.record(trial_id, "resumed", Cause(detail={"epoch": start.epoch}))
    try:
        if start is not None:
            LOG.info(
                f"trial {trial.number} goes on from epoch {start.epoch}",
                extra={"trial": trial.number},
            )
            _report_missing(trial, start, reported, config.training.epochs)
        while result is None:
            try:
                result = run_trial(
                    trial,
                    config,
                    data,
                    out=out,
                    after_epoch=lambda progress: _after_epoch(context, token, heartbeat, progress),
                    reported=reported,
                    resume_from=None if start is None else start.path,
                )
            except RuntimeError as error:
                config = _halved(trial, config, error)
                start = taken_over(folders, config, context.setup.uid, out)
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
    finish(context, trial, token, end, config, out, result)


def refresh(context: WorkerContext) -> None:
    """Take over ranges, fixed values and how to search, which another run has changed since."""
    setup = load_setup(context.study)
    if setup != context.setup:
        context.setup = setup
        set_sampler_and_pruner(context.study, setup)


def _after_epoch(
    context: WorkerContext, token: int, heartbeat: Heartbeat, progress: Progress
) -> None:
    if heartbeat.lost.is_set():
        raise heartbeat.failure or LeaseLost(token)
    if heartbeat.last.ended:
        raise UpdateFinishedTrialError(f"claim {token}: the trial was ended by somebody else")
    if progress.epoch >= progress.epochs:
        # nothing is left to do: it ends as what it is
        return
    if heartbeat.last.request == "stop":
        raise _Stopped
    if heartbeat.last.request == "requeue":
        raise _Leave(Cause("asked to requeue"))
    if cause := context.leaving():
        raise _Leave(cause)


def _with_runtime(context: WorkerContext, trial: optuna.Trial, config: Config) -> Config:
    """Decide how to compute, once per trial: a requeued one keeps what it was begun with."""
    recorded = attributes_of(trial.user_attrs).runtime
    # this machine's own flags stand before what the study's config asks for
    own = {"runtime.device": context.device, "runtime.threads": context.threads}
    own = {name: value for name, value in own.items() if value is not None}
    if recorded is None:
        config = choose_runtime(with_values(config, own))
    else:
        wanted = str(recorded["device"]).partition(":")[0]
        ours = "" if context.device in (None, "auto") else str(context.device).partition(":")[0]
        offered = wanted == "cpu" or (torch.cuda.is_available() and ours in ("", "cuda"))
        if offered:
            device = context.device if wanted == "cuda" and ours else wanted
            config = choose_runtime(with_values(config, {"runtime.device": device}))
        else:
            config = choose_runtime(
                with_values(config, {"runtime.device": "auto", "runtime.precision": "auto", **own})
            )
            trial.set_user_attr(
                RUNTIME_CHANGED,
                f"begun on {recorded['device']} ({recorded['precision']}), went on on "
                f"{config.runtime.device} ({config.runtime.precision}): digits may differ",
            )
    now = to_dict(config)["runtime"]
    if now != recorded:
        trial.set_user_attr(RUNTIME, now)
    return config


def _halved(trial: optuna.Trial, config: Config, error: RuntimeError) -> Config:
    """The config with half the micro-batch after a GPU ran out of memory; else `error` again."""
    batch = config.runtime.micro_batch or config.data.batch_size
    if not isinstance(error, torch.OutOfMemoryError) or batch < 2:
        raise error
    # it holds the training that did not fit
    traceback.clear_frames(error.__traceback__)
    torch.cuda.empty_cache()
    config = with_values(config, {"runtime.micro_batch": batch // 2})
    trial.set_user_attr(MICRO_BATCH, batch // 2)
    trial.set_user_attr(RUNTIME, to_dict(config)["runtime"])
    return config


def _report_missing(
    trial: optuna.Trial, start: ResumePoint, reported: set[int], epochs: int
) -> None:
    """Report epochs that are on disk and not in the store: the owner died in between."""
    scores = f_scores(start.history)
    missing = [epoch for epoch in scores if epoch not in reported]
    for epoch in missing:
        trial.report(scores[epoch], step=epoch)
        reported.add(epoch)
    if missing and start.epoch < epochs and trial.should_prune():
        raise optuna.TrialPruned(f"after epoch {start.epoch}")
