"""Keeps workers at work until the study has its trials. A supervisor never trains itself."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.execution.event_command import EventCommand, EventDetector, described
from search.execution.launchers.launcher import Launcher
from search.execution.launchers.local import LocalLauncher, PrewarmedWorker
from search.execution.launchers.local_plans import local_plans, tell_plans
from search.execution.launchers.mps import SharedGpus
from search.execution.launchers.ray import RayLauncher
from search.execution.live_view import StudySnapshot, View
from search.execution.options import RunOptions
from search.execution.stop_requests import Signals, SupervisorSignals
from search.strategy.forecast.priors import KeptForecast
from search.strategy.repeating import Repeats, allowance
from search.strategy.revival import Revivals, parked
from search.strategy.settling import Settling
from search.study.attributes import CONTINUES
from search.study.lineages import finished, nothing_better_for, under_way
from search.study.lookup import deletion_refused, load_setup
from search.study.run_folders import read_history, token_folders_of, trial_folder
from search.study.setup import Setup
from search.study.shared_state import drain_mark, lease_of, total_of
from search.study.widenings import widenings_of
from search.study.wording import duration, name_of
from search.trainers.configs import with_meaning
from storage import Cause, Claim, LeasedStorage, Reaper, StorageError, redact
from storage.optuna_internals import id_of_study
from trainer.errors import UserError

LOG = logging.getLogger(__name__)
_LOOK_S = 0.25
_DRAIN_S = 600.0


@dataclass
class Run:
    """What one run of the supervisor holds."""

    options: RunOptions
    storage: LeasedStorage
    study: optuna.Study
    setup: Setup
    view: View
    began_s: float = field(default_factory=time.monotonic)
    finished_before: int = field(init=False)
    epochs_before: dict[int, int] = field(init=False)
    revivals: Revivals = field(init=False)
    repeats: Repeats = field(init=False)
    settling: Settling = field(init=False)
    widened: int = field(init=False)
    estimated: bool = False
    _drain_mark: str | None = field(init=False)

    def __post_init__(self) -> None:
        trials = self.study.get_trials(deepcopy=False)
        self.finished_before = len(finished(trials))
        self.epochs_before = {trial.number: len(trial.intermediate_values) for trial in trials}
        kept = KeptForecast(self.study)
        self.revivals = Revivals(kept, Path(self.options.runs), LOG.info)
        self.repeats, self.settling = Repeats(kept), Settling(kept)
        self.widened = len(self.setup.widened)
        self._drain_mark = drain_mark(self.study)

    @property
    def folder(self) -> Path:
        """The study's folder of runs."""
        return trial_folder(Path(self.options.runs), self.study.study_name, 0).parent

    def snapshot(self) -> StudySnapshot:
        """The study as it stands now."""
        return StudySnapshot(
            name=self.study.study_name,
            trials=self.study.get_trials(deepcopy=False),
            total=self.options.trials,
            epochs=self.setup.epochs,
            finished_before=self.finished_before,
            elapsed_s=time.monotonic() - self.began_s,
            params_of=lambda trial: with_meaning(self.setup, trial.params),
            score=self.setup.own_score or "F-score",
        )

    def stopped(self, snapshot: StudySnapshot) -> bool:
        """Whether `--stop-after` has ended the search."""
        most = self.options.stop_after
        return most is not None and nothing_better_for(snapshot.trials) >= most

    def tell_widened(self) -> None:
        """A line on each range that a worker has widened since."""
        found = widenings_of(load_setup(self.study))
        for widening in found[self.widened :]:
            LOG.info(widening.text)
        self.widened = len(found)

    def settled(self, snapshot: StudySnapshot) -> bool:
        """Whether `--stop-when-settled` ends the search before its total."""
        trials, total = snapshot.trials, snapshot.total
        return self._total(trials, load_setup(self.study), total) < total

    def _total(self, trials: Sequence[FrozenTrial], setup: Setup, total: int) -> int:
        """How many trials are wanted, of `total`."""
        if not self.options.stop_when_settled:
            return total
        return self.settling.total(trials, setup, total)

    def drained(self) -> bool:
        """Whether somebody has asked the study's workers to leave since the run began."""
        return drain_mark(self.study) != self._drain_mark

    def left(self, snapshot: StudySnapshot) -> bool:
        """Whether the study still misses trials, or a parked one is to go on, or one to repeat."""
        if not self.setup.draws and all(row.state.is_finished() for row in snapshot.trials):
            return False
        # another run may have asked for fewer since: the workers then leave
        total = min(snapshot.total, total_of(self.study) or snapshot.total)
        trials, setup = snapshot.trials, load_setup(self.study)
        total = self._total(trials, setup, total)
        return (
            snapshot.finished < total
            or self.revivals.left(trials, setup, total)
            or self.repeats.next(trials, setup, total) is not None
        )

    def timed_out(self) -> bool:
        """Whether `--timeout` is over."""
        timeout = self.options.timeout
        return timeout is not None and time.monotonic() > self.began_s + timeout

    def done(self) -> bool:
        """Whether a worker has nothing left to do."""
        snapshot = self.snapshot()
        return self.stopped(snapshot) or self.drained() or not self.left(snapshot)


