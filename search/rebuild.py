"""Make studies again whose store was lost, from what their trials left in the runs folder."""

from __future__ import annotations

import argparse
import sys

from search.commands import add_runs, add_storage, add_study, command
from search.study.names import STORAGE
from trainer.cli import Parser
from trainer.streams import command_line

EXAMPLES = """\
examples:
  python -m search.rebuild                                           every study in runs
  python -m search.rebuild --storage sqlite:///runs/new.db --study faces

Finished trials come back as they were; those that were running or had been interrupted wait under
their number and go on from their checkpoint. The same search.run command goes on. An interrupted
rebuild is simply repeated.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.rebuild", description=__doc__, epilog=EXAMPLES)
    add_runs(it, "folder of the trials (runs)")
    add_storage(it, f"store to make them in ({STORAGE})")
    add_study(it, "(default: every study in the folder)")
    return it


def _main(args: argparse.Namespace) -> None:
    from search.execution.options import RunOptions, worker_command
    from search.management.recovery import print_rebuilt, rebuilt
    from search.study.run_folders import existing
    from search.study.run_records import recorded_studies
    from search.study.setup import StudyError
    from storage import open_storage, redact
    from trainer.errors import UserError

    runs = existing(args.runs)
    # all is read before the store is touched
    found, unreadable = recorded_studies(runs, args.study)
    for line in unreadable:
        print(f"note: {line}", file=sys.stderr)
    if not found:
        whose = "a search" if args.study is None else f"study {args.study}"
        raise UserError(
            f"--runs {runs}: holds no trial of {whose} that can come back; name the folder that"
            " search.run wrote to"
        )
    storage = open_storage(args.storage)
    options = RunOptions(redact(args.storage), args.runs)
    made, refused = 0, []
    for one in found:
        try:
            study = rebuilt(storage, one)
        except StudyError as error:
            # an earlier rebuild may have been interrupted between two studies
            refused.append(str(error))
            continue
        made += 1
        words = worker_command(options.worker_words(study.study_name))
        print_rebuilt(study, one, command_line(words))
    if not made:
        raise StudyError("; ".join(refused))
    for line in refused:
        print(f"note: {line}", file=sys.stderr)


main = command(parser, _main)

if __name__ == "__main__":
    sys.exit(main())
