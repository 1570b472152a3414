from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from search.pruner import (
    PRUNERS,
    RestartAwarePruner,
    Rule,
    bar,
    cycle_phase,
    first_epoch,
    foresight,
    robust_deviation,
)
from search.study import load_study
from tests.studies import by_dice, play, setup_of, store, study_of

EPOCHS = 20
T_0 = CategoricalDistribution((20, 10, 5))


def study_with(*curves, state=TrialState.COMPLETE, **attrs):
    study = optuna.create_study(direction="maximize")
    for curve in curves:
        study.add_trial(row(curve, state, **attrs))
    return study


def row(curve, state=TrialState.COMPLETE, t_0=20, **attrs):
    return create_trial(
        state=state,
        value=max(curve) if state == TrialState.COMPLETE else None,
        params={"T_0": t_0},
        distributions={"T_0": T_0},
        user_attrs=attrs,
        intermediate_values=dict(enumerate(curve, 1)),
    )


def running(study, curve, t_0=20):
    study.add_trial(row(curve, TrialState.RUNNING, t_0))
    return study.trials[-1]


GOOD = [[0.5 + 0.01 * n + 0.005 * epoch for epoch in range(EPOCHS)] for n in range(5)]


def test_a_hopeless_trial_is_stopped_and_a_good_one_is_not() -> None:
    study = study_with(*GOOD)
    pruner = RestartAwarePruner(EPOCHS)
    assert pruner.prune(study, running(study, [0.2] * 5))
    assert not pruner.prune(study, running(study, GOOD[3][:5]))


def test_nothing_is_stopped_before_its_share_of_the_budget() -> None:
    study = study_with(*GOOD)
    pruner = RestartAwarePruner(EPOCHS)
    assert first_epoch(20, 0.15) == 3
    assert not pruner.prune(study, running(study, [0.1, 0.1]))
    assert pruner.prune(study, running(study, [0.1, 0.1, 0.1]))


def test_the_last_epoch_is_the_end_and_not_a_stop() -> None:
    study = study_with(*GOOD)
    assert not RestartAwarePruner(EPOCHS).prune(study, running(study, [0.1] * EPOCHS))


def test_no_verdict_without_evidence() -> None:
    study = study_with(*GOOD[:3])
    assert not RestartAwarePruner(EPOCHS).prune(study, running(study, [0.1] * 5))


def test_a_trough_after_a_restart_does_no_harm() -> None:
    study = study_with(*GOOD)
    fallen = [*GOOD[4][:10], 0.1]
    assert not RestartAwarePruner(EPOCHS).prune(study, running(study, fallen, t_0=10))


def test_the_margin_is_wide_in_mid_cycle_and_narrow_at_its_end() -> None:
    others = [0.5, 0.52, 0.54, 0.56, 0.58]
    bars = [bar(others, [], phase, 1.0, Rule()) for phase in (0.1, 0.5, 1.0)]
    assert bars == sorted(bars)
    assert bars[0] < bars[2] < 0.54
    study = study_with(*GOOD)
    # between the two bars: stopped only where the cycle ends
    between = [0.5545] * 10
    assert not RestartAwarePruner(EPOCHS).prune(study, running(study, between, t_0=20))
    study = study_with(*GOOD)
    assert RestartAwarePruner(EPOCHS).prune(study, running(study, between, t_0=5))


def test_pruned_trials_keep_the_bar_from_rising() -> None:
    survivors = [0.60, 0.61, 0.62, 0.63]
    stopped = [0.40] * 6
    known = 1.0
    raised = bar(survivors, [], 1.0, known, Rule())
    assert bar(survivors, stopped, 1.0, known, Rule()) < raised - 0.1


def test_scores_that_tell_nothing_of_the_end_widen_the_margin() -> None:
    finals = [0.6, 0.61, 0.62, 0.63, 0.64, 0.65]
    telling = [[0.1 + 0.01 * n, final] for n, final in enumerate(finals)]
    misleading = [[0.2 - 0.01 * n, final] for n, final in enumerate(finals)]
    # 6 trials in perfect order count 6 / (6 + 4)
    assert foresight([row(curve) for curve in telling], 1) == pytest.approx(0.6)
    assert foresight([row(curve) for curve in misleading], 1) == 0
    alike = [[0.1, final] for final in finals]
    assert foresight([row(curve) for curve in alike], 1) == 0
    pruned = [row(curve, TrialState.PRUNED) for curve in telling]
    assert foresight(pruned, 1) == 0
    blind, seeing = (bar(finals, [], 1.0, known, Rule()) for known in (0.0, 1.0))
    assert seeing - blind == pytest.approx(Rule().blind_margin * robust_deviation(finals))


def test_trials_closer_than_the_noise_of_seeds_are_not_told_apart() -> None:
    same = [0.5, 0.5001, 0.5002, 0.5003, 0.5004]
    assert bar(same, [], 0.5, 1.0, Rule()) < 0.5 - 0.002


def test_stopped_diverged_and_failed_trials_are_no_evidence() -> None:
    by_hand = study_with(*[[0.9] * 5] * 5, state=TrialState.PRUNED, stopped=True)
    assert not RestartAwarePruner(EPOCHS).prune(by_hand, running(by_hand, [0.1] * 5))
    failed = study_with(*[[0.9] * 5] * 5, state=TrialState.FAIL)
    assert not RestartAwarePruner(EPOCHS).prune(failed, running(failed, [0.1] * 5))


def test_phase_of_growing_cycles() -> None:
    assert cycle_phase(3, t_0=3, t_mult=2) == 1
    assert cycle_phase(6, t_0=3, t_mult=2) == 0.5
    assert cycle_phase(9, t_0=3, t_mult=2) == 1
    assert cycle_phase(1, t_0=10 / 3) == pytest.approx(0.3)
    assert cycle_phase(10, t_0=10 / 3) == pytest.approx(1)


def test_one_outlier_does_not_move_the_deviation() -> None:
    assert robust_deviation([1, 2, 3, 4, 100]) == pytest.approx(1.4826)


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_runs_by_name(tmp_path: Path, name: str) -> None:
    storage = store(tmp_path)
    study_of(storage, pruner=name, sampler="random")
    setup = setup_of(pruner=name, sampler="random")
    study = load_study(storage, setup.name)
    play(study, storage, setup, 12, by_dice)
    states = {trial.state for trial in study.trials}
    assert TrialState.COMPLETE in states
    # patience does not end on curves that only rise, and hyperband may give all the last bracket
    if name in ("restart-aware", "median", "percentile", "successive-halving"):
        assert TrialState.PRUNED in states
    if name == "none":
        assert states == {TrialState.COMPLETE}


def test_the_best_survives_a_demonstration_of_forty(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, sampler="random")
    setup = setup_of(sampler="random")
    played = play(study, storage, setup, 40)
    best = min(range(40), key=lambda n: abs(played[n]["dice_weight"] - 2.5))
    assert study.trials[best].state == TrialState.COMPLETE
    pruned = sum(trial.state == TrialState.PRUNED for trial in study.trials)
    assert 10 <= pruned <= 30