def supervise(run: Run, prewarmed: PrewarmedWorker) -> int:
    """Keep workers at work until the budget is reached or somebody ends the run; the exit code.

    Raises UserError and StorageError for what the user has to fix; running trials then wait.
    """
    common = {
        "study": run.study.study_name,
        "storage": redact(run.options.storage),
        "trials": run.options.trials,
    }
    detector = EventDetector(run.snapshot().trials)
    with EventCommand(run.options.on_event, common) as events:
        try:
            if run.timed_out():
                reason = "timeout"
                LOG.info(f"--timeout {run.options.timeout:g}: over before a worker has begun")
            else:
                with (
                    deletion_refused(run.storage, run.study.study_name),
                    SupervisorSignals(run.storage) as signals,
                    _crew(run, prewarmed) as launcher,
                    run.view,
                ):
                    reason = _watched(run, launcher, events, detector, signals)
        except (UserError, StorageError) as error:
            events.send("failed", trial=None, reason=str(error))
            raise
        snapshot = run.snapshot()
        events.send_all(detector.since(snapshot.trials))
        events.send(
            "finished",
            reason=reason,
            finished=snapshot.finished,
            seconds=round(snapshot.elapsed_s, 1),
            best=described(snapshot.best),
        )
    return 130 if reason == "interrupted" else 0


def _watched(
    run: Run,
    launcher: Launcher[Any],
    events: EventCommand,
    detector: EventDetector,
    signals: Signals,
) -> str:
    """Look after the launcher until the run is over; why it is over."""
    lease = lease_of(run.storage, run.study.study_name)
    reaper = Reaper(run.storage, id_of_study(run.study), lease.grace_s)
    progress = _Progress()
    try:
        while True:
            at_work = launcher.look(run.done)
            if launcher.lost:
                # at once: the reaper would wait for the grace period
                _free_claims(run, launcher.lost)
                launcher.lost.clear()
            for reaped in reaper.look():
                if reaped.number is not None:
                    trials = run.study.get_trials(deepcopy=False)
                    # numbers have gaps where rows were deleted
                    row = next((it for it in trials if it.number == reaped.number), None)
                    name = f"trial {reaped.number}" if row is None else name_of(row, trials)
                    LOG.info(
                        f"{name} lost its worker; it waits in the queue",
                        extra={"trial": reaped.number, "worker": reaped.owner},
                    )
            snapshot = run.snapshot()
            events.send_all(detector.since(snapshot.trials))
            launcher.trained |= progress.owners(snapshot.trials, reaper.claims)
            run.view.update(snapshot)
            run.tell_widened()
            _estimate(run, snapshot, launcher)
            if not at_work:
                if run.stopped(snapshot):
                    return "stop-after"
                return "settled" if run.settled(snapshot) else "done"
            if run.drained():
                reason = "asked to end"
                line = f"{reason}: running trials finish their epoch and wait"
            elif run.timed_out():
                reason = "timeout"
                line = f"--timeout {run.options.timeout:g}: running trials finish their epoch"
            elif signals.asked.wait(_LOOK_S):
                reason = "interrupted"
                line = "Ctrl-C: running trials finish their epoch and wait; once more ends at once"
            else:
                continue
            LOG.info(line)
            # also where they were asked already: one that has just started has not heard of it
            _end(run, launcher, reaper, signals)
            return reason
    except BaseException:
        # whatever it was, no trial is left running
        _end(run, launcher, reaper, signals)
        raise


