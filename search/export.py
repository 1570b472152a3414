"""A trial as YAML for the trainer: `python -m search.export --out best.yaml`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.names import STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

EXAMPLES = """\
examples:
  python -m search.export --out best.yaml
  python -m trainer.train --config best.yaml                 the same score again
  python -m trainer.train --config best.yaml --preset full   its values at full size
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.export", description=__doc__, epilog=EXAMPLES)
    it.add_argument("--study", metavar="NAME", help="(default: the one with the latest activity)")
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--trial", type=int, metavar="N", help="trial number (default: the best complete one)"
    )
    it.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    # after the arguments: --help need not wait for Optuna and SQLAlchemy
    from storage import StorageError

    return guarded(lambda: _main(args, words), errors=(StorageError,))


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    from search.names import latest_study
    from search.study import load_study
    from storage import open_storage, redact_words
    from trainer.files import atomic_write_text

    storage = open_storage(args.storage, create=False)
    name = args.study
    if name is None:
        name = latest_study(storage)
        print(f"study {name} (the latest; another: --study NAME)", file=sys.stderr)
    study = load_study(storage, name)
    trial = _chosen(study, args.trial)
    command = ["python", "-m", "search.export", *redact_words(words)]
    text = exported(study, trial, command=shlex.join(command))
    if args.out is None:
        sys.stdout.write(text)
    else:
        atomic_write_text(args.out, text)
        print(f"trial {trial.number} of {name} is in {args.out}", file=sys.stderr)
    return 0


def exported(study: optuna.Study, trial: FrozenTrial, *, command: str) -> str:
    """The YAML that repeats a trial: its seed, its runtime, early stopping off, and its origin.

    Raises StudyError or ConfigError if the study or the trial does not hold what is needed.
    """
    from search.study import config_for, load_setup, search_record
    from trainer.config import to_yaml

    setup = load_setup(study)
    config = config_for(
        setup,
        trial.params,
        seed=trial.user_attrs["seed"],
        runtime=trial.user_attrs.get("runtime"),
    )
    record = search_record(setup, trial) | {"epochs": setup.epochs, "command": command}
    return to_yaml(config, record)


def _chosen(study: optuna.Study, number: int | None) -> FrozenTrial:
    """The trial asked for, or the answer of the study. Raises StudyError."""
    from search import lineage
    from search.study import StudyError

    trials = study.get_trials(deepcopy=False)
    if number is None:
        trial = lineage.best_of(trials)
        if trial is None:
            raise StudyError(
                f"study {study.study_name}: no trial is complete yet; wait for one, or name a"
                " pruned one with --trial N"
            )
    else:
        by_number = {trial.number: trial for trial in trials}
        if number not in by_number:
            raise StudyError(
                f"study {study.study_name}: --trial {number} does not exist; there are"
                f" {len(trials)}, counted from 0"
            )
        first = lineage.rows_of(trials, by_number[number])[0].number
        trial = next(one for one in lineage.merged(trials) if one.number == first)
    if "seed" not in trial.user_attrs:
        # also one that was told COMPLETE in the dashboard
        raise StudyError(
            f"study {study.study_name}: trial {trial.number} is {trial.state.name} and has never"
            " been trained; choose another with --trial N"
        )
    return trial


if __name__ == "__main__":
    sys.exit(main())
