"""What waits and runs: list it, show a trial's life, add, end a trial or the run, withdraw."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.commands import add_storage, add_study, run_command, study_name
from search.study.attributes import CANCELLED, CONTINUES, STOPPED, TOTAL, attributes_of
from trainer.cli import Parser

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from storage import LeasedStorage

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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    printed = args.action in _READING
    return run_command(lambda: _main(args), printed=printed)


def _main(args: argparse.Namespace) -> int:
    from search.strategy.loading import load_study
    from storage import open_storage

    _check_idle(args)
    storage = open_storage(args.storage, create=False, read_only=args.action in _READING)
    quiet = args.action in _READING
    study = load_study(storage, study_name(storage, args.study, quiet=quiet))
    if args.action == "list":
        return _list(storage, study)
    if args.action == "show":
        return _show(storage, study, args.what)
    if args.action == "add":
        return _add(study, args)
    if args.action == "stop":
        return _stop(storage, study, args.what)
    return _cancel(storage, study, args.what)


def _check_idle(args: argparse.Namespace) -> None:
    """Raise ConfigError for what the action would not look at."""
    from trainer.errors import ConfigError

    if args.action == "list" and args.what is not None:
        raise ConfigError(f"queue list: {args.what}: it takes nothing but --study and --storage")
    given = {"--set": args.sets, "--note": args.note, "--priority": args.priority}
    idle = [flag for flag, value in given.items() if value not in (None, [])]
    if args.action != "add" and idle:
        raise ConfigError(f"queue {args.action}: {idle[0]} goes with queue add only")


def _list(storage: LeasedStorage, study: optuna.Study) -> int:
    from optuna.trial import TrialState
    from rich.console import Console
    from rich.table import Table

    from search.study import lineages
    from search.study.requests import planned_params
    from search.study.wording import params_text
    from storage.optuna_internals import id_of_study

    # a user's note may hold brackets
    console = Console(highlight=False, markup=False)
    studies = Table(title="Studies", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "study", "finished", "wanted", "complete", "pruned", "running", "waiting"):
        studies.add_column(heading)
    for activity in storage.studies_by_activity():
        counts = storage.count_states(activity.study_id)
        wanted = storage.get_study_user_attrs(activity.study_id).get(TOTAL)
        studies.add_row(
            "*" if activity.name == study.study_name else "",
            activity.name,
            str(storage.count_finished(activity.study_id)),
            str(wanted or "-"),
            *(
                str(counts[state])
                for state in (
                    TrialState.COMPLETE,
                    TrialState.PRUNED,
                    TrialState.RUNNING,
                    TrialState.WAITING,
                )
            ),
        )
    console.print(studies)
    owners = {claim.number: claim.owner for claim in storage.live_claims(id_of_study(study))}
    trials = Table(
        title=f"Trials of {study.study_name} (*)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for heading in ("trial", "state", "epochs", "best F", "prio", "note or parameters"):
        trials.add_column(heading)
    for trial in study.get_trials(deepcopy=False):
        value, attrs = lineages.value(trial), attributes_of(trial.user_attrs)
        trials.add_row(
            str(trial.number),
            _state_text(trial, owners),
            str(len(trial.intermediate_values) or "-"),
            "-" if value is None else f"{value:.4f}",
            "-" if attrs.priority is None else f"{attrs.priority:g}",
            str(attrs.note or params_text(planned_params(trial))),
        )
    console.print(trials)
    return 0


def _state_text(trial: FrozenTrial, owners: dict[int | None, str]) -> str:
    text = trial.state.name.lower()
    if CONTINUES in trial.user_attrs:
        text += f", goes on from {trial.user_attrs[CONTINUES]}"
    for mark in (STOPPED, CANCELLED):
        if trial.user_attrs.get(mark):
            text += f", {mark}"
    owner = owners.get(trial.number)
    return f"{text} ({owner})" if owner else text


def _add(study: optuna.Study, args: argparse.Namespace) -> int:
    from search.management.enqueue import enqueue, parse_request, read_requests
    from search.study.identity import refuse_direction
    from search.study.lookup import load_setup
    from trainer.config import parse_set
    from trainer.errors import ConfigError

    refuse_direction(study)
    if (args.what is None) == (not args.sets):
        raise ConfigError("queue add: give a YAML file, or --set name=value, one of the two")
    if args.what is not None:
        if args.note is not None or args.priority is not None:
            raise ConfigError(
                f"queue add: --note and --priority go with --set; {args.what} holds its own"
            )
        requests, where = read_requests(Path(args.what)), str(args.what)
    else:
        where = "queue add"
        params = [parse_set(text) for text in args.sets]
        names = [name for name, _ in params]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"queue add: --set {name} is given twice: leave one of them out")
        entry = {
            "params": dict(params),
            "note": args.note,
            "priority": args.priority or 0,
        }
        requests = [parse_request(entry, where)]
    numbers = enqueue(study, load_setup(study), requests, where=where, again=True)
    print(f"enqueued: trial {', '.join(map(str, numbers))}")
    return 0


def _show(storage: LeasedStorage, study: optuna.Study, what: str | None) -> int:
    from search.results.trial_life import UNRECORDED, life_of, line

    rows = _lineage(study, what, "show")
    first, *others = (str(row.number) for row in rows)
    continued = f", gone on with as row {', '.join(others)}" if others else ""
    print(
        f"trial {first} of study {study.study_name}: {rows[-1].state.name.lower()}{continued};"
        " times in UTC"
    )
    events = life_of(storage, rows)
    if any(event.cause == UNRECORDED for event in events):
        print("not recorded: by an earlier version or another program, shown as the store has it")
    for event in events:
        print(line(event))
    return 0


def _trial(study: optuna.Study, text: str | None, action: str) -> FrozenTrial:
    # a revived trial is known by its first number; what can be ended is its last row
    return _lineage(study, text, action)[-1]


def _lineage(study: optuna.Study, text: str | None, action: str) -> list[FrozenTrial]:
    """The rows of the trial that one of their numbers names. Raises ConfigError."""
    from search.study.lineages import numbers_text, rows_of
    from trainer.errors import ConfigError

    rows = study.get_trials(deepcopy=False)
    trials = {str(trial.number): trial for trial in rows}
    if text is None:
        raise ConfigError(f"queue {action}: which trial? give its number")
    if text not in trials:
        raise ConfigError(
            f"queue {action}: study {study.study_name} has no trial {text}; it has"
            f" {numbers_text(rows)}"
        )
    first = rows_of(rows, trials[text])[0].number
    return [row for row in rows if rows_of(rows, row)[0].number == first]


def _stop(storage: LeasedStorage, study: optuna.Study, what: str | None) -> int:
    from search.study.shared_state import drain
    from storage.optuna_internals import id_of_study
    from trainer.errors import ConfigError

    if what is None:
        drain(study)
        print("the run is asked to end: running trials finish their epoch and wait in the queue")
        return 0
    trial = _trial(study, what, "stop")
    if trial.state.name != "RUNNING":
        raise ConfigError(
            f"queue stop: trial {what} is {trial.state.name}, not RUNNING; a waiting one is"
            " withdrawn with queue cancel"
        )
    if not storage.ask_owners(id_of_study(study), "stop", trial.number):
        raise ConfigError(f"queue stop: nobody is at work on trial {what}; try again in a minute")
    print(f"trial {what} is asked to stop: it ends after its epoch and counts as pruned")
    return 0


def _cancel(storage: LeasedStorage, study: optuna.Study, what: str | None) -> int:
    from optuna.trial import TrialState

    from storage import Cause
    from storage.optuna_internals import id_of_trial
    from trainer.errors import ConfigError

    trial = _trial(study, what, "cancel")
    if trial.state != TrialState.WAITING:
        raise ConfigError(
            f"queue cancel: trial {what} is {trial.state.name}, not WAITING; a running one is ended"
            " with queue stop"
        )
    storage.set_trial_user_attr(id_of_trial(trial), CANCELLED, True)
    with storage.ending("cancelled", Cause("queue cancel")):
        storage.set_trial_state_values(id_of_trial(trial), TrialState.FAIL)
    print(f"trial {what} is withdrawn: it is not counted and will not run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
