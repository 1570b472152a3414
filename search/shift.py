"""A worker's shift: place after place of the budget, one trial under a lease at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.board import put_note, trial_note
from search.lineage import CONTINUES, DIVERGED, finished, nothing_better_for, rows_of, utc
from search.names import BEAT_S, GRACE_S, owner_name
from search.objective import run_trial, suggest, trial_config
from search.resume import Start, clear_strangers, taken_over
from search.revive import Revivals, continued, curve_of, under_way
from search.seedtable import figures
from search.signals import WorkerSignals
from search.study import (
    Setup,
    StudyError,
    drain_mark,
    equip,
    load_setup,
    refuse_direction,
    take_up,
    total_of,
    trial_folder,
    trial_record,
    trial_seed,
)
from storage import Heart, LeasedStorage, LeaseLost, Patrol, Reaper, StorageError
from trainer.config import (
    Config,
    to_dict,
    to_yaml,
    with_values,
)
from trainer.data.dataset import FaceData, load_faces
from trainer.errors import DataError, Diverged, UserError
from trainer.files import atomic_write_text
from trainer.fit import FitResult, Progress
from trainer.pictures import contact_sheet
from trainer.runtime import applied, choose_runtime
from trainer.scoring import final_scores

FAILURES_IN_A_ROW = 3
TRACEBACK_CHARACTERS = 6000
_PAUSE_S = 0.5
# states of the file system that a person has to mend; no trial is at fault
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


class _Leave(Exception):
    """Put the trial back in the queue."""


class _Stopped(Exception):
    """A person ended the trial with `queue stop`."""


@dataclass
class Post:
    """What a worker has at hand.

    device, threads, data_root: this machine's own, None: as the study says. stop_after: end when
    so many trials brought nothing better. parent: process whose end ends the worker.
    """

    storage: LeasedStorage
    study: optuna.Study
    runs: Path
    signals: WorkerSignals
    device: str | None = None
    threads: int | None = None
    data_root: str | None = None
    stop_after: int | None = None
    beat_s: float = BEAT_S
    grace_s: float = GRACE_S
    parent: int | None = None
    owner: str = field(default_factory=lambda: owner_name(os.getpid()))
    setup: Setup = field(init=False)
    data: FaceData | None = field(init=False, default=None)
    revivals: Revivals = field(init=False)
    failed_before: frozenset[int] = field(init=False)
    _drain_mark: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.signals.busy = self.storage.at_work
        self.setup = load_setup(self.study)
        refuse_direction(self.study)
        self.revivals = Revivals(self.study, self.runs, _say)
        self._drain_mark = drain_mark(self.study)
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        self.failed_before = frozenset(trial.number for trial in failed)

    @property
    def study_id(self) -> int:
        return self.study._study_id

    def leaving(self) -> bool:
        """Whether somebody asked the worker to end: a signal, a drain, or the parent's end."""
        return (
            self.signals.asked.is_set()
            or (self.parent is not None and os.getppid() != self.parent)
            or drain_mark(self.study) != self._drain_mark
        )


def work(post: Post) -> int:
    """Train trials until the budget is used up and no parked trial is worth going on with, nothing
    better comes, or somebody asks to leave.

    Returns 0. Raises UserError and StorageError for what a person has to mend; the trial at hand
    then waits in the queue.
    """
    with Patrol(Reaper(post.storage, post.study_id, post.grace_s)):
        try:
            _work(post)
        except KeyError:
            if post.study.study_name in {it.study_name for it in post.storage.get_all_studies()}:
                raise
            raise StudyError(
                f'study "{post.study.study_name}" was deleted while it was running'
            ) from None
    return 0


def _work(post: Post) -> None:
    while not post.leaving():
        trials = post.study.get_trials(deepcopy=False)
        if post.stop_after is not None and nothing_better_for(trials) >= post.stop_after:
            return
        total = total_of(post.study)
        if total is None:
            raise StudyError(f'study "{post.study.study_name}" has no budget: run search.run on it')
        _refresh(post)
        revival = _revival(post, trials, total)
        if revival is None and len(finished(trials)) >= total and not under_way(trials):
            return
        if not post.setup.draws and not any(t.state == TrialState.WAITING for t in trials):
            if not any(t.state == TrialState.RUNNING for t in trials):
                # one failed or was withdrawn: the total stays out of reach
                return
            post.signals.asked.wait(_PAUSE_S)
            continue
        # before a place is taken: faces that cannot be read are no trial's fault
        load_data(post)
        # one that was begun, or parked, has had its place
        budget = total if revival is None else None
        token = post.storage.take_place(post.study_id, budget, post.owner)
        if token is not None:
            one_trial(post, token, revival)
        else:
            # all places are taken: if an owner dies, its trial comes to us
            post.signals.asked.wait(_PAUSE_S)


