from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from search.strategy.forecast.features import ConfigurationFeatures
from search.strategy.forecast.model import Forecast, prior_from
from search.strategy.forecast.priors import forecast_of_study
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.loading import load_study
from search.strategy.pruners import RestartAwarePruner, first_epoch
from search.strategy.revival import revival_row, trial_to_revive
from search.study.names import PRUNERS
from search.study.verdicts import verdict_of
from tests.support.curves import BAD, EPOCHS, GOOD, MIDDLING, bank, by_epoch, drawn, made, trained
from tests.support.marks import long
from tests.support.studies import EPOCHS as SHORT
from tests.support.studies import by_dice, play, setup_of, store, study_of

BANK = bank()
START = prior_from(BANK)
C, P, R = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING


def pruner(*, epochs=EPOCHS, total=4, risk=0.05):
    study_forecast = StudyForecast(
        Forecast([START], ConfigurationFeatures(epochs)), [curve.params for curve in BANK[:20]]
    )
    return RestartAwarePruner(epochs, lambda: study_forecast, risk=risk, total=total)


def smooth(params, epoch):
    """A curve like recorded ones, without luck."""
    return made(params, np.random.default_rng(0), epochs=SHORT, noise=0.0)[epoch - 1]


def study_with(*rows):
    study = optuna.create_study(direction="maximize")
    for one in rows:
        study.add_trial(one)
    return study


def verdict(it, study, row):
    study.add_trial(row)
    return it.prune(study, study.trials[-1])


def test_the_second_trial_is_judged_already_and_a_good_one_goes_on() -> None:
    first = trained(MIDDLING, seed=1)
    assert verdict(pruner(), study_with(first), trained(BAD, seed=2, state=R, epochs=5))
    assert not verdict(pruner(), study_with(first), trained(GOOD, seed=3, state=R, epochs=5))


@pytest.mark.parametrize(("total", "whole"), [(16, 4), (32, 8), (40, 10), (400, 10)])
def test_a_quarter_and_ten_at_most_are_trained_whole_first(total: int, whole: int) -> None:
    bad = trained(BAD, seed=99, state=R, epochs=5)
    rows = [trained(MIDDLING, seed=seed) for seed in range(whole)]
    assert not verdict(pruner(total=total), study_with(*rows[:-1]), bad)
    assert verdict(pruner(total=total), study_with(*rows), bad)


def test_where_forecasts_have_been_wrong_none_is_parked() -> None:
    bad = trained(BAD, seed=99, state=R, epochs=5)
    rng = np.random.default_rng(0)
    rows = [trained(MIDDLING, seed=seed) for seed in range(8)]
    for row in rows:
        # all of them end at heights that nothing foretold
        end = float(rng.uniform(0.3, 0.95))
        row.intermediate_values = {
            epoch: end if epoch > EPOCHS // 2 else 0.1 for epoch in range(1, EPOCHS + 1)
        }
        row.value = end
    assert not verdict(pruner(), study_with(*rows), bad)


def test_a_verdict_says_its_reason_in_numbers() -> None:
    it, first = pruner(), trained(MIDDLING, seed=1)
    assert verdict(it, study_with(first), trained(BAD, seed=2, state=R, epochs=5))
    said = it.verdict
    assert (said.rule, said.epoch, said.epochs) == ("restart-aware", 5, EPOCHS)
    assert said.chance < said.needed <= 0.05 * 5
    assert said.best < said.forecast < said.against
    assert said.against == pytest.approx(first.value)
    assert 0 < said.deviation < 0.2
    assert verdict_of(json.loads(json.dumps(said.as_dict()))) == said
    # one that goes on has its numbers too, and one that is not judged has none
    assert not verdict(it, study_with(first), trained(GOOD, seed=3, state=R, epochs=5))
    assert it.verdict.chance >= it.verdict.needed
    assert not verdict(it, study_with(first), trained(BAD, seed=2, state=R, epochs=2))
    assert it.verdict is None


@pytest.mark.parametrize(
    "kept", [None, {}, {"verdict": None}, {"verdict": {"rule": "x", "odd": 1}}]
)
def test_attributes_without_a_verdict_have_none(kept) -> None:
    assert verdict_of(kept or {}) is None


def test_nothing_is_stopped_before_its_share_of_the_budget() -> None:
    first = trained(GOOD, seed=1)
    assert first_epoch(20, 0.15) == 3
    assert first_epoch(EPOCHS, 0.1) == 3
    assert not verdict(pruner(), study_with(first), trained(BAD, seed=2, state=R, epochs=2))
    assert verdict(pruner(), study_with(first), trained(BAD, seed=2, state=R, epochs=3))


def test_a_long_training_is_judged_only_where_there_is_something_new_to_tell() -> None:
    it = pruner(epochs=150)
    judged = [epoch for epoch in range(1, 151) if it._judged(epoch)]
    assert judged[:4] == [15, 25, 32, 38]
    assert len(judged) == 15
    assert [epoch for epoch in range(1, 10) if pruner(epochs=9)._judged(epoch)] == list(range(1, 9))


def test_the_last_epoch_is_the_end_and_not_a_stop() -> None:
    study = study_with(trained(GOOD, seed=1))
    assert not verdict(pruner(), study, trained(BAD, seed=2, state=R, epochs=EPOCHS))


def test_no_verdict_without_another_trial_to_be_held_against() -> None:
    assert not verdict(pruner(), study_with(), trained(BAD, seed=2, state=R, epochs=12))


def test_trials_that_run_side_by_side_are_held_against_each_other() -> None:
    study = study_with(*[trained(GOOD, seed=seed, state=R, epochs=10) for seed in (1, 2, 3)])
    assert verdict(pruner(total=3), study, trained(BAD, seed=4, state=R, epochs=10))


