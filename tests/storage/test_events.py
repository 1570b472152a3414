from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from storage import Cause, LeasedStorage, LeaseLost, Reaper, TrialEvent, open_storage
from storage.optuna_internals import TRIALS
from storage.tables import EVENTS
from tests.support.claimed import new_study, statements


@pytest.fixture
def storage(storage: LeasedStorage) -> LeasedStorage:
    new_study(storage)
    return storage


def claim(storage: LeasedStorage, owner: str = "host:1") -> int:
    token = storage.take_slot(1, None, owner)
    assert token is not None
    return token


def begin(storage: LeasedStorage, owner: str = "host:1") -> tuple[int, int]:
    """A new running trial under a claim: (token, trial_id)."""
    token = claim(storage, owner)
    return token, storage.new_trial(1, token)


def kinds(storage: LeasedStorage, *trial_ids: int) -> list[str]:
    return [event.event for event in storage.events_of(trial_ids)]


# ------------------------------------------------------------------------------ what is recorded


def test_a_trials_whole_life_is_recorded_in_order(storage: LeasedStorage, store_url: str) -> None:
    before = datetime.now(UTC)
    first, trial_id = begin(storage, "host:1")
    storage.record(trial_id, "started")
    storage.requeue(trial_id, first, Cause("signal", {"signal": "SIGTERM"}))
    second = claim(storage, "host:2")
    assert storage.pop_waiting(1, second) == trial_id
    storage.record(trial_id, "resumed", Cause(detail={"epoch": 3}))
    other = open_storage(store_url)
    clock = [0.0]
    reaper = Reaper(other, 1, 3.0, lambda: clock[0])
    while not reaper.look():
        clock[0] += 1.0
    third = claim(storage, "host:3")
    assert storage.pop_waiting(1, third) == trial_id
    with storage.ending("pruned", Cause("pruner", {"chance": 0.003})):
        storage.set_trial_state_values(trial_id, TrialState.PRUNED)
    storage.release(third)
    fourth = claim(storage, "host:4")
    row = create_trial(state=TrialState.RUNNING, user_attrs={"continues": 0})
    revived = storage.extra_trial(1, fourth, row, 0)
    assert revived is not None
    storage.set_trial_state_values(revived, TrialState.COMPLETE, [0.5])
    events = other.events_of([trial_id, revived])
    assert [
        (it.number, it.event, it.cause, dict(it.detail), it.token, it.worker) for it in events
    ] == [
        (0, "claimed", "new", {}, first, "host:1"),
        (0, "started", None, {}, first, "host:1"),
        (0, "requeued", "signal", {"signal": "SIGTERM"}, first, "host:1"),
        (0, "claimed", "from the queue", {}, second, "host:2"),
        (0, "resumed", None, {"epoch": 3}, second, "host:2"),
        (0, "reaped", "silent", {"silent_s": 3.0}, second, "host:2"),
        (0, "claimed", "from the queue", {}, third, "host:3"),
        (0, "pruned", "pruner", {"chance": 0.003}, third, "host:3"),
        (1, "revived", None, {"continues": 0}, fourth, "host:4"),
        (1, "finished", None, {"value": 0.5}, fourth, "host:4"),
    ]
    times = [event.time for event in events]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= datetime.now(UTC)
    other.close()


def test_a_running_trial_without_a_claim_is_recorded_as_adopted(storage: LeasedStorage) -> None:
    orphan = storage.create_new_trial(1)
    assert storage.adopt(orphan, Cause("unclaimed", {"silent_s": 20.0}))
    (event,) = storage.events_of([orphan])
    assert (event.event, event.cause, event.worker, event.token) == (
        "adopted",
        "unclaimed",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("state", "values", "detail"),
    [
        (TrialState.COMPLETE, [0.5], {"value": 0.5}),
        (TrialState.COMPLETE, [float("inf")], {"value": float("inf")}),
        (TrialState.PRUNED, None, {}),
        (TrialState.FAIL, None, {}),
    ],
)
def test_an_end_by_somebody_without_a_claim_is_recorded(
    storage: LeasedStorage, state: TrialState, values: list[float] | None, detail: dict[str, Any]
) -> None:
    trial_id = storage.create_new_trial(1, create_trial(state=TrialState.WAITING))
    storage.set_trial_state_values(trial_id, state, values)
    (event,) = storage.events_of([trial_id])
    wanted = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}[state.name]
    assert (event.event, dict(event.detail), event.worker) == (wanted, detail, None)


def test_an_ending_holds_for_its_block_alone(storage: LeasedStorage) -> None:
    one, other = (storage.create_new_trial(1) for _ in range(2))
    with storage.ending("cancelled", Cause("queue cancel")):
        storage.set_trial_state_values(one, TrialState.FAIL)
    storage.set_trial_state_values(other, TrialState.FAIL)
    assert kinds(storage, one, other) == ["cancelled", "failed"]


