from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from storage import (
    Cause,
    Heartbeat,
    LeasedStorage,
    LeaseLost,
    Reaper,
    ReaperThread,
    claims,
    open_storage,
)
from storage.optuna_internals import TRIALS
from storage.reaper import ReapedClaim
from tests.support.claimed import new_study, start

GRACE_S = 3.0


@pytest.fixture
def storage(storage: LeasedStorage) -> LeasedStorage:
    new_study(storage)
    return storage


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def looks(reaper: Reaper, clock: Clock, times: int, step_s: float = 1.0) -> list[list[ReapedClaim]]:
    """What the reaper did at each of its next looks."""
    reaped_claims = []
    for _ in range(times):
        reaped_claims.append(reaper.look())
        clock.now_s += step_s
    return reaped_claims


def state(storage: LeasedStorage, trial_id: int) -> TrialState:
    return storage.get_trial(trial_id).state


def test_a_silent_owner_loses_its_trial_after_the_grace_and_not_before(
    storage: LeasedStorage,
) -> None:
    owner = open_storage(storage.address.text)
    token, trial_id = start(owner, owner="node7:123")
    owner.set_trial_intermediate_value(trial_id, 1, 0.3)
    owner.beat(token)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    assert looks(reaper, clock, 3) == [[], [], []]
    assert state(storage, trial_id) == TrialState.RUNNING
    # 3 s of silence, all of them seen
    assert reaper.look() == [ReapedClaim("reaped", trial_id, 0, "node7:123")]
    row = storage.get_trial(trial_id)
    assert (row.number, row.state, row.intermediate_values) == (0, TrialState.WAITING, {1: 0.3})
    assert storage.live_claims(1) == []
    # it only slept: its token is gone, and its late writes change nothing
    for act in (
        lambda: owner.beat(token),
        lambda: owner.set_trial_intermediate_value(trial_id, 2, 0.4),
        lambda: owner.requeue(trial_id, token),
    ):
        with pytest.raises(LeaseLost):
            act()
    later, again = start(storage, owner="other")
    assert again == trial_id
    assert not owner.release(token)
    assert [claim.token for claim in storage.live_claims(1)] == [later]
    assert storage.get_trial(trial_id).intermediate_values == {1: 0.3}
    owner.close()


def test_an_owner_that_beats_is_left_alone_however_slowly(storage: LeasedStorage) -> None:
    token, trial_id = start(storage)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    for _ in range(4):
        assert looks(reaper, clock, 3) == [[], [], []]
        storage.beat(token)
    assert state(storage, trial_id) == TrialState.RUNNING


def test_the_time_a_reaper_was_away_counts_for_a_third_of_the_grace(
    storage: LeasedStorage,
) -> None:
    _, trial_id = start(storage)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    assert looks(reaper, clock, 3, step_s=1e6) == [[], [], []]
    assert [reaped.kind for reaped in reaper.look()] == ["reaped"]
    assert state(storage, trial_id) == TrialState.WAITING


def test_a_claim_is_watched_from_the_moment_it_is_seen(storage: LeasedStorage) -> None:
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    looks(reaper, clock, 9)
    _, trial_id = start(storage)
    assert looks(reaper, clock, 3) == [[], [], []]
    assert [reaped.trial_id for reaped in reaper.look()] == [trial_id]


def test_a_running_trial_without_a_claim_is_adopted(storage: LeasedStorage) -> None:
    # as plain Optuna's ask leaves it, or a worker of another program
    orphan = storage.create_new_trial(1)
    waiting = storage.create_new_trial(1, create_trial(state=TrialState.WAITING))
    done = storage.create_new_trial(1, create_trial(state=TrialState.COMPLETE, value=0.5))
    other = storage.create_new_study([StudyDirection.MAXIMIZE], "other")
    stranger = storage.create_new_trial(other)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    assert looks(reaper, clock, 3) == [[], [], []]
    assert reaper.look() == [ReapedClaim("adopted", orphan, 0, None)]
    assert [state(storage, t) for t in (orphan, waiting, done, stranger)] == [
        TrialState.WAITING,
        TrialState.WAITING,
        TrialState.COMPLETE,
        TrialState.RUNNING,
    ]
    clock.now_s += 1
    assert looks(reaper, clock, 5) == [[]] * 5


def test_an_orphan_that_finds_an_owner_is_left_alone(storage: LeasedStorage) -> None:
    orphan = storage.create_new_trial(1)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    looks(reaper, clock, 3)
    token = storage.take_slot(1, None, "test")
    assert token is not None
    with storage.engine.begin() as connection:
        claims.attach(connection, token, orphan, 0, Cause("test"))
    assert not storage.adopt(orphan)
    assert reaper.look() == []
    assert state(storage, orphan) == TrialState.RUNNING