@dataclass(frozen=True)
class Revival:
    """A trial without a place of the budget. parent: to go on from; None: one that waits.

    known: how many rows of the study went on from another one when that was decided.
    """

    parent: FrozenTrial | None
    known: int


def _revival(post: Post, trials: Sequence[FrozenTrial], total: int) -> Revival | None:
    known = sum(CONTINUES in trial.user_attrs for trial in trials)
    if any(trial.state == TrialState.WAITING for trial in under_way(trials)):
        return Revival(None, known)
    number = post.revivals.next(trials, post.setup, total)
    if number is None:
        return None
    return Revival(next(trial for trial in trials if trial.number == number), known)


def one_trial(post: Post, token: int, revival: Revival | None = None) -> None:
    """Run the next trial under the claim `token`, to its end or back into the queue.

    revival: what the claim is for, where it has no place of the budget; it is given back where
    another worker was quicker.

    Raises what ends the whole run: mistakes in data or config, a full disk, a lost store, too
    many failures in a row. A claim that somebody else has now is dropped quietly.
    """
    trial_id: int | None = None
    try:
        with Heart(post.storage, token, post.beat_s, post.grace_s) as heart:
            trial_id = _begun(post, token, revival)
            if trial_id is None:
                post.storage.release(token)
                return
            try:
                _train(post, trial_id, token, heart)
            except (LeaseLost, UpdateFinishedTrialError, UserError, StorageError, _Leave):
                raise
            except Exception as error:
                if _is_machines(error):
                    raise
                if isinstance(error, KeyError) and _is_deleted(post, trial_id):
                    _say(
                        f"a trial's row (trial_id {trial_id}) was deleted: its training is dropped"
                    )
                    post.storage.release(token)
                    return
                _failed(post, trial_id, token, error)
    except LeaseLost:
        return
    except UpdateFinishedTrialError:
        # ended through the dashboard: the trial is as the person wants it
        if trial_id is not None:
            _keep_verdict(post, trial_id, token)
        post.storage.release(token)
    except _Leave:
        _put_back(post, trial_id, token)
    except OSError as error:
        _put_back(post, trial_id, token)
        raise UserError(
            f"{error.filename or post.runs}: {error.strerror}: mend that and run the same command; "
            "the trial waits in the queue"
        ) from error
    except BaseException:
        _put_back(post, trial_id, token)
        raise


def _begun(post: Post, token: int, revival: Revival | None) -> int | None:
    """The trial that the claim is for, running; None where somebody else has it."""
    if revival is None:
        trial_id = post.storage.pop_waiting(post.study_id, token)
        if trial_id is None and post.setup.draws:
            return post.storage.new_trial(post.study_id, token)
        return trial_id
    if revival.parent is None:
        return post.storage.pop_waiting(post.study_id, token, revivals=True)
    row = continued(revival.parent)
    return post.storage.revive(post.study_id, token, row, revival.known)


def _keep_verdict(post: Post, trial_id: int, token: int) -> None:
    """Write down for `search.rebuild` how somebody else has ended the trial."""
    row = post.storage.get_trial(trial_id)
    out = trial_folder(post.runs, post.study.study_name, row.number) / str(token)
    with contextlib.suppress(KeyError):
        _write_config(post, row, trial_config(row, post.setup), out)


def _is_deleted(post: Post, trial_id: int) -> bool:
    try:
        post.storage.get_trial(trial_id)
    except KeyError:
        return True
    return False


def _put_back(post: Post, trial_id: int | None, token: int) -> None:
    # a store that is away cannot take it back: the reaper of the next run does
    with contextlib.suppress(LeaseLost, StorageError):
        if trial_id is None:
            post.storage.release(token)
        else:
            post.storage.requeue(trial_id, token)


def _failed(post: Post, trial_id: int, token: int, error: Exception) -> None:
    """Keep the traceback; the first time the trial waits again, the second time it is FAIL."""
    row = post.storage.get_trial(trial_id)
    times = int(row.user_attrs.get("exceptions", 0)) + 1
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    post.storage.set_trial_user_attr(trial_id, "exceptions", times)
    post.storage.set_trial_user_attr(trial_id, "traceback", text)
    line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if times == 1:
        post.storage.requeue(trial_id, token)
        _say(f"trial {row.number}: {line}; it is tried once more")
        return
    post.storage.set_trial_user_attr(trial_id, "reason", line)
    post.storage.set_trial_state_values(trial_id, TrialState.FAIL)
    post.storage.release(token)
    _say(f"trial {row.number}: FAIL, {line}")
    _check_failures(post, line)


