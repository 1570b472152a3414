"""What the benches that simulate share: jobs spread over processes, and estimates."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scripts.benchmarks import common
from scripts.benchmarks.common import ROOT, add_json, count, interrupted_by_sigterm
from trainer.cli import Parser, progress_bar, whole

if TYPE_CHECKING:
    import numpy as np

BANK = ROOT / "search/strategy/forecast/banks/real-faces-64.json"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error; None where that cannot be told."""

    mean: float
    error: float | None

    def text(self, digits: int, scale: float = 1) -> str:
        """The mean, and behind it the standard error where it can be told."""
        error = "" if self.error is None else f" ± {scale * self.error:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{error}"


def estimates(rows: np.ndarray) -> list[Estimate]:
    """Of each column, over rows that know nothing of each other. rows: float64 [N, columns]."""
    count = len(rows)
    errors = rows.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else [None] * rows.shape[1]
    return [
        Estimate(float(mean), None if error is None else float(error))
        for mean, error in zip(rows.mean(axis=0), errors, strict=True)
    ]


def quiet() -> None:
    """Optuna speaks of every trial otherwise."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _ready(begin: Callable[[], None]) -> None:
    # Ctrl-C reaches every process of the terminal; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin()


def spread(
    function: Callable[..., Result],
    jobs: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    text: str,
    begin: Callable[[], None] = quiet,
) -> list[Result]:
    """What the function returns for each job, in their order, with a progress bar.

    begin: called once in each process before its first job.
    """
    done: dict[int, Result] = {}
    with progress_bar(text) as bar:

        def finished(number: int, result: Result) -> None:
            done[number] = result
            bar(len(done), len(jobs))

        if workers == 1:
            begin()
            for number, job in enumerate(jobs):
                finished(number, function(*job))
        else:
            # a fork would inherit the threads of the bar and of numpy
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, _ready, (begin,)) as pool:
                waiting = {pool.submit(function, *job): n for n, job in enumerate(jobs)}
                try:
                    for future in as_completed(waiting):
                        finished(waiting[future], future.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    # what has begun would be worked off to its end
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
    return [done[number] for number in range(len(jobs))]


def parser(name: str, doc: str | None, *, seed: str, bank: str | None = None) -> Parser:
    """The command line of a bench with the flags of all.

    doc: of its module. seed, bank: what they are for; None: it takes no bank.
    """
    it = Parser(prog=f"scripts/bench {name}", description=(doc or "").partition("\n\n")[2])
    if bank is not None:
        it.add_argument(
            "--bank",
            type=Path,
            default=BANK,
            metavar="FILE",
            help=f"{bank}; default {BANK.relative_to(ROOT)}",
        )
    it.add_argument("--seed", type=whole(0), default=0, metavar="S", help=f"{seed}; default 0")
    it.add_argument("--workers", type=count, metavar="N", help="processes; default: usable cores")
    add_json(it)
    return it


def run(
    parser: Parser,
    bench: Callable[[argparse.Namespace, list[str]], int],
    argv: list[str] | None,
) -> int:
    """Run a bench from the command line; returns the exit code."""

    def in_processes(args: argparse.Namespace, words: list[str]) -> int:
        interrupted_by_sigterm()
        args.workers = args.workers or len(os.sched_getaffinity(0))
        # small matrices: threads would only stand in the way of the other processes
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return bench(args, words)

    return common.run(parser, in_processes, argv)
