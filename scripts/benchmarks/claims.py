"""How often the report claims something, false or true: `scripts/bench claims`.

Made-up searches whose truth is known, drawn by a sampler, pruned and revived as `search.run` does
it. In some nothing matters: scores, train F, parts and best epochs are chance, so that whatever the
report claims is false. In the others one thing does, in deviations of the noise between seeds:

  peak at 3.0     of the dice weight, 1 above the score at 1.5
  cliff           a dice weight below 1 costs 4
  restarts cost   2, however many
  moving costs    2: a dice schedule that is not constant
  dropout         4 from one end of its range to the other

  random    drawn at random, every trial complete
  tpe, gp   drawn by that sampler of search.run, pruned by its pruner

Each row is the share of searches, in percent, whose report says so; behind ± its standard error.
Every claim rests on 95 % of its own, so about 5 % are to be expected where nothing matters. Of
pruned searches each row is given twice: from the complete trials alone, and from every trial with a
reading, the pruned ones among them at their forecast ends, as the report has it. Those pruned
before a sixth of the budget have no reading. The second table has the true sentences.
"""

from __future__ import annotations

import argparse
import dataclasses
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

STUDIES, TRIALS, EPOCHS = 200, 40, 24
NOTHING, PEAK = "nothing matters", "peak at 3.0"
CLIFF, RESTARTS, MOVING, DROPOUT = "cliff", "restarts cost", "moving costs", "dropout"
TRUTHS = (NOTHING, PEAK, CLIFF, RESTARTS, MOVING, DROPOUT)
WAYS = ("random", "tpe", "gp")
# what the report rests on
COMPLETE, ALL = "complete trials", "every trial"
# of a score between trainings that differ in their seed: on real faces .0031
NOISE = 0.003
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
    "falls follow dice weight": ("convergence", r"^Degradation.*(grows|shrinks) with"),
    "instability follows dice weight": ("convergence", r"^Instability.*(grows|shrinks) with"),
    "restarts score otherwise": ("restarts", r"Restarts score (higher|lower)"),
    "moving dice weights score otherwise": ("schedules", r"Moving scores (higher|lower)"),
    "a number has a trend": ("parameters", r"(higher|lower) \w+ scores higher"),
    "one parameter matters most": ("importances", r"matters most"),
    "a range should change": ("advice", r"For the next search: (widen|narrow)"),
}
# what it should say: truth -> name of a sentence -> topic, and how it reads
TRUE = {
    PEAK: {
        '"1.5 is the optimum" is refuted': ("dice", r'1\.5 is the optimum" is refuted'),
        "higher dice_weight scores higher": ("parameters", r"higher dice_weight scores higher"),
        "dice_weight matters most": ("importances", r"dice_weight matters most"),
    },
    CLIFF: {
        "higher dice_weight scores higher": ("parameters", r"higher dice_weight scores higher"),
        "narrow dice_weight": ("advice", r"narrow dice_weight"),
        "dice_weight matters most": ("importances", r"dice_weight matters most"),
    },
    RESTARTS: {
        "restarts score lower": ("restarts", r"Restarts score lower"),
        "higher T_0 scores higher": ("parameters", r"higher T_0 scores higher"),
        "T_0 matters most": ("importances", r"T_0 matters most"),
    },
    MOVING: {
        "moving scores lower": ("schedules", r"Moving scores lower"),
        "dice_schedule matters most": ("importances", r"dice_schedule matters most"),
    },
    DROPOUT: {
        "lower dropout scores higher": ("parameters", r"lower dropout scores higher"),
        "narrow dropout": ("advice", r"narrow dropout"),
        "dropout matters most": ("importances", r"dropout matters most"),
    },
}
ROWS = (*CLAIMS, "trials complete")


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


def effect(params: Mapping[str, Any], truth: str) -> float:
    """What a configuration adds to the score, in deviations of the noise."""
    effects = {
        NOTHING: lambda: 0.0,
        PEAK: lambda: -((params["dice_weight"] - 3.0) ** 2 / 1.5**2),
        CLIFF: lambda: -4.0 * (params["dice_weight"] < 1),
        RESTARTS: lambda: -2.0 * (params["T_0"] < EPOCHS),
        MOVING: lambda: -2.0 * (params["dice_schedule"] != "constant"),
        DROPOUT: lambda: -4.0 * params["dropout"] / 0.4,
    }
    return float(effects[truth]())


