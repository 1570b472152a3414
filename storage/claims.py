"""Claims: who works on which trial. Every function runs inside a transaction.

A claim is a row `search_claims`: its token is a fencing token (never used twice), its beat a
counter that only its owner turns. Locks are always taken in the order claim, study, trial, so that
no two transactions wait for each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from storage import events
from storage.counting import COUNTED_STATES, EXTRA, PRIORITY, UNCOUNTED
from storage.errors import LeaseLost
from storage.events import Cause
from storage.optuna_internals import STEPS, STUDIES, SYSTEM_ATTRS, TRIALS, USER_ATTRS
from storage.tables import CLAIMS

# A stop that the owner did not carry out is kept here for the trial's next owner.
REQUEST_ATTR = "search:wish"
REQUESTS = ("stop", "requeue")
# the columns by the names of `Claim`
_CLAIM = tuple(column.label(column.key) for column in CLAIMS.c)


@dataclass(frozen=True)
class Claim:
    """One live claim. trial_id, number: None until the place has a trial."""

    token: int
    study_id: int
    owner: str
    beat: int
    trial_id: int | None
    number: int | None
    request: str | None


@dataclass(frozen=True)
class Beat:
    """The answer to a beat.

    request: "stop" or "requeue" where somebody asks the owner to end its trial.
    ended: somebody else (the dashboard) finished the trial: nothing more can be written to it.
    """

    request: str | None = None
    ended: bool = False


def lock_study(connection: Connection, study_id: int) -> None:
    """Let one transaction at a time count and claim. Raises KeyError for an unknown study."""
    query = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id)
    # not the key: the events of other trials need not wait
    query = query.with_for_update(key_share=True)
    if connection.execute(query).first() is None:
        raise KeyError(f"no study with id {study_id}")


def _uncounted(trial_id: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.exists().where(USER_ATTRS.c.trial_id == trial_id, USER_ATTRS.c.key.in_(UNCOUNTED))


def _finished(study_id: int) -> sa.Select[int]:
    return (
        sa.select(sa.func.count())
        .select_from(TRIALS)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state.in_([TrialState[name] for name in COUNTED_STATES]),
            ~_uncounted(TRIALS.c.trial_id),
        )
    )


def _places(study_id: int) -> sa.Select[int]:
    """Claims that may still bring a finished trial: not those whose trial has just ended."""
    return (
        sa.select(sa.func.count())
        .select_from(CLAIMS.outerjoin(TRIALS, CLAIMS.c.trial_id == TRIALS.c.trial_id))
        .where(
            CLAIMS.c.study_id == study_id,
            sa.or_(
                CLAIMS.c.trial_id.is_(None),
                sa.and_(
                    TRIALS.c.state.in_((TrialState.RUNNING, TrialState.WAITING)),
                    ~_uncounted(TRIALS.c.trial_id),
                ),
            ),
        )
    )


def count_finished(connection: Connection, study_id: int) -> int:
    return connection.execute(_finished(study_id)).scalar_one()


def count_extra(connection: Connection, study_id: int) -> int:
    """Rows of a study that were made without a place of the budget."""
    return connection.execute(
        sa.select(sa.func.count())
        .select_from(TRIALS.join(USER_ATTRS, USER_ATTRS.c.trial_id == TRIALS.c.trial_id))
        .where(TRIALS.c.study_id == study_id, USER_ATTRS.c.key.in_(EXTRA))
    ).scalar_one()


def take_slot(connection: Connection, study_id: int, total: int | None, owner: str) -> int | None:
    lock_study(connection, study_id)
    if total is not None:
        # one statement, one snapshot: in two, a trial that ends between them is counted in none
        both = sa.select(
            _finished(study_id).scalar_subquery() + _places(study_id).scalar_subquery()
        )
        if int(connection.execute(both).scalar_one()) >= total:
            return None
    made = connection.execute(
        sa.insert(CLAIMS).values(study_id=study_id, owner=owner[:255], beat=0)
    )
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def find(connection: Connection, token: int, *, lock: bool) -> Claim:
    """The claim with this token. Raises LeaseLost if it is gone."""
    query = sa.select(*_CLAIM).where(CLAIMS.c.token == token)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise LeaseLost(token)
    return Claim(**row)


def check(connection: Connection, token: int, trial_id: int) -> None:
    """Raise LeaseLost unless the claim holds the trial; it stays so until the transaction ends."""
    query = (
        sa.select(CLAIMS.c.token)
        .where(CLAIMS.c.token == token, CLAIMS.c.trial_id == trial_id)
        # keeps the row from being deleted, and lets its owner beat meanwhile
        .with_for_update(read=True, key_share=True)
    )
    if connection.execute(query).first() is None:
        raise LeaseLost(token)


def attach(
    connection: Connection,
    token: int,
    trial_id: int,
    number: int,
    cause: Cause,
    kind: events.Kind = "claimed",
) -> None:
    """Bind the trial to the claim; an older claim on it is fenced out."""
    connection.execute(
        sa.delete(CLAIMS).where(CLAIMS.c.trial_id == trial_id, CLAIMS.c.token != token)
    )
    request = connection.execute(
        sa.delete(SYSTEM_ATTRS)
        .where(SYSTEM_ATTRS.c.trial_id == trial_id, SYSTEM_ATTRS.c.key == REQUEST_ATTR)
        .returning(SYSTEM_ATTRS.c.value_json)
    ).scalar_one_or_none()
    values: dict[str, Any] = {"trial_id": trial_id, "number": number}
    if request is not None:
        values["request"] = json.loads(request)
    done = connection.execute(sa.update(CLAIMS).where(CLAIMS.c.token == token).values(values))
    if done.rowcount == 0:
        raise LeaseLost(token)
    events.record(connection, kind, trial_id, token, cause)


def pop_waiting(
    connection: Connection, study_id: int, token: int, *, uncounted: bool = False
) -> int | None:
    claim = find(connection, token, lock=True)
    if claim.trial_id is not None:
        # an earlier attempt whose answer was lost
        return claim.trial_id
    for trial_id, number in waiting(connection, study_id, uncounted=uncounted):
        taken = connection.execute(
            sa.update(TRIALS)
            .where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
            # Optuna stores naive UTC
            .values(state=TrialState.RUNNING, datetime_start=datetime.now(UTC).replace(tzinfo=None))
        )
        if taken.rowcount == 1:
            attach(connection, token, trial_id, number, Cause("from the queue"))
            return trial_id
    return None


def waiting(
    connection: Connection, study_id: int, *, uncounted: bool = False
) -> list[tuple[int, int]]:
    """(trial_id, number) of the waiting trials, next one first; uncounted: of such rows only.

    Those with reported epochs come first, then by the user attribute `priority`, then by number.
    """
    priority = (
        sa.select(USER_ATTRS.c.value_json)
        .where(USER_ATTRS.c.trial_id == TRIALS.c.trial_id, USER_ATTRS.c.key == PRIORITY)
        .scalar_subquery()
    )
    started = sa.exists().where(STEPS.c.trial_id == TRIALS.c.trial_id)
    query = sa.select(TRIALS.c.trial_id, TRIALS.c.number, started, priority).where(
        TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.WAITING
    )
    if uncounted:
        query = query.where(_uncounted(TRIALS.c.trial_id))
    rows = connection.execute(query).all()
    ordered = sorted(rows, key=lambda row: (not row[2], -_as_number(row[3]), row[1]))
    return [(row[0], row[1]) for row in ordered]


def beat(connection: Connection, token: int) -> Beat:
    row = connection.execute(
        sa.update(CLAIMS)
        .where(CLAIMS.c.token == token)
        .values(beat=CLAIMS.c.beat + 1)
        .returning(*_CLAIM)
    ).first()
    if row is None:
        raise LeaseLost(token)
    state = None
    if row.trial_id is not None:
        state = connection.execute(
            sa.select(TRIALS.c.state).where(TRIALS.c.trial_id == row.trial_id)
        ).scalar_one_or_none()
    return Beat(request=row.request, ended=state is not None and state.is_finished())


def release(connection: Connection, token: int) -> bool:
    return connection.execute(sa.delete(CLAIMS).where(CLAIMS.c.token == token)).rowcount == 1


def requeue(connection: Connection, trial_id: int, token: int | None, cause: Cause) -> bool:
    """Put a running trial back in the queue and drop its claim; True if it was running."""
    drop = sa.delete(CLAIMS).where(CLAIMS.c.trial_id == trial_id)
    if token is not None:
        drop = drop.where(CLAIMS.c.token == token)
    dropped = connection.execute(drop.returning(*_CLAIM)).first()
    if dropped is None and token is not None:
        raise LeaseLost(token)
    return _put_back(connection, "requeued", trial_id, dropped, cause)


def _put_back(
    connection: Connection,
    kind: events.Kind,
    trial_id: int,
    dropped: sa.Row[Any] | None,
    cause: Cause,
    *only_if: sa.ColumnElement[bool],
) -> bool:
    """dropped: the claim that the trial has had until now."""
    moved = connection.execute(
        sa.update(TRIALS)
        .where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING, *only_if)
        .values(state=TrialState.WAITING)
    )
    if moved.rowcount == 0:
        return False
    token, owner = (None, None) if dropped is None else (dropped.token, dropped.owner)
    events.record(connection, kind, trial_id, token, cause, worker=owner)
    if dropped is not None and dropped.request == "stop":
        # the user wants it ended: its next owner hears of it at once
        connection.execute(
            sa.insert(SYSTEM_ATTRS).values(
                trial_id=trial_id, key=REQUEST_ATTR, value_json=json.dumps(dropped.request)
            )
        )
    return True


def reap(connection: Connection, claim: Claim, cause: Cause) -> bool | None:
    """End a silent claim: True if its trial was put back, None if it beat or ended meanwhile."""
    dropped = connection.execute(
        sa.delete(CLAIMS)
        .where(CLAIMS.c.token == claim.token, CLAIMS.c.beat == claim.beat)
        .returning(*_CLAIM)
    ).first()
    if dropped is None:
        return None
    if dropped.trial_id is None:
        return False
    return _put_back(connection, "reaped", dropped.trial_id, dropped, cause)


def adopt(connection: Connection, trial_id: int, cause: Cause) -> bool:
    """Queue a running trial that nobody claims; False if it has an owner or ended meanwhile."""
    unclaimed = ~sa.exists().where(CLAIMS.c.trial_id == trial_id)
    return _put_back(connection, "adopted", trial_id, None, cause, unclaimed)


def live(connection: Connection, study_id: int) -> list[Claim]:
    query = sa.select(*_CLAIM).where(CLAIMS.c.study_id == study_id).order_by(CLAIMS.c.token)
    return [Claim(**row) for row in connection.execute(query).mappings()]


def unclaimed(connection: Connection, study_id: int) -> Sequence[tuple[int, int]]:
    """(trial_id, number) of the running trials that nobody claims."""
    query = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number)
        .select_from(TRIALS.outerjoin(CLAIMS, CLAIMS.c.trial_id == TRIALS.c.trial_id))
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.RUNNING,
            CLAIMS.c.token.is_(None),
        )
        .order_by(TRIALS.c.number)
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def last_token(connection: Connection) -> int:
    """On SQLite alone."""
    query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :table")
    return int(connection.execute(query, {"table": CLAIMS.name}).scalar() or 0)


def ask_owners(connection: Connection, study_id: int, request: str, number: int | None) -> int:
    change = sa.update(CLAIMS).where(CLAIMS.c.study_id == study_id)
    if number is not None:
        change = change.where(CLAIMS.c.number == number)
    return connection.execute(change.values(request=request)).rowcount


def _as_number(value_json: str | None) -> float:
    try:
        value = float(json.loads(value_json or "0"))
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) else 0.0
