from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage import LeasedStorage, LeaseLost, for_optuna, open_storage, parse_url
from storage.claims import REQUEST_ATTR
from tests.support.claimed import new_study

PROCESSES = 8
QUEUED = 60
# of each process of the pool below: where it meets the others, and its store
_gate: Any = None
_opened: LeasedStorage | None = None


def add(
    storage: LeasedStorage,
    study_id: int,
    state: TrialState = TrialState.WAITING,
    attrs: Mapping[str, Any] | None = None,
    curve: Mapping[int, float] | None = None,
) -> int:
    """A row as enqueue, revive or an earlier run left it; its id."""
    value = 0.5 if state == TrialState.COMPLETE else None
    return storage.create_new_trial(
        study_id,
        create_trial(
            state=state,
            value=value,
            user_attrs=dict(attrs or {}),
            intermediate_values=dict(curve or {}),
        ),
    )


def start(storage: LeasedStorage, study_id: int, owner: str = "test") -> tuple[int, int]:
    """A new running trial under a claim: (token, trial_id)."""
    token = storage.take_slot(study_id, None, owner)
    assert token is not None
    return token, storage.new_trial(study_id, token)


def end(storage: LeasedStorage, token: int, trial_id: int, state: TrialState) -> None:
    values = [0.5] if state == TrialState.COMPLETE else None
    storage.set_trial_state_values(trial_id, state, values)
    storage.release(token)


def free_places(storage: LeasedStorage, study_id: int, total: int) -> int:
    taken = 0
    while storage.take_slot(study_id, total, "test") is not None:
        taken += 1
    return taken


def _meet(gate: Any) -> None:
    global _gate
    _gate = gate


def _open(url: str) -> None:
    global _opened
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _gate.wait(60)
    _opened = open_storage(url)


def _work(study_id: int, total: int) -> list[tuple[int, str]]:
    """Run trials as a worker does until no place is left; their numbers, and what they were."""
    assert _opened is not None
    done = []
    _gate.wait(60)
    while (token := _opened.take_slot(study_id, total, "test")) is not None:
        trial_id = _opened.pop_waiting(study_id, token)
        kind = "queued" if trial_id is not None else "new"
        if trial_id is None:
            trial_id = _opened.new_trial(study_id, token)
        done.append((_opened.get_trial(trial_id).number, kind))
        # every tenth fails, so that its place comes back
        state = TrialState.FAIL if done[-1][0] % 10 == 9 else TrialState.COMPLETE
        end(_opened, token, trial_id, state)
    _opened.close()
    return done


