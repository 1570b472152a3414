"""What the answer of a study is truly worth: `scripts/bench truth`.

Closed-loop studies of real trainings of several families (`scripts/benchmarks/families`), none of
which this project was made for. Every answer is trained again with fresh seeds; its true mean is
held against the best configuration known of the family, in standard deviations between seeds. All
arms begin with the same random configurations, and the n-th training of a study has the same seed.

  epochs    share of the epochs that whole trials would have taken
  score     true mean of the expected answer at the end
  regret    of the answer at the end; highest: the trial with the highest score is the answer;
            expected: the one with the best expected mean; at 0.4: of the latter after that share
            of the epochs
  too high  by how much the score that is told of the answer lies above its true mean
  gain      over whole trials under the same sampler, ended at as many epochs; over all of them
  worse     share of the studies whose answer is more than one deviation below that of whole trials

Behind ± is the standard error over studies. Rules are chosen with `--half tuning`, and told with
`--half figures`: other data, other seeds, other tables.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import pool
from scripts.benchmarks.common import add_count, markdown, write_figures
from scripts.benchmarks.families import GROUPS, HALVES
from scripts.benchmarks.pool import Estimate, run, spread
from trainer.cli import Parser

if TYPE_CHECKING:
    from scripts.benchmarks.families import Family
    from scripts.benchmarks.truth_studies import Chosen

TRIALS, STUDIES = 40, 24
# of the epochs of whole trials: where answers are looked at, and those of `WHOLE`
SHARES, SHARES_OF_WHOLE = (0.4,), (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
END = math.inf
HIGHEST, EXPECTED = RULES = ("highest", "expected")
# so many studies are played side by side
_TOGETHER = 12
WHOLE = "no pruning"
# what each arm has in place of what ships; the one that the others are compared with first
ARMS: Mapping[str, Mapping[str, Any]] = {
    WHOLE: {"pruner": "none"},
    "as shipped": {},
    "risk 0.05": {"risk": 0.05},
    "no revival": {"revive": False},
    "no prior": {"prior": False},
    "median": {"pruner": "median"},
    "successive halving": {"pruner": "successive-halving"},
    "Optuna's TPE, median": {"sampler": "tpe", "pruner": "median", "view": False},
    "Optuna's GP, median": {"pruner": "median", "view": False},
    "random": {"sampler": "random", "pruner": "none"},
}


@dataclass(frozen=True)
class Scored:
    """One study. epochs: the share that it took.

    true, told: rule -> share of the epochs, or `END` -> of the answer at that time; NaN before the
    first one.
    """

    family: str
    number: int
    epochs: float
    true: Mapping[str, Mapping[float, float]]
    told: Mapping[str, Mapping[float, float]]


@dataclass(frozen=True)
class Batch:
    """What one process played: its studies, the best true mean, and the variance between seeds."""

    arm: str
    studies: Sequence[Scored]
    best: float
    variance: float


def _batch(name: str, half: str, arm: str, trials: int, numbers: Sequence[int], seed: int) -> Batch:
    from scripts.benchmarks.families import family
    from scripts.benchmarks.truth_studies import Arm, play, seed_variance, true_scores
    from search.strategy.samplers import draw_seed

    made = family(name, half)
    begun = draw_seed(seed, HALVES.index(half))
    played = play(
        made, Arm(**ARMS[arm]), total=trials, seeds=[draw_seed(begun, number) for number in numbers]
    )
    whole = trials * made.epochs
    at = [*(SHARES_OF_WHOLE if arm == WHOLE else SHARES), END]
    chosen = [
        {
            rule: {share: _answer_at(own, share * whole) for share in at}
            for rule, own in zip(RULES, (one.highest, one.expected), strict=True)
        }
        for one in played
    ]
    asked = {
        _key(it): it.params
        for one in chosen
        for own in one.values()
        for it in own.values()
        if it is not None
    }
    scores = true_scores(made, list(asked.values()))
    means = dict(zip(asked, scores.mean(axis=1).tolist(), strict=True))
    return Batch(
        arm,
        [
            Scored(
                name,
                number,
                one.epochs / whole,
                {
                    rule: {
                        share: math.nan if it is None else means[_key(it)]
                        for share, it in own[rule].items()
                    }
                    for rule in RULES
                },
                {
                    rule: {
                        share: math.nan if it is None else it.told
                        for share, it in own[rule].items()
                    }
                    for rule in RULES
                },
            )
            for number, one, own in zip(numbers, played, chosen, strict=True)
        ],
        max(means.values()),
        seed_variance(made, scores),
    )


def _key(chosen: Chosen) -> str:
    return json.dumps(chosen.params, sort_keys=True)


def _answer_at(answers: Sequence[Chosen], epochs: float) -> Chosen | None:
    return next((one for one in reversed(answers) if one.epochs <= epochs), None)


# ------------------------------------------------------------------------------------------ table


@dataclass(frozen=True)
class Row:
    """An arm in one group of families, in standard deviations between seeds but for `score`.

    score: true mean of the expected answer at the end, in [0, 1]. regret, too_high: rule -> of the
    answer at the end. early: regret of the expected answer at the first of `SHARES`. equal, whole:
    by how much the expected answer is better than that of `WHOLE` at as many epochs, and at its
    end. None: of no study that is known.
    """

    epochs: Estimate | None
    score: Estimate | None
    regret: Mapping[str, Estimate | None]
    early: Estimate | None
    too_high: Mapping[str, Estimate | None]
    equal: Estimate | None
    whole: Estimate | None
    worse: Estimate | None


def rows_of(batches: Sequence[Batch]) -> dict[str, Row]:
    """Arm -> row, of all that was played of one group."""
    import numpy as np

    best: dict[str, float] = {}
    variances: dict[str, list[float]] = {}
    for batch in batches:
        for name in {one.family for one in batch.studies}:
            best[name] = max(best.get(name, 0.0), batch.best)
            variances.setdefault(name, []).append(batch.variance)
    units = {name: math.sqrt(float(np.nanmedian(own))) for name, own in variances.items()}
    beside = {
        (one.family, one.number): one
        for batch in batches
        if batch.arm == WHOLE
        for one in batch.studies
    }

    def estimate(values: Sequence[float]) -> Estimate | None:
        known = np.array([value for value in values if not math.isnan(value)])
        if not len(known):
            return None
        error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else None
        return Estimate(float(known.mean()), None if error is None else float(error))

    found = {}
    for arm in dict.fromkeys(batch.arm for batch in batches):
        own = [one for batch in batches if batch.arm == arm for one in batch.studies]

        def regret(it: Scored, rule: str, share: float = END) -> float:
            return (best[it.family] - it.true[rule][share]) / units[it.family]

        def over(one: Scored, other: float) -> float:
            return (one.true[EXPECTED][END] - other) / units[one.family]

        pairs = [(one, beside[one.family, one.number]) for one in own]
        equal = [over(one, _at_share(it, one.epochs)) for one, it in pairs]
        whole = [over(one, it.true[EXPECTED][END]) for one, it in pairs]
        found[arm] = Row(
            estimate([one.epochs for one in own]),
            estimate([one.true[EXPECTED][END] for one in own]),
            {rule: estimate([regret(it, rule) for it in own]) for rule in RULES},
            estimate([regret(it, EXPECTED, SHARES[0]) for it in own]),
            {
                rule: estimate(
                    [(it.told[rule][END] - it.true[rule][END]) / units[it.family] for it in own]
                )
                for rule in RULES
            },
            estimate(equal),
            estimate(whole),
            estimate([float(value < -1) for value in whole]),
        )
    return found


def _at_share(one: Scored, share: float) -> float:
    """The true mean of the expected answer at a share of the epochs; between two on a line."""
    import numpy as np

    known = one.true[EXPECTED]
    return float(np.interp(share, SHARES_OF_WHOLE, [known[it] for it in SHARES_OF_WHOLE]))


def group_text(rows: Mapping[str, Row]) -> str:
    """The table of one group."""
    columns = ["", "epochs", "score", *(f"regret, {rule}" for rule in RULES), f"at {SHARES[0]:g}"]
    columns += [*(f"too high, {rule}" for rule in RULES), "gain at equal epochs", "over all"]
    cells = (
        [
            *(arm, "-" if row.epochs is None else f"{row.epochs.mean:.2f}"),
            "-" if row.score is None else row.score.text(4),
        ]
        + [
            "-" if it is None else it.text(2)
            for it in (
                *(row.regret[rule] for rule in RULES),
                row.early,
                *(row.too_high[rule] for rule in RULES),
                row.equal,
                row.whole,
                row.worse,
            )
        ]
        for arm, row in rows.items()
    )
    return markdown([*columns, "worse"], cells)


# --------------------------------------------------------------------------------- the command line


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Play, score, print, and write what is asked for."""
    from scripts.benchmarks.families import family, groups

    known = groups(args.half)
    chosen = args.family or list(known)
    names = dict.fromkeys([WHOLE, *(args.arm or ARMS)])
    tables = {}
    for group in chosen:
        families = known[group]
        jobs: list[tuple[Any, ...]] = []
        for arm in _telling(names, family(families[0], args.half)):
            for turn, name in enumerate(families):
                numbers = range(turn, args.studies, len(families))
                for begin in range(0, len(numbers), _TOGETHER):
                    part = list(numbers[begin : begin + _TOGETHER])
                    jobs.append((name, args.half, arm, args.trials, part, args.seed))
        # a group takes an hour: what is known is told before the next one begins
        tables[group] = rows_of(spread(_batch, jobs, workers=args.workers, text=group))
        print(f"{group}\n\n{group_text(tables[group])}\n", flush=True)
    found = {"half": args.half, "studies": args.studies, "trials": args.trials, "tables": tables}
    write_figures(args, "scripts/bench truth", words, found)
    return 0


def _telling(names: Iterable[str], made: Family) -> list[str]:
    """Arms that differ: where there are no curves nothing is pruned."""
    if made.epochs > 1:
        return list(names)
    first: dict[Any, str] = {}
    for name in names:
        own = ARMS[name]
        first.setdefault((own.get("sampler", "gp"), own.get("view", True)), name)
    return list(first.values())


def parser() -> Parser:
    """The command line."""
    made = pool.parser("truth", __doc__, seed="of the studies")
    made.add_argument(
        "--half", choices=HALVES, default=HALVES[-1], help="data, seeds and tables; default figures"
    )
    made.add_argument(
        "--family",
        action="append",
        choices=GROUPS,
        metavar="NAME",
        help=f"one of {'; '.join(GROUPS)}: may be repeated; default all",
    )
    made.add_argument(
        "--arm",
        action="append",
        choices=list(ARMS),
        metavar="NAME",
        help=f"one of {'; '.join(ARMS)}: may be repeated; default all; {WHOLE} always",
    )
    add_count(made, "--studies", STUDIES, "of each group and arm")
    add_count(made, "--trials", TRIALS, "of a study")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    raise SystemExit(main())
