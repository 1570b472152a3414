from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from optuna.trial import TrialState

from storage import Heartbeat, LeasedStorage, StorageError, open_storage, sqlite
from tests.support import claimed

EVERY_S = 0.03


@pytest.fixture
def storage(store_url: str) -> Iterator[LeasedStorage]:
    opened = open_storage(store_url, patience_s=0.2)
    yield opened
    opened.close()


@pytest.fixture
def hasty(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeasedStorage]:
    """A SQLite store whose single calls do not wait long for a lock."""
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    opened = open_storage(sqlite_url, patience_s=0.1)
    yield opened
    opened.close()


def start(storage: LeasedStorage) -> tuple[int, int]:
    """A running trial in a new study: (token, trial_id)."""
    return claimed.start(storage, claimed.new_study(storage))


@contextmanager
def locked(storage: LeasedStorage) -> Iterator[None]:
    """Another process holds the SQLite store."""
    assert storage.address.path is not None
    with closing(sqlite3.connect(storage.address.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def beats(storage: LeasedStorage) -> int:
    return storage.live_claims(1)[0].beat


def wait_for(true: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_counter_turns_while_the_block_runs_and_no_longer(storage: LeasedStorage) -> None:
    token, _ = start(storage)
    with Heartbeat(storage, token, EVERY_S, 5.0) as heart:
        # the first beat comes at once
        wait_for(lambda: beats(storage) >= 3)
        assert (heart.last.request, heart.last.ended, heart.lost.is_set()) == (None, False, False)
    after = beats(storage)
    time.sleep(5 * EVERY_S)
    assert beats(storage) == after
    assert not heart.lost.is_set()


def test_a_request_and_an_end_by_somebody_else_are_heard(storage: LeasedStorage) -> None:
    token, trial_id = start(storage)
    with Heartbeat(storage, token, EVERY_S, 5.0) as heart:
        storage.ask_owners(1, "stop", 0)
        wait_for(lambda: heart.last.request == "stop")
        assert not heart.last.ended
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
        wait_for(lambda: heart.last.ended)
        # it is still our claim
        assert not heart.lost.is_set()


def test_a_claim_that_is_gone_ends_the_beating(storage: LeasedStorage) -> None:
    token, trial_id = start(storage)
    with Heartbeat(storage, token, EVERY_S, 5.0) as heart:
        wait_for(lambda: beats(storage) >= 1)
        assert storage.requeue(trial_id)
        assert heart.lost.wait(5)
        assert heart.failure is None


def test_a_store_away_for_less_than_the_grace_costs_nothing(hasty: LeasedStorage) -> None:
    token, _ = start(hasty)
    with Heartbeat(hasty, token, EVERY_S, 8.0) as heart:
        wait_for(lambda: beats(hasty) >= 1)
        with locked(hasty):
            before = beats(hasty)
            time.sleep(0.5)
            # several beats have failed by now
            assert beats(hasty) == before
        wait_for(lambda: beats(hasty) > before)
        assert not heart.lost.is_set()
        assert heart.failure is None


def test_a_store_away_for_longer_than_the_grace_is_reported(hasty: LeasedStorage) -> None:
    token, _ = start(hasty)
    with Heartbeat(hasty, token, EVERY_S, 2.0) as heart:
        wait_for(lambda: beats(hasty) >= 1)
        with locked(hasty):
            assert not heart.lost.wait(0.4)
            assert heart.lost.wait(20)
    assert isinstance(heart.failure, StorageError)
    assert "another process has held it" in str(heart.failure)


def test_the_heart_is_as_patient_as_the_storage(hasty: LeasedStorage) -> None:
    token, _ = start(hasty)
    hasty.patience_s = 8.0
    with Heartbeat(hasty, token, EVERY_S, 0.1) as heart:
        wait_for(lambda: beats(hasty) >= 1)
        with locked(hasty):
            assert not heart.lost.wait(0.5)


def test_a_lost_file_is_reported_at_once(hasty: LeasedStorage) -> None:
    token, _ = start(hasty)
    with Heartbeat(hasty, token, EVERY_S, 60.0) as heart:
        wait_for(lambda: beats(hasty) >= 1)
        hasty.address.path.unlink()
        assert heart.lost.wait(5)
    assert "is gone" in str(heart.failure)


def test_a_bug_in_a_beat_is_kept_as_it_is(
    hasty: LeasedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = start(hasty)

    def broken(token: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(hasty, "beat", broken)
    with Heartbeat(hasty, token, EVERY_S, 0.1) as heart:
        assert heart.lost.wait(5)
    assert isinstance(heart.failure, ZeroDivisionError)


def test_leaving_does_not_wait_for_the_next_beat(storage: LeasedStorage) -> None:
    token, _ = start(storage)
    began = time.monotonic()
    with Heartbeat(storage, token, 60.0, 120.0):
        wait_for(lambda: beats(storage) >= 1)
    assert time.monotonic() - began < 10
    assert f"heart-{token}" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("every_s", "grace_s"), [(0.0, 1.0), (2.0, 2.0), (3.0, 2.0)])
def test_beats_must_come_within_the_grace(
    hasty: LeasedStorage, every_s: float, grace_s: float
) -> None:
    with pytest.raises(ValueError, match=f"every_s={every_s} grace_s={grace_s}"):
        Heartbeat(hasty, 1, every_s, grace_s)
