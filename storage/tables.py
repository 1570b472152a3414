"""Our tables beside Optuna's: claims and trial events."""

from __future__ import annotations

import sqlalchemy as sa

from storage.optuna_internals import STUDIES

OURS = sa.MetaData()


def _study_id() -> sa.Column[int]:
    key = sa.ForeignKey(STUDIES.c.study_id, ondelete="CASCADE")
    return sa.Column("study_id", sa.Integer, key, nullable=False, index=True)


CLAIMS = sa.Table(
    "search_claims",
    OURS,
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=True),
    _study_id(),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("beat", sa.Integer, nullable=False, default=0),
    # unique: a trial has one owner. No foreign key, so that Optuna can delete its own rows
    sa.Column("trial_id", sa.Integer, nullable=True, unique=True),
    sa.Column("number", sa.Integer, nullable=True),
    sa.Column("wish", sa.String(16), key="request", nullable=True),
    sqlite_autoincrement=True,
)
EVENTS = sa.Table(
    "search_trial_events",
    OURS,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _study_id(),
    # as above: rows.give_ids never gives the id of a deleted trial again
    sa.Column("trial_id", sa.Integer, nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("cause", sa.String(255), nullable=True),
    # JSON as Python writes it: a value may be infinite, which the type of PostgreSQL refuses
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=True),
    sa.Column("worker", sa.String(255), nullable=True),
    # UTC, naive as Optuna's own
    sa.Column("time", sa.DateTime, nullable=False),
)
# SQLite uses the ids of a deleted study again, and plain Optuna enforces no foreign keys there:
# without this an old claim would fit a new study
for _table in (CLAIMS, EVENTS):
    sa.event.listen(
        _table,
        "after_create",
        sa.DDL(
            f"CREATE TRIGGER IF NOT EXISTS {_table.name}_of_deleted_study AFTER DELETE ON studies "
            f"BEGIN DELETE FROM {_table.name} WHERE study_id = OLD.study_id; END"
        ).execute_if(dialect="sqlite"),
    )
