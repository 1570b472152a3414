"""Search hyperparameters of a face-parsing network: `python -m search.run --trials 40`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.launch import Ahead
from search.names import RUNS, STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    import optuna

    from search.launch import Crew, Slot
    from search.progress import Standing, View
    from search.study import Setup
    from storage import LeasedStorage

EXAMPLES = """\
examples:
  python -m search.run --trials 40                          built-in faces, a demonstration
  python -m search.run --trials 40 --data FACES             your own faces
  python -m search.run --trials 80                          the same study again: goes on to 80
  python -m search.run --trials 40 --range dice_weight=1:2 --fix dropout=0.2
  python -m search.run --trials 40 --range learning_rate=1e-4:5e-3:log --study with-lr

Ctrl-C ends a run whenever you like: running trials finish their epoch and wait in the queue under
their own number. The same command goes on.
"""
_LOOK_S = 0.25
_DRAIN_S = 600.0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 up is needed")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 0 up, below 2^63, is needed")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0 is needed")
    return number


def _workers(text: str) -> int | None:
    return None if text == "auto" else _count(text)


def _per_device(text: str) -> int | str:
    return text if text == "auto" else _count(text)


# argparse names the function in its messages
_count.__name__, _seed.__name__, _workers.__name__ = "count", "seed", "count"
_seconds.__name__, _per_device.__name__ = "seconds", "count"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.run", description=__doc__, epilog=EXAMPLES)
    study = it.add_argument_group("study")
    study.add_argument(
        "--trials",
        type=_count,
        default=40,
        metavar="N",
        help="finished trials (complete or pruned) that the study should reach (default: 40)",
    )
    study.add_argument("--study", metavar="NAME", help="(default: <data>-<preset>-<size>)")
    study.add_argument(
        "--storage", default=STORAGE, metavar="URL", help=f"SQLite or PostgreSQL ({STORAGE})"
    )
    study.add_argument(
        "--runs", default=RUNS, metavar="DIR", help="checkpoints and artifacts (default: runs)"
    )
    study.add_argument(
        "--from",
        dest="old",
        metavar="STUDY",
        help="take over another study: its trials if the scores compare, else its 5 best"
        " configurations",
    )
    training = it.add_argument_group("what a trial trains")
    training.add_argument("--data", metavar="DIR", help="faces and masks (default: built-in faces)")
    training.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML of everything that is not searched"
    )
    training.add_argument("--preset", metavar="P", help="demo, small or full (default: what fits)")
    training.add_argument("--epochs", type=_count, metavar="N", help="budget of a trial")
    training.add_argument("--image-size", type=_count, metavar="N", help="training grid, pixels")
    training.add_argument("--batch-size", type=_count, metavar="N", help="pictures per step")
    training.add_argument(
        "--seed", type=_seed, metavar="N", help="of sampler and trials (default: 0)"
    )
    space = it.add_argument_group("search space")
    space.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="name=value",
        help="hold one parameter; may be repeated",
    )
    space.add_argument(
        "--range",
        dest="ranges",
        action="append",
        default=[],
        metavar="name=low:high[:log]",
        help="another range for a parameter, or search one more numeric key; may be repeated",
    )
    space.add_argument(
        "--enqueue", type=Path, metavar="FILE", help="YAML list of configurations to run first"
    )
    space.add_argument(
        "--no-priors", action="store_true", help="leave out the first trials of space.py"
    )
    space.add_argument("--sampler", metavar="S", help="tpe (default), gp or random")
    space.add_argument(
        "--pruner",
        metavar="NAME",
        help="restart-aware (default), none, median, percentile, patient, successive-halving,"
        " hyperband",
    )
    computing = it.add_argument_group("computing")
    computing.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:i")
    how_many = computing.add_mutually_exclusive_group()
    how_many.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="trials at a time, or auto (default): one per GPU, else one per core",
    )
    how_many.add_argument(
        "--workers-per-device",
        dest="per_device",
        type=_per_device,
        metavar="K",
        help="trials at a time on each GPU (the CPU is one device), or auto: measured, once",
    )
    computing.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="end after this time"
    )
    computing.add_argument(
        "--stop-after", type=_count, metavar="K", help="end when K trials brought nothing better"
    )
    showing = it.add_argument_group("showing")
    showing.add_argument(
        "--dashboard", action="store_true", help="serve optuna-dashboard while the search runs"
    )
    showing.add_argument("--plain", action="store_true", help="plain lines, no live view")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    # its imports take as long as ours: both at the same time
    with Ahead() as ahead:
        # after the arguments: --help need not wait for torch
        from storage import StorageError

        return guarded(lambda: _main(args, words, ahead), errors=(StorageError,))


@dataclass
class _Run:
    """What one run of the supervisor holds."""

    args: argparse.Namespace
    storage: LeasedStorage
    study: optuna.Study
    setup: Setup
    view: View
    began_s: float
    finished_before: int
    drain_mark: str | None
    estimated: bool = False

    def standing(self) -> Standing:
        from search.progress import Standing

        return Standing(
            name=self.study.study_name,
            trials=self.study.get_trials(deepcopy=False),
            total=self.args.trials,
            epochs=self.setup.epochs,
            finished_before=self.finished_before,
            elapsed_s=time.monotonic() - self.began_s,
        )


def _main(args: argparse.Namespace, words: Sequence[str], ahead: Ahead) -> int:
    import optuna
    from rich.console import Console

    from search.closing import disk_use, summary
    from search.lineage import nothing_better_for
    from search.opening import opened, planned
    from search.progress import View, counted
    from search.study import drain_mark
    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console()
    view = View(console, plain=args.plain)
    plan = planned(args)
    _check_writable(Path(args.runs))
    storage = open_storage(args.storage)
    if storage.warning is not None:
        view.say(f"note: {storage.warning}")
    study, setup = opened(args, plan, storage, view)
    run = _Run(
        args,
        storage,
        study,
        setup,
        view,
        began_s=time.monotonic(),
        finished_before=storage.count_finished(study._study_id),
        drain_mark=drain_mark(study),
    )
    code = 0
    if run.finished_before >= args.trials:
        view.say(
            f"nothing to do: {setup.name} has {run.finished_before} finished trials;"
            f" raise --trials above that to go on"
        )
    else:
        with _dashboard(args, view):
            code = _supervise(run, ahead)
    summary(console, study, setup, storage=args.storage, runs=args.runs)
    view.say(f"{args.runs}: {disk_use(Path(args.runs)) / 1e6:.0f} MB on disk")
    standing = run.standing()
    waiting = standing.count(optuna.trial.TrialState.WAITING)
    if args.stop_after is not None and nothing_better_for(standing.trials) >= args.stop_after:
        view.say(f"--stop-after {args.stop_after}: so many trials brought nothing better")
    elif waiting or standing.finished < args.trials:
        again = shlex.join([sys.executable, "-m", "search.run", *_without_password(words)])
        wait = "waits" if waiting == 1 else "wait"
        view.say(f"{counted(waiting, 'trial')} {wait} in the queue; to go on: {again}")
    return code


def _without_password(words: Sequence[str]) -> list[str]:
    from storage import redact

    return [redact(word) if "://" in word else word for word in words]


def _check_writable(runs: Path) -> None:
    from trainer.errors import UserError

    try:
        runs.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--runs {runs}: not a folder; name a folder") from None
    if not os.access(runs, os.W_OK):
        raise UserError(f"--runs {runs}: cannot be written to; name another folder")


# ------------------------------------------------------------------------------ while it runs


@contextlib.contextmanager
def _dashboard(args: argparse.Namespace, view: View) -> Any:
    """optuna-dashboard beside the search, if wanted. Raises UserError if it does not start."""
    from search.launch import last_words
    from trainer.errors import UserError

    if not args.dashboard:
        yield
        return
    command = [sys.executable, "-m", "search.dashboard", "--storage", args.storage]
    command += ["--runs", args.runs, "--parent", str(os.getpid())]
    log = Path(args.runs) / "dashboard.log"
    log.unlink(missing_ok=True)
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as child,
    ):
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            if not address:
                raise UserError(f"--dashboard: {last_words(log, 0)} (log: {log})")
            view.say(address)
            yield
        finally:
            child.terminate()


def _supervise(run: _Run, ahead: Ahead) -> int:
    """Keep workers at work until the budget is reached or somebody ends the run."""
    from search.launch import Crew
    from search.progress import counted
    from search.study import drain_mark, trial_folder
    from storage import Reaper

    args = run.args
    slots = _slots(run)
    command = ["--storage", args.storage, "--study", run.study.study_name, "--runs", args.runs]
    if args.stop_after is not None:
        command += ["--stop-after", str(args.stop_after)]
    logs = trial_folder(Path(args.runs), run.study.study_name, 0).parent / "workers"
    reaper = Reaper(run.storage, run.study._study_id)
    until = None if args.timeout is None else run.began_s + args.timeout
    finished = run.finished_before
    with _signals_as_interrupt(), Crew(command, slots, logs, ahead) as crew, run.view as view:
        view.say(
            f"{counted(len(slots), 'worker')} on {slots[0].device},"
            f" {counted(slots[0].threads, 'thread')} each; logs in {logs}"
        )
        try:
            while True:
                at_work = crew.look()
                if crew.told:
                    # at once: the reaper would wait for the grace period
                    _free_claims(run, crew.dead)
                for line in crew.told:
                    view.say(line)
                crew.told.clear()
                for deed in reaper.look():
                    if deed.number is not None:
                        view.say(f"trial {deed.number} lost its worker; it waits in the queue")
                standing = run.standing()
                if standing.finished > finished:
                    finished, crew.deaths = standing.finished, 0
                view.update(standing)
                _estimate(run, standing, crew)
                if not at_work:
                    break
                if drain_mark(run.study) != run.drain_mark:
                    view.say("asked to end: running trials finish their epoch and wait")
                    # a worker that has just started has not heard of it
                    _end(run, crew)
                    break
                if until is not None and time.monotonic() > until:
                    view.say(f"--timeout {args.timeout:g}: running trials finish their epoch")
                    _end(run, crew)
                    break
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            view.say("Ctrl-C: running trials finish their epoch and wait; once more ends at once")
            try:
                _end(run, crew)
            except KeyboardInterrupt:
                crew.kill()
                _free_claims(run, crew.owners)
            return 130
        except BaseException:
            # whatever it was, no trial is left running
            _end(run, crew)
            raise
        view.update(run.standing())
    return 0


def _slots(run: _Run) -> list[Slot]:
    """Where the workers of this run compute."""
    import torch

    from search.launch import devices_of, plan_slots
    from trainer.runtime import usable_cores

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
        # more workers than missing trials would only wait
        most=max(1, args.trials - run.finished_before),
    )


def _measured_per_device(run: _Run, device: str, cores: int) -> int:
    from search.packing import Place, workers_per_device
    from search.study import config_for

    setup = run.setup
    config = config_for(setup, {**setup.defaults, **setup.fixed}, seed=setup.seed)
    place = Place(device, cores, setup.runtime["threads"])
    with _signals_as_interrupt():
        return workers_per_device(config, place, pictures=setup.data["train"], say=run.view.say)


def _end(run: _Run, crew: Crew) -> None:
    """Ask the workers to end, wait, and free what a worker left that would not."""
    crew.ask_to_end()
    if not crew.wait(_DRAIN_S):
        crew.kill()
    _free_claims(run, crew.owners)


def _free_claims(run: _Run, pids: Collection[int]) -> None:
    """Put back the trials of workers of ours that ended without doing so."""
    import socket

    from storage import StorageError

    # a store that is away cannot be told: the reaper of the next run does it
    with contextlib.suppress(StorageError):
        ours = {f"{socket.gethostname()}:{pid}" for pid in pids}
        for claim in run.storage.live_claims(run.study._study_id):
            if claim.owner in ours:
                run.storage.reap(claim)


@contextlib.contextmanager
def _signals_as_interrupt() -> Any:
    """A machine that is shut down ends the run like Ctrl-C does.

    SIGINT as well: a shell starts what it runs in the background with that ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _estimate(run: _Run, standing: Standing, crew: Crew) -> None:
    """Once, after the first epoch: how long the whole search will take."""
    from search.progress import duration

    if run.estimated:
        return
    running = [trial for trial in standing.running if trial.intermediate_values]
    if not running:
        return
    run.estimated = True
    seconds = _epoch_seconds(run, running[0].number)
    if seconds is None:
        return
    left = run.args.trials - standing.finished
    whole = seconds * run.setup.epochs * left / max(1, crew.alive())
    run.view.say(
        f"an epoch takes about {seconds:.1f} s: {left} trials of {run.setup.epochs} epochs on"
        f" {crew.alive()} workers at most {duration(whole)}; pruning shortens that"
    )


def _epoch_seconds(run: _Run, number: int) -> float | None:
    import json

    from search.study import trial_folder

    folder = trial_folder(Path(run.args.runs), run.study.study_name, number)
    for path in folder.glob("*/history.json"):
        with contextlib.suppress(OSError, ValueError, LookupError):
            return float(json.loads(path.read_text(encoding="utf-8"))[-1]["seconds"])
    return None


if __name__ == "__main__":
    sys.exit(main())
