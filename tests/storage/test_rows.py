"""Rows that somebody deleted by SQL: no number, no id and nothing left behind comes twice."""

from __future__ import annotations

import re
from collections.abc import Iterator

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from storage import LeasedStorage, LeaseLost, StorageError, open_storage
from tests.support.claimed import new_study


@pytest.fixture
def on_sqlite(sqlite_url: str) -> Iterator[LeasedStorage]:
    """PostgreSQL refuses to delete a row that others refer to, and never gives an id again."""
    opened = open_storage(sqlite_url)
    yield opened
    opened.close()


def sql(storage: LeasedStorage, statement: str) -> None:
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def numbers(storage: LeasedStorage, study_id: int) -> list[int]:
    return sorted(trial.number for trial in storage.get_all_trials(study_id))


def new_trial(storage: LeasedStorage, study_id: int) -> tuple[int, int]:
    """A running trial under a claim: (token, trial_id)."""
    token = storage.take_slot(study_id, None, "test")
    assert token is not None
    return token, storage.new_trial(study_id, token)


def two_of_one_number(storage: LeasedStorage) -> int:
    """A study with the numbers 0, 1, 1, as plain Optuna makes them; its id."""
    study_id = new_study(storage)
    for _ in range(3):
        storage.create_new_trial(study_id)
    sql(storage, "UPDATE trials SET number = 1 WHERE number = 2")
    return study_id


# ---------------------------------------------------------------------------------------- numbers


def test_after_a_deleted_row_every_kind_of_new_trial_gets_a_number_of_its_own(
    storage: LeasedStorage,
) -> None:
    study = optuna.create_study(study_name="faces", storage=storage, direction="maximize")
    other = new_study(storage, "others")
    study_id = study._study_id
    for _ in range(3):
        storage.create_new_trial(study_id)
    sql(storage, f"DELETE FROM trials WHERE number = 0 AND study_id = {study_id}")
    sql(storage, f"DELETE FROM trials WHERE number = 1 AND study_id = {study_id}")
    new_trial(storage, study_id)
    study.enqueue_trial({})
    study.add_trial(create_trial(value=0.5))
    study.ask()
    assert numbers(storage, study_id) == [2, 3, 4, 5]
    # each study counts for itself
    storage.create_new_trial(other)
    assert numbers(storage, other) == [0]
    storage.check_numbers(study_id)


