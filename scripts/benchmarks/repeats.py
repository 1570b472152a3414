"""How often repeated seeds mislead: `scripts/bench repeats`.

Simulated studies whose truth is known. The noise is skewed or not, and up to 3 times as large in
one configuration as in another. They are the best K of 20 by one noisy score each, as
`search.confirm` picks them; or all of one mean; or two of one mean and the others 2 deviations
lower. Then they are repeated with fresh noise.

  sequential  intervals as search.confirm uses it: 3 seeds each, then one more at every look
              for those that cannot be told apart, 10 at most
  fixed N     intervals with N seeds each and one look
  rival       t tests of Welch at every look, without correction, and plain t intervals

  covered     share of the configurations' 95 % intervals that hold the true mean
  width       of these intervals, in standard deviations of the configuration's own noise
  wider       than the plain t intervals of the same scores, as a factor
  wrong       share of studies in which some "X beats Y" is false
  not equal   share of studies in which some "equal" is false: true means further apart than the
              margin, one standard deviation of the noise
  decided     share of the pairs that ended with a verdict
  seeds       for each configuration, on average

Behind ± the standard error over studies.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmarks import pool
from scripts.benchmarks.common import add_count, count, markdown, write_figures
from scripts.benchmarks.pool import Estimate, estimates, run, spread
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from search.results.statistics.intervals import Interval, Pair

    Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

Scores = dict[str, list[float]]
Judge = Callable[[Scores, int, int], "list[Pair]"]

STUDIES = 2000
FIRST, STEP, CAP, FIXED = 3, 1, 10, (3, 5, 10)
# candidates of the made-up search, and how far their means lie apart in deviations of the noise
CANDIDATES, APART = 20, 1.0
UNEQUAL = 3.0
ALPHA = 0.05
LOWER = 2.0
PICKED, TIED, LED = "best of 20", "all of one mean", "two lead"
FIGURES = ("covered", "width", "wider", "wrong", "not equal", "decided", "seeds")
# the constants of search.results.statistics.intervals were chosen on the first of these, and are
# reported on all
CHOSEN_ON = ("normal", "gamma", "gamma, left", "stuck", "exponential")
NOISES = (
    *CHOSEN_ON,
    *("lognormal", "lognormal, left", "Gumbel, left", "Weibull", "t of 5", "recorded"),
)


@dataclass(frozen=True)
class Scenario:
    """noise: one of NOISES. configurations: repeated ones. truth: PICKED, TIED or LED."""

    noise: str
    configurations: int
    truth: str

    def __str__(self) -> str:
        return f"{self.noise} noise, {self.configurations} configurations, {self.truth}"


@dataclass(frozen=True)
class Ended:
    """One study under one way of repeating."""

    scores: Scores
    pairs: Sequence[Pair]
    intervals: Mapping[str, Interval]


# ------------------------------------------------------------------------------------------- noise


def noises(bank: Path) -> dict[str, Draw]:
    """Name -> draws of mean 0 and variance 1. bank: whose repeated trainings are "recorded"."""
    import numpy as np

    def scaled(raw: Draw, mean: float, deviation: float) -> Draw:
        return lambda rng, size: (raw(rng, size) - mean) / deviation

    def stuck(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        # one training in ten ends three deviations lower
        return rng.normal(size=size) - 3 * (rng.random(size) < 0.1)

    def log_normal(sigma: float) -> Draw:
        mean = math.exp(sigma**2 / 2)
        deviation = mean * math.sqrt(math.expm1(sigma**2))
        return scaled(lambda rng, size: rng.lognormal(0, sigma, size), mean, deviation)

    def left(draw: Draw) -> Draw:
        return lambda rng, size: -draw(rng, size)

    gamma = scaled(lambda rng, size: rng.gamma(4, size=size), 4, 2)
    gumbel = scaled(lambda rng, size: rng.gumbel(size=size), np.euler_gamma, math.pi / math.sqrt(6))
    mean, square = math.gamma(1 + 1 / 1.5), math.gamma(1 + 2 / 1.5)
    known = recorded(bank)
    return {
        "normal": lambda rng, size: rng.normal(size=size),
        "gamma": gamma,
        "gamma, left": left(gamma),
        "stuck": scaled(stuck, -0.3, math.sqrt(1 + 9 * 0.1 * 0.9)),
        "exponential": lambda rng, size: rng.exponential(size=size) - 1,
        "lognormal": log_normal(0.35),
        "lognormal, left": left(log_normal(0.5)),
        "Gumbel, left": left(gumbel),
        "Weibull": scaled(
            lambda rng, size: rng.weibull(1.5, size), mean, math.sqrt(square - mean**2)
        ),
        "t of 5": scaled(lambda rng, size: rng.standard_t(5, size), 0, math.sqrt(5 / 3)),
        "recorded": lambda rng, size: rng.choice(known, size),
    }


def recorded(bank: Path) -> np.ndarray:
    """Best scores of repeated trainings less their configuration's mean, made standard [N].

    Raises UserError for a bank without repeats.
    """
    import numpy as np

    from search.strategy.forecast.curve_banks import read_bank

    by_config: dict[int, list[float]] = {}
    for curve in read_bank(bank):
        by_config.setdefault(curve.config, []).append(max(curve.val_f))
    apart = [
        np.subtract(own, np.mean(own)) * math.sqrt(len(own) / (len(own) - 1))
        for own in by_config.values()
        if len(own) > 1
    ]
    if not apart:
        raise UserError(f"{bank}: no configuration has two seeds; name a bank with repeats")
    values = np.concatenate(apart)
    return np.asarray((values - values.mean()) / values.std())


# ----------------------------------------------------------------------------------------- studies


def truths(
    scenario: Scenario, draw: Draw, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """True means and deviations, each [configurations], of those that are repeated."""
    import numpy as np

    count = scenario.configurations
    if scenario.truth == PICKED:
        spread_out = UNEQUAL ** rng.uniform(-0.5, 0.5, CANDIDATES)
        means = APART * rng.normal(size=CANDIDATES)
        best = np.argsort(-(means + spread_out * draw(rng, (CANDIDATES,))))[:count]
        return means[best], spread_out[best]
    deviations = rng.permutation(UNEQUAL ** np.linspace(-0.5, 0.5, count))
    lower = LOWER if scenario.truth == LED else 0.0
    return np.where(np.arange(count) < 2, 0.0, -lower), deviations


def repeated(draws: Mapping[str, Sequence[float]], judge: Judge, *, first: int) -> Ended:
    """A study that is looked at from `first` seeds each on. draws: name -> scores, seed by seed."""
    from search.results.statistics.intervals import interval
    from search.results.statistics.sequential_plan import look_at, next_seeds

    looks = look_at(CAP, first=first, step=STEP)
    scores = {name: list(own[:first]) for name, own in draws.items()}
    look = 1
    while True:
        pairs = judge(scores, look, looks)
        more = next_seeds(scores, pairs, cap=CAP, step=STEP)
        if not more:
            intervals = {name: interval(own, looks=looks) for name, own in scores.items()}
            return Ended(scores, pairs, {name: it for name, it in intervals.items() if it})
        for name, extra in more.items():
            scores[name] = list(draws[name][: len(scores[name]) + extra])
        look += 1


def ways(draws: Mapping[str, Sequence[float]]) -> dict[str, Ended]:
    """The same scores under every way of repeating."""
    from search.results.statistics.intervals import compare, interval

    def ours(scores: Scores, look: int, looks: int) -> list[Pair]:
        return compare(scores, look=look, looks=looks, alpha=ALPHA)

    found = {"sequential": repeated(draws, ours, first=FIRST)}
    for seeds in FIXED:
        scores = {name: list(own[:seeds]) for name, own in draws.items()}
        intervals = {name: interval(own) for name, own in scores.items()}
        found[f"fixed {seeds}"] = Ended(
            scores, ours(scores, 1, 1), {name: it for name, it in intervals.items() if it}
        )
    rival = repeated(draws, welch, first=FIRST)
    found["Welch at every look"] = replace(
        rival, intervals={name: t_interval(own) for name, own in rival.scores.items()}
    )
    return found


# ------------------------------------------------------------------------------------------ rivals


def t_interval(scores: Sequence[float]) -> Interval:
    """The textbook's 95 % interval."""
    from search.results.statistics.intervals import Interval

    mean, variance = moments(scores)
    reach = math.sqrt(variance / len(scores)) * quantile(len(scores) - 1)
    return Interval(mean, mean - reach, mean + reach)


