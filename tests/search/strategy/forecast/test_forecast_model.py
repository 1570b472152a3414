from __future__ import annotations

import numpy as np
import pytest

from search.strategy.forecast.features import ConfigurationFeatures, to_log
from search.strategy.forecast.model import Forecast, prior_from
from space import Float
from tests.support.curves import EPOCHS, bank, by_epoch, drawn, made

START = prior_from(bank())


def ahead(forecast, curves, epochs):
    """Errors of forecast ends after some epochs, and in the forecast's own deviations."""
    ends = [forecast.end(curve.params, by_epoch(curve.val_f, epochs)) for curve in curves]
    truths = [float(to_log(max(curve.val_f))) for curve in curves]
    errors = np.array([truth - end.mean for truth, end in zip(truths, ends, strict=True)])
    return errors, errors / [end.deviation for end in ends]


def root_mean_square(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("epochs", [4, 8, 12, 18])
def test_a_forecast_is_as_sure_as_it_may_be(epochs: int) -> None:
    forecast, (first, second, *others) = (
        Forecast([START], ConfigurationFeatures(EPOCHS)),
        bank(60, seed=1),
    )
    for curve in (first, second):
        forecast.learn(curve.params, by_epoch(curve.val_f))
    _, standardised = ahead(forecast, others, epochs)
    assert 0.4 < root_mean_square(standardised) < 1.3


def test_the_further_a_curve_has_come_the_better_is_its_end_known() -> None:
    forecast, others = Forecast([START], ConfigurationFeatures(EPOCHS)), bank(60, seed=2)
    sizes = [root_mean_square(ahead(forecast, others, epochs)[0]) for epochs in (0, 12, 22)]
    assert sizes[0] > sizes[1] > sizes[2]
    curve = others[0]
    sure = [
        forecast.end(curve.params, by_epoch(curve.val_f, epochs)).deviation
        for epochs in (0, 6, 12, 20)
    ]
    assert sure == sorted(sure, reverse=True)


def test_configurations_are_told_apart_before_they_train() -> None:
    errors, _ = ahead(Forecast([START], ConfigurationFeatures(EPOCHS)), bank(60, seed=3), 0)
    spread = np.std([to_log(max(curve.val_f)) for curve in bank(60, seed=3)])
    assert root_mean_square(errors) < 0.6 * spread


def test_a_study_like_the_recorded_one_is_taken_for_it_and_a_strange_one_is_not() -> None:
    near, strange = (Forecast([START], ConfigurationFeatures(EPOCHS)) for _ in range(2))
    shifted = bank(3, seed=4, repeats=0, level=2.2)
    for known, other in zip(bank(3, seed=4, repeats=0), shifted, strict=True):
        near.learn(known.params, by_epoch(known.val_f))
        strange.learn(other.params, by_epoch(other.val_f))
    assert near.weights[0] > 0.9
    assert strange.weights[-1] > 0.9


def test_a_strange_studys_own_trials_take_over() -> None:
    shape = {"level": 2.2, "noise": 0.02, "repeats": 0}
    forecast, later = Forecast([START], ConfigurationFeatures(EPOCHS)), bank(40, seed=6, **shape)
    sizes = []
    for number, curve in enumerate(bank(12, seed=5, **shape), 1):
        forecast.learn(curve.params, by_epoch(curve.val_f))
        if number in (1, 12):
            sizes.append(root_mean_square(ahead(forecast, later, 0)[0]))
    assert sizes[1] < 0.05 < 0.7
    assert sizes[1] < sizes[0]


def test_parked_trials_are_evidence_too() -> None:
    shape = {"level": 2.2, "repeats": 0}
    unknown, parked = (Forecast([START], ConfigurationFeatures(EPOCHS)) for _ in range(2))
    for curve in bank(10, seed=8, **shape):
        parked.learn(curve.params, by_epoch(curve.val_f, 8))
    later = bank(30, seed=9, **shape)
    errors = [root_mean_square(ahead(forecast, later, 0)[0]) for forecast in (unknown, parked)]
    assert errors[1] < 0.7 * errors[0]


def test_one_broken_training_does_not_move_the_others_forecast() -> None:
    forecast, others = Forecast([START], ConfigurationFeatures(EPOCHS)), bank(5, seed=10, repeats=0)
    for curve in others[:4]:
        forecast.learn(curve.params, by_epoch(curve.val_f))
    before = forecast.end(others[4].params, {})
    forecast.learn(others[0].params, dict.fromkeys(range(1, EPOCHS + 1), 0.05))
    after = forecast.end(others[4].params, {})
    assert abs(after.mean - before.mean) < 2 * before.deviation


def test_a_parameter_that_was_never_recorded_is_learned_in_the_study() -> None:
    features = ConfigurationFeatures(EPOCHS, others={"learning_rate": Float(1e-3, 1e-1, log=True)})
    forecast, rng = Forecast([START], features), np.random.default_rng(11)
    for _ in range(10):
        params = drawn(rng)
        rate = float(10 ** rng.uniform(-3, -1))
        curve = made(params, rng, level=1.5 + 0.2 * np.log10(rate / 1e-2))
        forecast.learn({**params, "learning_rate": rate}, by_epoch(curve))
    params = drawn(rng)
    low, high = (forecast.end({**params, "learning_rate": r}, {}).mean for r in (1e-3, 1e-1))
    assert high - low == pytest.approx(0.4, abs=0.15)


def test_the_noise_between_seeds_is_the_recorded_one_and_follows_the_study() -> None:
    assert START.noise == pytest.approx(0.01, rel=0.5)
    calm, wild = (Forecast([START], ConfigurationFeatures(EPOCHS)) for _ in range(2))
    for forecast, noise in ((calm, 0.01), (wild, 0.05)):
        for curve in bank(12, seed=12, repeats=0, noise=noise):
            forecast.learn(curve.params, by_epoch(curve.val_f))
    assert wild.noise > 1.5 * calm.noise


def test_a_copy_learns_apart() -> None:
    forecast = Forecast([START], ConfigurationFeatures(EPOCHS))
    curve = bank(1, seed=13, level=2.0)[0]
    before = forecast.end(curve.params, {})
    other = forecast.copy()
    other.learn(curve.params, by_epoch(curve.val_f))
    assert forecast.end(curve.params, {}).mean == before.mean
    assert other.end(curve.params, {}).mean != before.mean


def test_an_earlier_study_of_the_store_is_a_nearer_start() -> None:
    shape = {"level": 2.2, "repeats": 0}
    past = Forecast([START], ConfigurationFeatures(EPOCHS))
    for curve in bank(12, seed=14, **shape):
        past.learn(curve.params, by_epoch(curve.val_f))
    without, with_it = (
        Forecast([START], ConfigurationFeatures(EPOCHS)),
        Forecast([START, past.prior()], ConfigurationFeatures(EPOCHS)),
    )
    first, *later = bank(30, seed=15, **shape)
    for forecast in (without, with_it):
        forecast.learn(first.params, by_epoch(first.val_f))
    assert with_it.weights[1] > 0.9
    errors = [root_mean_square(ahead(f, later, 4)[0]) for f in (without, with_it)]
    assert errors[1] < errors[0]
