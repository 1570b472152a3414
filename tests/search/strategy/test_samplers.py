from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.pruners import BasePruner
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState

from search.execution.objective import suggest
from search.execution.trial_runner import take_up
from search.management.opening import open_study
from search.strategy.forecast.features import from_log
from search.strategy.forecast.priors import make_study_forecast
from search.strategy.samplers import draw_seed, make_sampler
from search.study.lookup import load_setup
from space import first_trials
from tests.support.studies import EPOCHS, play, setup_of, store, study_of


def view_of(study, setup):
    sampler = make_sampler(replace(setup, sampler="tpe"), lambda: make_study_forecast(setup))
    return sampler.view_of(study).get_trials()


class At(BasePruner):
    """Prunes after an epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def prune(self, study, trial) -> bool:
        return trial.last_step == self._epoch


def play_one(study, storage, setup, curve, *, until: int = EPOCHS) -> None:
    """A trial of the base configuration, pruned after epoch `until`."""
    study.enqueue_trial(first_trials(setup.epochs)[0].params)
    study.pruner = At(until)
    play(study, storage, setup, 1, lambda params, epoch: curve[epoch - 1])


def curve(end: float) -> list[float]:
    """Of the recorded curves' shape, roughly."""
    return [end * (1 - 2 ** (-epoch)) for epoch in range(1, EPOCHS + 1)]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_same_seed_gives_the_same_parameters(tmp_path: Path, sampler: str) -> None:
    trials = 14 if sampler != "random" else 4
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        storage = store(tmp_path / name)
        study = study_of(storage, sampler=sampler, seed=9)
        runs.append(play(study, storage, setup_of(sampler=sampler, seed=9), trials))
    assert runs[0] == runs[1]
    assert len({tuple(run.values()) for run in runs[0]}) == trials


def test_a_restarted_worker_does_not_repeat_draws(tmp_path: Path) -> None:
    storage = store(tmp_path)
    whole = play(study_of(storage, "whole", seed=2), storage, setup_of("whole", seed=2), 4)
    halves = []
    for _ in range(2):
        # opened anew, as a second process would
        study = study_of(store(tmp_path), "halves", seed=2)
        halves += play(study, storage, setup_of("halves", seed=2), 2)
    assert whole == halves


def test_another_seed_draws_other_parameters(tmp_path: Path) -> None:
    storage = store(tmp_path)
    one = play(study_of(storage, "a", seed=1), storage, setup_of("a", seed=1), 2)
    two = play(study_of(storage, "b", seed=2), storage, setup_of("b", seed=2), 2)
    assert one != two
    assert draw_seed(1, 2) != draw_seed(2, 1)


def test_fixed_parameter_is_recorded_under_its_full_range(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"fixes": ("dice_weight=2.5", "dice_schedule=step")}
    study = study_of(storage, **options)
    played = play(study, storage, setup_of(**options), 13)
    assert {params["dice_weight"] for params in played} == {2.5}
    distribution = study.trials[-1].distributions["dice_weight"]
    assert (distribution.low, distribution.high) == (0.5, 4.0)
    # and the study may be gone on with in freedom
    free = open_study(storage, setup_of())
    assert play(free, storage, setup_of(), 1)[0]["dice_weight"] != 2.5


