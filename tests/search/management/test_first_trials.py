from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

import space
from search.management import first_trials
from search.management.enqueue import Request, enqueue
from search.management.first_trials import enqueue_first
from search.study.attributes import FIRST
from search.study.lookup import load_setup
from search.study.requests import planned_params
from storage import LeasedStorage
from tests.support.programs import command_study, program_at
from tests.support.studies import EPOCHS, play, setup_of, store, study_of


def waiting(study, storage: LeasedStorage) -> list[int]:
    """First trials in the order in which workers will take them."""
    order = []
    while True:
        token = storage.take_slot(study._study_id, None, "test")
        trial_id = storage.pop_waiting(study._study_id, token)
        if trial_id is None:
            storage.release(token)
            return order
        trial = storage.get_trial(trial_id)
        order.append(trial.user_attrs.get(FIRST, trial.user_attrs.get("note")))


def firsts(study) -> dict[object, dict]:
    return {
        trial.user_attrs[FIRST]: planned_params(trial)
        for trial in study.get_trials()
        if FIRST in trial.user_attrs
    }


@pytest.fixture
def all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_trials, "MOST", len(space.FIRST_TRIALS))


@pytest.mark.usefixtures("all_of_them")
def test_first_trials_are_complete_configurations_in_their_order(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    assert enqueue_first(study, setup_of(), 44)[0].startswith("first trials: 11 ")
    params = firsts(study)
    assert list(params) == list(range(1, 12))
    assert all(set(values) == set(space.SPACE) for values in params.values())
    base = {
        "dice_weight": 1.5,
        "dice_schedule": "constant",
        "dice_ramp": 0.0,
        "label_smoothing": 0.0,
        "dropout": 0.15,
        "weight_decay": 1e-4,
        "T_0": EPOCHS,
    }
    assert params[1] == base
    assert params[2] == {**base, "T_0": 2}
    assert params[3] == {**base, "T_0": 2, "label_smoothing": 0.1, "dropout": 0.2}
    assert params[4] == {**base, "dice_schedule": "step", "dice_ramp": 0.4}
    assert params[6] == {**base, "dice_weight": 1.0}
    assert waiting(study, storage) == list(range(1, 12))


def test_predictions_stand_as_text(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    enqueue_first(study, setup_of(), 40)
    attrs = [trial.user_attrs for trial in study.get_trials()]
    assert any("0.690-0.695" in each.get("prediction", "") for each in attrs)
    assert all("expect" not in each for each in attrs)


def test_first_trials_take_a_quarter_and_four_at_most(tmp_path: Path) -> None:
    storage = store(tmp_path)
    for total, count in ((3, 0), (8, 2), (16, 4), (40, 4)):
        study = study_of(storage, f"faces-{total}")
        enqueue_first(study, setup_of(f"faces-{total}"), total)
        assert len(study.get_trials()) == count


def test_the_same_command_enqueues_them_once(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    enqueue_first(study, setup_of(), 8)
    assert enqueue_first(study, setup_of(), 8) == []
    play(study, storage, setup_of(), 4)
    assert enqueue_first(study, setup_of(), 8) == []
    # a larger budget has room for more of them
    enqueue_first(study, setup_of(), 16)
    assert list(firsts(study)) == [1, 2, 3, 4]


def test_an_interrupted_run_leaves_none_out(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    enqueue_first(study, setup_of(), 12)
    broken = study_of(storage, "broken")
    enqueue_first(broken, setup_of("broken"), 4)
    enqueue_first(broken, setup_of("broken"), 12)
    assert firsts(broken) == firsts(study)


@pytest.mark.usefixtures("all_of_them")
def test_fix_overrides_and_doubles_are_left_out(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"fixes": ("dice_weight=1.2",)}
    study = study_of(storage, **options)
    lines = enqueue_first(study, setup_of(**options), 44)
    assert {params["dice_weight"] for params in firsts(study).values()} == {1.2}
    # 1.0, 2.0, 1.6, 1.4, 1.7 and 1.3 have become the first one
    assert list(firsts(study)) == [1, 2, 3, 4, 5]
    assert sum("left out: the same as first trial 1" in line for line in lines) == 6


@pytest.mark.usefixtures("all_of_them")
def test_a_value_outside_is_left_out_and_a_base_value_goes_to_the_end(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"ranges": ("dice_weight=1.55:1.65", "dropout=0.18:0.3")}
    study = study_of(storage, **options)
    lines = enqueue_first(study, setup_of(**options), 44)
    params = firsts(study)
    # 1.5 and 0.15 are the base's: they go to 1.55 and 0.18
    assert (params[1]["dice_weight"], params[1]["dropout"]) == (1.55, 0.18)
    assert params[3]["dropout"] == 0.2
    assert 6 not in params
    assert any("dice 1.0) left out: dice_weight 1 is outside 1.55..1.65" in line for line in lines)


def test_a_searched_key_that_they_do_not_know_is_the_configs(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"ranges": ("learning_rate=1e-4:1e-2:log",), "config": {"learning_rate": 2e-3}}
    study = study_of(storage, **options)
    enqueue_first(study, setup_of(**options), 8)
    assert {params["learning_rate"] for params in firsts(study).values()} == {2e-3}


def test_what_a_person_asks_for_comes_first(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    enqueue_first(study, setup_of(), 8)
    enqueue(study, load_setup(study), [Request({"dice_weight": 3.0}, note="mine", priority=-5)])
    assert waiting(study, storage) == ["mine", 1, 2]


def test_what_a_person_asked_for_is_not_doubled(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    enqueue(study, setup_of(), [Request({"dice_weight": 1.5})])
    lines = enqueue_first(study, setup_of(), 8)
    assert list(firsts(study)) == [2, 3]
    assert any("the same as trial 0" in line for line in lines)


def test_two_runs_at_once_do_not_double_them(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    # the other run has read the queue before this one wrote to it
    for number in (1, 2):
        study.enqueue_trial(setup_of().defaults, user_attrs={FIRST: number})
        study.enqueue_trial(setup_of().defaults, user_attrs={FIRST: number})
    enqueue_first(study, setup_of(), 12)
    alive = [t for t in study.get_trials() if t.state == TrialState.WAITING]
    assert sorted(trial.user_attrs[FIRST] for trial in alive) == [1, 2, 3]
    dead = [t for t in study.get_trials() if t.state == TrialState.FAIL]
    assert all(trial.user_attrs["cancelled"] for trial in dead)
    assert len(dead) == 2


@pytest.mark.parametrize(
    ("ranges", "first", "note"),
    [
        (("layers.1.width=8:64", "x=0:1"), {"layers.1.width": 32, "x": 0.5}, "the base config"),
        (("rate=1e-5:1:log",), {"rate": 1e-4}, "the base config"),
        (("x=1:2",), {"x": 1.0}, "the base config, but x 1 for 0.5, which is not searched"),
    ],
)
def test_a_programs_own_config_is_the_first_trial_and_what_differs_is_said(
    tmp_path: Path, ranges: tuple[str, ...], first: dict[str, float], note: str
) -> None:
    storage = store(tmp_path)
    program_at(tmp_path, "")
    with (tmp_path / "base.yaml").open("a") as file:
        file.write("layers: [{width: 16}, {width: 32}]\nrate: 1e-4\n")
    study = command_study(storage, tmp_path, total=4, ranges=ranges)
    setup = load_setup(study)
    assert enqueue_first(study, setup, 4) == [f"first trial: {note}"]
    assert firsts(study) == {1: first}
    assert enqueue_first(study, setup, 4) == []


def test_predicted_steps_are_the_users_schedule(tmp_path: Path) -> None:
    from search.study.setup import config_for
    from trainer.dice_schedule import dice_weight_at

    storage = store(tmp_path)
    study = study_of(storage)
    enqueue_first(study, setup_of(), 16)
    loss = config_for(setup_of(), firsts(study)[4], seed=0).loss
    found = [
        dice_weight_at(p, level=loss.dice_weight, ramp=loss.dice_ramp, schedule=loss.dice_schedule)
        for p in (0.1, 0.5, 0.9)
    ]
    assert [round(value, 9) for value in found] == [1.3, 1.5, 1.7]