def curves(params: Mapping[str, Any], truth: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The history of one training.

    It climbs at once, then slowly up to an epoch of its own, then falls a little; where the
    learning rate is high it lies lower, so that every restart shows.
    """
    from search.strategy.forecast.features import annealing

    top = 0.78 + NOISE * (rng.normal() + effect(params, truth))
    peak = int(rng.integers(round(0.7 * EPOCHS), EPOCHS + 1))
    train = 0.01 + NOISE * rng.normal()
    dip, fast, reach, slow = (
        size * math.exp(spread * rng.normal())
        for size, spread in ((0.015, 0.2), (0.4, 0.02), (EPOCHS / 15, 0.06), (0.012, 0.3))
    )
    lines = []
    for epoch in range(1, EPOCHS + 1):
        rate, _ = annealing(epoch / EPOCHS, t_0=params["T_0"] / EPOCHS)
        climbed = fast * math.exp(-epoch / reach) + slow * max(0.0, 1 - epoch / peak)
        fallen = 0.012 * max(0, epoch - peak) / EPOCHS
        score = top - climbed - fallen - dip * rate + 0.001 * rng.normal()
        lines.append({"epoch": epoch, "val_f": score, "train_f": score + train})
    return lines


def searched(truth: str, way: str, trials: int, seed: int) -> optuna.Study:
    """A search in memory, asked, pruned, revived and told as a worker does it."""
    import numpy as np
    import optuna

    from search.strategy.forecast.priors import forecast_of_study
    from search.strategy.loading import set_sampler_and_pruner
    from search.strategy.revival import revival_row, trial_to_revive
    from search.study.attributes import SETUP, TOTAL
    from search.study.search_space import distribution
    from search.study.training_metrics import metrics
    from storage.optuna_internals import id_of_study, storage_of

    setup = setup_of(way, seed)
    study = optuna.create_study(study_name=setup.name, direction="maximize")
    study.set_user_attr(SETUP, setup.to_json())
    study.set_user_attr(TOTAL, trials)
    set_sampler_and_pruner(study, setup)
    forecast = forecast_of_study(study, setup)
    spaces = {name: distribution(spec) for name, spec in setup.specs().items()}
    rng = np.random.default_rng([seed, TRUTHS.index(truth), WAYS.index(way)])
    kept: dict[int, tuple[list[dict[str, Any]], dict[str, Any]]] = {}

    def train(trial: optuna.Trial, after: int = 0) -> None:
        history, parts = kept[trial.number]
        pruned = False
        for line in history[after:]:
            trial.report(line["val_f"], line["epoch"])
            if pruned := trial.should_prune():
                break
        told = metrics(history[: line["epoch"]], dice_weight=trial.params["dice_weight"])
        for name, value in {**told, **parts}.items():
            trial.set_user_attr(name, value)
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, max(line["val_f"] for line in history[after:]))

    def revive() -> None:
        while way != "random":
            rows = study.get_trials(deepcopy=False)
            number = trial_to_revive(
                rows, forecast, epochs=EPOCHS, total=trials, limit=None, risk=setup.prune_risk
            )
            if number is None:
                return
            parked = rows[number]
            row_id = storage_of(study).create_new_trial(id_of_study(study), revival_row(parked))
            kept[len(rows)] = kept[number]
            train(optuna.Trial(study, row_id), max(parked.intermediate_values))

    for _ in range(trials):
        revive()
        trial = study.ask(spaces)
        history = curves(trial.params, truth, rng)
        parts = {"f_large": 0.9 + 0.004 * rng.normal(), "f_small": 0.6 + NOISE * rng.normal()}
        kept[trial.number] = history, {**parts, "seed": int(rng.integers(2**31))}
        train(trial)
    revive()
    return study


Sentences = Mapping[str, tuple[str, str]]


def claimed(said: Mapping[str, list[str]], sentences: Sentences = CLAIMS) -> list[bool]:
    """Which sentences a report has, in their order. said: topic -> sentences."""
    return [
        any(re.search(pattern, text) for text in said.get(topic, []))
        for topic, pattern in sentences.values()
    ]


def names_of(truth: str) -> tuple[str, ...]:
    """What `one_search` counts, for each thing that a report may rest on."""
    return (*ROWS, *TRUE.get(truth, {}))


def one_search(truth: str, way: str, trials: int, seed: int) -> list[float]:
    """Which sentences the report of one search has, from the complete trials and from all judged.

    The numbers of `names_of`, once for `COMPLETE` and once for `ALL`.
    """
    from search.results.evidence import Evidence
    from search.results.findings.every_finding import findings
    from search.results.reading import results_of

    results = results_of(searched(truth, way, trials, seed))
    row: list[float] = []
    for seen in (dataclasses.replace(results, expected_ends=None), results):
        said = findings(Evidence(seen))
        row += [*claimed(said), len(results.complete()), *claimed(said, TRUE.get(truth, {}))]
    return row


Column = tuple[str, str, str]


def claims_table(table: Mapping[Column, Mapping[str, Estimate]]) -> str:
    """A row a claim, a column a truth, way of drawing and what it rests on; shares in percent."""
    return markdown(
        ["", *(", ".join(column) for column in table)],
        ([name, *(_cell(name, column[name]) for column in table.values())] for name in ROWS),
    )


def power_table(table: Mapping[Column, Mapping[str, Estimate]]) -> str:
    """A row a true sentence, a column a way of drawing and what it rests on; in percent."""
    columns = list(dict.fromkeys(key[1:] for key in table))
    rows = [
        [
            f"{truth}: {name}",
            *(_cell(name, table[truth, *column][name]) for column in columns),
        ]
        for truth, sentences in TRUE.items()
        if (truth, *columns[0]) in table
        for name in sentences
    ]
    return markdown(["", *(", ".join(column) for column in columns)], rows)


def _cell(name: str, one: Estimate) -> str:
    scale = 1 if name == ROWS[-1] else 100
    return Estimate(one.mean, one.error or None).text(1, scale)


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
    table: dict[Column, dict[str, Estimate]] = {}
    for place, (truth, way) in enumerate(kinds):
        own = np.array(rows[place * args.studies : (place + 1) * args.studies])
        halves = np.split(own, 2, axis=1)
        for basis, half in zip((COMPLETE, ALL), halves, strict=True):
            # at random nothing is pruned: both are one
            if way != "random" or basis == ALL:
                found = estimates(half)
                table[truth, way, basis] = dict(zip(names_of(truth), found, strict=True))
    false = {key: column for key, column in table.items() if key[0] == NOTHING}
    print(f"{args.studies} searches of {args.trials} trials each")
    print(f"\nFalse sentences\n\n{claims_table(false)}")
    print(f"\nTrue sentences\n\n{power_table(table)}")
    columns = [
        {"truth": truth, "way": way, "basis": basis, "said": column}
        for (truth, way, basis), column in table.items()
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
