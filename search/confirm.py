"""Repeat configurations with fresh seeds until it is known which is better.

More seeds go to those that cannot be told apart yet; it ends when every two are told apart or are
equal for practical purposes, or at a cap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.execution.launchers.local import PrewarmedWorker
from search.study.attributes import SETUP
from search.study.names import RUNS, SEEDS, STORAGE
from trainer.cli import Parser, from_zero, guarded, progress_bar, whole
from trainer.streams import command_line

if TYPE_CHECKING:
    from search.confirmation.plan import Task
    from search.execution.live_view import View
    from storage import LeasedStorage

EXAMPLES = """\
examples:
  python -m search.confirm --compare dice_weight=1.0,1.5,2.0 --data FACES
                                        dice 1.0, 1.5 or 2.0, all else equal: which is better?
  python -m search.confirm              the 3 best configurations of the latest search
  python -m search.confirm --study faces-small-64 --top 5 --seeds 15

Ctrl-C ends it whenever you like, and the same command goes on: nothing is trained twice. So does
one with more --seeds.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.confirm", description=__doc__, epilog=EXAMPLES)
    it.add_argument(
        "--study",
        metavar="NAME",
        help="search whose best are repeated (default: the one with the latest activity); with"
        " --compare a name for the repeats (default: <data>-<preset>-<size>-<key>). They are kept"
        " in NAME-confirm",
    )
    it.add_argument(
        "--storage", default=STORAGE, metavar="URL", help=f"SQLite or PostgreSQL ({STORAGE})"
    )
    it.add_argument(
        "--runs", default=RUNS, metavar="DIR", help="checkpoints and artifacts (default: runs)"
    )
    what = it.add_mutually_exclusive_group()
    what.add_argument(
        "--top", type=whole(1), metavar="K", help="repeat the K best configurations (default: 3)"
    )
    what.add_argument(
        "--compare",
        metavar="KEY=V,V,..",
        help="repeat these values of one key of the config instead, all else equal",
    )
    it.add_argument("--config", type=Path, metavar="FILE", help="with --compare: YAML of all else")
    it.add_argument(
        "--data",
        metavar="DIR",
        help="faces and masks (default: the search's; with --compare the built-in faces)",
    )
    it.add_argument(
        "--preset",
        metavar="P",
        help="demo, small or full (default: the search's; with --compare what fits)",
    )
    it.add_argument(
        "--workers", metavar="N", help="trainings at a time, or auto (default): as search.run"
    )
    it.add_argument(
        "--seeds",
        type=whole(2),
        default=SEEDS,
        metavar="S",
        help=f"seeds of each configuration at most (default: {SEEDS})",
    )
    it.add_argument(
        "--budget",
        type=whole(1),
        metavar="EPOCHS",
        help="epochs of all repeats together at most (default: what --seeds takes)",
    )
    it.add_argument(
        "--margin",
        type=from_zero,
        default=1.0,
        metavar="SD",
        help="difference that counts as none, in standard deviations between seeds (default: 1)",
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    it = parser()
    args = it.parse_args(words)
    if args.config is not None and args.compare is None:
        it.error(f"--config {args.config}: a search's repeats take its own; add --compare KEY=V,V")
    run_args = _as_for_run(args)
    # its imports take as long as ours: both at the same time
    with PrewarmedWorker() as prewarmed:
        # after the arguments: --help need not wait for torch
        from storage import StorageError

        return guarded(lambda: _main(args, run_args, words, prewarmed), errors=(StorageError,))


def _as_for_run(args: argparse.Namespace) -> argparse.Namespace:
    """The same flags, as search.run understands them, the others at its defaults."""
    from search.run import parser as run_parser

    words = ["--storage", args.storage, "--runs", args.runs]
    for flag in ("data", "preset", "workers", "config"):
        if (value := getattr(args, flag)) is not None:
            words += [f"--{flag}={value}"]
    return run_parser().parse_args(words)


def _main(
    args: argparse.Namespace,
    run_args: argparse.Namespace,
    words: Sequence[str],
    prewarmed: PrewarmedWorker,
) -> int:
    import optuna
    from rich.console import Console

    from search.confirmation.runner import Repeating
    from search.execution.live_view import View
    from search.management.opening import open_study
    from search.reporting.dashboard_notes import Board
    from search.reporting.run_summary import command, commands
    from storage import redact_words

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    view = View(Console(), plain=False)
    storage, task = _planned(args, run_args, view)
    study = open_study(storage, task.setup)
    repeating = Repeating(args, run_args, storage, study, task, view)
    repeating.introduce()
    where = {"storage": args.storage, "runs": args.runs}
    export = command("search.export", **where, study=study.study_name)
    again = command_line([sys.executable, "-m", "search.confirm", *redact_words(words)])
    lines = commands(study.study_name, **where) | {
        "confirm": again,
        "export": f"{export} --confirmed --out best.yaml",
    }
    with Board(study, lines, view.say):
        code = repeating.train(prewarmed)
    if code == 0:
        repeating.score_images()
    repeating.conclude(lines)
    return code


def _planned(
    args: argparse.Namespace, run_args: argparse.Namespace, view: View
) -> tuple[LeasedStorage, Task]:
    """What is repeated, and the store; all is checked before anything is written."""
    from search.confirmation import plan
    from search.confirmation.runner import first_look
    from search.management.opening import refuse_orphans
    from search.run import check_writable
    from search.study.identity import refuse_direction, refuse_foreign
    from search.study.lookup import chosen_study, named_study
    from storage import open_storage
    from trainer.data.dataset import load_faces

    runs = Path(args.runs)
    if args.compare is not None:
        task = plan.compared(args.compare, run_args, args.study)
        first_look(args, task)
        check_writable(runs)
        storage = open_storage(args.storage, tell=view.say)
    else:
        storage = open_storage(args.storage, create=False, tell=view.say)
        name = chosen_study(storage, args.study, view.say)
        top = 3 if args.top is None else args.top
        task = plan.best_of(storage, name, top, root=args.data, preset=args.preset)
        first_look(args, task)
        check_writable(runs)
    if storage.warning is not None:
        view.say(f"note: {storage.warning}")
    name = task.setup.name
    if name in {study.study_name for study in storage.get_all_studies()}:
        mend = "give these repeats another name with --study NAME"
        if args.compare is None:
            mend = "delete that study in the dashboard, or give its --compare again"
        study = named_study(storage, name)
        if SETUP in study.user_attrs:
            refuse_direction(study, mend)
            task = plan.joined(task, study, mend)
        else:
            refuse_foreign(study, mend)
    refuse_orphans(storage, name, runs)
    settings = task.setup.base["data"]
    with progress_bar("decoding faces") as tick:
        # once, into the cache that the workers share
        load_faces(
            task.setup.data["root"],
            image_size=settings["image_size"],
            synthetic_images=settings["synthetic_images"],
            tick=tick,
        )
    return storage, task


if __name__ == "__main__":
    sys.exit(main())
