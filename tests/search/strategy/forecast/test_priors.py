from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from search.strategy.forecast.curve_banks import read_bank
from search.strategy.forecast.features import FEATURES, from_log
from search.strategy.forecast.priors import (
    BANKS,
    features_of,
    forecast_of_study,
    make_study_forecast,
)
from search.study.lookup import load_setup
from search.study.setup import distributions
from tests.support.curves import by_epoch, drawn, made
from tests.support.studies import setup_of, store, study_of


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.stem)
def test_a_shipped_bank_is_whole(path: Path) -> None:
    bank = read_bank(path)
    assert len({curve.config for curve in bank}) >= 30
    assert len(bank) > len({curve.config for curve in bank}), "no repeats: no noise between seeds"
    assert set(bank[0].params) == set(setup_of().specs())


def test_what_is_not_searched_comes_from_the_studys_config() -> None:
    config = {"dropout": 0.3, "T_0": 4, "T_mult": 2, "weight_decay": 1e-3}
    setup = setup_of(config=config, table={"dice_weight": setup_of().specs()["dice_weight"]})
    features = features_of(setup)
    assert features.defaults["dropout"] == 0.3
    assert features.defaults["weight_decay"] == 1e-3
    assert (features.defaults["T_0"], features.t_mult) == (4, 2)
    assert features.count == FEATURES


def test_a_parameter_of_ones_own_is_one_more() -> None:
    setup = setup_of(ranges=("learning_rate=1e-4:5e-3:log",))
    assert features_of(setup).count == FEATURES + 2
    assert "learning_rate" in features_of(setup).others


def test_a_trial_not_yet_begun_is_as_the_recorded_ones() -> None:
    mean, deviation = make_study_forecast(setup_of()).newcomer
    assert 0.5 < from_log(mean) < 0.95
    assert deviation > 0


def trials_of(study, level, count, *, seed):
    """Whole made-up trainings of a study, at a height of its own."""
    import numpy as np

    setup, rng = load_setup(study), np.random.default_rng(seed)
    spread = distributions(setup)
    for _ in range(count):
        params = drawn(rng, setup.epochs)
        params["T_0"] = min(spread["T_0"].choices, key=lambda t_0: abs(t_0 - params["T_0"]))
        values = by_epoch(made(params, rng, epochs=setup.epochs, level=level))
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=max(values.values()),
                params=params,
                distributions=spread,
                intermediate_values=values,
            )
        )


def test_an_earlier_study_of_the_store_is_where_the_next_one_starts(tmp_path: Path) -> None:
    storage = store(tmp_path)
    first = study_of(storage, "first")
    trials_of(first, 2.4, 12, seed=1)
    second = study_of(storage, "second")
    alone = make_study_forecast(load_setup(second))
    together = forecast_of_study(second, load_setup(second))
    trials_of(second, 2.4, 1, seed=2)
    for study_forecast in (alone, together):
        study_forecast.update(second.trials)
    # one trial is enough to tell that it is like the first study
    assert together.newcomer[0] == pytest.approx(2.3, abs=0.15)
    assert together.newcomer[1] < alone.newcomer[1]


def test_a_studys_own_trials_and_confirmations_are_no_earlier_study(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, "one")
    trials_of(study, 2.4, 12, seed=1)
    trials_of(study_of(storage, "one-confirm"), 2.4, 12, seed=2)
    fresh = make_study_forecast(load_setup(study))
    assert forecast_of_study(study, load_setup(study)).newcomer == pytest.approx(fresh.newcomer)
