"""How often the report claims something: `scripts/bench claims`.

Made-up searches whose truth is known, drawn by a sampler and pruned as `search.run` does it. In
some nothing matters: scores, train F, parts and best epochs are chance, so that whatever the
report claims is false. In the others the score has its peak at a dice weight of 3.0, one
deviation of the noise above that at 1.5.

  random    drawn at random, every trial complete
  tpe, gp   drawn by that sampler of search.run, pruned by its pruner

Each row is the share of searches, in percent, whose report says so; behind ± its standard error.
Every claim rests on 95 % of its own, so about 5 % are to be expected where nothing matters.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import pool
from scripts.benchmarks.common import add_count, markdown, write_figures
from scripts.benchmarks.pool import Estimate, estimates, run, spread
from trainer.cli import Parser

if TYPE_CHECKING:
    import numpy as np
    import optuna

    from search.study.setup import Setup

STUDIES, TRIALS, EPOCHS = 200, 40, 9
NOTHING, PEAK = "nothing matters", "peak at 3.0"
TRUTHS = (NOTHING, PEAK)
WAYS = ("random", "tpe", "gp")
# of a score between trainings
NOISE = 0.006
# what the report may claim: topic, and how the sentence reads then
CLAIMS = {
    "where the optimum of the dice weight lies": ("dice", r"highest at (?!.*undetermined)"),
    '"1.5 is the optimum" is supported': ("dice", r'the optimum" is supported'),
    '"1.5 is the optimum" is refuted': ("dice", r'the optimum" is refuted'),
    '"Never above 2.0" is supported': ("dice", r'above 2\.0" is supported'),
    '"Never above 2.0" is refuted': ("dice", r'above 2\.0" is refuted'),
    "dice weight acts on train F or gap": ("optimisation", r"points to|is worse in"),
    "its share acts on large parts": ("balance", r'large parts" is (supported|refuted)'),
    "its share acts on small parts": ("balance", r'small parts" is (supported|refuted)'),
    "fast is better, or not": ("convergence", r'not better" is (supported|refuted)'),
    "falls or instability follow dice weight": ("convergence", r"(grows|shrinks) with"),
    "restarts score otherwise": ("restarts", r"Restarts score (higher|lower)"),
    "moving dice weights score otherwise": ("schedules", r"Moving scores (higher|lower)"),
    "one parameter matters most": ("importances", r"matters most"),
    "a range should change": ("advice", r"For the next search: (widen|narrow)"),
}
ROWS = (*CLAIMS, "complete trials")


def setup_of(way: str, seed: int) -> Setup:
    """A search of the default space."""
    from search.study.search_space import resolve
    from search.study.setup import make_setup
    from trainer.config import Config, with_values
    from trainer.data.dataset import DataSummary

    searched = resolve(with_values(Config(), {"epochs": EPOCHS}))
    faces = DataSummary("made-up", 683, 100, 67, "0" * 16)
    pruner = "none" if way == "random" else "restart-aware"
    return make_setup("claims", searched, faces, seed=seed, sampler=way, pruner=pruner)


def curves(params: Mapping[str, Any], truth: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The history of one training: it gains up to an epoch of its own, then falls a little."""
    away = params["dice_weight"] - 3.0
    top = 0.7 + NOISE * (rng.normal() - (away**2 / 1.5**2 if truth == PEAK else 0.0))
    peak, train = int(rng.integers(EPOCHS - 3, EPOCHS + 1)), 0.01 + 0.003 * rng.normal()
    lines = []
    for epoch in range(1, EPOCHS + 1):
        grown = (1 - math.exp(-0.6 * min(epoch, peak))) / (1 - math.exp(-0.6 * peak))
        score = top * grown - 0.002 * max(0, epoch - peak) + 0.001 * rng.normal()
        lines.append({"epoch": epoch, "val_f": score, "train_f": score + train})
    return lines


