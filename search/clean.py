"""Remove checkpoints and artifacts that no living trial needs; without --yes only show them."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.study.attributes import SETUP
from search.study.names import RUNS, STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    import optuna

from search.management.cleanup import NO_STUDY, UNNAMED, unnamed_artifacts, useless_of_study

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
    it.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of the trials (runs)")
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--study", metavar="NAME", help="(default: every study of the store, and the artifacts)"
    )
    it.add_argument(
        "--parked",
        action="store_true",
        help="also the checkpoints of pruned trials, where the study has reached its total and"
        " revives none: they can then no longer be",
    )
    it.add_argument("--yes", action="store_true", help="remove it; without: only show it")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,), printed=not args.yes)


def _main(args: argparse.Namespace) -> int:
    import optuna

    from search.strategy.loading import load_study
    from search.study.run_folders import existing
    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
    if args.study is None and not _tell_strangers(runs, studies):
        for useless in unnamed_artifacts(storage, runs, remove=args.yes):
            removed[NO_STUDY, useless.what].append(useless.bytes)
    _show(removed, removing=args.yes)
    return 0


def _show(removed: Mapping[tuple[str, str], Sequence[int]], *, removing: bool) -> None:
    from rich.console import Console
    from rich.table import Table

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


def _tell_strangers(runs: Path, studies: Sequence[optuna.Study]) -> bool:
    """Name the folders of studies that the store does not know; whether there are any."""
    from search.study.run_folders import token_folders, trial_folder

    known = {trial_folder(runs, study.study_name, 0).parent for study in studies}
    strange = {folder.parents[1] for folder in token_folders(runs)} - known
    if strange:
        names = ", ".join(sorted(folder.name for folder in strange))
        print(
            f"note: left alone, with all artifacts, of no study of this store (search.rebuild may"
            f" need it): {names}",
            file=sys.stderr,
        )
    return bool(strange)


if __name__ == "__main__":
    sys.exit(main())
