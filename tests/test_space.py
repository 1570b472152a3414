"""The search space as data."""

from __future__ import annotations

import pytest

import space
from space import Choice, EpochShare, Float, Int


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(0, 1, log=True), "log scale needs low > 0, got low=0"),
        (lambda: Float(2, 1), "low=2, high=1"),
        (lambda: Float(1, float("nan")), "finite"),
        (lambda: Int(3, 3), "low must be below high"),
        (lambda: Choice((1, 1)), "differ"),
        (lambda: EpochShare((0,)), "1 or more"),
    ],
)
def test_a_range_checks_itself_and_echoes_the_value(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_t_0_is_the_budget_over_one_to_six() -> None:
    found = space.concrete(space.SPACE, 150)["T_0"]
    assert found == Choice((150, 75, 50, 37.5, 30, 25))
    assert all(isinstance(value, int) for value in (found.choices[0], found.choices[5]))


def test_every_range_survives_json() -> None:
    for spec in (*space.SPACE.values(), Int(1, 5)):
        assert space.from_json(space.to_json(spec)) == spec
    with pytest.raises(ValueError, match="kind"):
        space.from_json({"kind": "wheel"})


def test_first_trials_are_complete_and_start_with_the_users_best() -> None:
    trials = space.first_trials(150)
    assert len(trials) == 11
    assert all(set(trial.params) == set(space.SPACE) for trial in trials)
    assert trials[0].params == {
        "dice_weight": 1.5,
        "dice_schedule": "constant",
        "dice_ramp": 0.0,
        "label_smoothing": 0.0,
        "dropout": 0.15,
        "weight_decay": 1e-4,
        "T_0": 150,
    }
    assert trials[1].params["T_0"] == trials[2].params["T_0"] == 25
    step = trials[3].params
    assert (step["dice_schedule"], step["dice_weight"], step["dice_ramp"]) == ("step", 1.5, 0.4)
    assert [t.params["dice_weight"] for t in trials[5:]] == [1.0, 2.0, 1.6, 1.4, 1.7, 1.3]
    assert all(trial.note and trial.prediction for trial in trials)
