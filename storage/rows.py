"""Ids and numbers of new rows in a store from which somebody deleted rows by SQL.

Optuna numbers a trial by counting rows, so a deleted one makes it give a number twice. SQLite gives
the highest deleted id again, and whatever the deleted row has left in other tables (parameters,
reported values, attributes, a claim, events) would belong to the new one.
"""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.optuna_internals import ALL_TABLES, STUDIES, TRIALS, StudyRow, TrialRow, free_number
from storage.tables import CLAIMS, EVENTS

# trials and studies -> every column that holds one of their ids
_HOLDERS = {
    owner: [
        cast("sa.Column[int]", column)
        for table in (*ALL_TABLES, CLAIMS, EVENTS)
        for column in table.columns
        if column is owner.primary_key.columns[0]
        or any(key.column.table is owner for key in column.foreign_keys)
        # ours have no foreign key on trials
        or (owner is TRIALS and column in {CLAIMS.c.trial_id, EVENTS.c.trial_id})
    ]
    for owner in (TRIALS, STUDIES)
}


def give_ids(session: Any, *_: object) -> None:
    """For a session's `before_flush`: new trials and studies get ids that nothing refers to yet."""
    for row in session.new:
        if isinstance(row, TrialRow) and row.trial_id is None:
            row.trial_id = _free_id(session.connection(), TRIALS)
        if isinstance(row, StudyRow) and row.study_id is None:
            row.study_id = _free_id(session.connection(), STUDIES)


def refuse_doubled(connection: Connection, study_id: int, store: str) -> None:
    """Raise StorageError where several trials of the study have one number. store: its name."""
    mine = TRIALS.c.study_id == study_id
    twice = (
        sa.select(TRIALS.c.number)
        .where(mine)
        .group_by(TRIALS.c.number)
        .having(sa.func.count() > 1)
        .order_by(TRIALS.c.number)
        .limit(1)
    )
    number = connection.execute(twice).scalar()
    if number is None:
        return
    query = sa.select(TRIALS.c.trial_id).where(mine, TRIALS.c.number == number)
    ids = connection.execute(query.order_by(TRIALS.c.trial_id)).scalars().all()
    named = sa.select(STUDIES.c.study_name).where(STUDIES.c.study_id == study_id)
    name, free = connection.execute(named).scalar(), free_number(connection, study_id)
    raise StorageError(
        f'store {store}: {len(ids)} trials of study "{name}" have the number {number} (trial_id'
        f" {', '.join(map(str, ids))}), as happens after a row was deleted by SQL: end whoever"
        " works on it, give the last one a number of its own with UPDATE trials SET number ="
        f" {free} WHERE trial_id = {ids[-1]}, and move what it left, the newest folder in the"
        f" study's {number} below the runs folder, to {free}"
    )


def _free_id(connection: Connection, owner: sa.Table) -> int:
    # each has an index that begins with the column, so this looks at one row a table
    highest = [sa.select(sa.func.max(column)).scalar_subquery() for column in _HOLDERS[owner]]
    found = connection.execute(sa.select(*highest)).one()
    return max((known for known in found if known is not None), default=0) + 1