def test_trials_outside_the_present_ranges_are_left_out_of_the_view(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    played = play(study, storage, setup_of(), 13)
    narrow = setup_of(ranges=("dice_weight=1:2",))
    study = open_study(storage, narrow)
    inside = [n for n, params in enumerate(played) if 1 <= params["dice_weight"] <= 2]
    shown = view_of(study, narrow)
    assert [trial.number for trial in shown] == inside
    assert all(trial.distributions["dice_weight"].high == 2 for trial in shown)
    assert 1 <= play(study, storage, narrow, 1)[0]["dice_weight"] <= 2


def test_pruned_trials_are_shown_complete_at_their_estimated_end(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    setup = load_setup(study)
    play(study, storage, setup, 14)
    stored = {trial.number: trial for trial in study.trials}
    shown = view_of(study, setup)
    assert {trial.state for trial in shown} == {TrialState.COMPLETE}
    study_forecast = make_study_forecast(setup)
    study_forecast.update(study.trials)
    pruned = [trial for trial in shown if stored[trial.number].state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        reached = max(stored[trial.number].intermediate_values.values())
        likely = from_log(study_forecast.end(stored[trial.number]).mean)
        assert trial.value == pytest.approx(max(reached, min(likely, study.best_value)))
        assert trial.intermediate_values == stored[trial.number].intermediate_values
    # the store is not told: there it stays what was measured
    again = {trial.number: (trial.state, trial.values) for trial in study.trials}
    assert again == {number: (trial.state, trial.values) for number, trial in stored.items()}


def test_a_good_pruned_trial_is_ranked_among_the_complete_ones(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    for end in (0.60, 0.78, 0.62):
        play_one(study, storage, setup, curve(end))
    play_one(study, storage, setup, curve(0.75), until=8)
    raw = study.trials
    assert raw[3].state == TrialState.PRUNED
    shown = view_of(study, setup)
    assert [trial.number for trial in sorted(shown, key=lambda t: -t.value)] == [1, 3, 2, 0]
    # Optuna's own split has it behind every complete one, which ours must not have
    for trials, good in ((raw, [1, 2]), (shown, [1, 3])):
        below, _ = _split_trials(study, trials, 2)
        assert [trial.number for trial in below] == good


def test_no_pruned_trial_is_shown_above_the_best_that_was_measured(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    late = [0.1] * (EPOCHS // 2) + [0.7] * (EPOCHS // 2)
    for _ in range(3):
        play_one(study, storage, setup, late)
    play_one(study, storage, setup, [0.69] * EPOCHS, until=6)
    pruned = study.trials[3]
    assert pruned.state == TrialState.PRUNED
    study_forecast = make_study_forecast(setup)
    study_forecast.update(study.trials)
    assert from_log(study_forecast.end(pruned).mean) > 0.7
    assert view_of(study, setup)[3].value == 0.7


def test_a_pruned_trial_is_shown_no_lower_than_it_stood(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    play_one(study, storage, setup, curve(0.6))
    # by a person, say: no pruner would
    play_one(study, storage, setup, [0.8] + [0.2] * (EPOCHS - 1), until=6)
    assert view_of(study, setup)[1].value == 0.8


def test_a_trial_pruned_before_its_first_report_is_shown_as_it_is(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    play_one(study, storage, setup, curve(0.6))
    token = storage.take_slot(study._study_id, None, "test")
    trial = take_up(study, storage.new_trial(study._study_id, token))
    suggest(trial, setup)
    study.tell(trial, state=TrialState.PRUNED)
    shown = view_of(study, setup)[1]
    assert (shown.state, shown.values) == (TrialState.PRUNED, None)


def test_a_diverged_trial_stands_behind_all_others(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="none")
    setup = setup_of(pruner="none")
    play_one(study, storage, setup, curve(0.6))
    play_one(study, storage, setup, curve(0.3), until=4)
    token = storage.take_slot(study._study_id, None, "test")
    trial = take_up(study, storage.new_trial(study._study_id, token))
    suggest(trial, setup)
    trial.report(0.9, 1)
    trial.set_constraint("diverged", 1.0)
    study.tell(trial, state=TrialState.PRUNED)
    play_one(study, storage, setup, curve(0.2))
    shown = view_of(study, setup)
    assert shown[2].constraints == {"diverged": 1.0}
    below, above = _split_trials(study, shown, 3)
    assert [trial.number for trial in below] == [0, 1, 3]
    assert [trial.number for trial in above] == [2]
    # what it had reported says nothing about where it would have ended
    assert shown[2].intermediate_values == {}


def test_a_gaussian_process_can_be_asked_after_a_trial_diverged(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, sampler="gp")
    setup = setup_of(sampler="gp")
    play(study, storage, setup, 11)
    token = storage.take_slot(study._study_id, None, "test")
    trial = take_up(study, storage.new_trial(study._study_id, token))
    suggest(trial, setup)
    trial.set_constraint("diverged", 1.0)
    study.tell(trial, state=TrialState.PRUNED)
    assert len(play(study, storage, setup, 1)) == 1


def test_a_revived_lineage_is_one_point(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    for end in (0.6, 0.7):
        play_one(study, storage, setup, curve(end))
    play_one(study, storage, setup, curve(0.65), until=6)
    parked = study.trials[2]
    study.enqueue_trial(parked.params, user_attrs={"continues": parked.number})
    study.pruner = At(EPOCHS)
    play(study, storage, setup, 1, lambda params, epoch: curve(0.65)[epoch - 1])
    assert [trial.state for trial in study.trials[2:]] == [TrialState.PRUNED, TrialState.COMPLETE]
    shown = view_of(study, setup)
    assert [trial.number for trial in shown] == [0, 1, 2]
    assert shown[2].state == TrialState.COMPLETE
    assert shown[2].value == curve(0.65)[-1]


def test_the_gaussian_process_finds_what_draws_at_random_do_not(tmp_path: Path) -> None:
    """One parameter matters, under noise of a tenth of what it makes."""
    storage, noise = store(tmp_path), random.Random(0)

    def score(params, epoch) -> float:
        return 0.8 - 2 * (params["dropout"] - 0.3) ** 2 + 0.01 * noise.gauss(0, 1)

    options = {"sampler": "gp", "pruner": "none", "seed": 4}
    study, setup = study_of(storage, **options), setup_of(**options)
    played = play(study, storage, setup, 22, score)
    off = [abs(params["dropout"] - 0.3) for params in played]
    assert sum(off[14:]) / 8 < 0.5 * sum(off[:10]) / 10


def test_the_gaussian_process_keeps_fixed_values_and_ranges(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"sampler": "gp", "fixes": ("dice_schedule=linear",), "ranges": ("T_0=1:8",)}
    played = play(study_of(storage, **options), storage, setup_of(**options), 14)
    assert {params["dice_schedule"] for params in played} == {"linear"}
    assert all(1 <= params["T_0"] <= 8 for params in played)


def test_the_gaussian_process_trains_no_configuration_twice_while_there_are_others(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    held = ("dice_weight=1.5", "dice_schedule=constant", "dice_ramp=0", "label_smoothing=0")
    fixes = (*held, "dropout=0.1", "weight_decay=1e-4")
    options = {"sampler": "gp", "fixes": fixes, "ranges": ("T_0=1:12",), "pruner": "none"}
    played = play(study_of(storage, **options), storage, setup_of(**options), 12)
    drawn = [params["T_0"] for params in played]
    for place in (10, 11):
        assert drawn[place] not in drawn[:place]
