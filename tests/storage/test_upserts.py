"""A report and an attribute: one statement, which asks whether the claim stands."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable

import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from storage import LeasedStorage, LeaseLost, open_storage
from tests.support.claimed import new_study, start, statements

WRITES: dict[str, Callable[[LeasedStorage, int], None]] = {
    "report": lambda s, t: s.set_trial_intermediate_value(t, 3, 0.5),
    "user attribute": lambda s, t: s.set_trial_user_attr(t, "seed", {"of": [7]}),
    "system attribute": lambda s, t: s.set_trial_system_attr(t, "fixed", "ä"),
}
writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def round_trips(storage: LeasedStorage, act: Callable[[], object]) -> int:
    """How often the client waits for PostgreSQL while it does `act`."""
    with storage.engine.connect() as connection:
        wire = connection.connection.dbapi_connection.pgconn  # type: ignore[union-attr]
    with tempfile.TemporaryFile() as trace:
        wire.trace(trace.fileno())
        act()
        wire.untrace()
        trace.seek(0)
        return trace.read().count(b"ReadyForQuery")


@writes
@pytest.mark.parametrize("claimed", [True, False])
def test_a_write_is_one_statement(
    storage: LeasedStorage, write: Callable[[LeasedStorage, int], None], claimed: bool
) -> None:
    _, trial_id = start(storage, new_study(storage))
    writer = storage if claimed else open_storage(storage.address.text)
    (sent,) = statements(writer, lambda: write(writer, trial_id))
    assert ("search_claims" in sent) is claimed
    trial = storage.get_trial(trial_id)
    # once more: it replaces what is there
    assert len(statements(writer, lambda: write(writer, trial_id))) == 1
    again = storage.get_trial(trial_id)
    assert again == trial
    assert again.intermediate_values or again.user_attrs or again.system_attrs
    if not claimed:
        writer.close()


@writes
def test_a_write_is_one_round_trip(
    postgres_url: str, write: Callable[[LeasedStorage, int], None]
) -> None:
    storage = open_storage(postgres_url)
    token, trial_id = start(storage, new_study(storage))
    write(storage, trial_id)
    assert round_trips(storage, lambda: write(storage, trial_id)) == 1
    # any other write is a transaction: BEGIN, its statements, COMMIT
    assert round_trips(storage, lambda: storage.release(token)) == 3
    storage.close()


@writes
def test_a_lost_lease_is_refused_in_that_statement(
    storage: LeasedStorage, write: Callable[[LeasedStorage, int], None]
) -> None:
    token, trial_id = start(storage, new_study(storage))
    before = storage.get_trial(trial_id)
    storage.release(token)
    sent: list[str] = []

    def late() -> None:
        with pytest.raises(LeaseLost):
            write(storage, trial_id)

    sent = statements(storage, late)
    # the second asks why the first wrote nothing
    assert [statement.startswith("WITH lease") for statement in sent] == [True, False]
    assert storage.get_trial(trial_id) == before


@pytest.mark.parametrize("value", [0.1 + 0.2, 0.0, 1e-300, math.inf, -math.inf, math.nan])
def test_every_float_comes_back(storage: LeasedStorage, value: float) -> None:
    _, trial_id = start(storage, new_study(storage))
    for before in (0.5, math.nan):
        storage.set_trial_intermediate_value(trial_id, 1, before)
        storage.set_trial_intermediate_value(trial_id, 1, value)
        (kept,) = storage.get_trial(trial_id).intermediate_values.values()
        assert kept == value or (math.isnan(kept) and math.isnan(value))


def test_what_optuna_refuses_is_refused_as_by_optuna(storage: LeasedStorage) -> None:
    _, trial_id = start(storage, new_study(storage))
    for write in WRITES.values():
        with pytest.raises(KeyError):
            write(storage, trial_id + 1000)
    with pytest.raises(TypeError):
        storage.set_trial_user_attr(trial_id, "seed", object())
    if storage.engine.name == "postgresql":
        with pytest.raises(StorageInternalError):
            # longer than the column: not cut to its length
            storage.set_trial_user_attr(trial_id, "k" * 600, 1)
        with pytest.raises(StorageInternalError):
            storage.set_trial_intermediate_value(trial_id, 2**40, 0.5)
    assert storage.get_trial(trial_id).user_attrs == {}
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    for write in WRITES.values():
        with pytest.raises(UpdateFinishedTrialError):
            write(storage, trial_id)


@pytest.mark.parametrize("way", ["put back", "finished"])
@writes
def test_a_write_waits_for_who_takes_the_trial_away_just_now(
    postgres_url: str, way: str, write: Callable[[LeasedStorage, int], None]
) -> None:
    storage, other = open_storage(postgres_url), open_storage(postgres_url)
    _, trial_id = start(storage, new_study(storage))
    before = storage.get_trial(trial_id)
    raised: list[BaseException] = []

    def late() -> None:
        try:
            write(storage, trial_id)
        except (LeaseLost, UpdateFinishedTrialError) as error:
            raised.append(error)

    writing = threading.Thread(target=late)
    with other.engine.begin() as connection:
        if way == "put back":
            connection.exec_driver_sql(f"DELETE FROM search_claims WHERE trial_id = {trial_id}")
        else:
            # as Optuna ends a trial
            mine = f"FROM trials WHERE trial_id = {trial_id}"
            connection.exec_driver_sql(f"SELECT state {mine} FOR UPDATE")
            connection.exec_driver_sql(
                f"UPDATE trials SET state = 'COMPLETE' WHERE trial_id = {trial_id}"
            )
        writing.start()
        time.sleep(0.3)
        # it neither wrote nor gave up
        assert writing.is_alive()
    writing.join(10)
    expected = LeaseLost if way == "put back" else UpdateFinishedTrialError
    assert [type(error) for error in raised] == [expected]
    after = storage.get_trial(trial_id)
    for name in ("intermediate_values", "user_attrs", "system_attrs"):
        assert getattr(after, name) == getattr(before, name)
    storage.close()
    other.close()


def test_a_write_does_not_hold_up_the_heart(postgres_url: str) -> None:
    storage, other = open_storage(postgres_url), open_storage(postgres_url)
    token, trial_id = start(storage, new_study(storage))
    with other.engine.begin() as connection:
        # a beat that is under way, and another write to the trial
        connection.exec_driver_sql(f"UPDATE search_claims SET beat = 9 WHERE token = {token}")
        storage.set_trial_intermediate_value(trial_id, 1, 0.5)
    assert storage.get_trial(trial_id).intermediate_values == {1: 0.5}
    storage.close()
    other.close()
