"""`--from OLD`: what a new study takes over from an earlier one.

Same identity (only ranges differ): the trials with value and curve, marked `copied_from`. They do
not count towards the budget and may be the best. Another identity: no value is comparable, so only
the five best configurations are enqueued as first trials, with the old score as text.
"""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.management.enqueue import put_in_queue
from search.management.first_trials import FIRST_PRIORITY
from search.study import lineages
from search.study.attributes import (
    CONTINUES,
    COPIED_FROM,
    ENQUEUED,
    FIRST,
    NOTE,
    PREDICTION,
    PRIORITY,
    REPEATS,
)
from search.study.identity import differing_facts, differing_keys
from search.study.lookup import load_setup, named_study
from search.study.requests import marked
from search.study.search_space import Spec, Value, distribution, format_value, matching, widened
from search.study.setup import Setup, StudyError, base_values
from search.study.wording import counted
from storage.rdb import LeasedStorage

BEST_CONFIGS = 5
# marks of a row's own place in its study, which a copy does not inherit
_OWN_MARKS = (CONTINUES, REPEATS, COPIED_FROM, FIRST, ENQUEUED, PRIORITY)
_KEPT_SYSTEM_ATTRS = ("constraints:", "artifacts:")


def transfer_trials(study: optuna.Study, storage: LeasedStorage, old_name: str) -> list[str]:
    """Take over what can be taken over; lines to print. Repeating it changes nothing.

    Raises StudyError for an unknown study, or the study itself.
    """
    if old_name == study.study_name:
        raise StudyError(f"--from {old_name}: this is the study itself: name another with --study")
    old_study = named_study(storage, old_name)
    old, new = load_setup(old_study), load_setup(study)
    difference = _difference(old, new)
    if difference is None:
        return _copy(study, new, old_study, old)
    return _enqueue_best(study, new, old_study, old, difference)


def _difference(old: Setup, new: Setup) -> str | None:
    """What makes scores of two studies not comparable; None where nothing does.

    A key that only one of them searches is no difference: it is judged trial by trial.
    """
    facts = differing_facts(old, new, "data", "metric")
    if facts:
        return {"data": "other data", "metric": "another metric"}[facts[0]]
    keys = (one for one in differing_keys(old, new) if one.shared)
    return next(
        (f"{k.key} {format_value(k.before)}, here {format_value(k.now)}" for k in keys), None
    )


def _copy(study: optuna.Study, new: Setup, old_study: optuna.Study, old: Setup) -> list[str]:
    rows = old_study.get_trials(deepcopy=False)
    trials = lineages.merged(rows)
    origins = {trial.number: _origin(trial, old) for trial in trials}
    present = marked(study, COPIED_FROM)
    copied, again, left_out = 0, 0, 0
    # repeats last: the trials that they repeat are here by then
    for trial in [*trials, *lineages.repeats(rows)]:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        if not trial.intermediate_values:
            continue
        origin = _origin(trial, old)
        if origin in present or origin.rpartition("/")[0] == study.study_name:
            continue
        marks: dict[str, Any] = {COPIED_FROM: origin}
        if REPEATS in trial.user_attrs:
            number = _number_here(study, new, origins.get(trial.user_attrs[REPEATS]))
            if number is None:
                continue
            marks[REPEATS] = number
        fit = _fit(trial, old, new)
        if fit is None:
            left_out += 1
            continue
        study.add_trial(_copied(trial, *fit, marks))
        copied += REPEATS not in marks
        again += REPEATS in marks
    lines = [f"--from {old.name}: {copied} trials taken over with their values and curves"]
    if again:
        lines.append(f"--from {old.name}: {counted(again, 'repeat')} of them as well")
    if left_out:
        lines.append(f"--from {old.name}: {left_out} trials left out: this study cannot hold them")
    return lines


def _origin(row: FrozenTrial, setup: Setup) -> str:
    """STUDY/NUMBER where a row was trained. setup: of the study that holds it."""
    return row.user_attrs.get(COPIED_FROM) or f"{setup.name}/{row.number}"


