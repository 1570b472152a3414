"""What `search.queue` does with a study: list it, find a trial, add, stop and withdraw trials.

Each raises ConfigError for what cannot be meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from search.management.enqueue import enqueue, parse_request, read_requests
from search.study import lineages
from search.study.attributes import CANCELLED, CONTINUES, REPEATS, STOPPED, TOTAL, attributes_of
from search.study.identity import refuse_direction
from search.study.lookup import load_setup
from search.study.requests import planned_params
from search.study.shared_state import drain
from search.study.wording import params_text
from storage import Cause, LeasedStorage
from storage.optuna_internals import id_of_study, id_of_trial
from trainer.config import parse_set
from trainer.errors import ConfigError

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


def print_queue(storage: LeasedStorage, study: optuna.Study) -> None:
    """All studies of the store, and the trials of this one."""
    # a user's note may hold brackets
    console = Console(highlight=False, markup=False)
    states = [state.name.lower() for state in _COUNTED]
    studies = _table("Studies", "", "study", "finished", "wanted", *states)
    for activity in storage.studies_by_activity():
        counts = storage.count_states(activity.study_id)
        wanted = storage.get_study_user_attrs(activity.study_id).get(TOTAL)
        studies.add_row(
            "*" if activity.name == study.study_name else "",
            activity.name,
            str(storage.count_finished(activity.study_id)),
            str(wanted or "-"),
            *(str(counts[state]) for state in _COUNTED),
        )
    console.print(studies)
    owners = {claim.number: claim.owner for claim in storage.live_claims(id_of_study(study))}
    headings = ("trial", "state", "epochs", "best", "prio", "note or parameters")
    trials = _table(f"Trials of {study.study_name} (*)", *headings)
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


def _table(title: str, *headings: str) -> Table:
    return Table(*headings, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))


def _state_text(trial: FrozenTrial, owners: Mapping[int | None, str]) -> str:
    text = trial.state.name.lower()
    if CONTINUES in trial.user_attrs:
        text += f", goes on from {trial.user_attrs[CONTINUES]}"
    if REPEATS in trial.user_attrs:
        text += f", repeats {trial.user_attrs[REPEATS]}"
    for mark in (STOPPED, CANCELLED):
        if trial.user_attrs.get(mark):
            text += f", {mark}"
    owner = owners.get(trial.number)
    return f"{text} ({owner})" if owner else text


def rows_named(study: optuna.Study, text: str | None, action: str) -> list[FrozenTrial]:
    """The rows of the trial that one of their numbers names."""
    rows = study.get_trials(deepcopy=False)
    trials = {str(trial.number): trial for trial in rows}
    if text is None:
        raise ConfigError(f"queue {action}: which trial? give its number")
    if text not in trials:
        raise ConfigError(
            f"queue {action}: study {study.study_name} has no trial {text}; it has"
            f" {lineages.numbers_text(rows)}"
        )
    first = lineages.rows_of(rows, trials[text])[0].number
    return [row for row in rows if lineages.rows_of(rows, row)[0].number == first]


def add(
    study: optuna.Study,
    file: str | None,
    sets: Sequence[str],
    *,
    note: str | None,
    priority: float | None,
) -> None:
    """Enqueue the entries of a file, or one trial of `name=value` texts."""
    refuse_direction(study)
    if (file is None) == (not sets):
        raise ConfigError("queue add: give a YAML file, or --set name=value, one of the two")
    where = file or "queue add"
    if file is not None:
        if note is not None or priority is not None:
            raise ConfigError(
                f"queue add: --note and --priority go with --set; {file} holds its own"
            )
        requests = read_requests(Path(file))
    else:
        params = [parse_set(text) for text in sets]
        names = [name for name, _ in params]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"queue add: --set {name} is given twice: leave one of them out")
        entry = {"params": dict(params), "note": note, "priority": priority or 0}
        requests = [parse_request(entry, where)]
    numbers = enqueue(study, load_setup(study), requests, where=where, again=True)
    print(f"enqueued: trial {', '.join(map(str, numbers))}")


def stop(storage: LeasedStorage, study: optuna.Study, number: str | None) -> None:
    """End a running trial, or without a number the run."""
    if number is None:
        drain(study)
        print("the run is asked to end: running trials finish their epoch and wait in the queue")
        return
    # a revived trial is known by its first number; what can be ended is its last row
    trial = rows_named(study, number, "stop")[-1]
    if trial.state != TrialState.RUNNING:
        raise ConfigError(
            f"queue stop: trial {number} is {trial.state.name}, not RUNNING; a waiting one is"
            " withdrawn with queue cancel"
        )
    if not storage.ask_owners(id_of_study(study), "stop", trial.number):
        raise ConfigError(f"queue stop: nobody is at work on trial {number}; try again in a minute")
    how = "as no evidence" if REPEATS in trial.user_attrs else "as pruned"
    print(f"trial {number} is asked to stop: it ends after its epoch and counts {how}")


def cancel(storage: LeasedStorage, study: optuna.Study, number: str | None) -> None:
    """Withdraw a waiting trial."""
    trial = rows_named(study, number, "cancel")[-1]
    if trial.state != TrialState.WAITING:
        raise ConfigError(
            f"queue cancel: trial {number} is {trial.state.name}, not WAITING; a running one is"
            " ended with queue stop"
        )
    storage.set_trial_user_attr(id_of_trial(trial), CANCELLED, True)
    with storage.ending("cancelled", Cause("queue cancel")):
        storage.set_trial_state_values(id_of_trial(trial), TrialState.FAIL)
    print(f"trial {number} is withdrawn: it is not counted and will not run")
