"""Keeps workers at work until the study has its trials. A supervisor never trains itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import optuna
import torch
from optuna.trial import FrozenTrial

from search.events import News, Notifier, described
from search.launch import Ahead, Crew, Slot, devices_of, plan_slots
from search.lineage import CONTINUES, finished, nothing_better_for
from search.packing import Place, workers_per_device
from search.progress import Standing, View, counted, duration, name_of
from search.ray_crew import RayCrew
from search.records import token_folders_of
from search.revive import Revivals, parked, under_way
from search.signals import Signals, SupervisorSignals
from search.study import (
    Setup,
    StudyError,
    config_for,
    drain_mark,
    lease_of,
    load_setup,
    total_of,
    trial_folder,
)
from storage import Claim, LeasedStorage, Reaper, StorageError, redact
from trainer.errors import UserError
from trainer.runtime import usable_cores

_LOOK_S = 0.25
_DRAIN_S = 600.0


class Workers(Protocol):
    """What a supervisor needs of a crew, wherever its workers run; see `search.launch.Crew`."""

    told: list[str]
    lost: set[str]
    trained: set[str]

    @property
    def owners(self) -> set[str]: ...
    def alive(self) -> int: ...
    def look(self, done: Callable[[], bool]) -> bool: ...
    def ask_to_end(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...


@dataclass
class Run:
    """What one run of the supervisor holds."""

    args: argparse.Namespace
    storage: LeasedStorage
    study: optuna.Study
    setup: Setup
    view: View
    began_s: float = field(default_factory=time.monotonic)
    finished_before: int = field(init=False)
    epochs_before: dict[int, int] = field(init=False)
    revivals: Revivals = field(init=False)
    estimated: bool = False
    _drain_mark: str | None = field(init=False)

    def __post_init__(self) -> None:
        trials = self.study.get_trials(deepcopy=False)
        self.finished_before = len(finished(trials))
        self.epochs_before = {trial.number: len(trial.intermediate_values) for trial in trials}
        self.revivals = Revivals(self.study, Path(self.args.runs), self.view.say)
        self._drain_mark = drain_mark(self.study)

    @property
    def folder(self) -> Path:
        """The study's folder of runs."""
        return trial_folder(Path(self.args.runs), self.study.study_name, 0).parent

    def standing(self) -> Standing:
        """The study as it stands now."""
        return Standing(
            name=self.study.study_name,
            trials=self.study.get_trials(deepcopy=False),
            total=self.args.trials,
            epochs=self.setup.epochs,
            finished_before=self.finished_before,
            elapsed_s=time.monotonic() - self.began_s,
        )

    def stopped(self, standing: Standing) -> bool:
        """Whether `--stop-after` has ended the search."""
        most = self.args.stop_after
        return most is not None and nothing_better_for(standing.trials) >= most

    def drained(self) -> bool:
        """Whether somebody has asked the study's workers to leave since the run began."""
        return drain_mark(self.study) != self._drain_mark

    def left(self, standing: Standing) -> bool:
        """Whether the study still misses trials, or a parked one is to go on."""
        if not self.setup.draws and all(row.state.is_finished() for row in standing.trials):
            return False
        # another run may have asked for fewer since: the workers then leave
        total = min(standing.total, total_of(self.study) or standing.total)
        return standing.finished < total or self.revivals.left(
            standing.trials, load_setup(self.study), total
        )

    def done(self) -> bool:
        """Whether a worker has nothing left to do."""
        standing = self.standing()
        return self.stopped(standing) or self.drained() or not self.left(standing)


