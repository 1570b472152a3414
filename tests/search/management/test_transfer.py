from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.management import first_trials
from search.management.first_trials import enqueue_first
from search.management.transfer import transfer_trials
from search.strategy.loading import load_study
from search.study.lineages import best_of, finished, nothing_better_for
from search.study.lookup import load_setup
from search.study.repeats import repeated_scores
from search.study.requests import planned_params
from search.study.setup import StudyError, trial_config
from storage import LeasedStorage
from tests.support.studies import FACES, play, setup_of, store, study_of

OldAndNew = Callable[..., tuple[LeasedStorage, optuna.Study, optuna.Study]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a study `old` of twelve trials."""
    folder = tmp_path_factory.mktemp("old")
    with closing(store(folder)) as storage:
        play(study_of(storage, "old", pruner="none"), storage, setup_of("old"), 12)
    return folder


@pytest.fixture
def old_and_new(played: Path, tmp_path: Path) -> OldAndNew:
    """A copy of it: the store, `old`, and a study `new` beside it, changed as told."""
    shutil.copytree(played, tmp_path, dirs_exist_ok=True)
    storage = store(tmp_path)

    def opened(**changes: Any) -> tuple[LeasedStorage, optuna.Study, optuna.Study]:
        return storage, load_study(storage, "old"), study_of(storage, "new", **changes)

    return opened


def test_repeats_come_with_the_trials_that_they_repeat(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new()
    new.add_trial(old.get_trials()[0])
    of = old.get_trials()[4]
    # as a worker leaves one
    repeat = optuna.trial.create_trial(
        value=0.6,
        params=of.params,
        distributions=of.distributions,
        user_attrs={"repeats": 4, "gain": 0.1, "seed": 5},
        intermediate_values={1: 0.6},
    )
    old.add_trial(repeat)
    lines = transfer_trials(new, storage, "old")
    assert lines[1:] == ["--from old: 1 repeat of them as well"]
    copy = new.get_trials()[-1]
    assert copy.user_attrs["copied_from"] == "old/12"
    assert new.get_trials()[copy.user_attrs["repeats"]].user_attrs["copied_from"] == "old/4"
    assert repeated_scores(new.get_trials()) == {5: [0.6]}
    # again it changes nothing
    transfer_trials(new, storage, "old")
    assert len(new.get_trials()) == 14


def test_trials_of_the_same_identity_come_with_value_and_curve(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new()
    (line,) = transfer_trials(new, storage, "old")
    assert line == "--from old: 12 trials taken over with their values and curves"
    for before, after in zip(old.get_trials(), new.get_trials(), strict=True):
        assert after.user_attrs["copied_from"] == f"old/{before.number}"
        assert after.state == before.state
        assert after.params == before.params
        assert after.intermediate_values == before.intermediate_values
        assert after.datetime_complete == before.datetime_complete
        assert after.user_attrs["seed"] == before.user_attrs["seed"]
        if before.state == TrialState.COMPLETE:
            assert after.value == before.value


def test_copies_are_uncounted_and_may_be_the_best(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new()
    transfer_trials(new, storage, "old")
    assert finished(new.get_trials()) == []
    assert storage.count_finished(new._study_id) == 0
    was, now = best_of(old.get_trials()), best_of(new.get_trials())
    assert was is not None
    assert now is not None
    assert now.value == was.value
    # a copy can be exported: its config is the one that it was trained with
    config = trial_config(now, load_setup(new))
    assert config.loss.dice_weight == was.params["dice_weight"]
    play(new, storage, setup_of("new"), 1, lambda *_: 0.1)
    assert nothing_better_for(new.get_trials()) == 1


def test_repeating_it_changes_nothing(old_and_new: OldAndNew) -> None:
    storage, _, new = old_and_new()
    transfer_trials(new, storage, "old")
    assert transfer_trials(new, storage, "old")[0].startswith("--from old: 0 trials")
    third = study_of(storage, "third")
    transfer_trials(third, storage, "new")
    transfer_trials(third, storage, "old")
    assert len(third.get_trials()) == 12


def test_ranges_may_differ_and_the_copies_outside_teach_nothing(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new(ranges=("dice_weight=1:2",))
    transfer_trials(new, storage, "old")
    assert len(new.get_trials()) == 12
    params = play(new, storage, load_setup(new), 3)
    assert all(1 <= each["dice_weight"] <= 2 for each in params)
    assert any(trial.params["dice_weight"] > 2 for trial in new.get_trials()[:12])
    assert best_of(new.get_trials()).value >= best_of(old.get_trials()).value  # type: ignore[union-attr]


def test_T_0_in_whole_epochs_takes_over_what_fits(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new(ranges=("T_0=2:12",))
    lines = transfer_trials(new, storage, "old")
    whole = [t for t in old.get_trials() if float(t.params["T_0"]).is_integer()]
    assert len(new.get_trials()) == len(whole)
    assert all(isinstance(trial.params["T_0"], int) for trial in new.get_trials())
    assert len(whole) == 12 or "left out" in lines[-1]
    play(new, storage, load_setup(new), 2)


def test_a_key_that_is_searched_only_now_keeps_its_value_from_the_base(
    old_and_new: OldAndNew,
) -> None:
    storage, _, new = old_and_new(ranges=("learning_rate=1e-4:1e-2:log",))
    transfer_trials(new, storage, "old")
    assert {trial.params["learning_rate"] for trial in new.get_trials()} == {3e-3}
    play(new, storage, load_setup(new), 1)


def test_a_key_that_is_no_longer_searched_must_have_the_bases_value(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"ranges": ("rotation=0:30",)}
    old = study_of(storage, "old", **options)
    play(old, storage, setup_of("old", **options), 2)
    token = storage.take_slot(old._study_id, None, "test")
    storage.release(token)
    old.enqueue_trial({**setup_of("old", **options).defaults, "rotation": 5.0})
    play(old, storage, setup_of("old", **options), 1)
    new = study_of(storage, "new")
    lines = transfer_trials(new, storage, "old")
    assert [trial.user_attrs["copied_from"] for trial in new.get_trials()] == ["old/2"]
    assert "2 trials left out" in lines[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": {"learning_rate": 1e-3}}, "training.learning_rate 0.003, here 0.001"),
        ({"data": dataclasses.replace(FACES, fingerprint="f" * 16)}, "other data"),
    ],
)
def test_from_another_identity_only_the_five_best_configs_come(
    old_and_new: OldAndNew, changes: dict, says: str
) -> None:
    storage, old, new = old_and_new(**changes)
    (line,) = transfer_trials(new, storage, "old")
    assert says in line
    assert "5 of its best configurations enqueued as first trials" in line
    rows = new.get_trials()
    assert [trial.state for trial in rows] == [TrialState.WAITING] * 5
    best_old = best_of(old.get_trials())
    assert best_old is not None
    assert planned_params(rows[0]) == best_old.params
    assert rows[0].value is None
    assert rows[0].user_attrs["prediction"].startswith(f"{best_old.value:.4f} there")
    assert transfer_trials(new, storage, "old") == [line.replace("5 of its", "0 of its")]
    # they are first trials: before the seed's own, and counted
    play(new, storage, load_setup(new), 1)
    assert storage.count_finished(new._study_id) == 1


def test_another_budget_keeps_the_number_of_cycles(old_and_new: OldAndNew) -> None:
    storage, old, new = old_and_new(config={"epochs": 24})
    transfer_trials(new, storage, "old")
    winner = best_of(old.get_trials())
    assert winner is not None
    assert planned_params(new.get_trials()[0])["T_0"] == 2 * winner.params["T_0"]


def test_configs_outside_the_new_ranges_stay_where_they_are(old_and_new: OldAndNew) -> None:
    changes = {"config": {"learning_rate": 1e-3}, "ranges": ("dice_weight=0.5:0.6",)}
    storage, _, new = old_and_new(**changes, fixes=("dice_ramp=0",))
    transfer_trials(new, storage, "old")
    assert all(planned_params(t)["dice_weight"] <= 0.6 for t in new.get_trials())


def test_first_trials_share_their_places_with_them(
    old_and_new: OldAndNew, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _, new = old_and_new(config={"learning_rate": 1e-3})
    transfer_trials(new, storage, "old")
    monkeypatch.setattr(first_trials, "MOST", 7)
    enqueue_first(new, load_setup(new), 28)
    assert len(new.get_trials()) == 7


def test_a_study_takes_nothing_from_itself_or_from_nowhere(old_and_new: OldAndNew) -> None:
    storage, _, new = old_and_new()
    with pytest.raises(StudyError, match="the study itself"):
        transfer_trials(new, storage, "new")
    with pytest.raises(StudyError, match="did you mean old"):
        transfer_trials(new, storage, "olds")
