from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from search.execution.objective import Listener, suggest
from search.execution.trial_runner import take_up
from search.study.setup import trial_config
from tests.support.studies import EPOCHS, by_dice, play, setup_of, store, study_of


def trial_of(study: optuna.Study, storage: Any) -> optuna.Trial:
    token = storage.take_slot(study._study_id, None, "test")
    return take_up(study, storage.new_trial(study._study_id, token))


def test_every_parameter_of_the_space_lands_in_the_config(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    trial = trial_of(study, storage)
    drawn = suggest(trial, setup_of())
    trial.set_user_attr("seed", 5)
    config = trial_config(trial, setup_of())
    assert config.loss.dice_weight == drawn["dice_weight"]
    assert config.loss.label_smoothing == drawn["label_smoothing"]
    assert config.model.dropout == drawn["dropout"]
    assert config.training.weight_decay == drawn["weight_decay"]
    assert drawn["T_0"] == config.training.scheduler_params.T_0
    assert config.training.seed == 5


def test_every_draw_of_the_space_is_a_config_that_can_be_trained(tmp_path: Path) -> None:
    storage = store(tmp_path)
    setup = setup_of(sampler="random", pruner="none", ranges=("rotation=0:40", "crop=0:1"))
    study = study_of(storage, sampler="random", pruner="none", ranges=("rotation=0:40", "crop=0:1"))
    play(study, storage, setup, 25, lambda *_: 0.5)
    for trial in study.get_trials():
        config = trial_config(trial, setup)
        if trial.params["dice_schedule"] == "constant":
            # the trial keeps what was drawn
            assert config.loss.dice_ramp == 0 != trial.params["dice_ramp"]
        else:
            assert config.loss.dice_ramp == trial.params["dice_ramp"]


def test_every_epoch_is_reported_once_and_then_the_rest_is_told(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    trial = trial_of(study, storage)
    told: list[Any] = []

    def look(done: bool) -> None:
        told.append((done, dict(study.get_trials()[0].intermediate_values)))

    listener = Listener(trial, 3, {1: 0.1}, look)
    for epoch, score in enumerate([0.1, 0.2, 0.3], 1):
        listener.report(epoch, score)
    # by the time of the word after an epoch, the store has it
    assert told == [(False, {}), (False, {2: 0.2}), (True, {2: 0.2, 3: 0.3})]
    assert listener.replaced == []


def test_an_epoch_that_comes_out_otherwise_takes_the_place_of_the_first(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    trial = trial_of(study, storage)
    trial.report(0.1, 1)
    trial.report(0.2, 2)
    listener = Listener(trial, EPOCHS, {1: 0.1, 2: 0.2}, lambda done: None)
    for epoch, score in enumerate([0.1, 0.25, 0.3], 1):
        listener.report(epoch, score)
    assert study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.25, 3: 0.3}
    assert listener.replaced == [2]


def test_a_hopeless_trial_is_pruned_after_its_report(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    play(study, storage, setup_of(pruner="median"), 6, by_dice)
    trial = trial_of(study, storage)
    listener = Listener(trial, EPOCHS, {}, lambda done: None)
    listener.report(1, 0.01)
    with pytest.raises(optuna.TrialPruned, match="after epoch 2"):
        listener.report(2, 0.01)
    assert sorted(study.get_trials()[-1].intermediate_values) == [1, 2]
