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
from typing import TYPE_CHECKING, Any

from bench_common import count, record, tell, write_json

from trainer.cli import Parser, guarded, progress_bar

if TYPE_CHECKING:
    import optuna

    from search.bank import Recorded
    from search.study import Setup

NAME = "verdict"
# of the trials, those that are trained to their end; the others stop at a quarter of the budget
_WHOLE_SHARE = 0.3


def setup_for(epochs: int) -> Setup:
    """A study of the default space on the built-in faces."""
    from search.spaces import resolve
    from search.study import make_setup
    from trainer.config import Config, with_values
    from trainer.data.dataset import DataSummary

    config = with_values(Config(), {"epochs": epochs})
    return make_setup(NAME, resolve(config), DataSummary("synthetic", 400, 50, 50, "0" * 16))


def row_of(curve: Recorded, epochs: int, spread: dict[str, Any], whole: bool, lift: float) -> Any:
    """A recorded training stretched to another budget, moved a little, as a finished row."""
    import numpy as np
    from optuna.trial import TrialState, create_trial

    own = len(curve.val_f)
    at = np.arange(1, epochs + 1) * own / epochs
    scores = np.clip(np.interp(at, np.arange(1, own + 1), curve.val_f) + lift, 0, 1).tolist()
    values = dict(enumerate(scores[: None if whole else epochs // 4], 1))
    t_0 = float(curve.params["T_0"]) * epochs / own
    params = {
        **curve.params,
        "T_0": min(spread["T_0"].choices, key=lambda choice: abs(choice - t_0)),
    }
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        value=max(scores) if whole else None,
        params=params,
        distributions=spread,
        intermediate_values=values,
    )


def filled(url: str, setup: Setup, trials: int) -> None:
    """Make the study with so many finished trials."""
    import random

    from search.bank import read_bank
    from search.prior import BANKS
    from search.study import distributions, open_study, set_total
    from storage import open_storage

    bank, rng = read_bank(BANKS[0]), random.Random(0)
    study = open_study(open_storage(url), setup)
    set_total(study, trials + 1)
    spread = distributions(setup)
    with progress_bar("filling the store") as tick:
        for number in range(trials):
            whole = rng.random() < _WHOLE_SHARE
            study.add_trial(
                row_of(rng.choice(bank), setup.epochs, spread, whole, rng.gauss(0, 0.003))
            )
            tick(number + 1, trials)


def timed(study: optuna.Study, epochs: int) -> dict[str, list[float]]:
    """Milliseconds of each report, and of each verdict of both pruners, over one trial."""
    import optuna

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
            rule.prune(study, study._storage.get_trial(trial._trial_id))
            spent[name].append(1000 * (time.perf_counter() - began))
    return spent


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Measure, print, and write what is asked for."""
    import optuna

    from search.study import load_study
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
    if args.json is not None:
        write_json(args.json, {**record(NAME, words), **figures})
    return 0


def add_flags(it: argparse.ArgumentParser) -> None:
    """How large the study is, and where the figures go."""
    it.add_argument(
        "--trials", type=count, default=1000, metavar="N", help="finished trials (default: 1000)"
    )
    it.add_argument(
        "--epochs", type=count, default=150, metavar="N", help="budget of each (default: 150)"
    )
    it.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench verdict", description=__doc__)
    add_flags(it)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    return guarded(lambda: bench(args, words))


if __name__ == "__main__":
    sys.exit(main())
