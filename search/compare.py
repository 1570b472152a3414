"""Studies side by side: what each reached, how soon, and in what they differ."""

from __future__ import annotations

import argparse
import sys

from search.commands import add_storage, command
from trainer.cli import Parser

EXAMPLES = """\
examples:
  python -m search.compare faces-small-64 faces-small-64-wide
  python -m search.compare gp tpe random --storage sqlite:///runs/samplers.db
  python -m search.compare faces-small-64 faces-small-64-confirm old
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.compare", description=__doc__, epilog=EXAMPLES)
    it.add_argument("studies", nargs="+", metavar="STUDY", help="two studies or more, of any kind")
    add_storage(it)
    return it


def _main(args: argparse.Namespace) -> None:
    from rich.console import Console

    from search.results.reading import print_troubles, results_of
    from search.results.study_comparison import print_comparison
    from search.study.lookup import named_study
    from storage import open_storage
    from trainer.errors import UserError

    names = list(dict.fromkeys(args.studies))
    if len(names) < 2:
        raise UserError(f"compare {names[0]}: with what? name a second study")
    storage = open_storage(args.storage, read_only=True)
    studies = [results_of(named_study(storage, name)) for name in names]
    print_troubles(studies)
    # a study's name may hold brackets or :words:
    print_comparison(Console(highlight=False, markup=False, emoji=False), studies)


main = command(parser, _main, printed=lambda args: True)

if __name__ == "__main__":
    sys.exit(main())
