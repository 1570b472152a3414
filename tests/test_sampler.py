from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.objective import suggest
from search.sampler import LateGains, LineageSampler, StudyView, draw_seed
from search.study import load_setup, open_study, take_up
from tests.studies import by_dice, play, setup_of, store, study_of


def view_of(study, setup, name="tpe"):
    sampler = LineageSampler(
        name, seed=setup.seed, specs=setup.specs(), fixed=setup.fixed, epochs=setup.epochs
    )
    return StudyView(study, sampler._rewritten).get_trials()


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
    assert len({run["dice_weight"] for run in runs[0]}) == trials


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


def test_pruned_trials_are_shown_by_what_they_would_likely_have_reached(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    setup = load_setup(study)
    play(study, storage, setup, 14)
    stored = {trial.number: trial for trial in study.trials}
    pruned = [t for t in view_of(study, setup) if t.state == TrialState.PRUNED]
    assert pruned
    gains = LateGains(study.trials)
    for trial in pruned:
        assert list(trial.intermediate_values) == [setup.epochs]
        likely = trial.intermediate_values[setup.epochs]
        assert likely == gains.likely(stored[trial.number])
        assert likely > max(stored[trial.number].intermediate_values.values())
        # the store is not told: there it stays what was measured
        assert len(stored[trial.number].intermediate_values) < setup.epochs
    seen_by_gp = view_of(study, setup, "gp")
    assert {trial.state for trial in seen_by_gp} == {TrialState.COMPLETE}


def test_a_diverged_trial_stands_behind_all_others(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="none")
    setup = setup_of(pruner="none")
    play(study, storage, setup, 3)
    token = storage.take_place(study._study_id, None, "test")
    trial = take_up(study, storage.new_trial(study._study_id, token))
    suggest(trial, setup)
    trial.report(0.9, 1)
    trial.set_constraint("diverged", 1.0)
    study.tell(trial, state=TrialState.PRUNED)
    shown = view_of(study, setup)[-1]
    assert shown.constraints == {"diverged": 1.0}
    assert shown.intermediate_values == {}


def test_a_revived_lineage_is_one_point(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    setup = setup_of(pruner="median")
    play(study, storage, setup, 12)
    parked = next(trial for trial in study.trials if trial.state == TrialState.PRUNED)
    study.enqueue_trial(parked.params, user_attrs={"continues": parked.number})
    study.pruner = type("Never", (), {"prune": lambda *_: False})()
    play(study, storage, setup, 1, lambda params, epoch: by_dice(params, epoch))
    shown = view_of(study, setup)
    assert len(shown) == 12
    one = next(trial for trial in shown if trial.number == parked.number)
    assert one.state == TrialState.COMPLETE