def searched(truth: str, way: str, trials: int, seed: int) -> optuna.Study:
    """A search in memory, asked, pruned and told as a worker does it."""
    import numpy as np
    import optuna

    from search.strategy.loading import set_sampler_and_pruner
    from search.study.attributes import SETUP
    from search.study.search_space import distribution
    from search.study.training_metrics import metrics

    setup = setup_of(way, seed)
    study = optuna.create_study(study_name=setup.name, direction="maximize")
    study.set_user_attr(SETUP, setup.to_json())
    set_sampler_and_pruner(study, setup)
    spaces = {name: distribution(spec) for name, spec in setup.specs().items()}
    rng = np.random.default_rng([seed, TRUTHS.index(truth), WAYS.index(way)])
    for _ in range(trials):
        trial = study.ask(spaces)
        history = curves(trial.params, truth, rng)
        parts = {"f_large": 0.9 + 0.004 * rng.normal(), "f_small": 0.6 + NOISE * rng.normal()}
        pruned = False
        for line in history:
            trial.report(line["val_f"], line["epoch"])
            if pruned := trial.should_prune():
                break
        told = metrics(history[: line["epoch"]], dice_weight=trial.params["dice_weight"])
        for name, value in {**told, **parts, "seed": int(rng.integers(2**31))}.items():
            trial.set_user_attr(name, value)
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, max(line["val_f"] for line in history))
    return study


def claimed(said: Mapping[str, list[str]]) -> list[bool]:
    """Which of CLAIMS a report makes, in their order. said: topic -> sentences."""
    return [
        any(re.search(pattern, text) for text in said.get(topic, []))
        for topic, pattern in CLAIMS.values()
    ]


def one_search(truth: str, way: str, trials: int, seed: int) -> list[float]:
    """Which claims the report of one search makes, and how many of its trials are complete."""
    from search.results.evidence import Evidence
    from search.results.findings.every_finding import findings
    from search.results.reading import results_of

    results = results_of(searched(truth, way, trials, seed))
    return [*map(float, claimed(findings(Evidence(results)))), float(len(results.complete()))]


def table_text(table: Mapping[tuple[str, str], list[Estimate]]) -> str:
    """A row a claim, a column a truth and way of drawing; shares in percent."""

    def cell(name: str, one: Estimate) -> str:
        return Estimate(one.mean, one.error or None).text(1, 100 if name in CLAIMS else 1)

    columns = ["", *(f"{truth}, {way}" for truth, way in table)]
    by_row = zip(*table.values(), strict=True)
    return markdown(
        columns,
        ([name, *(cell(name, one) for one in row)] for name, row in zip(ROWS, by_row, strict=True)),
    )


# --------------------------------------------------------------------------------- the command line


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Search, print, and write what is asked for."""
    import numpy as np

    kinds = [(truth, way) for truth in TRUTHS for way in args.way]
    jobs = [
        (truth, way, args.trials, args.seed + number)
        for truth, way in kinds
        for number in range(args.studies)
    ]
    rows = spread(one_search, jobs, workers=args.workers, text="searches")
    by_kind = np.array(rows).reshape(len(kinds), args.studies, len(ROWS))
    table = dict(zip(kinds, map(estimates, by_kind), strict=True))
    print(f"{args.studies} searches of {args.trials} trials each\n\n{table_text(table)}")
    columns = [
        {"truth": truth, "way": way, "said": dict(zip(ROWS, column, strict=True))}
        for (truth, way), column in table.items()
    ]
    write_figures(args, "scripts/bench claims", words, {"columns": columns})
    return 0


def parser() -> Parser:
    """The command line."""
    made = pool.parser("claims", __doc__, seed="of the first search")
    add_count(made, "--studies", STUDIES, "searches of each kind")
    add_count(made, "--trials", TRIALS, "of each")
    made.add_argument(
        "--way",
        nargs="+",
        choices=WAYS,
        default=WAYS[:2],
        metavar="NAME",
        help="how trials are drawn: random, tpe, gp; default: random and tpe",
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