def test_eight_processes_make_one_store_and_run_each_queued_trial_once_within_the_budget(
    store_url: str,
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.storage.test_claims"])
    gate = context.Barrier(PROCESSES)
    with context.Pool(PROCESSES, initializer=_meet, initargs=(gate,)) as pool:
        # each of them waits at the gate for the others, so each gets one call
        pool.map(_open, [store_url] * PROCESSES, chunksize=1)
        storage = open_storage(store_url, create=False)
        study_id = new_study(storage)
        for _ in range(QUEUED):
            add(storage, study_id)
        # 54 of the 60 end well, so 6 new ones are needed, and one of those fails
        total = QUEUED
        done = pool.starmap(_work, [(study_id, total)] * PROCESSES, chunksize=1)
    ran = [trial for share in done for trial in share]
    assert sorted(number for number, kind in ran if kind == "queued") == list(range(QUEUED))
    assert sorted(number for number, _ in ran) == list(range(len(ran)))
    counts = storage.count_states(study_id)
    assert counts[TrialState.COMPLETE] == storage.count_finished(study_id) == total
    assert counts[TrialState.FAIL] == len(ran) - total == 6
    assert counts[TrialState.RUNNING] == counts[TrialState.WAITING] == 0
    assert storage.live_claims(study_id) == []
    storage.close()


def test_twelve_threads_share_five_places(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    gate = threading.Barrier(12)

    def take(number: int) -> int | None:
        gate.wait()
        return storage.take_slot(study_id, 5, f"thread {number}")

    with ThreadPoolExecutor(12) as pool:
        tokens = [token for token in pool.map(take, range(12)) if token is not None]
    assert len(tokens) == len(set(tokens)) == 5
    assert [claim.token for claim in storage.live_claims(study_id)] == sorted(tokens)


def test_finished_trials_and_live_claims_are_counted_together(storage: LeasedStorage) -> None:
    study_id, other = new_study(storage), new_study(storage, "other")
    add(storage, study_id, TrialState.COMPLETE)
    add(storage, study_id, TrialState.PRUNED)
    add(storage, study_id, TrialState.FAIL)
    add(storage, study_id, TrialState.WAITING)
    # work done elsewhere
    for attr in ("continues", "copied_from"):
        add(storage, study_id, TrialState.COMPLETE, {attr: 0})
        add(storage, study_id, TrialState.PRUNED, {attr: 0})
    # another study has a budget of its own
    add(storage, other, TrialState.COMPLETE)
    start(storage, other)
    assert storage.count_finished(study_id) == 2
    assert storage.count_states(study_id) == {
        TrialState.RUNNING: 0,
        TrialState.COMPLETE: 3,
        TrialState.PRUNED: 3,
        TrialState.FAIL: 1,
        TrialState.WAITING: 1,
    }
    assert storage.take_slot(study_id, 2, "test") is None
    token = storage.take_slot(study_id, 3, "test")
    assert token is not None
    # a place counts before it has a trial, with its trial, and its trial once when it is done
    assert storage.take_slot(study_id, 3, "test") is None
    trial_id = storage.pop_waiting(study_id, token)
    assert trial_id is not None
    assert storage.take_slot(study_id, 3, "test") is None
    storage.set_trial_state_values(trial_id, TrialState.PRUNED)
    assert storage.count_finished(study_id) == 3
    assert free_places(storage, study_id, 4) == 1
    storage.release(token)
    assert free_places(storage, study_id, 5) == 1


def test_a_failed_trial_gives_its_place_back_at_once(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token = storage.take_slot(study_id, 1, "test")
    assert token is not None
    trial_id = storage.new_trial(study_id, token)
    assert storage.take_slot(study_id, 1, "test") is None
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    # even before its owner releases the claim
    assert storage.take_slot(study_id, 1, "test") is not None


def test_a_revived_trial_takes_no_place_of_the_budget(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id, TrialState.PRUNED)
    add(storage, study_id, TrialState.WAITING, {"continues": 0})
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    # until it has the trial it might as well get a counted one
    assert free_places(storage, study_id, 2) == 0
    assert storage.pop_waiting(study_id, token) is not None
    assert free_places(storage, study_id, 2) == 1


def test_a_claim_outside_the_budget_gets_no_waiting_trial_that_counts(
    storage: LeasedStorage,
) -> None:
    study_id = new_study(storage)
    add(storage, study_id, attrs={"priority": 9})
    add(storage, study_id, attrs={"continues": 7})
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    trial_id = storage.pop_waiting(study_id, token, uncounted=True)
    assert trial_id is not None
    assert storage.get_trial(trial_id).number == 1
    other = storage.take_slot(study_id, None, "test")
    assert other is not None
    assert storage.pop_waiting(study_id, other, uncounted=True) is None


def revival(parent: int) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, user_attrs={"continues": parent})


def test_of_twelve_who_would_revive_a_trial_one_does(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id, TrialState.PRUNED)
    gate = threading.Barrier(12)

    def revive(number: int) -> tuple[int, int | None]:
        token = storage.take_slot(study_id, None, f"thread {number}")
        assert token is not None
        gate.wait()
        return token, storage.extra_trial(study_id, token, revival(0), 0)

    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(revive, range(12)))
    ((token, trial_id),) = [(token, made) for token, made in done if made is not None]
    made = storage.get_trial(trial_id)
    assert (made.number, made.state) == (1, TrialState.RUNNING)
    assert made.user_attrs == {"continues": 0}
    assert len(storage.get_all_trials(study_id)) == 2
    owners = {claim.token: claim.trial_id for claim in storage.live_claims(study_id)}
    assert owners[token] == trial_id
    # an answer that was lost brings no second row
    assert storage.extra_trial(study_id, token, revival(0), 0) == trial_id
    # who has seen it may revive another
    later = storage.take_slot(study_id, None, "test")
    assert later is not None
    assert storage.extra_trial(study_id, later, revival(1), 1) is not None
    assert storage.count_finished(study_id) == 1


def test_who_has_seen_no_repeat_makes_no_revival_beside_it(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id, TrialState.COMPLETE)
    tokens = [storage.take_slot(study_id, None, f"worker {number}") for number in range(2)]
    repeat = create_trial(state=TrialState.RUNNING, user_attrs={"repeats": 0})
    first, other = (token for token in tokens if token is not None)
    assert storage.extra_trial(study_id, first, repeat, 0) is not None
    assert storage.extra_trial(study_id, other, revival(0), 0) is None
    # and the budget knows nothing of it
    assert storage.count_finished(study_id) == 1
    assert storage.take_slot(study_id, 3, "third") is not None


def test_a_revival_whose_claim_is_gone_is_not_made(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    storage.release(token)
    with pytest.raises(LeaseLost):
        storage.extra_trial(study_id, token, revival(0), 0)
    assert storage.get_all_trials(study_id) == []


def test_an_unknown_study_is_a_key_error(storage: LeasedStorage) -> None:
    for total in (1, None):
        with pytest.raises(KeyError, match="no study with id 77"):
            storage.take_slot(77, total, "test")


def test_started_trials_go_first_then_by_priority_then_by_number(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id)
    add(storage, study_id, attrs={"priority": 2})
    add(storage, study_id, attrs={"priority": 5.5})
    add(storage, study_id, attrs={"priority": -1}, curve={1: 0.1})
    add(storage, study_id, attrs={"priority": "much"})
    add(storage, study_id, attrs={"priority": 2})
    add(storage, study_id, attrs={"priority": float("nan")})
    add(storage, study_id, attrs={"priority": -1})
    add(storage, study_id, TrialState.COMPLETE, {"priority": 9})
    add(storage, new_study(storage, "other"), attrs={"priority": 9})
    order = []
    while True:
        token = storage.take_slot(study_id, None, "test")
        assert token is not None
        trial_id = storage.pop_waiting(study_id, token)
        if trial_id is None:
            break
        order.append(storage.get_trial(trial_id).number)
        assert storage.get_trial(trial_id).state == TrialState.RUNNING
        assert storage.live_claims(study_id)[-1].number == order[-1]
    assert order == [3, 2, 1, 5, 0, 4, 6, 7]


def test_a_lost_answer_brings_no_second_trial(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id)
    add(storage, study_id)
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    first = storage.pop_waiting(study_id, token)
    assert first is not None
    assert storage.pop_waiting(study_id, token) == first
    assert storage.new_trial(study_id, token) == first
    assert storage.count_states(study_id)[TrialState.WAITING] == 1
    assert len(storage.get_all_trials(study_id)) == 2


def test_without_a_claim_no_trial_is_taken_or_made(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    add(storage, study_id)
    token, other = start(storage, study_id)
    assert storage.release(token)
    assert not storage.release(token)
    for act in (
        lambda: storage.pop_waiting(study_id, token),
        lambda: storage.new_trial(study_id, token),
        lambda: storage.requeue(other, token),
        lambda: storage.beat(token),
    ):
        with pytest.raises(LeaseLost, match=f"claim {token} is gone"):
            act()
    assert [trial.state for trial in storage.get_all_trials(study_id)] == [
        TrialState.WAITING,
        TrialState.RUNNING,
    ]


def test_a_token_is_never_used_twice(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    tokens = []
    for _ in range(3):
        tokens.append(storage.take_slot(study_id, None, "x" * 300))
        assert storage.live_claims(study_id)[0].owner == "x" * 255
        assert storage.release(tokens[-1] or 0)
    assert len(set(tokens)) == 3


@pytest.mark.parametrize("way", ["reaped", "requeued by its owner", "requeued by another"])
def test_a_request_to_stop_outlives_the_owner(store_url: str, way: str) -> None:
    storage = open_storage(store_url)
    study_id = new_study(storage)
    token, trial_id = start(storage, study_id)
    assert storage.beat(token).request is None
    assert storage.ask_owners(study_id, "stop", 0) == 1
    assert storage.ask_owners(study_id, "stop", 1) == 0
    assert storage.beat(token).request == "stop"
    ways: dict[str, Callable[[], bool | None]] = {
        "reaped": lambda: storage.reap(storage.live_claims(study_id)[0]),
        "requeued by its owner": lambda: storage.requeue(trial_id, token),
        "requeued by another": lambda: storage.requeue(trial_id),
    }
    assert ways[way]() is True
    for heard in ("stop", None):
        later = storage.take_slot(study_id, None, "later")
        assert later is not None
        assert storage.pop_waiting(study_id, later) == trial_id
        # told once: the next owner would stop a trial that somebody put back on purpose
        assert storage.beat(later).request == heard
        assert REQUEST_ATTR not in storage.get_trial(trial_id).system_attrs
        if heard is not None:
            storage.ask_owners(study_id, "requeue", 0)
            assert storage.requeue(trial_id, later)
    storage.close()


def test_a_request_for_everybody_reaches_every_claim_of_the_study(storage: LeasedStorage) -> None:
    study_id, other = new_study(storage), new_study(storage, "other")
    claims = [start(storage, study_id), start(storage, study_id)]
    stranger, _ = start(storage, other)
    assert storage.ask_owners(study_id, "requeue") == 2
    assert [storage.beat(token).request for token, _ in claims] == ["requeue", "requeue"]
    assert storage.beat(stranger).request is None
    assert storage.ask_owners(study_id, "stop", 0) == 1
    assert [storage.beat(token).request for token, _ in claims] == ["stop", "requeue"]
    with pytest.raises(ValueError, match="request must be one of stop, requeue, got 'pause'"):
        storage.ask_owners(study_id, "pause")


def test_a_beat_says_that_somebody_ended_the_trial(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token, trial_id = start(storage, study_id)
    assert not storage.beat(token).ended
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert storage.beat(token).ended
    assert storage.live_claims(study_id)[0].beat == 2


def test_a_deleted_study_takes_its_claims_along(store_url: str) -> None:
    storage = open_storage(store_url)
    plain = optuna.storages.RDBStorage(for_optuna(parse_url(store_url).text))
    kept = new_study(storage, "kept")
    stays, _ = start(storage, kept)
    ways: dict[str, Callable[[str], None]] = {
        "leased": lambda name: optuna.delete_study(study_name=name, storage=storage),
        "plain": lambda name: optuna.delete_study(study_name=name, storage=plain),
    }
    for name, delete in ways.items():
        study_id = new_study(storage, name)
        token, trial_id = start(storage, study_id)
        without_trial = storage.take_slot(study_id, 5, "test")
        delete(name)
        for gone in (token, without_trial):
            with pytest.raises(LeaseLost):
                storage.beat(gone or 0)
        # SQLite uses the ids again: the new study has nothing of the old one
        again = new_study(storage, name)
        assert storage.live_claims(again) == []
        assert free_places(storage, again, 2) == 2
        with pytest.raises(LeaseLost):
            storage.requeue(trial_id, token)
        plain.delete_study(again)
    assert [claim.token for claim in storage.live_claims(kept)] == [stays]
    plain.engine.dispose()
    storage.close()
