"""A report or an attribute of a trial in one statement, which also asks whether it may be written.

Optuna reads the trial, then the row that may be there, then writes; over a network each of these is
a round trip, and so would be the question whether a claim still stands.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from storage.optuna_internals import STEPS, SYSTEM_ATTRS, TRIALS, USER_ATTRS
from storage.tables import CLAIMS

# the column that tells a trial's rows apart
_KEYS = {STEPS: "step", USER_ATTRS: "key", SYSTEM_ATTRS: "key"}
_OPEN = [state for state in TrialState if not state.is_finished()]


def write(
    connection: Connection,
    table: sa.Table,
    trial_id: int,
    values: Mapping[str, Any],
    token: int | None,
) -> bool:
    """Write a row of `table` or replace the one that has its key; True if that was done.

    token: of the claim that must hold the trial until the statement has ended; None: none needed.
    False, and nothing is written, where that claim is gone, the trial has ended or is not there.
    """
    statement = _statement(table, connection.dialect.name, token is not None)
    given = {"of_trial": trial_id, **{f"new_{name}": value for name, value in values.items()}}
    if token is not None:
        given["of_token"] = token
    return connection.execute(statement, given).first() is not None


@functools.cache
def _statement(table: sa.Table, dialect: str, fenced: bool) -> sa.Executable:
    """Built once: that takes longer than the database needs for it."""
    of_trial = sa.bindparam("of_trial", type_=sa.Integer)
    own = [column for column in table.c if not column.primary_key and column.name != "trial_id"]
    given = [_parameter(column) for column in own]
    # it locks nothing that the foreign key would not; who ends the trial just now is waited for
    found = (
        sa.select(TRIALS.c.trial_id, *given)
        .where(TRIALS.c.trial_id == of_trial, sa.or_(*(TRIALS.c.state == it for it in _OPEN)))
        .with_for_update(read=True, key_share=True, of=TRIALS)
    )
    if fenced:
        lease = (
            sa.select(CLAIMS.c.token)
            .where(
                CLAIMS.c.token == sa.bindparam("of_token", type_=sa.Integer),
                CLAIMS.c.trial_id == of_trial,
            )
            # as in `claims.check`: the row stays, and its owner may beat
            .with_for_update(read=True, key_share=True)
            .cte("lease")
        )
        found = found.where(sa.exists(sa.select(lease.c.token)))
    names = [column.name for column in own]
    insert: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    insert = insert.from_select(["trial_id", *names], found)
    upsert = insert.on_conflict_do_update(
        index_elements=["trial_id", _KEYS[table]],
        set_={name: insert.excluded[name] for name in names if name != _KEYS[table]},
    )
    # whether a row came out: sqlite3 counts none for a statement that begins with WITH
    made: sa.Executable = upsert.returning(table.c.trial_id)
    return made


def _parameter(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    given = sa.bindparam(f"new_{column.name}", type_=column.type)
    # PostgreSQL takes these for text in a SELECT; a text that is cast would be cut to its length
    return sa.cast(given, column.type) if isinstance(column.type, (sa.Float, sa.Enum)) else given