def test_an_empty_study_begins_with_0_again(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    storage.create_new_trial(study_id)
    sql(storage, "DELETE FROM trials")
    storage.create_new_trial(study_id)
    storage.create_new_trial(study_id)
    assert numbers(storage, study_id) == [0, 1]


def test_a_doubled_number_is_named_and_the_statement_in_the_line_mends_it(
    storage: LeasedStorage,
) -> None:
    study_id = two_of_one_number(storage)
    with pytest.raises(StorageError) as refused:
        storage.check_numbers(study_id)
    line = str(refused.value)
    assert 'trials of study "faces" have the number 1 (trial_id 2, 3)' in line
    assert "\n" not in line
    # nobody begins a trial either: one who counts in Python would never be done
    with pytest.raises(StorageError, match="have the number 1"):
        storage.take_slot(study_id, 40, "test")
    (statement,) = re.findall(r"UPDATE trials SET number = \d+ WHERE trial_id = \d+", line)
    sql(storage, statement)
    storage.check_numbers(study_id)
    assert numbers(storage, study_id) == [0, 1, 2]
    assert storage.take_slot(study_id, 40, "test") is not None


def test_one_number_in_two_studies_is_no_double(storage: LeasedStorage) -> None:
    for name in ("faces", "others"):
        study_id = new_study(storage, name)
        storage.create_new_trial(study_id)
        storage.check_numbers(study_id)


# ------------------------------------------------------------------------------ what a row leaves


def test_a_deleted_row_leaves_its_successor_nothing(on_sqlite: LeasedStorage) -> None:
    study_id = new_study(on_sqlite)
    _, old = new_trial(on_sqlite, study_id)
    on_sqlite.set_trial_param(old, "dice_weight", 1.5, FloatDistribution(1, 2))
    on_sqlite.set_trial_intermediate_value(old, 1, 0.3)
    on_sqlite.set_trial_user_attr(old, "seed", 7)
    on_sqlite.set_trial_system_attr(old, "fixed_params", {"dice_weight": 1.5})
    sql(on_sqlite, "DELETE FROM trials")
    _, trial_id = new_trial(on_sqlite, study_id)
    trial = on_sqlite.get_trial(trial_id)
    assert trial_id > old
    assert (trial.params, trial.intermediate_values) == ({}, {})
    assert (trial.user_attrs, trial.system_attrs) == ({}, {})


def test_whoever_trained_a_deleted_row_writes_nothing_to_its_successor(
    on_sqlite: LeasedStorage, sqlite_url: str
) -> None:
    study_id = new_study(on_sqlite)
    token, old = new_trial(on_sqlite, study_id)
    sql(on_sqlite, "DELETE FROM trials")
    another = open_storage(sqlite_url)
    _, trial_id = new_trial(another, study_id)
    assert on_sqlite.beat(token).request is None
    with pytest.raises(KeyError):
        on_sqlite.set_trial_intermediate_value(old, 1, 0.3)
    assert another.get_trial(trial_id).intermediate_values == {}
    # and its claim holds no place of the budget
    assert on_sqlite.take_slot(study_id, 2, "test") is not None
    assert on_sqlite.release(token)
    with pytest.raises(LeaseLost):
        on_sqlite.beat(token)
    another.close()


def test_a_new_study_takes_nothing_over_from_one_deleted_by_sql(on_sqlite: LeasedStorage) -> None:
    old = new_study(on_sqlite)
    new_trial(on_sqlite, old)
    on_sqlite.set_study_user_attr(old, "total", 40)
    on_sqlite.set_study_system_attr(old, "dashboard:note", "mine")
    sql(on_sqlite, "DELETE FROM studies")
    study_id = new_study(on_sqlite)
    assert study_id > old
    assert on_sqlite.get_study_directions(study_id) == [StudyDirection.MAXIMIZE]
    assert on_sqlite.get_study_user_attrs(study_id) == {}
    assert on_sqlite.get_study_system_attrs(study_id) == {}
    assert (numbers(on_sqlite, study_id), on_sqlite.live_claims(study_id)) == ([], [])
    assert on_sqlite.count_finished(study_id) == 0


def test_ids_go_up_by_one_where_nothing_was_deleted(storage: LeasedStorage) -> None:
    first = new_study(storage)
    assert new_study(storage, "others") == first + 1
    ids = [storage.create_new_trial(first) for _ in range(3)]
    assert ids == list(range(ids[0], ids[0] + 3))


# ------------------------------------------------------------------------------ in the middle


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING])
def test_a_row_deleted_while_it_is_watched_is_shown_as_failed(
    storage: LeasedStorage, store_url: str, state: TrialState
) -> None:
    study = optuna.create_study(study_name="faces", storage=storage, direction="maximize")
    storage.create_new_trial(study._study_id)
    storage.create_new_trial(study._study_id, create_trial(state=state))
    watcher = open_storage(store_url)
    watched = optuna.load_study(study_name="faces", storage=watcher)
    assert [trial.state for trial in watched.get_trials()] == [TrialState.RUNNING, state]
    sql(storage, "DELETE FROM trials WHERE number = 1")
    for _ in range(2):
        rows = watched.get_trials(deepcopy=False)
        assert [row.number for row in rows] == [0, 1]
        assert [row.state for row in rows] == [TrialState.RUNNING, TrialState.FAIL]
        assert rows[1].user_attrs == {"reason": "its row was deleted"}
    # who looks for the first time does not see it
    assert numbers(storage, study._study_id) == [0]
    watcher.close()
