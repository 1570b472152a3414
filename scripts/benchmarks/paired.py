"""What pruning saves in a real search: the same trials twice. `scripts/bench paired`.

Draws configurations at random, with a seed each, and runs them twice with search.run from one
`--enqueue` file: without pruning, and with the default pruner and revival. Each has a store of its
own, so that neither learns from the other. The same command goes on after an interruption; time is
counted while a search runs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.common import (
    add_count,
    add_json,
    markdown,
    passing_on,
    refuse_own_flags,
    tell,
    write_figures,
)
from trainer.cli import Parser, guarded
from trainer.files import atomic_write_text

EPILOG = """\
Every other flag is one of search.run and goes to both searches as it is: --data, --preset,
--workers and so on.

example:
  scripts/bench paired --folder paired --data FACES --preset small
"""
ARMS = ("none", "restart-aware")
# what makes the two searches comparable
_OURS = ("--trials", "--study", "--storage", "--runs", "--enqueue", "--no-priors", "--pruner")


def enqueue_file(folder: Path, trials: int, epochs: int, seed: int) -> Path:
    """The trials as a file for `--enqueue`; an existing one stays as it is."""
    import yaml

    import space
    from search.study.drawing import drawn

    path = folder / "trials.yaml"
    if not path.exists():
        rng, specs = random.Random(seed), space.concrete(space.SPACE, epochs)
        entries = [
            {"params": drawn(specs, rng.random), "seed": rng.getrandbits(31)} for _ in range(trials)
        ]
        atomic_write_text(path, yaml.safe_dump(entries, sort_keys=False))
    return path


@dataclass
class Clock:
    """Seconds that an arm has run, over all calls, and whether it has ended; kept in a file."""

    path: Path
    seconds: float = 0.0
    ended: bool = False

    @classmethod
    def of(cls, folder: Path, arm: str) -> Clock:
        path = folder / f"{arm}.json"
        return cls(path, **(json.loads(path.read_text()) if path.exists() else {}))

    def save(self) -> None:
        kept = {"seconds": self.seconds, "ended": self.ended}
        atomic_write_text(self.path, json.dumps(kept) + "\n")


def search(folder: Path, arm: str, trials: int, asked: Path, flags: Sequence[str]) -> int:
    """Run one arm to its end, unless it has come there; the exit code."""
    clock = Clock.of(folder, arm)
    if clock.ended:
        return 0
    command = [sys.executable, "-m", "search.run", "--trials", str(trials), "--study", arm]
    command += ["--storage", _store(folder, arm), "--runs", str(folder / arm)]
    command += ["--enqueue", str(asked), "--no-priors", "--pruner", arm, "--plain", *flags]
    began = time.monotonic()
    try:
        code = passing_on(command, stdout=sys.stderr)
    finally:
        clock.seconds += time.monotonic() - began
        clock.save()
    clock.ended = code == 0 and outcome(folder, arm)["finished"] >= trials
    clock.save()
    return code


def _store(folder: Path, arm: str) -> str:
    return f"sqlite:///{folder / arm / 'search.db'}"


def outcome(folder: Path, arm: str) -> dict[str, Any]:
    """Answer, finished and pruned trials, epochs and seconds of an arm."""
    import optuna
    from optuna.trial import TrialState

    from search.study import lineages
    from search.study.lineages import revivals
    from storage import open_storage

    study = optuna.load_study(study_name=arm, storage=open_storage(_store(folder, arm)))
    rows = study.get_trials(deepcopy=False)
    best, done = lineages.best_of(rows), lineages.finished(rows)
    again = revivals(rows)
    return {
        "answer": None if best is None else best.value,
        "trial": None if best is None else best.number,
        "finished": len(done),
        "pruned": sum(row.state == TrialState.PRUNED for row in done),
        "revived": len({lineages.rows_of(rows, row)[0].number for row in again}),
        "epochs": sum(len(row.intermediate_values) for row in [*done, *again]),
        "seconds": Clock.of(folder, arm).seconds,
    }


def bench(args: argparse.Namespace, flags: list[str], words: list[str]) -> int:
    """Run both arms, print and write what came of them."""
    refuse_own_flags(flags, _OURS, "the bench")
    folder = args.folder
    for arm in ARMS:
        (folder / arm).mkdir(parents=True, exist_ok=True)
    asked = enqueue_file(folder, args.trials, args.epochs, args.seed)
    for arm in ARMS:
        tell(f"--pruner {arm}")
        code = search(folder, arm, args.trials, asked, ["--epochs", str(args.epochs), *flags])
        if code == 130:
            tell("interrupted; the same command goes on")
        if code != 0:
            return code
    results = {arm: outcome(folder, arm) for arm in ARMS}
    if any(one["finished"] < args.trials for one in results.values()):
        tell("interrupted; the same command goes on")
        return 1
    whole, pruned = (results[arm] for arm in ARMS)
    counts = ("trial", "pruned", "revived", "epochs")
    rows = [
        [
            *(arm, f"{one['answer']:.4f}", *(str(one[name]) for name in counts)),
            f"{one['seconds'] / 60:.1f}",
        ]
        for arm, one in results.items()
    ]
    print(markdown(["pruner", "answer", *counts, "minutes"], rows))
    print(
        f"answer {pruned['answer'] - whole['answer']:+.4f},"
        f" epochs {pruned['epochs'] / whole['epochs']:.2f},"
        f" time {pruned['seconds'] / whole['seconds']:.2f}"
    )
    write_figures(args, "scripts/bench paired", words, {"arms": results})
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench paired", description=__doc__, epilog=EPILOG)
    it.add_argument("--folder", type=Path, required=True, metavar="DIR", help="of both searches")
    add_count(it, "--trials", 40)
    add_count(it, "--epochs", 24, "budget of a trial")
    it.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    add_json(it)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args, flags = parser().parse_known_args(words)
    from storage import StorageError

    return guarded(lambda: bench(args, flags, words), errors=(StorageError,))


if __name__ == "__main__":
    sys.exit(main())
