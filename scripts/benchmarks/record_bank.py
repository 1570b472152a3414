"""Record whole training curves of points of the search space into a bank. `scripts/record_bank`.

First CONFIGS random configurations, none pruned; then REPEATS of them, half of these the best and
half drawn, are trained again with SEEDS other seeds each. The curves are what the pruner starts
from and what its bench replays: see search/strategy/forecast/banks/README.md.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import add_count, passing_on, refuse_own_flags, tell
from search.study.names import STORAGE
from trainer.cli import Parser, guarded, whole
from trainer.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from search.management.enqueue import Request
    from search.strategy.forecast.curve_banks import Recorded
    from search.study.setup import Setup

EPILOG = """\
Every other flag is one of search.run and goes to it as it is: --data, --preset, --config, --epochs,
--range, --seed, --runs, --workers, --device, --timeout, --plain and so on.

The same command goes on after an interruption, and more than one may run on one store.

examples:
  scripts/record_bank --data FACES --preset small --out bank.json
  scripts/record_bank --collect --study bank --out bank.json     what is recorded so far
"""
# what makes a recording one, and the study's own queue and end
_OURS = ("--trials", "--sampler", "--pruner", "--no-priors", "--enqueue", "--from", "--stop-after")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/record_bank", description=__doc__, epilog=EPILOG)
    add_count(it, "--configs", 64, "configurations")
    it.add_argument(
        "--repeats",
        type=whole(0),
        default=12,
        metavar="N",
        help="configurations that are trained again with other seeds (default: 12)",
    )
    add_count(it, "--seeds", 2, "more seeds for each")
    it.add_argument("--study", default="bank", metavar="NAME", help="(default: bank)")
    it.add_argument(
        "--storage", default=STORAGE, metavar="URL", help=f"SQLite or PostgreSQL ({STORAGE})"
    )
    it.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bank, JSON")
    it.add_argument(
        "--collect",
        action="store_true",
        help="train nothing: write the trainings that the study has finished so far",
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 130 after Ctrl-C, 1 where it ended early."""
    args, flags = parser().parse_known_args(argv)
    # after the arguments: --help need not wait for Optuna
    from storage import StorageError

    return guarded(lambda: _main(args, flags), errors=(StorageError,))


def _main(args: argparse.Namespace, flags: Sequence[str]) -> int:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check(args, flags)
    if not args.collect:
        code = recorded(args, flags)
        if code != 0:
            return code
    return collect(args)


def _check(args: argparse.Namespace, flags: Sequence[str]) -> None:
    if args.repeats > args.configs:
        raise UserError(
            f"--repeats {args.repeats} of --configs {args.configs}: only what was trained can be"
            " repeated; give at most that"
        )
    if args.collect and flags:
        raise UserError(f"{flags[0]}: --collect trains nothing; leave it out")
    refuse_own_flags(flags, _OURS, "a recording")


# ----------------------------------------------------------------------------------- the trainings


def recorded(args: argparse.Namespace, flags: Sequence[str]) -> int:
    """Train what the bank still lacks; 0 once it lacks nothing, else the code to end with."""
    # a run for fewer than another one has asked for would send that one's workers home
    code = trained(args, flags, args.configs + len(repeats(rows_of(args))))
    if code != 0:
        return code
    enqueue_repeats(args)
    rows = rows_of(args)
    return trained(args, flags, len(originals(rows)) + len(repeats(rows)))


def trained(args: argparse.Namespace, flags: Sequence[str], total: int) -> int:
    """Let the study reach `total` finished trials; search.run's code, 1 where it ended early."""
    from search.study.lineages import finished

    if len(finished(rows_of(args))) >= total:
        return 0
    command = [sys.executable, "-m", "search.run", *flags]
    command += ["--study", args.study, "--storage", args.storage, "--trials", str(total)]
    command += ["--sampler", "random", "--pruner", "none", "--no-priors"]
    code = passing_on(command)
    done = len(finished(rows_of(args)))
    if code == 0 and done < total:
        code = 1
    if code in (1, 130):
        tell(f"{done} of {total} trainings have ended; the same command goes on")
    return code


def rows_of(args: argparse.Namespace) -> list[FrozenTrial]:
    """The study's trials; none where there is no study yet."""
    from storage import open_storage

    with closing(open_storage(args.storage)) as storage:
        try:
            study_id = storage.get_study_id_from_name(args.study)
        except KeyError:
            return []
        return storage.get_all_trials(study_id)


