"""What one verdict of the pruner costs in a large study. `scripts/bench verdict`.

Fills a SQLite store with trials, opens it anew as a worker would, and asks after every epoch of one
more trial: the default pruner, and Optuna's median rule beside it in the same store.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from scripts.benchmarks.common import run, tell, write_figures
from scripts.benchmarks.large_study import NAME, filled, parser, setup_for

if TYPE_CHECKING:
    import optuna


def timed(study: optuna.Study, epochs: int) -> dict[str, list[float]]:
    """Milliseconds of each report, and of each verdict of both pruners, over one trial."""
    import optuna

    from storage.optuna_internals import id_of_trial, storage_of

    median_rule = optuna.pruners.MedianPruner()
    trial = study.ask()
    spent: dict[str, list[float]] = {"report": [], "ours": [], "median": []}
    for epoch in range(1, epochs):
        # a good one, so that both go through all they have
        score = 0.79 * (1 - 2 ** (-12 * epoch / epochs))
        began = time.perf_counter()
        trial.report(score, epoch)
        spent["report"].append(1000 * (time.perf_counter() - began))
        for name, rule in (("ours", study.pruner), ("median", median_rule)):
            began = time.perf_counter()
            rule.prune(study, storage_of(study).get_trial(id_of_trial(trial)))
            spent[name].append(1000 * (time.perf_counter() - began))
    return spent


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Measure, print, and write what is asked for."""
    import optuna

    from search.strategy.loading import load_study
    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setup = setup_for(args.epochs)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'search.db'}"
        tell(f"{args.trials} trials of {args.epochs} epochs")
        filled(url, setup, args.trials)
        study = load_study(open_storage(url), NAME)
        spent = timed(study, args.epochs)
    # the first verdict reads the whole study and the recorded curves, once per worker
    first = max(spent["ours"])
    later = sorted(spent["ours"])[:-1]
    figures = {
        "report_ms": median(spent["report"]),
        "ours_mean_ms": fmean(later),
        "ours_most_ms": max(later),
        "ours_first_ms": first,
        "median_mean_ms": fmean(sorted(spent["median"])[:-1]),
    }
    print(
        f"a verdict: {figures['ours_mean_ms']:.2f} ms on average, {figures['ours_most_ms']:.1f} at"
        f" most, {first:.0f} the first time; Optuna's median rule {figures['median_mean_ms']:.2f};"
        f" ratio {figures['ours_mean_ms'] / figures['median_mean_ms']:.2f}; the report itself"
        f" {figures['report_ms']:.2f} (median)"
    )
    write_figures(args, "scripts/bench verdict", words, figures)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser("scripts/bench verdict", __doc__), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