def supervise(run: Run, ahead: Ahead) -> int:
    """Keep workers at work until the budget is reached or somebody ends the run; the exit code.

    Raises UserError and StorageError for what a person has to mend; running trials then wait.
    """
    common = {
        "study": run.study.study_name,
        "storage": redact(run.args.storage),
        "trials": run.args.trials,
    }
    news = News(run.standing().trials)
    with _telling(run, Notifier(run.args.on_event, common)) as notifier:
        try:
            with SupervisorSignals(run.storage) as signals, _crew(run, ahead) as crew, run.view:
                reason = _watched(run, crew, notifier, news, signals)
        except (UserError, StorageError) as error:
            notifier.tell("failed", trial=None, reason=str(error))
            raise
        except KeyError:
            if run.study.study_name in {it.study_name for it in run.storage.get_all_studies()}:
                raise
            line = f'study "{run.study.study_name}" was deleted while it was running'
            notifier.tell("failed", trial=None, reason=line)
            raise StudyError(line) from None
        standing = run.standing()
        notifier.tell_all(news.since(standing.trials))
        notifier.tell(
            "finished",
            reason=reason,
            finished=standing.finished,
            seconds=round(standing.elapsed_s, 1),
            best=described(standing.best),
        )
    return 130 if reason == "interrupted" else 0


@contextlib.contextmanager
def _telling(run: Run, notifier: Notifier) -> Iterator[Notifier]:
    """The notifier at work; what it has left to say is said, however the run ends."""
    try:
        with notifier:
            yield notifier
    finally:
        for line in notifier.told:
            run.view.say(line)


def _watched(run: Run, crew: Workers, notifier: Notifier, news: News, signals: Signals) -> str:
    """Look after the crew until the run is over; why it is over."""
    view = run.view
    lease = lease_of(run.storage, run.study.study_name)
    reaper = Reaper(run.storage, run.study._study_id, lease.grace_s)
    until = None if run.args.timeout is None else run.began_s + run.args.timeout
    progress = _Progress()
    try:
        while True:
            at_work = crew.look(run.done)
            if crew.lost:
                # at once: the reaper would wait for the grace period
                _free_claims(run, crew.lost)
                crew.lost.clear()
            for deed in reaper.look():
                if deed.number is not None:
                    trials = run.study.get_trials(deepcopy=False)
                    # numbers have gaps where rows were deleted
                    row = next((it for it in trials if it.number == deed.number), None)
                    name = f"trial {deed.number}" if row is None else name_of(row, trials)
                    view.say(f"{name} lost its worker; it waits in the queue")
            standing = run.standing()
            for lines in (crew.told, notifier.told):
                # others append meanwhile
                while lines:
                    view.say(lines.pop(0))
            notifier.tell_all(news.since(standing.trials))
            crew.trained |= progress.owners(standing.trials, reaper.claims)
            view.update(standing)
            _estimate(run, standing, crew)
            if not at_work:
                return "stop-after" if run.stopped(standing) else "done"
            if run.drained():
                view.say("asked to end: running trials finish their epoch and wait")
                # a worker that has just started has not heard of it
                _end(run, crew, reaper, signals)
                return "asked to end"
            if until is not None and time.monotonic() > until:
                view.say(f"--timeout {run.args.timeout:g}: running trials finish their epoch")
                _end(run, crew, reaper, signals)
                return "timeout"
            if signals.asked.wait(_LOOK_S):
                view.say(
                    "Ctrl-C: running trials finish their epoch and wait; once more ends at once"
                )
                _end(run, crew, reaper, signals)
                return "interrupted"
    except BaseException:
        # whatever it was, no trial is left running
        _end(run, crew, reaper, signals)
        raise


@contextlib.contextmanager
def _crew(run: Run, ahead: Ahead) -> Iterator[Workers]:
    """The workers of this run, at work."""
    args = run.args
    logs = run.folder / "workers"
    command = ["--storage", args.storage, "--study", run.study.study_name, "--runs", args.runs]
    if args.stop_after is not None:
        command += ["--stop-after", str(args.stop_after)]
    # more workers than trials to come would only wait
    trials = run.standing().trials
    revivable = len(under_way(trials)) + len(parked(trials))
    missing = args.trials - run.finished_before
    most = max(1, missing if missing > 0 else revivable)
    if args.launcher == "ray":
        with RayCrew(
            command,
            args.workers,
            logs,
            address=args.ray_address,
            device=args.device,
            gpus_per_worker=args.gpus_per_worker,
            threads=run.setup.runtime["threads"],
            most=most,
        ) as ray_crew:
            yield ray_crew
        return
    with _signals_as_interrupt():
        slots = _slots(run, most)
    with Crew(command, slots, logs, ahead) as crew:
        run.view.say(
            f"{counted(len(slots), 'worker')} on {slots[0].device},"
            f" {counted(slots[0].threads, 'thread')} each; logs in {logs}"
        )
        yield crew


