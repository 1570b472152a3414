from __future__ import annotations

import numpy as np
import pytest

from search.strategy.forecast.features import (
    FEATURES,
    KNOTS,
    ConfigurationFeatures,
    annealing,
    from_log,
    readings,
    to_log,
)
from space import Choice, Float
from trainer.lr_schedule import cycle_ends, lr_at

PARAMS = {
    "dice_weight": 1.5,
    "dice_schedule": "step",
    "dice_ramp": 0.4,
    "label_smoothing": 0.1,
    "dropout": 0.2,
    "weight_decay": 1e-4,
    "T_0": 12,
}


def test_equal_shares_of_what_is_wrong_are_equal_steps() -> None:
    assert to_log(0.9) - to_log(0.8) == pytest.approx(to_log(0.8) - to_log(0.6))
    assert from_log(float(to_log(0.78))) == pytest.approx(0.78)
    assert np.isfinite(to_log(1.0))


def test_a_curve_reads_the_same_under_another_budget() -> None:
    short = {epoch: epoch / 30 for epoch in range(1, 25)}
    long = {epoch: epoch / 60 for epoch in range(1, 49)}
    assert readings(short, 24) == pytest.approx(readings(long, 48))
    assert len(readings(short, 24)) == len(KNOTS)


def test_what_lies_ahead_is_not_read_and_a_trough_does_not_lower_the_best() -> None:
    curve = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.5, 5: 0.4, 6: 0.4}
    assert [round(from_log(x), 3) for x in readings(curve, 24)] == [0.5, 0.5, 0.5]
    assert len(readings({1: 0.1}, 24)) == 0
    assert len(readings({}, 24)) == 0


@pytest.mark.parametrize(("t_0", "t_mult"), [(1.0, 1), (0.25, 1), (1 / 7, 2)])
def test_the_place_in_a_cycle_is_the_trainers_learning_rate(t_0: float, t_mult: int) -> None:
    steps = 8400
    ends = cycle_ends(steps, t_0_steps=steps * t_0, t_mult=t_mult)
    rates = [lr_at(step, ends=ends, peak=1.0, eta_min=0.0) for step in range(steps)]
    for share in (0.1, 0.2, 0.4, 0.6, 0.95):
        rate, surplus = annealing(share, t_0=t_0, t_mult=t_mult)
        done = round(share * steps)
        assert rate == pytest.approx(rates[done - 1], abs=0.01)
        assert surplus == pytest.approx(np.mean(rates[:done]) - 0.5, abs=0.01)


def test_a_ramp_is_inert_under_a_constant_schedule() -> None:
    study = ConfigurationFeatures(24)
    constant = {**PARAMS, "dice_schedule": "constant"}
    assert np.array_equal(study.of(constant), study.of({**constant, "dice_ramp": -0.5}))
    assert not np.array_equal(study.of(PARAMS), study.of({**PARAMS, "dice_ramp": -0.5}))


@pytest.mark.parametrize("name", [name for name in PARAMS if name != "dice_schedule"])
def test_every_parameter_tells(name: str) -> None:
    study = ConfigurationFeatures(24)
    assert not np.allclose(study.of(PARAMS), study.of({**PARAMS, name: 0.6 * PARAMS[name]}))


def test_what_is_not_searched_is_the_studys_own() -> None:
    given = ConfigurationFeatures(24, defaults={"dropout": 0.3, "dice_weight": 1.0})
    whole = ConfigurationFeatures(24).of({**PARAMS, "dropout": 0.3})
    assert np.array_equal(given.of({k: v for k, v in PARAMS.items() if k != "dropout"}), whole)
    average = ConfigurationFeatures(24).of({})
    assert average.shape == (len(KNOTS), FEATURES)
    assert np.isfinite(average).all()


def test_parameters_that_no_recorded_curve_knows_come_on_top() -> None:
    others = {
        "learning_rate": Float(1e-4, 1e-2, log=True),
        "optimizer": Choice(("AdamW", "SGD", "Lion")),
    }
    study = ConfigurationFeatures(24, others=others)
    assert study.count == FEATURES + 2 + 3
    rows = study.of({**PARAMS, "learning_rate": 1e-3, "optimizer": "SGD"})
    assert rows[0, FEATURES:] == pytest.approx([0, -1 / 3, -1 / 3, 2 / 3, -1 / 3])
    assert np.array_equal(rows[:, :FEATURES], ConfigurationFeatures(24).of(PARAMS))
    assert study.of(PARAMS)[0, FEATURES : FEATURES + 2] == pytest.approx([0, 0])