@pytest.mark.parametrize("t_0", [24.0, 12.0, 8.0, 4.0])
def test_a_trough_after_a_restart_does_no_harm(t_0: float) -> None:
    for epoch in range(4, EPOCHS):
        study = study_with(trained(MIDDLING, seed=1), trained(BAD, seed=2))
        good = trained({**GOOD, "T_0": t_0}, seed=5, state=R, epochs=epoch)
        assert not verdict(pruner(), study, good), epoch


def test_the_accepted_risk_decides_how_soon_a_trial_is_parked() -> None:
    first = trained(GOOD, seed=1)
    stops = []
    for risk in (0.001, 0.02, 0.2):
        stops.append(
            sum(
                verdict(
                    pruner(risk=risk), study_with(first), trained(row, seed=seed, state=R, epochs=8)
                )
                for seed in range(6, 16)
                for row in ({}, BAD)
            )
        )
    assert stops[0] < stops[1] < stops[2]


def test_trials_to_come_make_a_middling_one_hopeless() -> None:
    bad = [trained(BAD, seed=seed) for seed in range(20, 30)]
    middling = trained({"dice_weight": 1.1}, seed=2, state=R, epochs=8)
    assert verdict(pruner(total=200), study_with(*bad), middling)
    assert not verdict(pruner(total=11), study_with(*bad), middling)
    # what is to come is guesswork while little has come to its end
    assert not verdict(pruner(total=200), study_with(bad[0]), middling)


def test_stopped_failed_and_diverged_trials_are_no_bar() -> None:
    row = trained(GOOD, seed=2, state=R, epochs=6)
    failed = study_with(trained(GOOD, seed=1, state=TrialState.FAIL))
    assert not verdict(pruner(), failed, trained(BAD, seed=3, state=R, epochs=6))
    diverged = trained(GOOD, seed=1, state=P, epochs=12)
    diverged.system_attrs = {"constraints:diverged": 1.0}
    assert not verdict(pruner(), study_with(diverged), row)


def test_a_revived_trial_is_judged_with_all_that_it_has_shown() -> None:
    answer = trained(GOOD, seed=1)
    parked = trained(GOOD, seed=2, state=P, epochs=10)
    whole = trained(GOOD, seed=2)
    revived = trained(GOOD, seed=2, state=R, attrs={"continues": 1})
    revived.intermediate_values = {n: whole.intermediate_values[n] for n in (11, 12)}
    study = study_with(answer, parked)
    assert not verdict(pruner(), study, revived)
    hopeless = trained(BAD, seed=3, state=P, epochs=10)
    again = trained(BAD, seed=3, state=R, attrs={"continues": 1})
    again.intermediate_values = {n: again.intermediate_values[n] for n in (11, 12)}
    assert verdict(pruner(), study_with(answer, hopeless), again)


def test_another_budget_than_the_recorded_one_is_judged_by_shares() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for base, epochs, state in ((MIDDLING, 9, C), (BAD, 3, R), (GOOD, 3, R)):
        params = {**drawn(rng, 9), **base, "T_0": 9.0}
        values = by_epoch(made(params, rng, epochs=9), epochs)
        row = trained(base, state=state)
        row.params, row.intermediate_values = params, values
        row.value = max(values.values()) if state == C else None
        rows.append(row)
    assert verdict(pruner(epochs=9), study_with(rows[0]), rows[1])
    assert not verdict(pruner(epochs=9), study_with(rows[0]), rows[2])


@pytest.mark.parametrize("name", [*PRUNERS[:2], *map(long, PRUNERS[2:])])
def test_every_pruner_runs_by_name(tmp_path: Path, name: str) -> None:
    storage = store(tmp_path)
    study_of(storage, pruner=name, sampler="random")
    setup = setup_of(pruner=name, sampler="random")
    study = load_study(storage, setup.name)
    play(study, storage, setup, 12, smooth)
    states = {trial.state for trial in study.trials}
    assert TrialState.COMPLETE in states
    # patience does not end on curves that only rise, and hyperband may give all the last bracket
    if name in ("restart-aware", "median", "percentile", "successive-halving"):
        assert TrialState.PRUNED in states
    if name == "none":
        assert states == {TrialState.COMPLETE}


def revive_all(study, setup, total):
    """Go on with parked trials as workers do, until none is worth it."""
    study_forecast = forecast_of_study(study, setup)
    while True:
        rows = study.get_trials(deepcopy=False)
        number = trial_to_revive(
            rows,
            study_forecast,
            epochs=setup.epochs,
            total=total,
            limit=None,
            risk=setup.prune_risk,
        )
        if number is None:
            return
        row_id = study._storage.create_new_trial(study._study_id, revival_row(rows[number]))
        trial = optuna.Trial(study, row_id)
        curve = [by_dice(trial.params, epoch) for epoch in range(1, setup.epochs + 1)]
        for epoch in range(max(rows[number].intermediate_values) + 1, setup.epochs + 1):
            trial.report(curve[epoch - 1], epoch)
            if epoch < setup.epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, max(curve))


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forty_trials_on_strange_data_end_near_the_best_of_them(tmp_path: Path, seed: int) -> None:
    storage = store(tmp_path)
    study = study_of(storage, sampler="random", seed=seed)
    setup = setup_of(sampler="random", seed=seed)
    played = play(study, storage, setup, 40)
    # curves that no bank has seen
    ends = [by_dice(params, setup.epochs) for params in played]
    revive_all(study, setup, 40)
    assert max(ends) - study.best_value < 0.1 * (max(ends) - min(ends))
