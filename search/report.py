"""The whole analysis of a study as one page: `python -m search.report --out report.html`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from search.study.names import RUNS, STORAGE
from trainer.cli import Parser, guarded

EXAMPLES = """\
examples:
  python -m search.report                                    the latest search, as report.html
  python -m search.report --study hand-made --out old.html --markdown old.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.report", description=__doc__, epilog=EXAMPLES)
    it.add_argument(
        "--study",
        metavar="NAME",
        help="(default: the search with the latest activity; repeats and imported ones by name)",
    )
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--runs",
        metavar="DIR",
        help=f"folder of the trials' histories and pictures ({RUNS})",
    )
    it.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    it.add_argument(
        "--markdown", type=Path, metavar="FILE", help="text and tables as Markdown as well"
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna and SQLAlchemy
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,))


def _main(args: argparse.Namespace) -> int:
    import optuna

    from search.reporting.analysis import report_of
    from search.reporting.html import page
    from search.reporting.markdown import markdown
    from search.study.lookup import chosen_study, named_study
    from search.study.run_folders import existing
    from storage import open_storage
    from trainer.files import atomic_write_text

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # where nobody named it a missing folder only means: no histories, no pictures
    runs = Path(RUNS) if args.runs is None else existing(args.runs)
    storage = open_storage(args.storage, read_only=True)
    name = chosen_study(storage, args.study, partial(print, file=sys.stderr))
    report = report_of(storage, named_study(storage, name), args.storage, runs)
    atomic_write_text(args.out, page(report))
    if args.markdown is not None:
        atomic_write_text(args.markdown, markdown(report))
    also = "" if args.markdown is None else f" and {args.markdown}"
    print(f"the report on {name} is in {args.out}{also}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
