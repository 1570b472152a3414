"""The whole analysis of a study as one page: `python -m search.report --out report.html`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from search.commands import add_runs, add_storage, add_study, command, study_name
from search.study.names import RUNS
from trainer.cli import Parser

EXAMPLES = """\
examples:
  python -m search.report                                    the latest search, as report.html
  python -m search.report --study hand-made --out old.html --markdown old.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.report", description=__doc__, epilog=EXAMPLES)
    add_study(
        it, "(default: the search with the latest activity; repeats and imported ones by name)"
    )
    add_storage(it)
    add_runs(it, f"folder of the trials' histories and pictures ({RUNS})", default=None)
    it.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    it.add_argument(
        "--markdown", type=Path, metavar="FILE", help="text and tables as Markdown as well"
    )
    return it


def _main(args: argparse.Namespace) -> None:
    from search.reporting.analysis import report_of
    from search.reporting.html import page
    from search.reporting.markdown import markdown
    from search.study.lookup import named_study
    from search.study.run_folders import existing
    from storage import open_storage
    from trainer.files import atomic_write_text

    # where nobody named it a missing folder only means: no histories, no pictures
    runs = Path(RUNS) if args.runs is None else existing(args.runs)
    storage = open_storage(args.storage, read_only=True)
    name = study_name(storage, args.study)
    report = report_of(storage, named_study(storage, name), args.storage, runs)
    atomic_write_text(args.out, page(report))
    if args.markdown is not None:
        atomic_write_text(args.markdown, markdown(report))
    for section in report.sections:
        if section.key == "answer":
            print("\n".join(section.sentences))
    also = "" if args.markdown is None else f" and {args.markdown}"
    print(f"the report on {name} is in {args.out}{also}", file=sys.stderr)


main = command(parser, _main)

if __name__ == "__main__":
    sys.exit(main())
