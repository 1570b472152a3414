"""What asking costs a worker in a large study. `scripts/bench ask`.

Fills a SQLite store with trials, opens it anew as a worker would, and times two questions: the
next configuration, of each sampler of this project and of Optuna's own beside them, and whether a
trial goes on, of the default pruner and of Optuna's median rule, after every epoch of one more
trial. The first answers, for which a worker reads the study and the recorded curves once, stand
apart. Every sampler and pruner reads the same store.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import add_count, add_json, count, print_table, run, write_figures
from scripts.benchmarks.large_study import NAME, filled, setup_for
from trainer.cli import Parser

if TYPE_CHECKING:
    import optuna

    from search.study.setup import Setup

TRIALS = (40, 200, 1000)
# this project's, by the names of `search.run --sampler`, and Optuna's own beside them
OURS, OPTUNAS = ("gp", "tpe"), ("Optuna's gp", "Optuna's tpe")


def ask_s(study: optuna.Study, setup: Setup, asks: int) -> tuple[list[float], list[float]]:
    """Seconds, and those of the CPU, of some asks: new trials whose parameters are all drawn."""
    import optuna

    from search.study.setup import distributions

    spread = distributions(setup)
    spent, worked = [], []
    for _ in range(asks):
        began, worked_before = time.perf_counter(), time.process_time()
        trial = study.ask(spread)
        spent.append(time.perf_counter() - began)
        worked.append(time.process_time() - worked_before)
        # it is no evidence for the next one
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return spent, worked


def verdict_ms(study: optuna.Study, epochs: int) -> dict[str, list[float]]:
    """Milliseconds of each report of one trial, and of each verdict of both rules.

    Ours: only after the epochs at which it judges; `cpu`: those of the CPU for it.
    """
    import optuna

    from search.strategy.pruners import RestartAwarePruner

    ours, rule = study.pruner, optuna.pruners.MedianPruner()
    assert isinstance(ours, RestartAwarePruner)
    trial = study.ask()
    spent: dict[str, list[float]] = {"report": [], "ours": [], "cpu": [], "median": []}
    for epoch in range(1, epochs):
        # a good one, so that both go through all they have
        score = 0.79 * (1 - 2 ** (-12 * epoch / epochs))
        spent["report"].append(_ms(functools.partial(trial.report, score, epoch)))
        study.pruner = ours
        worked_before = time.process_time()
        took = _ms(trial.should_prune)
        if ours.verdict is not None:
            spent["ours"].append(took)
            spent["cpu"].append(1000 * (time.process_time() - worked_before))
        study.pruner = rule
        spent["median"].append(_ms(trial.should_prune))
    study.pruner = ours
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return spent


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def samplers(study: optuna.Study, setup: Setup) -> dict[str, Callable[[], Any]]:
    """Name -> what makes the sampler of `study`."""
    import optuna

    from search.strategy.forecast.priors import forecast_of_study
    from search.strategy.samplers import make_sampler

    # a worker's sampler and pruner share one, too
    study_forecast = functools.cache(lambda: forecast_of_study(study, setup))
    own = optuna.samplers
    return {
        **{
            name: functools.partial(
                make_sampler, dataclasses.replace(setup, sampler=name), study_forecast
            )
            for name in OURS
        },
        OPTUNAS[0]: functools.partial(own.GPSampler, seed=0),
        OPTUNAS[1]: functools.partial(own.TPESampler, seed=0),
    }


def measured(url: str, setup: Setup, asks: int) -> dict[str, Any]:
    """All figures of one study."""
    from search.strategy.loading import load_study
    from storage import open_storage

    study = load_study(open_storage(url), NAME)
    spent = verdict_ms(study, setup.epochs)
    figures: dict[str, Any] = {
        "report_ms": median(spent["report"]),
        "verdict_first_ms": spent["ours"][0],
        "verdict_ms": fmean(spent["ours"][1:]),
        "verdict_most_ms": max(spent["ours"][1:]),
        "verdict_cpu_ms": fmean(spent["cpu"][1:]),
        "median_ms": fmean(spent["median"][1:]),
        "median_most_ms": max(spent["median"][1:]),
    }
    for name, make in samplers(study, setup).items():
        study.sampler = make()
        (first, *later), (_, *worked) = ask_s(study, setup, asks + 1)
        figures[name] = {
            "first_s": first,
            "median_s": median(later),
            "most_s": max(later),
            "cpu_s": median(worked),
        }
    return figures


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Measure, print, and write what is asked for."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    setup = setup_for(args.epochs)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for trials in args.trials:
            url = f"sqlite:///{Path(folder) / f'{trials}.db'}"
            filled(url, setup, trials)
            figures[str(trials)] = one = measured(url, setup, args.asks)
            show(trials, one)
    write_figures(args, "scripts/bench ask", words, figures)
    return 0


def show(trials: int, one: dict[str, Any]) -> None:
    """The figures of one study, for a person."""
    rows = [
        [f"an ask of {name}, s", *(f"{one[name][key]:.3f}" for key in one[name])]
        for name in (*OURS, *OPTUNAS)
    ]
    ours = [f"{one[f'verdict_{kind}ms']:.2f}" for kind in ("first_", "", "most_", "cpu_")]
    theirs = [f"{one[f'median_{kind}ms']:.2f}" for kind in ("", "most_")]
    rows += [
        [],
        ["a verdict of restart-aware, ms", *ours],
        ["a verdict of Optuna's median, ms", "", *theirs, ""],
        ["a report, ms", "", f"{one['report_ms']:.2f}", "", ""],
    ]
    # later ones: the median of asks and reports, the mean of verdicts
    columns = ("", "first", "later", "at most", "later, on the CPU")
    print_table(f"{trials} trials", columns, rows, right=True)


def parser() -> Parser:
    """The command line."""
    it = Parser(prog="scripts/bench ask", description=__doc__)
    shown = " ".join(map(str, TRIALS))
    it.add_argument(
        "--trials",
        type=count,
        nargs="+",
        default=list(TRIALS),
        metavar="N",
        help=f"finished trials, one study for each number (default: {shown})",
    )
    add_count(it, "--epochs", 150, "budget of each trial")
    add_count(it, "--asks", 5, "asks of each sampler after the first")
    add_json(it)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
