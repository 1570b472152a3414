"""What pruning saves and what it loses, on recorded curves: `scripts/bench pruners`.

Studies drawn at random from a bank of whole curves are replayed under every rule, each rule on
the same studies (`replay`; the rules: `replay_rules`). For each rule, beside no
pruning on the same studies, with the standard error of a bootstrap over configurations:

  epochs_share   epochs trained, revivals included, of all epochs
  p_worse        chance that the answer is more than one seed standard deviation lower
  p_lose_strict  chance that the very best trial is not trained to its end
  regret_sd      how much lower the answer is, in seed standard deviations
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmarks import pool
from scripts.benchmarks.common import add_count, count, markdown, positive, write_figures
from scripts.benchmarks.pool import BANK, Estimate, run, spread
from trainer.cli import Parser
from trainer.errors import UserError
from trainer.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from scripts.benchmarks.replay import Curves, Outcome, Study

SIZES, STUDIES = (16, 40), 300
# a share of a rule's studies that one process replays at a stretch
_CHUNKS = 6

# rule -> figure -> mean and standard error
Table = dict[str, dict[str, Estimate]]
Values = Mapping[str, "np.ndarray"]


# --------------------------------------------------------------------------------------- replaying

# what the processes of a pool replay; set once in each, since it is large
_held: tuple[Sequence[Study], Curves] | None = None


def _hold(studies: Sequence[Study], curves: Curves) -> None:
    global _held
    _held = (studies, curves)
    pool.quiet()


def _replay(name: str, numbers: range) -> list[Outcome]:
    """Some of the held studies under one rule."""
    from scripts.benchmarks.replay import Replay, Setting, distributions_of, sample_of
    from scripts.benchmarks.replay_rules import grid, rules

    assert _held is not None, "_hold comes first"
    studies, curves = _held
    make = {**rules(), **grid()}[name]
    distributions, configurations = distributions_of(curves), sample_of(curves)
    outcomes = []
    for study in (studies[number] for number in numbers):
        epochs, total = len(study.curves[0].val_f), len(study.curves)
        setting = Setting(epochs, total, study.prior, configurations, study.seed)
        replay = Replay(study.curves, make(setting), distributions, name=f"replay-{study.seed}")
        outcomes.append(replay.run())
    return outcomes


def replayed(
    names: Sequence[str],
    studies: Sequence[Study],
    curves: Curves,
    *,
    workers: int,
) -> dict[str, list[Outcome]]:
    """Name of a rule -> its outcomes in the order of the studies. curves: drawn from."""
    step = -(-len(studies) // _CHUNKS)
    parts = [
        (name, range(first, min(first + step, len(studies))))
        for name in names
        for first in range(0, len(studies), step)
    ]
    outcomes = spread(
        _replay,
        parts,
        workers=workers,
        begin=functools.partial(_hold, studies, curves),
        text=f"{len(studies[0].curves)} trials",
    )
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for (name, _), part in zip(parts, outcomes, strict=True):
        found[name] += part
    return found


# ------------------------------------------------------------------------------------------- table


def ahead_of(ours: str, figures: Mapping[str, Values], member: np.ndarray) -> dict[str, bool]:
    """Rules with fewer epochs and a lower `p_worse` than ours at once -> whether that is a tie.

    It is one where either difference, study by study, lies within its standard error.
    """
    from scripts.benchmarks.replay import estimate

    found = {}
    for name, theirs in figures.items():
        less = [
            estimate(figures[ours][figure] - theirs[figure], member)
            for figure in ("epochs_share", "p_worse")
        ]
        if all(one.mean > 0 for one in less):
            found[name] = any(one.mean <= (one.error or 0.0) for one in less)
    return found


def table_text(table: Table) -> str:
    """The table as text: figures with their standard errors."""
    from scripts.benchmarks.replay import FIGURES

    rows = ([name, *(row[figure].text(3) for figure in FIGURES)] for name, row in table.items())
    return markdown(["rule", *FIGURES], rows)


def draw_front(tables: Mapping[int, Table], path: Path) -> None:
    """Regret against epochs, one panel for each size of study, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from scripts.benchmarks.replay_rules import OURS

    figure, axes = plt.subplots(
        1, len(tables), figsize=(8 * len(tables) + 4, 7), squeeze=False, layout="constrained"
    )
    for axis, (size, table) in zip(axes[0], tables.items(), strict=True):
        points = {name: (row["epochs_share"], row["regret_sd"]) for name, row in table.items()}
        for number, (name, (share, regret)) in enumerate(points.items(), 1):
            at = share.mean, regret.mean
            color = "tab:red" if name.startswith(OURS) else "tab:blue"
            axis.plot(*at, "o", color=color, label=f"{number}  {name}")
            bars = {"yerr": regret.error or 0, "xerr": share.error or 0}
            axis.errorbar(*at, **bars, color=color, elinewidth=0.6, alpha=0.5)
            axis.annotate(str(number), at, (5, 4), textcoords="offset points", color=color)
        front = _front([(share.mean, regret.mean) for share, regret in points.values()])
        axis.step(*zip(*front, strict=True), where="post", color="gray", linewidth=0.8, zorder=0)
        axis.set_title(f"studies of {size}")
        axis.set_xlabel("share of all epochs")
        axis.set_ylabel("regret in seed standard deviations")
        # rules that lose everything would flatten the rest
        axis.set_yscale("symlog", linthresh=1)
        ticks = [0, 0.25, 0.5, 0.75, 1, 2, 5, 10, 20]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ylim(-0.05, 1.2 * max(1.0, *(regret.mean for _, regret in points.values())))
    # numbered, since points lie close together
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other has fewer epochs and less regret than, by epochs."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


