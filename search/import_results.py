"""Old results as a study of their own metric, so that report and compare can read them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from search.commands import add_storage, command
from trainer.cli import Parser

EXAMPLES = """\
examples:
  python -m search.import_results histories.json --study old   a list of {run, config, ...}
  python -m search.import_results checkpoints --study old      folders of history.json, config.yaml
  python -m search.import_results table.csv --study by-hand --metric "F pooled per batch"
  python -m search.report --study old --out old.html

A table has a row per run: best_val_f, and what else is known of best_epoch, train_f_at_best,
final_val_f, dice_weight, dropout, epochs, seed, run. Importing a file again adds only what is new.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.import_results", description=__doc__, epilog=EXAMPLES)
    it.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="JSON list of runs, history.json, a folder with such, or a table as YAML or CSV",
    )
    it.add_argument(
        "--study", required=True, metavar="NAME", help="study to make, or an imported one to add to"
    )
    add_storage(it)
    it.add_argument(
        "--metric", metavar="TEXT", help="what the runs' scores are, where their files do not say"
    )
    return it


def _main(args: argparse.Namespace) -> None:
    from search.importing.added_runs import print_added
    from search.importing.batches import import_batch, read_batch
    from search.results.reading import results_of
    from search.study.attributes import IMPORTED
    from search.study.wording import counted
    from storage import open_storage
    from trainer.errors import UserError

    if not args.study.strip():
        raise UserError("--study: a name is needed, such as --study old")
    batch = read_batch(args.file, args.metric)
    found = import_batch(open_storage(args.storage), args.study, batch)
    for note in batch.notes:
        print(f"note: {note}", file=sys.stderr)
    there = f", {counted(found.present, 'run')} there already" if found.present else ""
    print(f"study {args.study}: {counted(len(found.added), 'run')} added{there}")
    print(f"metric: {found.study.user_attrs[IMPORTED]['metric']}")
    if found.added:
        print_added(results_of(found.study), found.added)


main = command(parser, _main)

if __name__ == "__main__":
    sys.exit(main())