def originals(rows: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials of the random configurations, by number."""
    from search.study.attributes import ENQUEUED
    from search.study.lineages import finished

    return [row for row in finished(rows) if ENQUEUED not in row.user_attrs]


def repeats(rows: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials with other seeds, ended or not; failed ones have no place in the budget."""
    from optuna.trial import TrialState

    from search.study.attributes import ENQUEUED

    return [row for row in rows if ENQUEUED in row.user_attrs and row.state != TrialState.FAIL]


def enqueue_repeats(args: argparse.Namespace) -> None:
    """Put the trainings with other seeds in the queue, each once however often this is called."""
    from search.management.enqueue import enqueue
    from search.strategy.loading import load_study
    from search.study.lookup import load_setup
    from storage import open_storage

    with closing(open_storage(args.storage)) as storage:
        study = load_study(storage, args.study)
        setup = load_setup(study)
        rows = originals(rows_of(args))[: args.configs]
        chosen = to_repeat(rows, args.repeats, seed=setup.seed)
        enqueue(study, setup, requests(chosen, args.seeds), where="repeats")


def to_repeat(rows: Sequence[FrozenTrial], count: int, *, seed: int) -> list[FrozenTrial]:
    """The best of the COMPLETE rows, and as many of the others or one more, drawn at random.

    The same rows give the same ones. Fewer than `count` where fewer are COMPLETE.
    """
    from optuna.trial import TrialState

    complete = [row for row in rows if row.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda row: (-(row.value or 0.0), row.number))
    best = ranked[: count // 2]
    others = sorted(ranked[len(best) :], key=lambda row: row.number)
    drawn = random.Random(seed).sample(others, min(len(others), count - len(best)))
    return best + drawn


def requests(rows: Sequence[FrozenTrial], seeds: int) -> list[Request]:
    """The same configurations with `seeds` other seeds each."""
    from search.management.enqueue import Request
    from search.study.setup import trial_seed

    return [
        Request(
            dict(row.params),
            seed=trial_seed(row.user_attrs["seed"], number),
            note=f"repeat of trial {row.number}",
        )
        for row in rows
        for number in range(1, seeds + 1)
    ]


# ---------------------------------------------------------------------------------------- the bank


def collect(args: argparse.Namespace) -> int:
    """Write what the study holds; the exit code. Raises StudyError, UserError."""
    from search.strategy.forecast.curve_banks import write_bank
    from search.strategy.loading import load_study
    from search.study.lookup import load_setup
    from storage import open_storage

    with closing(open_storage(args.storage, create=False, read_only=True)) as storage:
        study = load_study(storage, args.study)
        setup, rows = load_setup(study), study.get_trials(deepcopy=False)
    curves, left_out = collected(setup, rows)
    if not curves:
        raise UserError(f"study {args.study}: no training has reached its end yet; record some")
    write_bank(args.out, curves)
    for line in left_out:
        print(line)
    print(f"{args.out}: {in_words(curves)}")
    return 0


def collected(setup: Setup, rows: Sequence[FrozenTrial]) -> tuple[list[Recorded], list[str]]:
    """The curves of the trials that were trained to their end, and lines on those that were not.

    Scores are rounded to 6 decimals, learning rates to 6 digits.
    """
    from optuna.trial import TrialState

    from search.strategy.forecast.curve_banks import Recorded
    from search.study.lineages import diverged, merged

    numbers: dict[tuple[tuple[str, Any], ...], int] = {}
    curves = []
    left_out: dict[str, list[str]] = {"diverged": [], "ended early": []}
    for row in merged(rows):
        if row.state == TrialState.COMPLETE and len(row.intermediate_values) == setup.epochs:
            key = tuple(sorted(row.params.items()))
            curves.append(
                Recorded(
                    config=numbers.setdefault(key, len(numbers)),
                    seed=row.user_attrs["seed"],
                    params=dict(row.params),
                    val_f=tuple(round(f, 6) for _, f in sorted(row.intermediate_values.items())),
                    lr=tuple(float(f"{rate:.6g}") for rate in learning_rates(setup, row)),
                )
            )
        elif row.state in (TrialState.COMPLETE, TrialState.PRUNED):
            left_out["diverged" if diverged(row) else "ended early"].append(str(row.number))
    return curves, [
        f"left out: {len(trials)} {why} (trial {', '.join(trials)})"
        for why, trials in left_out.items()
        if trials
    ]


def learning_rates(setup: Setup, row: FrozenTrial) -> list[float]:
    """Of each epoch's last step, as the trainer computes them."""
    from search.study.setup import trial_config
    from trainer.presets import steps_per_epoch
    from trainer.schedules import Schedules

    config = trial_config(row, setup)
    steps = steps_per_epoch(setup.data["train"], config.data.batch_size)
    schedules = Schedules(config, steps)
    return [schedules.lr(epoch * steps - 1) for epoch in range(1, config.training.epochs + 1)]


def in_words(curves: Sequence[Recorded]) -> str:
    """What a bank holds, in one line."""
    from search.strategy.forecast.curve_banks import seed_deviation

    by_config: dict[int, list[float]] = {}
    for curve in curves:
        by_config.setdefault(curve.config, []).append(max(curve.val_f))
    repeated = sum(len(values) > 1 for values in by_config.values())
    deviation = seed_deviation(curves)
    noise = "unknown" if deviation is None else f"{deviation:.4f} (pooled over {repeated})"
    return (
        f"{len(curves)} curves of {len(by_config)} configurations, {len(curves[0].val_f)} epochs;"
        f" seed SD {noise}; best {max(map(max, by_config.values())):.4f},"
        f" median of the configurations {median(map(fmean, by_config.values())):.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