def _check_failures(post: Post, line: str) -> None:
    """Raise UserError where the latest trials all failed: the next ones would as well."""
    ended = [
        trial
        for trial in post.study.get_trials(deepcopy=False)
        if trial.state.is_finished()
        and trial.datetime_complete is not None
        and trial.number not in post.failed_before
        and not trial.user_attrs.get("cancelled")
        and trial.user_attrs.get("copied_from") is None
    ]
    ended.sort(key=lambda trial: utc(cast(datetime, trial.datetime_complete)))
    latest = ended[-FAILURES_IN_A_ROW:]
    if len(latest) == FAILURES_IN_A_ROW and all(t.state == TrialState.FAIL for t in latest):
        raise UserError(
            f"{FAILURES_IN_A_ROW} trials in a row failed, the last with {line}: the whole "
            "traceback is the trial's attribute `traceback`"
        )


def _train(post: Post, trial_id: int, token: int, heart: Heart) -> None:
    """Train the trial from wherever it stands, and tell how it ended."""
    if post.leaving():
        raise _Leave
    _refresh(post)
    trial = take_up(post.study, trial_id)
    suggest(trial, post.setup)
    if "seed" not in trial.user_attrs:
        trial.set_user_attr("seed", trial_seed(post.setup.seed, trial.number))
    config = _with_runtime(post, trial, trial_config(trial, post.setup, data_root=post.data_root))
    data = load_data(post)
    folder = trial_folder(post.runs, post.study.study_name, trial.number)
    out = folder / str(token)
    row = post.storage.get_trial(trial_id)
    clear_strangers(out, post.setup)
    _write_config(post, row, config, out)
    lineage = rows_of(post.study.get_trials(deepcopy=False), row)
    folders = [trial_folder(post.runs, post.study.study_name, one.number) for one in lineage]
    start = taken_over(folders, config, post.setup.uid, out)
    reported = set(curve_of(lineage))
    result: FitResult | None = None
    state = TrialState.COMPLETE
    try:
        if start is not None:
            _say(f"trial {trial.number} goes on from epoch {start.epoch}")
            _report_missing(trial, start, reported, config.training.epochs)
        while result is None:
            try:
                result = run_trial(
                    trial,
                    config,
                    data,
                    out=out,
                    after_epoch=lambda progress: _after_epoch(post, token, heart, progress),
                    reported=reported,
                    resume_from=None if start is None else start.path,
                )
            except RuntimeError as error:
                config = _halved(trial, config, error)
                start = taken_over(folders, config, post.setup.uid, out)
    except optuna.TrialPruned as stop:
        state = TrialState.PRUNED
        trial.set_user_attr("reason", f"pruned {stop}")
    except Diverged as reason:
        state = TrialState.PRUNED
        if DIVERGED not in trial.constraints:
            trial.set_constraint(DIVERGED, 1.0)
        trial.set_user_attr("reason", f"diverged: {reason}")
    except _Stopped:
        state = TrialState.PRUNED
        trial.set_user_attr("stopped", True)
    _finish(post, trial, token, state, config, out, result)


def _refresh(post: Post) -> None:
    """Take over ranges, fixed values and how to search, which another run has changed since."""
    setup = load_setup(post.study)
    if setup != post.setup:
        post.setup = setup
        equip(post.study, setup)


def _after_epoch(post: Post, token: int, heart: Heart, progress: Progress) -> None:
    if heart.lost.is_set():
        raise heart.failure or LeaseLost(token)
    if heart.ended:
        raise UpdateFinishedTrialError(f"claim {token}: the trial was ended by somebody else")
    if progress.epoch >= progress.epochs:
        # nothing is left to do: it ends as what it is
        return
    if heart.wish == "stop":
        raise _Stopped
    if heart.wish == "requeue" or post.leaving():
        raise _Leave


