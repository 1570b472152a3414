"""Search hyperparameters of a face-parsing network: `python -m search.run --trials 40`."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from search.commands import (
    LOG,
    add_lease,
    add_log,
    add_program,
    add_runs,
    add_storage,
    add_study,
    check_log,
    check_writable,
    messages,
    options_of,
    or_auto,
    run_command,
    seconds,
    worker_count,
)
from search.execution.launchers.launcher import last_words
from search.execution.launchers.local import PrewarmedWorker
from search.execution.options import RunOptions
from search.study.names import STORAGE
from search.web.password import PASSWORD
from trainer.cli import Parser, checked, from_zero, whole
from trainer.errors import UserError
from trainer.streams import command_line

EXAMPLES = """\
examples:
  python -m search.run --trials 40                          built-in faces, a demonstration
  python -m search.run --trials 40 --data FACES             your own faces
  python -m search.run --trials 80                          the same study again: goes on to 80
  python -m search.run --trials 40 --range dice_weight=1:2 --fix dropout=0.2
  python -m search.run --trials 40 --range learning_rate=1e-4:5e-3:log --study with-lr

your own training program, not a line of it changed (README: "Your own training program"):
  python -m search.run --command "python main.py --config {config}" --config base.yaml \\
      --history "checkpoints/*/history.json" --score-key val_f_score --range loss.dice_weight=.5:4
  python -m search.run --command "python fit.py {config} --seed {seed}" --config base.yaml \\
      --score "epoch {epoch}: val loss {score}" --direction minimize --space space.yaml
  python -m search.run --trainer mypackage.fits:train --epochs 20 --range lr=1e-4:1e-1:log

