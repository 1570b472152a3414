"""Remove checkpoints and artifacts that no living trial needs; without --yes only show them."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from search.commands import add_runs, add_storage, add_study, command
from search.study.attributes import SETUP
from trainer.cli import Parser

EXAMPLES = """\
examples:
  python -m search.clean                  what could go
  python -m search.clean --yes            remove it
  python -m search.clean --yes --parked   a finished study: its pruned trials are not revived

What stays: the checkpoint that an unfinished trial goes on from, those of pruned trials (unless
diverged, stopped or --parked, once the study has its total and none is to go on), best.pt of the 5
best, and every config.yaml, history.json and contact_sheet.png: search.rebuild needs them.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.clean", description=__doc__, epilog=EXAMPLES)
    add_runs(it, "folder of the trials (runs)")
    add_storage(it)
    add_study(it, "(default: every study of the store, and the artifacts)")
    it.add_argument(
        "--parked",
        action="store_true",
        help="also the checkpoints of pruned trials, where the study has reached its total and"
        " revives none: they can then no longer be",
    )
    it.add_argument("--yes", action="store_true", help="remove it; without: only show it")
    return it


def _main(args: argparse.Namespace) -> None:
    from search.management.cleanup import (
        NO_STUDY,
        unknown_folders,
        unnamed_artifacts,
        useless_of_study,
    )
    from search.strategy.loading import load_study
    from search.study.run_folders import existing
    from storage import open_storage

    runs = existing(args.runs)
    storage = open_storage(args.storage, create=False, read_only=not args.yes)
    if args.study is None:
        # a study of another program has no folder here
        names = [s.study_name for s in storage.get_all_studies() if SETUP in s.user_attrs]
    else:
        names = [args.study]
    studies = [load_study(storage, name) for name in names]
    removed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for study in studies:
        for useless in useless_of_study(storage, study, runs, parked=args.parked, remove=args.yes):
            removed[study.study_name, useless.what].append(useless.bytes)
    if args.study is None:
        if unknown := unknown_folders(runs, studies):
            shown = ", ".join(folder.name for folder in unknown)
            print(
                "note: left alone, with all artifacts, of no study of this store (search.rebuild"
                f" may need it): {shown}",
                file=sys.stderr,
            )
        else:
            for useless in unnamed_artifacts(storage, runs, remove=args.yes):
                removed[NO_STUDY, useless.what].append(useless.bytes)
    _show(removed, removing=args.yes)


def _show(removed: Mapping[tuple[str, str], Sequence[int]], *, removing: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from search.management.cleanup import NO_STUDY, UNNAMED

    if not removed:
        print("nothing to remove")
        return
    # the name of a study may hold brackets
    console = Console(highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("study", "removed" if removing else "would remove"):
        table.add_column(heading, overflow="fold")
    for heading in ("files", "MB"):
        table.add_column(heading, justify="right")
    every: list[int] = []
    for (study, what), sizes in removed.items():
        table.add_row(study, what, str(len(sizes)), f"{sum(sizes) / 1e6:.1f}")
        every += sizes
    table.add_row("total", "", str(len(every)), f"{sum(every) / 1e6:.1f}")
    console.print(table)
    if (NO_STUDY, UNNAMED) in removed:
        print(
            "note: another store that shares this folder may name those artifacts", file=sys.stderr
        )
    print(f"{sum(every) / 1e6:.1f} MB freed" if removing else "add --yes to remove it")


main = command(parser, _main, printed=lambda args: not args.yes)

if __name__ == "__main__":
    sys.exit(main())
