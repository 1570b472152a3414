"""What waits and runs: list it, show a trial's life, add, end a trial or the run, withdraw."""

from __future__ import annotations

import argparse
import sys

from search.commands import add_storage, add_study, command, study_name
from trainer.cli import Parser

EXAMPLES = """\
examples:
  python -m search.queue list
  python -m search.queue show 17       what happened to trial 17: every claim, requeue, verdict
  python -m search.queue add more.yaml
  python -m search.queue add --set dice_weight=1.5 --set dice_schedule=step --set dice_ramp=0.4
  python -m search.queue stop 17       end trial 17: it counts as pruned
  python -m search.queue stop          end the run: running trials wait in the queue
  python -m search.queue cancel 23     withdraw a waiting trial
"""

# actions that leave the store as it is
_READING = ("list", "show")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.queue", description=__doc__, epilog=EXAMPLES)
    it.add_argument(
        "action",
        choices=("list", "show", "add", "stop", "cancel"),
        help="list: studies and trials; show: what happened to a trial, when, why and by whom; add:"
        " enqueue FILE.yaml or --set; stop: a trial, or the run; cancel: withdraw a waiting trial",
    )
    it.add_argument(
        "what",
        nargs="?",
        metavar="FILE|N",
        help="add: a YAML list; show, stop, cancel: a trial number",
    )
    add_study(it)
    add_storage(it)
    it.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="name=value",
        help="add: a parameter of the new trial; what is not named comes from the base config",
    )
    it.add_argument("--note", help="add: a word on why, shown with the trial")
    it.add_argument(
        "--priority", type=float, metavar="P", help="add: higher goes first (default: 0)"
    )
    return it


def _main(args: argparse.Namespace) -> None:
    from search.management import queue_actions
    from search.results.trial_life import print_life
    from search.strategy.loading import load_study
    from storage import open_storage

    _check_idle(args)
    reading = args.action in _READING
    storage = open_storage(args.storage, create=False, read_only=reading)
    study = load_study(storage, study_name(storage, args.study, quiet=reading))
    if args.action == "list":
        queue_actions.print_queue(storage, study)
    elif args.action == "show":
        print_life(storage, study, queue_actions.rows_named(study, args.what, "show"))
    elif args.action == "add":
        queue_actions.add(study, args.what, args.sets, note=args.note, priority=args.priority)
    elif args.action == "stop":
        queue_actions.stop(storage, study, args.what)
    else:
        queue_actions.cancel(storage, study, args.what)


def _check_idle(args: argparse.Namespace) -> None:
    """Raise ConfigError for what the action would not look at."""
    from trainer.errors import ConfigError

    if args.action == "list" and args.what is not None:
        raise ConfigError(f"queue list: {args.what}: it takes nothing but --study and --storage")
    given = {"--set": args.sets, "--note": args.note, "--priority": args.priority}
    idle = [flag for flag, value in given.items() if value not in (None, [])]
    if args.action != "add" and idle:
        raise ConfigError(f"queue {args.action}: {idle[0]} goes with queue add only")


main = command(parser, _main, printed=lambda args: args.action in _READING)

if __name__ == "__main__":
    sys.exit(main())
