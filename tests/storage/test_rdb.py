from __future__ import annotations

import copy
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from storage import (
    LeasedStorage,
    LeaseLost,
    StorageError,
    claims,
    for_optuna,
    open_storage,
    parse_url,
    sqlite,
)
from tests.support.claimed import new_study, start

DICE = FloatDistribution(0.5, 4.0)
# every kind of write that a trial knows
WRITES: dict[str, Callable[[LeasedStorage, int], Any]] = {
    "param": lambda s, t: s.set_trial_param(t, "late", 1.5, DICE),
    "report": lambda s, t: s.set_trial_intermediate_value(t, 99, 0.9),
    "user attribute": lambda s, t: s.set_trial_user_attr(t, "late", True),
    "system attribute": lambda s, t: s.set_trial_system_attr(t, "late", True),
    "wait": lambda s, t: s.set_trial_state_values(t, TrialState.WAITING),
    "complete": lambda s, t: s.set_trial_state_values(t, TrialState.COMPLETE, [0.9]),
}


def written(trial: FrozenTrial) -> tuple[Any, ...]:
    """Everything of a trial that a write can change, but its times."""
    return (
        *(trial.number, trial.state, trial.values, trial.params, trial.distributions),
        *(trial.user_attrs, trial.system_attrs, trial.intermediate_values),
    )


def refuses_every_write(storage: LeasedStorage, trial_id: int) -> None:
    before = written(storage.get_trial(trial_id))
    for write in WRITES.values():
        with pytest.raises(LeaseLost):
            write(storage, trial_id)
    assert written(storage.get_trial(trial_id)) == before


# Back in the queue


def test_a_trial_put_back_keeps_all_it_had_and_is_asked_for_next(storage: LeasedStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="faces", direction="maximize")
    study_id = study._study_id
    token, trial_id = start(storage, study_id)
    trial = Trial(study, trial_id)
    trial.suggest_float("dice_weight", 0.5, 4.0)
    trial.suggest_categorical("T_0", [12, 6.0])
    trial.report(0.3, 1)
    trial.report(0.4, 2)
    trial.set_user_attr("seed", 7)
    trial.storage.set_trial_system_attr(trial_id, "fixed", [1, 2])
    study.enqueue_trial({"dice_weight": 1.5}, user_attrs={"priority": 9})
    before = storage.get_trial(trial_id)
    assert storage.requeue(trial_id, token)
    assert storage.live_claims(study_id) == []
    after = storage.get_trial(trial_id)
    assert after.state == TrialState.WAITING
    assert written(after)[2:] == written(before)[2:]
    # begun goes before any priority
    later, again = start(storage, study_id)
    assert (again, later > token) == (trial_id, True)
    assert written(storage.get_trial(trial_id)) == written(before)
    assert (
        Trial(study, trial_id).suggest_float("dice_weight", 0.5, 4.0)
        == (before.params["dice_weight"])
    )
    # plain Optuna's ask goes by number alone and finds the other
    assert study.ask().number == 1