def moments(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and variance."""
    mean = math.fsum(scores) / len(scores)
    return mean, math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)


def quantile(freedom: float) -> float:
    """Of t, for 5 % on both sides together."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - ALPHA / 2))


def welch(scores: Scores, look: int, looks: int) -> list[Pair]:
    """Every pair at every look as if it were the only one, by Welch's t test."""
    from search.results.statistics.intervals import Pair, Verdict, seed_deviation

    margin = seed_deviation(scores)
    assert margin is not None, "each has two seeds or more"
    pairs = []
    for a, b in combinations(scores, 2):
        (mean, variance), (others_mean, others_variance) = moments(scores[a]), moments(scores[b])
        n, m = len(scores[a]), len(scores[b])
        own, others = variance / n, others_variance / m
        freedom = (own + others) ** 2 / (own**2 / (n - 1) + others**2 / (m - 1))
        difference, reach = mean - others_mean, math.sqrt(own + others) * quantile(freedom)
        low, high = difference - reach, difference + reach
        verdict: Verdict | None = "first" if low > 0 else "second" if high < 0 else None
        if verdict is None and -margin <= low and high <= margin:
            verdict = "equal"
        pairs.append(Pair(a, b, difference, low, high, verdict))
    return pairs


# ------------------------------------------------------------------------------------------ figures


def figures(ended: Ended, means: Mapping[str, float], sds: Mapping[str, float]) -> list[float]:
    """One study's FIGURES. means, sds: the truth."""
    held = [it.low <= means[name] <= it.high for name, it in ended.intervals.items()]
    widths = [(it.high - it.low) / sds[name] for name, it in ended.intervals.items()]
    plain = [t_interval(own) for own in ended.scores.values()]
    wider = math.fsum(it.high - it.low for it in ended.intervals.values()) / math.fsum(
        it.high - it.low for it in plain
    )
    margin = math.sqrt(math.fsum(sd**2 for sd in sds.values()) / len(sds))
    wrong = not_equal = False
    for pair in ended.pairs:
        apart = means[pair.first] - means[pair.second]
        wrong |= pair.verdict == "first" and apart <= 0
        wrong |= pair.verdict == "second" and apart >= 0
        not_equal |= pair.verdict == "equal" and abs(apart) > margin
    decided = sum(pair.verdict is not None for pair in ended.pairs) / len(ended.pairs)
    seeds = sum(map(len, ended.scores.values())) / len(ended.scores)
    covered, width = sum(held) / len(held), sum(widths) / len(widths)
    return [covered, width, wider, wrong, not_equal, decided, seeds]


def simulated(
    scenario: Scenario, studies: int, seed: int, bank: Path
) -> dict[str, dict[str, Estimate]]:
    """Way of repeating -> figure -> estimate over the studies."""
    import numpy as np

    draw = noises(bank)[scenario.noise]
    # by name, so that a scenario is the same whichever others run
    rng = np.random.default_rng([seed, *str(scenario).encode()])
    rows: dict[str, list[list[float]]] = {}
    for _ in range(studies):
        means, sds = truths(scenario, draw, rng)
        names = [f"c{number}" for number in range(len(means))]
        scores = means[:, None] + sds[:, None] * draw(rng, (len(means), CAP))
        draws = dict(zip(names, scores.tolist(), strict=True))
        true = dict(zip(names, means.tolist(), strict=True))
        spreads = dict(zip(names, sds.tolist(), strict=True))
        for way, ended in ways(draws).items():
            rows.setdefault(way, []).append(figures(ended, true, spreads))
    return {
        way: dict(zip(FIGURES, estimates(np.array(own, dtype=float)), strict=True))
        for way, own in rows.items()
    }


def table_text(table: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The table as text; shares in percent."""

    def cell(figure: str, one: Estimate) -> str:
        return one.text(2) if figure in ("width", "wider", "seeds") else one.text(1, 100)

    rows = ([way, *(cell(name, row[name]) for name in FIGURES)] for way, row in table.items())
    return markdown(["", *FIGURES], rows)


# --------------------------------------------------------------------------------- the command line


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Simulate, print, and write what is asked for."""
    if (least := min(args.configurations)) < 2:
        raise UserError(f"--configurations {least}: give 2 or more, to have a pair")
    recorded(args.bank)
    scenarios = [
        Scenario(noise, configurations, truth)
        for noise in args.noise
        for configurations in args.configurations
        for truth in (PICKED, TIED, LED)
        # of two, nobody follows
        if (configurations, truth) != (2, LED)
    ]
    jobs = [(scenario, args.studies, args.seed, args.bank) for scenario in scenarios]
    tables = spread(simulated, jobs, workers=args.workers, text="scenarios")
    for scenario, table in zip(scenarios, tables, strict=True):
        print(f"{scenario}\n\n{table_text(table)}\n")
    rows = [
        {**vars(scenario), "ways": table} for scenario, table in zip(scenarios, tables, strict=True)
    ]
    found = {"studies": args.studies, "scenarios": rows}
    write_figures(args, "scripts/bench repeats", words, found)
    return 0


def parser() -> Parser:
    """The command line."""
    bank = "recorded curves whose noise is one of the families"
    made = pool.parser("repeats", __doc__, bank=bank, seed="of the studies")
    add_count(made, "--studies", STUDIES, "of each scenario")
    made.add_argument(
        "--configurations",
        type=count,
        nargs="+",
        default=(2, 3, 5),
        metavar="K",
        help="that are repeated; default 2, 3 and 5",
    )
    made.add_argument(
        "--noise",
        nargs="+",
        choices=NOISES,
        default=NOISES,
        metavar="NAME",
        help=f"families of noise; default all: {'; '.join(NOISES)}",
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