# --------------------------------------------------------------------------------- the command line


def read_sources(args: argparse.Namespace) -> tuple[Curves, Curves | None, float]:
    """The curves that are replayed, the prior (None: each study's own) and the seed deviation.

    Raises UserError.
    """
    from scripts.benchmarks.replay import halves
    from search.strategy.forecast.curve_banks import read_bank, seed_deviation

    bank = read_bank(args.bank)
    seed_sd = args.seed_sd or seed_deviation(bank)
    if not seed_sd:
        raise UserError(
            f"{args.bank}: no configuration was trained with several seeds, or all to the same"
            " score; give the seeds' standard deviation with --seed-sd"
        )
    curves, prior = bank, None
    if args.half is not None:
        parts = halves(bank)
        curves, prior = parts[args.half], parts["b" if args.half == "a" else "a"]
    elif args.bank.resolve() != BANK.resolve() and args.prior is None:
        prior = read_bank(BANK)
    if args.prior is not None:
        prior = () if args.prior == "none" else read_bank(Path(args.prior))
    return curves, prior, seed_sd


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Replay, print, and write what is asked for."""
    from scripts.benchmarks.replay import draw_studies, estimate, figures_of, membership
    from scripts.benchmarks.replay_rules import LEFT_OUT, NO_PRUNING, OURS, grid, rules

    pool.quiet()
    names = [NO_PRUNING, *grid()] if args.grid else list(rules())
    if unknown := set(args.only) - set(names):
        raise UserError(f"--only {unknown.pop()}: not one of {'; '.join(names)}")
    names = [name for name in names if not args.only or name in {NO_PRUNING, *args.only}]
    curves, prior, seed_sd = read_sources(args)
    sizes = args.trials or (SIZES if args.half is None else SIZES[:1])
    drawn = {
        size: draw_studies(curves, size=size, count=args.studies, seed=args.seed, prior=prior)
        for size in sizes
    }
    tables: dict[int, Table] = {}
    ahead: dict[int, dict[str, bool]] = {}
    for size, studies in drawn.items():
        outcomes = replayed(names, studies, curves, workers=args.workers)
        figures = {name: figures_of(own, studies, seed_sd) for name, own in outcomes.items()}
        member = membership(studies, curves)
        tables[size] = {
            name: {figure: estimate(values, member) for figure, values in own.items()}
            for name, own in figures.items()
        }
        print(f"{args.studies} studies of {size} trials, seed standard deviation {seed_sd:.4f}\n")
        print(f"{table_text(tables[size])}\n")
        if OURS in names:
            ahead[size] = ahead_of(OURS, figures, member)
            beaten = [f"{name}{' (a tie)' if tie else ''}" for name, tie in ahead[size].items()]
            print(f"fewer epochs and a lower p_worse than {OURS}: {', '.join(beaten) or 'none'}\n")
    for name, reason in ({} if args.grid else LEFT_OUT).items():
        print(f"{name} is left out: it {reason}")
    found = {
        "seed_sd": seed_sd,
        "studies": args.studies,
        "left_out": LEFT_OUT,
        "tables": tables,
        "ahead_of_ours": {
            size: {name: {"tie": tie} for name, tie in rules_ahead.items()}
            for size, rules_ahead in ahead.items()
        },
    }
    write_figures(args, "scripts/bench pruners", words, found)
    if args.picture is not None:
        draw_front(tables, args.picture)
    return 0


def parser() -> Parser:
    """The command line."""
    bank = "whole curves to replay (search/strategy/forecast/banks/README.md)"
    made = pool.parser("pruners", __doc__, bank=bank, seed="of the studies")
    add_count(made, "--studies", STUDIES, "studies of each size")
    add = made.add_argument
    add(
        "--half",
        choices=("a", "b"),
        help="draw from this half of the configurations only; the prior is the other half",
    )
    add(
        "--prior",
        metavar="FILE|none",
        help="curves from which rules may learn before a study begins; default: the other half;"
        " without --half those of the shipped bank, but for configurations of the study itself",
    )
    add(
        "--trials",
        type=count,
        nargs="+",
        metavar="N",
        help="trials of a study; default 16 and 40, of a half 16",
    )
    add(
        "--seed-sd",
        type=positive,
        metavar="SD",
        help="standard deviation between seeds; default: pooled over the bank's repeats",
    )
    add(
        "--grid",
        action="store_true",
        help="our own rule alone, under a grid of thresholds around those that ship",
    )
    add("--only", nargs="+", default=[], metavar="RULE", help="these rules, and no pruning")
    add("--picture", type=Path, metavar="FILE", help="draw regret against epochs as a PNG")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