def test_only_a_running_trial_is_put_back(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token, trial_id = start(storage, study_id)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert not storage.requeue(trial_id, token)
    assert storage.live_claims(study_id) == []
    assert not storage.requeue(trial_id)
    assert storage.get_trial(trial_id).state == TrialState.COMPLETE
    waiting = storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    assert not storage.requeue(waiting)


def test_a_claim_puts_back_no_trial_but_its_own(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token, mine = start(storage, study_id)
    _, other = start(storage, study_id)
    with pytest.raises(LeaseLost):
        storage.requeue(other, token)
    assert storage.get_trial(other).state == TrialState.RUNNING
    assert len(storage.live_claims(study_id)) == 2
    assert storage.requeue(mine, token)


# The fence


def test_the_owner_may_write_everything(storage: LeasedStorage) -> None:
    _, trial_id = start(storage, new_study(storage))
    for name, write in WRITES.items():
        if name != "wait":
            write(storage, trial_id)
    trial = storage.get_trial(trial_id)
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 0.9
    assert trial.params == {"late": 1.5}
    assert trial.intermediate_values == {99: 0.9}
    assert trial.user_attrs["late"] is trial.system_attrs["late"] is True
    # a finished trial is refused as such, not as a lost lease
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial_id, "late", False)


@pytest.mark.parametrize("way", ["released", "reaped", "put back", "run elsewhere"])
def test_every_late_write_is_refused(store_url: str, way: str) -> None:
    storage, other = open_storage(store_url), open_storage(store_url)
    study_id = new_study(storage)
    token, trial_id = start(storage, study_id)
    storage.set_trial_user_attr(trial_id, "seed", 7)
    if way == "released":
        storage.release(token)
    elif way == "reaped":
        assert other.reap(other.live_claims(study_id)[0])
    elif way == "put back":
        storage.requeue(trial_id, token)
    else:
        other.requeue(trial_id)
        assert start(other, study_id)[1] == trial_id
    refuses_every_write(storage, trial_id)
    if way == "run elsewhere":
        # the new owner is not disturbed, and where it ended the trial, the old one still is late
        WRITES["complete"](other, trial_id)
        refuses_every_write(storage, trial_id)
    storage.close()
    other.close()


def test_a_study_in_front_of_the_storage_is_fenced_as_well(storage: LeasedStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="faces", direction="maximize")
    _, trial_id = start(storage, study._study_id)
    trial = Trial(study, trial_id)
    trial.report(0.3, 1)
    other = open_storage(storage.address.text)
    other.requeue(trial_id)
    assert start(other, study._study_id)[1] == trial_id
    for act in (
        lambda: trial.report(0.4, 2),
        lambda: trial.suggest_float("dice_weight", 0.5, 4.0),
        lambda: trial.set_user_attr("seed", 7),
        lambda: trial.set_constraint("diverged", 1.0),
        lambda: study.tell(trial, 0.5),
        lambda: study.tell(trial, state=TrialState.PRUNED),
    ):
        with pytest.raises(LeaseLost):
            act()
    row = storage.get_trial(trial_id)
    assert (row.state, row.intermediate_values) == (TrialState.RUNNING, {1: 0.3})
    assert row.params == row.user_attrs == {}
    other.close()


def test_a_worker_that_takes_its_old_trial_again_may_write(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token, trial_id = start(storage, study_id)
    storage.requeue(trial_id, token)
    refuses_every_write(storage, trial_id)
    assert start(storage, study_id)[1] == trial_id
    WRITES["report"](storage, trial_id)


def test_nobody_needs_a_claim_to_write_to_a_trial_of_others(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    dashboard = open_storage(storage.address.text)
    waiting = dashboard.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    dashboard.set_trial_user_attr(waiting, "cancelled", True)
    assert dashboard.set_trial_state_values(waiting, TrialState.FAIL)
    _, trial_id = start(storage, study_id)
    dashboard.set_trial_system_attr(trial_id, "note", "looks good")
    assert dashboard.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert storage.get_trial(trial_id).value == 0.5
    dashboard.close()


def test_a_claim_cannot_go_between_the_check_and_the_write(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    other = open_storage(storage.address.text)
    token, trial_id = start(storage, study_id)
    events = []

    def drop() -> None:
        other.requeue(trial_id)
        events.append("dropped")

    dropping = threading.Thread(target=drop)
    with storage.engine.begin() as connection:
        claims.check(connection, token, trial_id)
        dropping.start()
        if storage.engine.name == "postgresql":
            # a check that is under way does not hold up the heart
            other.beat(token)
        time.sleep(0.3)
        events.append("written")
    dropping.join()
    assert events == ["written", "dropped"]
    other.close()


def test_threads_have_fences_of_their_own(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    owned = [start(storage, study_id) for _ in range(4)]
    lost = {trial_id for _, trial_id in owned[::2]}
    for trial_id in lost:
        storage.requeue(trial_id)

    def write(trial_id: int) -> int:
        refused = 0
        for step in range(10):
            try:
                storage.set_trial_intermediate_value(trial_id, step, 0.5)
            except LeaseLost:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = list(pool.map(write, [trial_id for _, trial_id in owned]))
    assert refused == [10, 0, 10, 0]


# Copies, closing, opening


def test_a_pickled_storage_works_and_is_fenced_too(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(store_url, patience_s=7.0)
    study_id = new_study(storage)
    _, mine = start(storage, study_id)
    _, lost = start(storage, study_id)
    storage.requeue(lost)
    for other in (pickle.loads(pickle.dumps(storage)), copy.deepcopy(storage)):
        assert isinstance(other, LeasedStorage)
        assert other.patience_s == 7.0
        assert other.get_study_name_from_id(study_id) == "faces"
        other.set_trial_user_attr(mine, "seed", 7)
        refuses_every_write(other, lost)
        assert other.take_slot(study_id, None, "copy") is not None
        other.close()
    storage.close()


def test_a_pickled_storage_finds_its_file_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///search.db")
    new_study(storage)
    text = pickle.dumps(storage)
    storage.close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    other = pickle.loads(text)
    assert [study.study_name for study in other.get_all_studies()] == ["faces"]
    other.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_pickled_reader_stays_a_reader(sqlite_url: str) -> None:
    open_storage(sqlite_url).close()
    storage = open_storage(sqlite_url, read_only=True)
    other = pickle.loads(pickle.dumps(storage))
    with pytest.raises(StorageError, match="read-only"):
        new_study(other)
    other.close()
    storage.close()


def test_a_closed_storage_can_be_used_again(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    _, trial_id = start(storage, study_id)
    for _ in range(2):
        storage.close()
        storage.close()
        WRITES["report"](storage, trial_id)
        assert storage.count_states(study_id)[TrialState.RUNNING] == 1
    storage.requeue(trial_id)
    storage.close()
    refuses_every_write(storage, trial_id)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("v2.4.0.a", "has the older schema v2.4.0.a"),
        ("v9.9.9", "by a newer Optuna (schema v9.9.9)"),
    ],
)
def test_another_schema_is_refused_in_one_line_and_left_alone(
    store_url: str, schema: str, says: str
) -> None:
    plain = optuna.storages.RDBStorage(for_optuna(parse_url(store_url).text))
    with plain.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{schema}'"))
    tables = set(sa.inspect(plain.engine).get_table_names())
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(StorageError) as refused:
            open_storage(store_url, **options)
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
    # a fresh inspector: it remembers
    assert set(sa.inspect(plain.engine).get_table_names()) == tables
    plain.engine.dispose()


def test_a_store_of_plain_optuna_is_taken_over(store_url: str) -> None:
    plain = optuna.storages.RDBStorage(for_optuna(parse_url(store_url).text))
    study_id = plain.create_new_study([StudyDirection.MAXIMIZE], "faces")
    running = plain.create_new_trial(study_id)
    reader = open_storage(store_url, read_only=True)
    assert reader.live_claims(study_id) == []
    reader.close()
    storage = open_storage(store_url, create=False)
    assert storage.survey(study_id) == ([], [(running, 0)])
    assert storage.take_slot(study_id, 1, "test") is not None
    # and plain Optuna goes on with it
    plain.set_trial_state_values(running, TrialState.COMPLETE, [0.5])
    assert plain.get_best_trial(study_id).number == 0
    assert storage.count_finished(study_id) == 1
    plain.engine.dispose()
    storage.close()


# Patience


def test_a_locked_store_is_waited_for(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    storage = open_storage(sqlite_url, patience_s=20)
    study_id = new_study(storage)
    path = storage.address.path
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
        began = time.monotonic()
        release.start()
        _, trial_id = start(storage, study_id)
        assert 0.4 < time.monotonic() - began < 10
        release.join()
        WRITES["report"](storage, trial_id)
    assert len(storage.get_all_trials(study_id)) == 1
    storage.close()


def test_patience_ends_with_one_line(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    storage = open_storage(sqlite_url, patience_s=0.3)
    study_id = new_study(storage)
    path = storage.address.path
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for act in (
            lambda: storage.take_slot(study_id, 1, "test"),
            lambda: storage.set_study_user_attr(study_id, "total", 40),
            lambda: optuna.delete_study(study_name="faces", storage=storage),
        ):
            with pytest.raises(StorageError) as ended:
                act()
            assert str(ended.value).startswith(f"store {path}: another process has held it")
            assert "\n" not in str(ended.value)
            assert ended.value.__cause__ is None
        other.execute("ROLLBACK")
    storage.close()


def test_a_lost_answer_is_no_error_and_writes_nothing_twice(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    losses: list[Any] = []

    def lose(session: Any) -> None:
        # the commit went through; the connection breaks before the server's word arrives
        if not losses:
            losses.append(session)
            broken = sqlite3.OperationalError("database is locked")
            raise sa.exc.OperationalError("COMMIT", {}, broken)

    def lose_single(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        # one that is a transaction of its own
        if statement.startswith("WITH lease"):
            lose(connection)

    sa.event.listen(storage.scoped_session.session_factory, "after_commit", lose)
    sa.event.listen(storage.engine, "after_cursor_execute", lose_single)
    trial_id = storage.new_trial(study_id, token)
    assert len(losses) == 1
    assert len(storage.get_all_trials(study_id)) == 1
    for write in WRITES.values():
        if write is WRITES["wait"]:
            continue
        losses.clear()
        write(storage, trial_id)
        assert len(losses) == 1
    trial = storage.get_trial(trial_id)
    assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, 0.9, {"late": 1.5})
    # the second answer is not taken for the first: another end is refused
    losses.clear()
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.PRUNED)


def test_only_trouble_of_the_store_is_explained(sqlite_url: str) -> None:
    storage = open_storage(sqlite_url)
    assert storage.explain(ValueError("no")) is None
    assert storage.explain(StorageError("one line")) == "one line"
    locked = sa.exc.OperationalError("BEGIN", {}, sqlite3.OperationalError("database is locked"))
    assert "another process has held it" in str(storage.explain(locked))
    storage.close()


# What the service asks for


def test_the_study_with_the_latest_start_or_end_comes_first(storage: LeasedStorage) -> None:
    names = ("empty", "ended", "begun", "waiting")
    ids = {name: new_study(storage, name) for name in names}
    storage.create_new_trial(ids["waiting"], create_trial(state=TrialState.WAITING))
    noon = datetime.now().replace(microsecond=0)

    def add(name: str, begun_h: float, ended_h: float | None) -> None:
        row = create_trial(state=TrialState.RUNNING if ended_h is None else TrialState.PRUNED)
        row.datetime_start = noon + timedelta(hours=begun_h)
        row.datetime_complete = None if ended_h is None else noon + timedelta(hours=ended_h)
        storage.create_new_trial(ids[name], row)

    add("ended", -9, -1)
    add("ended", -8, -7)
    add("begun", -2, None)
    found = storage.studies_by_activity()
    assert [study.name for study in found] == ["ended", "begun", "waiting", "empty"]
    assert [study.study_id for study in found] == [ids[study.name] for study in found]
    assert found[0].latest == noon.astimezone(UTC) - timedelta(hours=1)
    assert found[1].latest == noon.astimezone(UTC) - timedelta(hours=2)
    assert found[2].latest is found[3].latest is None
    # a trial that is taken up makes its study the latest
    start(storage, ids["empty"])
    assert storage.studies_by_activity()[0].name == "empty"