def test_what_is_refused_is_not_recorded(storage: LeasedStorage, store_url: str) -> None:
    token, trial_id = begin(storage)
    other = open_storage(store_url)
    other.requeue(trial_id)
    for act in (
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5]),
        lambda: storage.record(trial_id, "started"),
        lambda: storage.requeue(trial_id, token),
    ):
        with pytest.raises(LeaseLost):
            act()
    assert not other.requeue(trial_id)
    assert not other.adopt(trial_id)
    assert kinds(storage, trial_id) == ["claimed", "requeued"]
    other.set_trial_state_values(trial_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        other.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert kinds(storage, trial_id) == ["claimed", "requeued", "failed"]
    other.close()


def test_a_claim_without_a_running_trial_is_freed_without_an_event(storage: LeasedStorage) -> None:
    _, trial_id = begin(storage)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    claim(storage)
    for seen in storage.live_claims(1):
        assert storage.reap(seen, Cause("silent")) is False
    assert kinds(storage, trial_id) == ["claimed", "finished"]


# --------------------------------------------------------------------------------- what it costs


def test_a_report_and_a_beat_send_nothing_more_and_every_change_one_statement(
    storage: LeasedStorage,
) -> None:
    token, trial_id = begin(storage)

    def about_events(act: Callable[[], object]) -> int:
        return sum(EVENTS.name in sent for sent in statements(storage, act))

    assert about_events(lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.3)) == 0
    assert about_events(lambda: storage.beat(token)) == 0
    assert about_events(lambda: storage.set_trial_user_attr(trial_id, "seed", 7)) == 0
    assert about_events(lambda: storage.survey(1)) == 0
    assert about_events(lambda: storage.requeue(trial_id, token)) == 1
    later = claim(storage)
    assert about_events(lambda: storage.pop_waiting(1, later)) == 1
    complete = lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])  # noqa: E731
    assert about_events(complete) == 1
    assert about_events(lambda: storage.release(later)) == 0


# -------------------------------------------------------------------------------- what is deleted


def test_a_deleted_study_takes_its_events_along(storage: LeasedStorage) -> None:
    kept = storage.create_new_study([StudyDirection.MAXIMIZE], "kept")
    _, gone = begin(storage)
    token = storage.take_slot(kept, None, "host:1")
    assert token is not None
    stays = storage.new_trial(kept, token)
    optuna.delete_study(study_name="faces", storage=storage)
    assert kinds(storage, gone) == []
    assert kinds(storage, stays) == ["claimed"]


def test_a_study_deleted_by_plain_optuna_takes_its_events_along(
    storage: LeasedStorage, store_url: str
) -> None:
    _, gone = begin(storage)
    plain = optuna.storages.RDBStorage(store_url.replace("postgresql:", "postgresql+psycopg:"))
    optuna.delete_study(study_name="faces", storage=plain)
    assert kinds(storage, gone) == []
    plain.engine.dispose()


def test_a_new_trial_never_gets_the_events_of_a_deleted_row(sqlite_url: str) -> None:
    storage = open_storage(sqlite_url)
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    token, old = begin(storage)
    storage.release(token)
    with storage.engine.begin() as connection:
        connection.execute(sa.delete(TRIALS))
    _, new = begin(storage)
    assert new > old
    assert kinds(storage, new) == ["claimed"]
    storage.close()


# ------------------------------------------------------------------------------------- old stores


def forget_events(storage: LeasedStorage) -> None:
    """Make the store one of an earlier version."""
    with storage.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"DROP TRIGGER {EVENTS.name}_of_deleted_study")
        EVENTS.drop(connection)


def test_a_store_of_an_earlier_version_gets_the_table_when_it_is_opened_for_writing(
    storage: LeasedStorage, store_url: str
) -> None:
    _, trial_id = begin(storage)
    forget_events(storage)
    reader = open_storage(store_url, create=False, read_only=True)
    assert reader.events_of([trial_id]) == []
    assert [trial.number for trial in reader.get_all_trials(1)] == [0]
    reader.close()
    writer = open_storage(store_url, create=False)
    assert writer.events_of([trial_id]) == []
    writer.requeue(trial_id)
    assert kinds(writer, trial_id) == ["requeued"]
    optuna.delete_study(study_name="faces", storage=writer)
    assert kinds(writer, trial_id) == []
    writer.close()


def test_who_only_reads_sees_the_events(storage: LeasedStorage, store_url: str) -> None:
    _, trial_id = begin(storage)
    reader = open_storage(store_url, create=False, read_only=True)
    assert kinds(reader, trial_id) == ["claimed"]
    reader.close()


# ----------------------------------------------------------------------------------------- in files


def test_events_come_back_from_a_file_as_they_were(storage: LeasedStorage) -> None:
    token, trial_id = begin(storage)
    storage.requeue(trial_id, token, Cause("exception", {"error": "IndexError: \udc80 7"}))
    events = storage.events_of([trial_id])
    text = json.dumps([event.as_dict() for event in events])
    again = [TrialEvent.from_dict(kept) for kept in json.loads(text)]
    assert again == events
    copy = storage.create_new_trial(1)
    storage.restore_events(1, copy, again)
    storage.restore_events(1, copy, [])
    assert storage.events_of([copy]) == events


@pytest.mark.parametrize("change", [{"time": "soon"}, {"detail": None}, {"more": 1}])
def test_what_is_no_event_is_refused(change: dict[str, Any]) -> None:
    event = TrialEvent(0, "claimed", None, {}, 1, "host:1", datetime.now(UTC) - timedelta(1))
    with pytest.raises((KeyError, TypeError, ValueError)):
        TrialEvent.from_dict({**event.as_dict(), **change})