@contextlib.contextmanager
def _crew(run: Run, prewarmed: PrewarmedWorker) -> Iterator[Launcher[Any]]:
    """The workers of this run, at work."""
    options, name, logs = run.options, run.study.study_name, run.folder / "workers"
    # more workers than trials to come would only wait
    trials = run.snapshot().trials
    epochs, share = run.setup.epochs, run.setup.spend_saved
    extra = len(under_way(trials)) + len(parked(trials))
    extra += max(0, int(allowance(trials, epochs, share) // epochs))
    missing = options.trials - run.finished_before
    most = max(1, missing if missing > 0 else extra)
    if options.launcher == "ray":
        with RayLauncher(options, name, logs, run.setup.runtime["threads"], most) as ray_crew:
            yield ray_crew
        return
    with SharedGpus() as shared:
        with _signals_as_interrupt():
            plans = local_plans(options, run.setup, most, shared)
        words, environment = options.worker_words(name), shared.environment
        with LocalLauncher(words, plans, logs, prewarmed, environment) as launcher:
            tell_plans(plans, run.setup, logs)
            yield launcher


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


def _end(run: Run, launcher: Launcher[Any], reaper: Reaper, signals: Signals) -> None:
    """Ask the workers to end, wait, and free what a worker left that would not."""
    launcher.ask_to_end()
    until = time.monotonic() + _DRAIN_S
    while not launcher.wait(_LOOK_S):
        if signals.times > 1 or time.monotonic() > until:
            launcher.kill()
            break
        # a store that is away is waited for by the workers
        with contextlib.suppress(StorageError):
            reaper.look()
    _free_claims(run, launcher.owners | launcher.lost)


def _free_claims(run: Run, owners: Collection[str]) -> None:
    """Put back the trials of workers of ours that ended without doing so."""
    # a store that is away hears nothing: the reaper of the next run does it
    with contextlib.suppress(StorageError):
        for claim in run.storage.live_claims(id_of_study(run.study)):
            if claim.owner in owners:
                run.storage.reap(claim, Cause("worker gone"))


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


def _estimate(run: Run, snapshot: StudySnapshot, launcher: Launcher[Any]) -> None:
    """Once, after the first epoch that this run has trained: how long the whole search takes."""
    if run.estimated:
        return
    measured = (
        _epoch_seconds(run.folder / str(trial.number))
        for trial in snapshot.running
        if len(trial.intermediate_values) > run.epochs_before.get(trial.number, 0)
        and CONTINUES not in trial.user_attrs
    )
    seconds = next((known for known in measured if known is not None), None)
    if seconds is None:
        return
    run.estimated = True
    left = run.options.trials - snapshot.finished
    whole = seconds * run.setup.epochs * left / max(1, launcher.alive())
    LOG.info(
        f"an epoch takes about {seconds:.1f} s: {left} trials of {run.setup.epochs} epochs on"
        f" {launcher.alive()} workers at most {duration(whole)}"
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
        own = {row["epoch"]: row["seconds"] for row in read_history(token) if "seconds" in row}
    return next((own[epoch] for epoch in sorted(own, reverse=True) if epoch not in known), None)
