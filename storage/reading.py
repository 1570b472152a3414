"""Trials as Optuna shows them, read by plain statements.

Optuna reads through SQLAlchemy's objects, one for every reported value: in a study of a thousand
trials, that is most of the time which a worker waits for its store. Functions run in a transaction.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Collection, Container, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from storage.optuna_internals import (
    PARAMS,
    STEPS,
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    STUDY_USER_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
    result_of,
    step_value_of,
)

# ids in one statement: SQLite bears 32,766 in all, and every one is sent
_MOST_IDS = 500


def _of_trials(
    table: sa.Table, *columns: str
) -> tuple[sa.Select[*tuple[Any, ...]], sa.Select[*tuple[Any, ...]]]:
    """A table's rows of some trials, and of a study from one trial on, built once."""
    rows = sa.select(table.c.trial_id, *(table.c[name] for name in columns))
    some = rows.where(table.c.trial_id.in_(sa.bindparam("ids", expanding=True)))
    own = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == sa.bindparam("study"))
    first = table.c.trial_id >= sa.bindparam("first")
    return some, rows.where(table.c.trial_id.in_(own), first)


_TRIALS = sa.select(
    *(TRIALS.c[name] for name in ("trial_id", "study_id", "number", "state")),
    *(TRIALS.c[name] for name in ("datetime_start", "datetime_complete")),
).order_by(TRIALS.c.trial_id)
_SOME = TRIALS.c.trial_id.in_(sa.bindparam("ids", expanding=True))
_ONE = _TRIALS.where(_SOME)
_LATER = _TRIALS.where(
    TRIALS.c.study_id == sa.bindparam("study"),
    sa.or_(TRIALS.c.trial_id > sa.bindparam("after"), _SOME),
)
_STUDY = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == sa.bindparam("study"))
_VALUES = _of_trials(VALUES, "objective", "value", "value_type")
_PARAMS = _of_trials(PARAMS, "param_id", "param_name", "param_value", "distribution_json")
_STEPS = _of_trials(STEPS, "step", "intermediate_value", "intermediate_value_type")
_USER_ATTRS, _SYSTEM_ATTRS = (
    _of_trials(table, "key", "value_json") for table in (USER_ATTRS, SYSTEM_ATTRS)
)

# table -> its rows of one owner, and that owner
_ATTRIBUTES = {
    table: (
        sa.select(table.c.key, table.c.value_json).where(table.c[key] == sa.bindparam("id")),
        sa.select(owner.c[key]).where(owner.c[key] == sa.bindparam("id")),
    )
    for owner, key, tables in (
        (STUDIES, "study_id", (STUDY_USER_ATTRS, STUDY_SYSTEM_ATTRS)),
        (TRIALS, "trial_id", (USER_ATTRS, SYSTEM_ATTRS)),
    )
    for table in tables
}


def trial(connection: Connection, trial_id: int) -> FrozenTrial | None:
    """One trial; None where there is none with this id."""
    rows = connection.execute(_ONE, {"ids": [trial_id]}).all()
    return _built(connection, rows)[0] if rows else None


def trials(
    connection: Connection,
    study_id: int,
    states: Container[TrialState] | None = None,
    *,
    after: int = -1,
    also: Collection[int] = (),
) -> list[FrozenTrial]:
    """The study's trials in the order of their ids.

    states: only these. after: only ids above this one, and those in `also`. Raises KeyError for an
    unknown study.
    """
    if len(also) <= _MOST_IDS:
        rows = connection.execute(_LATER, {"study": study_id, "after": after, "ids": also}).all()
    else:
        every = {"study": study_id, "after": min(after, min(also) - 1), "ids": ()}
        found = connection.execute(_LATER, every)
        rows = [row for row in found if row.trial_id > after or row.trial_id in also]
    if not rows and connection.execute(_STUDY, {"study": study_id}).first() is None:
        raise KeyError(f"no study with id {study_id}")
    return _built(connection, [row for row in rows if states is None or row.state in states])


def attributes(connection: Connection, table: sa.Table, owner_id: int) -> dict[str, Any]:
    """A study's or a trial's attributes. table: theirs. Raises KeyError for an unknown owner."""
    rows, owner = _ATTRIBUTES[table]
    found = {key: json.loads(text) for key, text in connection.execute(rows, {"id": owner_id})}
    if not found and connection.execute(owner, {"id": owner_id}).first() is None:
        raise KeyError(f"nothing with id {owner_id}")
    return found


def _built(connection: Connection, rows: Sequence[sa.Row[*tuple[Any, ...]]]) -> list[FrozenTrial]:
    """rows: of `_TRIALS`, of one study."""
    if not rows:
        return []
    ids = [row.trial_id for row in rows]
    few = len(ids) <= _MOST_IDS
    which = {"ids": ids} if few else {"study": rows[0].study_id, "first": ids[0]}

    def of_trials(
        statements: tuple[sa.Select[*tuple[Any, ...]], sa.Select[*tuple[Any, ...]]],
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        return connection.execute(statements[0 if few else 1], which)

    # everything by trial; after the trials themselves: what has ended has all its rows by then
    values: dict[int, dict[int, float]] = defaultdict(dict)
    params: dict[int, list[tuple[int, str, float, str]]] = defaultdict(list)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, objective, value, kind in of_trials(_VALUES):
        values[trial_id][objective] = result_of(value, kind)
    for trial_id, *param in of_trials(_PARAMS):
        params[trial_id].append(tuple(param))
    for trial_id, step, value, kind in of_trials(_STEPS):
        steps[trial_id][step] = step_value_of(value, kind)
    user_attrs, system_attrs = map(_loaded, map(of_trials, (_USER_ATTRS, _SYSTEM_ATTRS)))
    built = []
    for row in rows:
        results = [value for _, value in sorted(values.get(row.trial_id, {}).items())]
        # in the order in which they were drawn
        drawn = [
            (name, internal, _distribution(text))
            for _, name, internal, text in sorted(params.get(row.trial_id, ()))
        ]
        built.append(
            FrozenTrial(
                trial_id=row.trial_id,
                number=row.number,
                state=row.state,
                value=None,
                values=results or None,
                datetime_start=_local(row.datetime_start),
                datetime_complete=_local(row.datetime_complete),
                params={name: dist.to_external_repr(internal) for name, internal, dist in drawn},
                distributions={name: dist for name, _, dist in drawn},
                user_attrs=user_attrs.get(row.trial_id, {}),
                system_attrs=system_attrs.get(row.trial_id, {}),
                intermediate_values=steps.get(row.trial_id, {}),
            )
        )
    return built


def _loaded(rows: sa.CursorResult[*tuple[Any, ...]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, text in rows:
        found[trial_id][key] = json.loads(text)
    return found


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """One for all trials with the same: a distribution is not changed once it is made."""
    return json_to_distribution(text)


def _local(naive_utc: datetime | None) -> datetime | None:
    """This machine's naive time, its `fold` set, so that `.astimezone(UTC)` leads back.

    Optuna does not say which of the two hours it is that autumn's change of clocks runs through
    twice.
    """
    if naive_utc is None:
        return None
    return datetime.fromtimestamp(naive_utc.replace(tzinfo=UTC).timestamp())