def _slots(run: Run, most: int) -> list[Slot]:
    """Where the workers of this run compute."""
    args, runtime, cores = run.args, run.setup.runtime, usable_cores()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    per_device = args.per_device
    if per_device == "auto":
        devices = devices_of(runtime["device"], gpus)
        per_device = _measured_per_device(run, devices[0], max(1, cores // len(devices)))
    return plan_slots(
        args.workers,
        device=runtime["device"],
        cores=cores,
        gpus=gpus,
        threads=runtime["threads"],
        per_device=per_device,
        most=most,
    )


def _measured_per_device(run: Run, device: str, cores: int) -> int:
    setup = run.setup
    config = config_for(setup, {**setup.defaults, **setup.fixed}, seed=setup.seed)
    place = Place(device, cores, setup.runtime["threads"])
    return workers_per_device(config, place, pictures=setup.data["train"], say=run.view.say)


class _Progress:
    """Which owners have trained an epoch, seen from outside."""

    def __init__(self) -> None:
        self._began_with: dict[int, int] = {}

    def owners(self, trials: Sequence[FrozenTrial], claims: Sequence[Claim]) -> set[str]:
        """Owners of claims whose trial has more epochs than when the claim was first seen."""
        reported = {trial.number: len(trial.intermediate_values) for trial in trials}
        now = {c.token: reported.get(c.number, 0) for c in claims if c.number is not None}
        self._began_with = {token: self._began_with.get(token, now[token]) for token in now}
        return {c.owner for c in claims if now.get(c.token, 0) > self._began_with.get(c.token, 0)}


def _end(run: Run, crew: Workers, reaper: Reaper, signals: Signals) -> None:
    """Ask the workers to end, wait, and free what a worker left that would not."""
    crew.ask_to_end()
    until = time.monotonic() + _DRAIN_S
    while not crew.wait(_LOOK_S):
        if signals.times > 1 or time.monotonic() > until:
            crew.kill()
            break
        # a store that is away is waited for by the workers
        with contextlib.suppress(StorageError):
            reaper.look()
    _free_claims(run, crew.owners | crew.lost)


def _free_claims(run: Run, owners: Collection[str]) -> None:
    """Put back the trials of workers of ours that ended without doing so."""
    # a store that is away cannot be told: the reaper of the next run does it
    with contextlib.suppress(StorageError):
        for claim in run.storage.live_claims(run.study._study_id):
            if claim.owner in owners:
                run.storage.reap(claim)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """For a long measurement that touches no store."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _estimate(run: Run, standing: Standing, crew: Workers) -> None:
    """Once, after the first epoch that this run has trained: how long the whole search takes."""
    if run.estimated:
        return
    measured = (
        _epoch_seconds(run.folder / str(trial.number))
        for trial in standing.running
        if len(trial.intermediate_values) > run.epochs_before.get(trial.number, 0)
        and CONTINUES not in trial.user_attrs
    )
    seconds = next((known for known in measured if known is not None), None)
    if seconds is None:
        return
    run.estimated = True
    left = run.args.trials - standing.finished
    whole = seconds * run.setup.epochs * left / max(1, crew.alive())
    run.view.say(
        f"an epoch takes about {seconds:.1f} s: {left} trials of {run.setup.epochs} epochs on"
        f" {crew.alive()} workers at most {duration(whole)}"
        + ("" if run.setup.pruner == "none" else "; pruning shortens that")
    )


def _epoch_seconds(folder: Path) -> float | None:
    """What the latest epoch took that a trial's present owner has trained; None before it has one.

    Its history begins with the epochs of earlier owners, who may have been on another machine, or
    asleep for a night.
    """
    known: set[int] = set()
    own: dict[int, float] = {}
    for token in token_folders_of(folder):
        known |= own.keys()
        try:
            history = json.loads((token / "history.json").read_text(encoding="utf-8"))
            own = {entry["epoch"]: entry["seconds"] for entry in history}
        except (OSError, ValueError, LookupError):
            own = {}
    return next((own[epoch] for epoch in sorted(own, reverse=True) if epoch not in known), None)