Ctrl-C ends a run whenever you like: running trials finish their epoch and wait in the queue under
their own number. The same command goes on.
"""


_seed = checked(int, lambda n: 0 <= n < 2**63, "a whole number from 0 up, below 2^63,", name="seed")
_risk = checked(float, lambda n: 0 < n < 1, "a number between 0 and 1", name="number")
_share = checked(float, lambda n: 0 <= n <= 1, "a number from 0 to 1", name="number")
_revivals = checked(int, lambda n: n >= 0, "auto, or a whole number from 0 up,", name="count")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.run", description=__doc__, epilog=EXAMPLES)
    study = it.add_argument_group("study")
    study.add_argument(
        "--trials",
        type=whole(1),
        default=40,
        metavar="N",
        help="finished trials (complete or pruned) that the study should reach (default: 40)",
    )
    add_study(study, "(default: <data>-<preset>-<size>)")
    add_storage(study, f"SQLite or PostgreSQL ({STORAGE})")
    add_runs(study, "checkpoints and artifacts (default: runs)")
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
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML of everything that is not searched; of your own program: YAML, JSON or TOML",
    )
    training.add_argument("--preset", metavar="P", help="demo, small or full (default: what fits)")
    training.add_argument("--epochs", type=whole(1), metavar="N", help="budget of a trial")
    training.add_argument("--image-size", type=whole(1), metavar="N", help="training grid, pixels")
    training.add_argument("--batch-size", type=whole(1), metavar="N", help="pictures per step")
    training.add_argument(
        "--seed", type=_seed, metavar="N", help="of sampler and trials (default: 0)"
    )
    add_program(it)
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
        "--no-priors",
        dest="priors",
        action="store_false",
        help="leave out the first trials of space.py",
    )
    space.add_argument(
        "--widen",
        choices=("auto", "off"),
        help="auto (default): a range of space.py is widened, at most twice in a study, where the"
        " best lies at its edge and the score likely rises beyond; one of --range never is",
    )
    space.add_argument("--sampler", metavar="S", help="gp (default), tpe or random")
    space.add_argument(
        "--pruner",
        metavar="NAME",
        help="restart-aware (default), none, median, percentile, patient, successive-halving,"
        " hyperband",
    )
    space.add_argument(
        "--prune-risk",
        type=_risk,
        metavar="R",
        help="accepted risk, between 0 and 1, that pruning makes the answer worse by more than the"
        " noise between seeds (default: 0.01)",
    )
    space.add_argument(
        "--revive",
        type=or_auto(_revivals, "auto"),
        metavar="N",
        help="pruned trials that go on from where they stood: so many at the end, none (0), or as"
        " the evidence says (auto, default)",
    )
    space.add_argument(
        "--spend-saved",
        type=_share,
        metavar="R",
        help="share of the epochs that pruning saved and revivals have not spent, for training"
        " leading configurations again with fresh seeds at the end (default: 0.25; 0: none)",
    )
    computing = it.add_argument_group("computing")
    computing.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:i")
    how_many = computing.add_mutually_exclusive_group()
    how_many.add_argument(
        "--workers",
        type=worker_count,
        metavar="N",
        help="trials at a time, or auto (default): one per GPU, else one per core",
    )
    how_many.add_argument(
        "--workers-per-device",
        dest="per_device",
        type=or_auto(whole(1), "auto"),
        metavar="K",
        help="trials at a time on each GPU (the CPU is one device), or auto: measured, once",
    )
    computing.add_argument(
        "--launcher",
        choices=("local", "ray"),
        default="local",
        help="where workers run: on this machine (local, default) or on a Ray cluster",
    )
    computing.add_argument(
        "--ray-address",
        metavar="A",
        help="the cluster's address (default: RAY_ADDRESS, else the one that runs here)",
    )
    computing.add_argument(
        "--gpus-per-worker",
        type=from_zero,
        metavar="X",
        help="with Ray: GPUs of each worker; 0.5 puts two on one, 0 means the CPU (default: 1 where"
        " the cluster has any)",
    )
    add_lease(computing)
    computing.add_argument("--timeout", type=seconds, metavar="SECONDS", help="end after this time")
    computing.add_argument(
        "--stop-after", type=whole(1), metavar="K", help="end when K trials brought nothing better"
    )
    computing.add_argument(
        "--stop-when-settled",
        action="store_true",
        help="end when no further trial may be expected to improve the answer by .05 of the noise"
        " between seeds",
    )
    showing = it.add_argument_group("showing")
    showing.add_argument(
        "--dashboard", action="store_true", help="serve optuna-dashboard while the search runs"
    )
    showing.add_argument(
        "--on-event",
        metavar="CMD",
        help="run CMD with JSON on standard input at each new best and failed trial, and when the"
        " run ends",
    )
    showing.add_argument("--plain", action="store_true", help="plain lines, no live view")
    add_log(showing, ", those of the workers too")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    it = parser()
    args = it.parse_args(words)
    check_log(it, args)
    # for the dashboard alone: workers and commands of --on-event must not inherit it
    password = os.environ.pop(PASSWORD, None)
    # its imports take as long as ours: both at the same time
    with PrewarmedWorker() as prewarmed:
        return run_command(lambda: _main(args, words, prewarmed, password))


def _main(
    args: argparse.Namespace, words: Sequence[str], prewarmed: PrewarmedWorker, password: str | None
) -> int:
    from optuna.trial import TrialState
    from rich.console import Console

    from search.execution.launchers.local_plans import check_precision_here
    from search.execution.live_view import View
    from search.execution.supervisor import Run, supervise
    from search.management.opening import opened
    from search.management.options import StudyOptions
    from search.management.planning import planned
    from search.reporting.dashboard_notes import Board
    from search.reporting.run_summary import commands, disk_use, summary
    from search.study.wording import counted, tell
    from storage import open_storage, redact_words

    console, runs = Console(), Path(args.runs)
    options, study_options = options_of(RunOptions, args), options_of(StudyOptions, args)
    _check_computing(options)
    plan = planned(study_options)
    check_precision_here(options, plan.setup)
    name = plan.setup.name
    check_writable(runs)
    with messages(partial(tell, console), log=args.log, log_format=args.log_format, study=name):
        storage = open_storage(args.storage, tell=LOG.info)
        if storage.warning is not None:
            LOG.info(f"note: {storage.warning}")
        study, setup = opened(study_options, plan, storage, console, runs=runs, trials=args.trials)
        run = Run(options, storage, study, setup, View(console, plain=args.plain))
        code = 0
        if not run.left(run.snapshot()):
            if not run.settled(run.snapshot()):
                LOG.info(
                    f"nothing to do: {name} has {run.finished_before} finished trials;"
                    f" raise --trials above that to go on"
                )
        else:
            lines = commands(setup, storage=args.storage, runs=args.runs)
            with _dashboard(args, password), Board(study, lines, LOG.info):
                code = supervise(run, prewarmed)
        summary(console, study, setup, storage=args.storage, runs=args.runs)
        LOG.info(f"{args.runs}: {disk_use(runs) / 1e6:.0f} MB on disk")
        snapshot = run.snapshot()
        waiting = snapshot.count(TrialState.WAITING)
        if run.stopped(snapshot):
            LOG.info(f"--stop-after {args.stop_after}: so many trials brought nothing better")
        elif waiting or run.left(snapshot):
            again = command_line([sys.executable, "-m", "search.run", *redact_words(words)])
            wait = "waits" if waiting == 1 else "wait"
            LOG.info(f"{counted(waiting, 'trial')} {wait} in the queue; to go on: {again}")
        elif run.settled(snapshot):
            LOG.info(
                f"--stop-when-settled: after {snapshot.finished} of {args.trials} trials no further"
                " one may be expected to improve the answer; the same command without it goes on"
            )
    return code


def _check_computing(options: RunOptions) -> None:
    """Raise UserError for flags of launchers that do not go together."""
    device, share = options.device, options.gpus_per_worker
    if options.launcher != "ray":
        for flag, given in (("--ray-address", options.ray_address), ("--gpus-per-worker", share)):
            if given is not None:
                raise UserError(f"{flag} {given}: only Ray needs it; add --launcher ray")
        return
    if options.per_device is not None:
        raise UserError("--workers-per-device: with --launcher ray give --gpus-per-worker, 0.5 say")
    if ":" in device:
        raise UserError(f"--device {device}: Ray chooses the GPU; give auto, cpu or cuda")
    if share is not None and device in ("cpu", "cuda") and (share > 0) != (device == "cuda"):
        raise UserError(
            f"--gpus-per-worker {share:g} with --device {device}: leave one of the two out"
        )


@contextlib.contextmanager
def _dashboard(args: argparse.Namespace, password: str | None) -> Iterator[None]:
    """optuna-dashboard beside the search, if wanted. Raises UserError if it does not start."""
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
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env={**os.environ, **({} if password is None else {PASSWORD: password})},
        ) as child,
    ):
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            if not address:
                raise UserError(f"--dashboard: {last_words(log)} (log: {log})")
            LOG.info(address)
            yield
        finally:
            child.terminate()


if __name__ == "__main__":
    sys.exit(main())