def test_a_silent_claim_without_a_running_trial_is_freed(storage: LeasedStorage) -> None:
    token = storage.take_slot(1, 2, "died early")
    ended, trial_id = start(storage, owner="died late")
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert storage.take_slot(1, 2, "test") is None
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    assert looks(reaper, clock, 3) == [[], [], []]
    assert reaper.look() == [
        ReapedClaim("freed", None, None, "died early"),
        ReapedClaim("freed", trial_id, 0, "died late"),
    ]
    assert state(storage, trial_id) == TrialState.COMPLETE
    assert storage.live_claims(1) == []
    assert token != ended
    assert storage.take_slot(1, 2, "test") is not None


def test_a_beat_between_the_look_and_the_deed_saves_the_trial(storage: LeasedStorage) -> None:
    token, trial_id = start(storage)
    (seen,) = storage.live_claims(1)
    storage.beat(token)
    assert storage.reap(seen) is None
    assert state(storage, trial_id) == TrialState.RUNNING
    (seen,) = storage.live_claims(1)
    # of two reapers one does it
    assert [storage.reap(seen), storage.reap(seen)] == [True, None]


def test_wall_clocks_play_no_part(storage: LeasedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    token, trial_id = start(storage)
    orphan = storage.create_new_trial(1)
    clock = Clock()
    reaper = Reaper(storage, 1, GRACE_S, clock)
    for year in (1970, 2099):
        with storage.engine.begin() as connection:
            connection.execute(sa.update(TRIALS).values(datetime_start=datetime(year, 1, 1)))
        monkeypatch.setattr(time, "time", lambda year=year: (year - 1970) * 3.2e7)
        assert looks(reaper, clock, 1, step_s=0.1) == [[]]
        storage.beat(token)
    assert state(storage, trial_id) == state(storage, orphan) == TrialState.RUNNING
    # and no clock that stands still spares anybody
    monkeypatch.setattr(time, "time", lambda: 0.0)
    looks(reaper, clock, 3)
    assert {reaped.kind for reaped in reaper.look()} == {"reaped", "adopted"}


def test_a_patrol_looks_while_its_owner_is_busy(storage: LeasedStorage) -> None:
    _, trial_id = start(storage)
    with ReaperThread(Reaper(storage, 1, grace_s=0.6)):
        # nobody calls anything here, as in the middle of a long epoch
        until = time.monotonic() + 20
        while state(storage, trial_id) == TrialState.RUNNING:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert state(storage, trial_id) == TrialState.WAITING
    assert not [thread for thread in threading.enumerate() if thread.name == "reaper"]


def test_a_patrol_outlives_a_store_that_is_away(sqlite_url: str) -> None:
    storage = open_storage(sqlite_url, patience_s=0.1)
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    _, trial_id = start(storage)
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    away = file.with_name("away.db")
    with ReaperThread(Reaper(storage, 1, grace_s=0.6)):
        file.rename(away)
        time.sleep(0.5)
        away.rename(file)
        until = time.monotonic() + 20
        while state(storage, trial_id) == TrialState.RUNNING:
            assert time.monotonic() < until
            time.sleep(0.05)
    storage.close()


def _sleeper(url: str, pipe: Any) -> None:
    """A worker that is stopped in mid-trial and goes on as if nothing had been."""
    storage = open_storage(url)
    token, trial_id = start(storage, owner="sleeper")
    with Heartbeat(storage, token, 0.2, 1.0) as heart:
        storage.set_trial_intermediate_value(trial_id, 1, 0.3)
        pipe.send(trial_id)
        pipe.recv()
        lost = heart.lost.wait(20)
    try:
        storage.set_trial_intermediate_value(trial_id, 2, 0.9)
    except LeaseLost:
        pipe.send(("refused", lost, heart.failure))
    else:
        pipe.send(("written", lost, heart.failure))
    storage.close()


def test_a_process_that_slept_too_long_finds_its_token_gone(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storage.rdb"])
    here, there = context.Pipe()
    process = context.Process(target=_sleeper, args=(postgres_url, there))
    process.start()
    try:
        assert here.poll(60)
        trial_id = here.recv()
        reaper = Reaper(storage, 1, grace_s=3.0)
        # longer than the grace
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert reaper.look() == []
            time.sleep(0.1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        reaped_claims: list[ReapedClaim] = []
        while not reaped_claims:
            reaped_claims = reaper.look()
            time.sleep(0.1)
        assert reaped_claims == [ReapedClaim("reaped", trial_id, 0, "sleeper")]
        assert start(storage, owner="other")[1] == trial_id
        os.kill(process.pid, signal.SIGCONT)
        here.send("go on")
        assert here.poll(30)
        assert here.recv() == ("refused", True, None)
        assert storage.get_trial(trial_id).intermediate_values == {1: 0.3}
    finally:
        # ends a stopped process too
        process.kill()
        process.join()
        storage.close()
