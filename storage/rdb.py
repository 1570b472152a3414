"""Optuna's RDBStorage, made safe for many workers: with claims on trials, and their events."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from storage import claims, events, reading, rows, tables, upserts
from storage.claims import Beat, Claim
from storage.counting import CONTINUES, REPEATS
from storage.errors import StorageError
from storage.events import UNKNOWN, Cause, TrialEvent
from storage.optuna_internals import (
    STEPS,
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    STUDY_USER_ATTRS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    stored_report,
)
from storage.patience import PAUSE_S, PatientStorage


@dataclass(frozen=True)
class StudyActivity:
    """latest: when a trial of the study last started or ended (UTC); None without any."""

    study_id: int
    name: str
    latest: datetime | None


class LeasedStorage(PatientStorage):
    """An Optuna storage with claims. Open it with `open_storage`.

    url: sqlite:///FILE or postgresql://...; create: make a missing store; read_only: never write.
    patience_s: how long a call waits for a store that is locked, restarting or out of reach;
    `tell` gets a line when such a wait has become long and when it is over. Raises StorageError
    (one line, no password) for a store that cannot be used. Every method may
    raise StorageError when patience ends or the trouble is a lasting one, such as a full disk.
    """

    # Reading

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._read(lambda c: reading.attributes(c, STUDY_USER_ATTRS, study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._read(lambda c: reading.attributes(c, STUDY_SYSTEM_ATTRS, study_id))

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._read(lambda c: reading.attributes(c, USER_ATTRS, trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._read(lambda c: reading.attributes(c, SYSTEM_ATTRS, trial_id))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = self._read(lambda c: reading.trial(c, trial_id))
        if trial is None:
            raise KeyError(f"no trial with id {trial_id}")
        return trial

    def read_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        also: Collection[int],
        after: int,
    ) -> list[FrozenTrial]:
        return self._read(lambda c: reading.trials(c, study_id, states, after=after, also=also))

    # Reports and attributes: one statement; where it writes nothing, Optuna's way says why

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        value, kind = stored_report(intermediate_value)
        row = {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        if not self._put(STEPS, trial_id, row):
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        if not self._put(USER_ATTRS, trial_id, {"key": key, "value_json": json.dumps(value)}):
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if not self._put(SYSTEM_ATTRS, trial_id, {"key": key, "value_json": json.dumps(value)}):
            super().set_trial_system_attr(trial_id, key, value)

    def _put(self, table: sa.Table, trial_id: int, row: Mapping[str, Any]) -> bool:
        token = self._fences.get(trial_id)
        return self._in_one(lambda c: upserts.write(c, table, trial_id, row, token))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        attempts = 0
        event = self._event_of_state(trial_id, state, values)

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                with self._marked("event", event):
                    return super(LeasedStorage, self).set_trial_state_values(
                        trial_id, state, values
                    )
            except UpdateFinishedTrialError:
                # the first attempt went through and only its answer was lost
                if attempts > 1 and self.get_trial(trial_id).state == state:
                    return True
                raise

        return self.guarded(attempt, trial_id=trial_id)

    def _event_of_state(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None
    ) -> Callable[[Connection], None] | None:
        """What records that a trial comes to a state; None where another call does so."""
        usual = events.OF_STATE.get(state)
        if usual is None:
            return None
        kind, cause = getattr(self._local, "ending", None) or (usual, UNKNOWN)
        if kind == "finished" and values:
            cause = Cause(cause.text, {"value": values[0], **cause.detail})
        token = self._fences.get(trial_id)
        return lambda connection: events.record(connection, kind, trial_id, token, cause)

    def ending(self, kind: events.Kind, cause: Cause) -> AbstractContextManager[None]:
        """Within the block, this thread's change of a trial's state is recorded as this event."""
        return self._marked("ending", (kind, cause))

    def delete_study(self, study_id: int) -> None:
        self._patiently(lambda: super(LeasedStorage, self).delete_study(study_id))

        def delete_ours(connection: Connection) -> None:
            for table in tables.OURS.tables.values():
                connection.execute(sa.delete(table).where(table.c.study_id == study_id))

        # the database does so itself; this is for a store whose triggers were lost
        self._write(delete_ours)

    # Places and leases

    def take_slot(self, study_id: int, total: int | None, owner: str) -> int | None:
        """Claim one place of a budget of `total` finished trials; the token, or None if none left.

        Finished trials and live claims are counted and the claim is made in one transaction.
        total None takes a place without a budget, for a revival or a repeat. Raises KeyError for an
        unknown study, StorageError as `check_numbers` does.
        """

        def take(connection: Connection) -> int | None:
            rows.refuse_doubled(connection, study_id, self._shown())
            return claims.take_slot(connection, study_id, total, owner)

        return self._write(take)

    def pop_waiting(self, study_id: int, token: int, *, uncounted: bool = False) -> int | None:
        """Start the next waiting trial under this claim; its id, or None where none waits.

        Order: those with reported epochs, then the user attribute `priority` (higher first), then
        the number. uncounted: only rows that do not count, for a claim without a place of the
        budget. Raises LeaseLost.
        """
        trial_id = self._write(
            lambda c: claims.pop_waiting(c, study_id, token, uncounted=uncounted)
        )
        return None if trial_id is None else self._fenced_from_now(trial_id, token)

    def new_trial(self, study_id: int, token: int) -> int:
        """Make a running trial under this claim, in one transaction; its id. Raises LeaseLost."""
        trial_id = self._made(study_id, token)
        assert trial_id is not None
        return trial_id

    def extra_trial(self, study_id: int, token: int, row: FrozenTrial, known: int) -> int | None:
        """Make the running trial `row` under this claim, in one transaction; its id.

        row: as it is to be, with one of the attributes `counting.EXTRA`. known: how many rows with
        such an attribute the study had when this one was chosen. None, and nothing is made, where
        it has another number by now: somebody else has made one, perhaps this one. Raises
        LeaseLost.
        """
        return self._made(study_id, token, row, known)

    def _made(
        self, study_id: int, token: int, row: FrozenTrial | None = None, known: int = 0
    ) -> int | None:
        kind: events.Kind = "claimed"
        cause = Cause("new")
        if row is not None and CONTINUES in row.user_attrs:
            kind, cause = "revived", Cause(detail={CONTINUES: row.user_attrs[CONTINUES]})
        elif row is not None:
            cause = Cause("repeat", {REPEATS: row.user_attrs[REPEATS]})

        def attempt() -> int | None:
            with self.session() as session:
                connection = session.connection()
                claim = claims.find(connection, token, lock=True)
                if claim.trial_id is not None:
                    # an earlier attempt whose answer was lost
                    return claim.trial_id
                claims.lock_study(connection, study_id)
                if row is not None and claims.count_extra(connection, study_id) != known:
                    return None
                trial_id, number = self.added(session, study_id, row)
                claims.attach(connection, token, trial_id, number, cause, kind)
                return trial_id

        trial_id = self._patiently(attempt)
        return None if trial_id is None else self._fenced_from_now(trial_id, token)

    def beat(self, token: int) -> Beat:
        """Show that the owner lives; a single attempt. Raises LeaseLost, or the driver's error."""
        with self.engine.begin() as connection:
            return claims.beat(connection, token)

    def release(self, token: int) -> bool:
        """Give the claim back; False if it was gone already."""
        return self._write(lambda c: claims.release(c, token))

    def requeue(self, trial_id: int, token: int | None = None, cause: Cause = UNKNOWN) -> bool:
        """Put a running trial back in the queue and release its claim, in one transaction.

        It keeps number, parameters, attributes and reported values. False if it was not running.
        Without a token any claim on it is dropped. Raises LeaseLost if the token is gone.
        """
        return self._write(lambda c: claims.requeue(c, trial_id, token, cause))

    def ask_owners(self, study_id: int, request: str, number: int | None = None) -> int:
        """Ask the owner of trial `number` (None: of every claim) to "stop" or "requeue" it.

        The owner hears of it with its next beat. Returns how many claims were asked; 0: nobody is
        at work on it.
        """
        if request not in claims.REQUESTS:
            known = ", ".join(claims.REQUESTS)
            raise ValueError(f"request must be one of {known}, got {request!r}")
        return self._write(lambda c: claims.ask_owners(c, study_id, request, number))

    def last_token(self) -> int | None:
        """The highest token that any claim of the store has had; None where that is not known."""
        if self.address.path is None:
            return None
        return self._read(claims.last_token) if self._has_claims else 0

    def live_claims(self, study_id: int) -> list[Claim]:
        """Every claim on the study, oldest first."""
        if not self._has_claims:
            return []
        return self._read(lambda c: claims.live(c, study_id))

    def survey(self, study_id: int) -> tuple[list[Claim], list[tuple[int, int]]]:
        """The claims, and (trial_id, number) of running trials that nobody claims."""
        return self._read(lambda c: (claims.live(c, study_id), list(claims.unclaimed(c, study_id))))

    def reap(self, claim: Claim, cause: Cause = UNKNOWN) -> bool | None:
        """End a claim whose beat still stands where `claim` saw it.

        True: its running trial waits again; False: it had none; None: it beat or ended meanwhile.
        """
        return self._write(lambda c: claims.reap(c, claim, cause))

    def adopt(self, trial_id: int, cause: Cause = UNKNOWN) -> bool:
        """Queue a running trial that nobody claims; False if that is no longer so."""
        return self._write(lambda c: claims.adopt(c, trial_id, cause))

    # Trial events

    def record(self, trial_id: int, kind: events.Kind, cause: Cause = UNKNOWN) -> None:
        """Add an event of a trial that this object has a claim on. Raises LeaseLost."""
        token = self._fences[trial_id]

        def add(connection: Connection) -> None:
            claims.check(connection, token, trial_id)
            events.record(connection, kind, trial_id, token, cause)

        self._write(add)

    def restore_events(self, study_id: int, trial_id: int, known: Sequence[TrialEvent]) -> None:
        """Add events that are known from elsewhere, in their order."""
        self._write(lambda c: events.restore(c, study_id, trial_id, known))

    def events_of(self, trial_ids: Sequence[int]) -> list[TrialEvent]:
        """What happened to some trials, in order; nothing in a store of an earlier version that
        was never opened for writing since.
        """
        return self._read(lambda c: events.of_trials(c, trial_ids)) if self._has_events else []

    # Counting

    def count_finished(self, study_id: int) -> int:
        """COMPLETE and PRUNED trials, but for rows with one of `counting.UNCOUNTED`."""
        return self._read(lambda c: claims.count_finished(c, study_id))

    def count_states(self, study_id: int) -> dict[TrialState, int]:
        """Number of rows in each state, zeros included."""
        query = (
            sa.select(TRIALS.c.state, sa.func.count())
            .where(TRIALS.c.study_id == study_id)
            .group_by(TRIALS.c.state)
        )
        found = self._read(lambda c: [(row[0], row[1]) for row in c.execute(query)])
        return dict.fromkeys(TrialState, 0) | dict(found)

    def check_numbers(self, study_id: int) -> None:
        """Raise StorageError where two trials of the study have one number.

        Optuna's cache shows only one of them, so counts would differ for ever, and their files
        would lie in one folder.
        """
        self._read(lambda c: rows.refuse_doubled(c, study_id, self._shown()))

    def studies_by_activity(self) -> list[StudyActivity]:
        """All studies, the one with the latest start or end of a trial first."""
        query = (
            sa.select(
                STUDIES.c.study_id,
                STUDIES.c.study_name,
                sa.func.max(TRIALS.c.datetime_start),
                sa.func.max(TRIALS.c.datetime_complete),
            )
            .select_from(STUDIES.outerjoin(TRIALS, TRIALS.c.study_id == STUDIES.c.study_id))
            .group_by(STUDIES.c.study_id, STUDIES.c.study_name)
        )
        found = []
        for study_id, name, started, ended in self._read(lambda c: c.execute(query).all()):
            moments = [moment.replace(tzinfo=UTC) for moment in (started, ended) if moment]
            found.append(StudyActivity(study_id, name, max(moments, default=None)))
        nothing = datetime.min.replace(tzinfo=UTC)
        return sorted(found, key=lambda it: (it.latest or nothing, it.study_id), reverse=True)


def open_storage(
    url: str,
    *,
    create: bool = True,
    read_only: bool = False,
    patience_s: float = 120.0,
    wait_s: float = 0.0,
    tell: Callable[[str], None] | None = None,
) -> LeasedStorage:
    """Open the store at `url`; see `LeasedStorage` for the arguments and errors.

    wait_s: how long to try again where its server is away; 0 for a user, who sees a wrong URL at
    once then. tell: gets a line about each long wait, at opening and later.
    """
    until, reported = time.monotonic() + wait_s, False
    while True:
        try:
            opened = LeasedStorage(url, create=create, read_only=read_only, patience_s=patience_s)
        except StorageError as error:
            if not error.passing or time.monotonic() >= until:
                raise
            if tell is not None and not reported:
                tell(f"{error}; waiting for it up to {wait_s:g} s")
                reported = True
        else:
            opened.tell = tell
            if reported and tell is not None:
                tell(f"store {opened._shown()} answers again")
            return opened
        time.sleep(PAUSE_S * (0.5 + random.random()))
