"""Trial events: what happened to each trial, when, why and by whom.

Written in the transaction that makes it happen, so that the two never disagree. Functions run
inside a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from storage.optuna_internals import TRIALS
from storage.tables import CLAIMS, EVENTS

Kind = Literal[
    "claimed",  # a worker has it
    "started",  # that worker trains it from the first epoch
    "resumed",  # that worker trains on after epoch detail["epoch"]
    "requeued",  # its worker put it back in the queue
    "reaped",  # put back because its worker, the one named, was silent or gone
    "adopted",  # put back because it ran without a claim
    "revived",  # claimed as a new row that goes on from row detail["continues"]
    "pruned",
    "stopped",
    "cancelled",
    "finished",  # COMPLETE, with detail["value"]
    "failed",
]
# what a change of state is where the caller says no more about it
OF_STATE: Mapping[TrialState, Kind] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "requeued",
}
ENDS = frozenset({"pruned", "stopped", "cancelled", "finished", "failed"})


@dataclass(frozen=True)
class Cause:
    """Why something happens to a trial. detail: what else is known of it, as JSON."""

    text: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


UNKNOWN = Cause()


@dataclass(frozen=True)
class TrialEvent:
    """One thing that happened. number: the trial's row. worker, token: of the claim; None where
    nobody had one. time: UTC.
    """

    number: int
    event: str
    cause: str | None
    detail: Mapping[str, Any]
    token: int | None
    worker: str | None
    time: datetime

    def as_dict(self) -> dict[str, Any]:
        """For a file; the inverse is `from_dict`."""
        return {**vars(self), "detail": dict(self.detail), "time": self.time.isoformat()}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> TrialEvent:
        """Raises KeyError, TypeError or ValueError for what is no event."""
        event = cls(**{**kept, "time": datetime.fromisoformat(kept["time"])})
        if not isinstance(event.detail, Mapping) or event.time.tzinfo is None:
            raise ValueError(f"no event: {kept}")
        return event


def _record() -> sa.Insert:
    """The statement of `record`, built once: that takes as long as it takes the database."""
    owner = sa.select(CLAIMS.c.owner).where(CLAIMS.c.token == sa.bindparam("token"))
    columns: dict[str, sa.ColumnElement[Any]] = {
        **{name: TRIALS.c[name] for name in ("study_id", "trial_id", "number")},
        "worker": sa.func.coalesce(
            sa.bindparam("of_worker", type_=EVENTS.c.worker.type), owner.scalar_subquery()
        ),
        **{
            name: sa.bindparam(name, type_=EVENTS.c[name].type)
            for name in ("event", "cause", "detail", "token", "time")
        },
    }
    found = sa.select(*columns.values()).where(TRIALS.c.trial_id == sa.bindparam("of_trial"))
    return sa.insert(EVENTS).from_select(list(columns), found)


_RECORD = _record()


def record(
    connection: Connection,
    kind: Kind,
    trial_id: int,
    token: int | None,
    cause: Cause = UNKNOWN,
    *,
    worker: str | None = None,
) -> None:
    """Add an event in one statement; nothing for a trial whose row is gone.

    worker: of a claim that has just been dropped; None: whoever has the claim `token`.
    """
    values = _values(kind, cause.text, cause.detail, token, datetime.now(UTC))
    connection.execute(_RECORD, {"of_trial": trial_id, "of_worker": worker} | values)


def restore(
    connection: Connection, study_id: int, trial_id: int, events: Iterable[TrialEvent]
) -> None:
    """Add events that are known from elsewhere, in their order."""
    rows = [
        {"study_id": study_id, "trial_id": trial_id, "number": event.number, "worker": event.worker}
        | _values(event.event, event.cause, event.detail, event.token, event.time)
        for event in events
    ]
    if rows:
        connection.execute(sa.insert(EVENTS), rows)


def _values(
    kind: str, cause: str | None, detail: Mapping[str, Any], token: int | None, time: datetime
) -> dict[str, Any]:
    return {
        "event": kind,
        "cause": cause,
        "detail": json.dumps(dict(detail)),
        "token": token,
        "time": time.astimezone(UTC).replace(tzinfo=None),
    }


def of_trials(connection: Connection, trial_ids: Sequence[int]) -> list[TrialEvent]:
    """The events of some trials in the order in which they were written."""
    names = ("number", "event", "cause", "detail", "token", "worker", "time")
    query = (
        sa.select(*(EVENTS.c[name] for name in names))
        .where(EVENTS.c.trial_id.in_(trial_ids))
        .order_by(EVENTS.c.id)
    )
    return [
        TrialEvent(
            **{
                **row,
                "detail": json.loads(row["detail"]),
                "time": row["time"].replace(tzinfo=UTC),
            }
        )
        for row in connection.execute(query).mappings()
    ]
