"""Repeat configurations with fresh seeds until it is known which is better.

More seeds go to those that cannot be told apart yet; it ends when every two are told apart or are
equal for practical purposes, or at a cap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from search.commands import (
    LOG,
    add_runs,
    add_storage,
    add_study,
    check_writable,
    messages,
    options_of,
    run_command,
    worker_count,
)
from search.execution.launchers.local import PrewarmedWorker
from search.execution.options import RunOptions
from search.study.names import SEEDS, STORAGE
from trainer.cli import Parser, from_zero, whole
from trainer.streams import command_line

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
    add_study(
        it,
        "search whose best are repeated (default: the one with the latest activity); with"
        " --compare a name for the repeats (default: <data>-<preset>-<size>-<key>). They are kept"
        " in NAME-confirm",
    )
    add_storage(it, f"SQLite or PostgreSQL ({STORAGE})")
    add_runs(it, "checkpoints and artifacts (default: runs)")
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
        "--workers",
        type=worker_count,
        metavar="N",
        help="trainings at a time, or auto (default): as search.run",
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
    # its imports take as long as ours: both at the same time
    with PrewarmedWorker() as prewarmed:
        return run_command(lambda: _main(args, words, prewarmed))


def _main(args: argparse.Namespace, words: Sequence[str], prewarmed: PrewarmedWorker) -> int:
    from rich.console import Console

    from search.confirmation.plan import ConfirmOptions
    from search.confirmation.runner import Repeating, chosen_task, prepared
    from search.execution.live_view import View
    from search.management.opening import open_study
    from search.reporting.dashboard_notes import Board
    from search.reporting.run_summary import command, commands
    from search.study.wording import tell
    from storage import open_storage, redact_words

    options, run_options = options_of(ConfirmOptions, args), options_of(RunOptions, args)
    console, runs = Console(), Path(args.runs)
    with messages(partial(tell, console)):
        # a comparison may make the store; what is wrong with it is said before
        storage = None
        if args.compare is None:
            storage = open_storage(args.storage, create=False, tell=LOG.info)
        task = chosen_task(options, storage)
        check_writable(runs)
        storage = storage or open_storage(args.storage, tell=LOG.info)
        if storage.warning is not None:
            LOG.info(f"note: {storage.warning}")
        task = prepared(options, storage, task, runs)
        study = open_study(storage, task.setup)
        view = View(console, plain=False)
        repeating = Repeating(options, run_options, storage, study, task, view)
        repeating.introduce()
        where = {"storage": args.storage, "runs": args.runs}
        export = command("search.export", **where, study=study.study_name)
        again = command_line([sys.executable, "-m", "search.confirm", *redact_words(words)])
        lines = commands(task.setup, **where) | {
            "confirm": again,
            "export": f"{export} --confirmed --out best.yaml",
        }
        with Board(study, lines, LOG.info):
            code = repeating.train(prewarmed)
        if code == 0:
            repeating.score_images()
        repeating.conclude(lines)
    return code


if __name__ == "__main__":
    sys.exit(main())