def _number_here(study: optuna.Study, setup: Setup, origin: str | None) -> int | None:
    """The number in a study of what was trained as `origin`; None where it is not there."""
    rows = study.get_trials(deepcopy=False)
    return next((row.number for row in rows if _origin(row, setup) == origin), None)


def _fit(
    trial: FrozenTrial, old: Setup, new: Setup
) -> tuple[dict[str, Value], dict[str, Spec]] | None:
    """The trial's values as this study's parameters, and what holds them; None where it trained
    something else.
    """
    had = _values(trial, old)
    for key, value in base_values(new).items():
        if key in had and not _equal(had[key], value):
            return None
    params: dict[str, Value] = {}
    specs: dict[str, Spec] = {}
    for name, spec in new.specs().items():
        value = had.get(new.key_of(name))
        if value is None and name == "T_0":
            value = old.epochs
        wide = widened(spec, value)
        found = None if wide is None else matching(value, wide)
        if wide is None or found is None:
            return None
        params[name], specs[name] = found, wide
    return params, specs


def _values(trial: FrozenTrial, setup: Setup) -> dict[str, Any]:
    """Every key that the trial trained with, by dotted name."""
    known = base_values(setup)
    for name, value in trial.params.items():
        known[setup.key_of(name)] = value
    return known


def _copied(
    trial: FrozenTrial, params: dict[str, Value], specs: dict[str, Spec], marks: dict[str, Any]
) -> FrozenTrial:
    """A copy of a row. marks: its attributes in the study that it comes to."""
    row = create_trial(
        state=trial.state,
        value=lineages.value(trial),
        params=params,
        distributions={name: distribution(spec) for name, spec in specs.items()},
        user_attrs={
            **{key: item for key, item in trial.user_attrs.items() if key not in _OWN_MARKS},
            **marks,
        },
        system_attrs={
            key: item
            for key, item in trial.system_attrs.items()
            if key.startswith(_KEPT_SYSTEM_ATTRS)
        },
        intermediate_values=dict(trial.intermediate_values),
    )
    # it ended when it ended: `--stop-after` and "latest activity" must not take it for news
    row.datetime_start, row.datetime_complete = trial.datetime_start, trial.datetime_complete
    return row


def _enqueue_best(
    study: optuna.Study, new: Setup, old_study: optuna.Study, old: Setup, difference: str
) -> list[str]:
    rows: list[tuple[dict[str, Value], dict[str, Any]]] = []
    for trial in lineages.best_first(lineages.merged(old_study.get_trials(deepcopy=False))):
        params = _translated(trial, old, new)
        if len(rows) == BEST_CONFIGS:
            break
        if params is None or any(params == other for other, _ in rows):
            continue
        attrs = {
            FIRST: f"{old.name}/{trial.number}",
            NOTE: f"from study {old.name}, trial {trial.number}",
            PREDICTION: f"{trial.value:.4f} there, with {difference}",
            # the user named this study: before the seed's own first trials
            PRIORITY: FIRST_PRIORITY + 1,
        }
        rows.append((params, attrs))
    made = put_in_queue(study, FIRST, rows)
    return [
        f"--from {old.name}: {difference}, so no value is comparable: {len(made)} of its best "
        "configurations enqueued as first trials"
    ]


def _translated(trial: FrozenTrial, old: Setup, new: Setup) -> dict[str, Value] | None:
    """The trial's configuration in this study's ranges; None where one of its values is outside."""
    had = _values(trial, old)
    params: dict[str, Value] = {}
    for name, spec in new.specs().items():
        value = had.get(new.key_of(name))
        if name == "T_0":
            # the same number of cycles in another budget
            value = (old.epochs if value is None else value) * new.epochs / old.epochs
        if name in new.fixed or value is None:
            params[name] = new.defaults[name]
            continue
        found = matching(value, spec)
        if found is None:
            return None
        params[name] = found
    return params


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