def _with_runtime(post: Post, trial: optuna.Trial, config: Config) -> Config:
    """Decide how to compute, once per trial: a requeued one keeps what it was begun with."""
    recorded = trial.user_attrs.get("runtime")
    # this machine's own flags stand before what the study's config asks for
    own = {"runtime.device": post.device, "runtime.threads": post.threads}
    own = {name: value for name, value in own.items() if value is not None}
    if recorded is None:
        config = choose_runtime(with_values(config, own))
    else:
        wanted = str(recorded["device"]).partition(":")[0]
        ours = "" if post.device in (None, "auto") else str(post.device).partition(":")[0]
        offered = wanted == "cpu" or (torch.cuda.is_available() and ours in ("", "cuda"))
        if offered:
            device = post.device if wanted == "cuda" and ours else wanted
            config = choose_runtime(with_values(config, {"runtime.device": device}))
        else:
            config = choose_runtime(
                with_values(config, {"runtime.device": "auto", "runtime.precision": "auto", **own})
            )
            trial.set_user_attr(
                "runtime_changed",
                f"begun on {recorded['device']} ({recorded['precision']}), went on on "
                f"{config.runtime.device} ({config.runtime.precision}): digits may differ",
            )
    now = to_dict(config)["runtime"]
    if now != recorded:
        trial.set_user_attr("runtime", now)
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
    trial.set_user_attr("micro_batch", batch // 2)
    trial.set_user_attr("runtime", to_dict(config)["runtime"])
    return config


def load_data(post: Post) -> FaceData:
    """The faces, decoded once per worker. Raises DataError where they are not the study's."""
    if post.data is not None:
        return post.data
    root = post.data_root or post.setup.data["root"]
    settings = post.setup.base["data"]
    faces = load_faces(
        root,
        image_size=settings["image_size"],
        synthetic_images=settings["synthetic_images"],
        parts=("train", "val"),
    )
    wanted = post.setup.data["fingerprint"]
    if faces.fingerprint != wanted:
        raise DataError(
            f"{root}: fingerprint {faces.fingerprint[:8]}, but study {post.study.study_name} was "
            f"made on {wanted[:8]}: give --data the same images, masks and lists"
        )
    post.data = faces
    return faces


def _report_missing(trial: optuna.Trial, start: Start, reported: set[int], epochs: int) -> None:
    """Report epochs that are on disk and not in the store: the owner died in between."""
    missing = [entry for entry in start.history if int(entry["epoch"]) not in reported]
    for entry in missing:
        trial.report(float(entry["val_f"]), step=int(entry["epoch"]))
        reported.add(int(entry["epoch"]))
    if missing and start.epoch < epochs and trial.should_prune():
        raise optuna.TrialPruned(f"after epoch {start.epoch}")


# ------------------------------------------------------------------------------- the end of a trial


def _finish(
    post: Post,
    trial: optuna.Trial,
    token: int,
    state: TrialState,
    config: Config,
    out: Path,
    result: FitResult | None,
) -> None:
    """Attributes and artifacts first, then the verdict: a finished trial takes no more of them."""
    history = _history(out) if result is None else result.history
    weights = out / "best.pt" if result is None else result.best_checkpoint
    if history:
        kept = figures(
            history, ce_weight=config.loss.ce_weight, dice_weight=config.loss.dice_weight
        )
        best_row = next(entry for entry in history if entry["epoch"] == kept["best_epoch"])
        kept |= {name: best_row.get(name) for name in ("f_large", "f_small")}
        if result is not None:
            kept["f_score_full"] = _score_full(weights, load_data(post), config)
        for name, value in kept.items():
            trial.set_user_attr(name, value)
    row = post.storage.get_trial(trial._trial_id)
    # as the verdict below is to leave it: whoever dies in between leaves a record that is outdone
    # by the one of the trial's next owner
    row.state, row.datetime_complete = state, datetime.now()
    row.value = None if result is None else result.best_f
    _write_config(post, row, config, out)
    _keep_artifacts(post, trial, out, weights, config)
    put_note(trial, trial_note(row, config.training.epochs))
    if result is None:
        post.study.tell(trial, state=state)
        how = row.user_attrs.get("reason") or "stopped"
        _say(f"trial {trial.number}: {state.name}, {how}")
    else:
        assert result.best_f is not None, "a trial trains on the train part, so it is scored"
        post.study.tell(trial, result.best_f)
        _say(f"trial {trial.number}: {state.name}, {result.best_f:.4f} (epoch {result.best_epoch})")
    post.storage.release(token)


def _score_full(weights: Path, data: FaceData, config: Config) -> float:
    """The best epoch's score against the untouched masks."""
    with applied(config.runtime) as device:
        return float(final_scores(weights, data.val, device=device)["f_score_full"])


def _history(out: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads((out / "history.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return list(read)


def _write_config(post: Post, row: FrozenTrial, config: Config, out: Path) -> None:
    record = trial_record(post.setup, row, post.study.user_attrs)
    atomic_write_text(out / "config.yaml", to_yaml(config, search=record))


def _keep_artifacts(
    post: Post, trial: optuna.Trial, out: Path, weights: Path, config: Config
) -> None:
    """Give the dashboard the trial's config, curves' history and contact sheet."""
    if weights.is_file():
        with applied(config.runtime) as device:
            sheet = out / "contact_sheet.png"
            contact_sheet(weights, load_data(post).val, sheet, device=device)
    where = post.runs / "artifacts"
    where.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(where)
    # an owner that died between upload and verdict has left its own
    present = {
        meta.filename
        for meta in get_all_artifact_meta(trial)
        if (where / meta.artifact_id).is_file()
    }
    for name in ("config.yaml", "contact_sheet.png"):
        if (out / name).is_file() and name not in present:
            upload_artifact(artifact_store=store, file_path=str(out / name), study_or_trial=trial)


def _is_machines(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS


def _say(line: str) -> None:
    print(line, flush=True)
