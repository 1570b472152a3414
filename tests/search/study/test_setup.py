from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna_dashboard import save_note

from search.management.opening import open_study
from search.strategy.loading import load_study
from search.study import identity
from search.study.attributes import REBUILT, SETUP
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.run_records import search_record
from search.study.setup import Setup, StudyError, config_for, trial_seed
from search.study.shared_state import drain, drain_mark, set_total, total_of
from storage import LeasedStorage
from tests.support.studies import FACES, context_at, play, setup_of, store, study_of
from trainer.config import config_from_dict, load_yaml, to_yaml


def refused(folder: Path, **changes: object) -> str:
    storage = store(folder)
    study_of(storage, seed=3)
    with pytest.raises(StudyError) as caught:
        open_study(storage, setup_of(**changes), explicit=("seed",))  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    assert "--study" in line
    assert "--from faces" in line
    assert load_setup(load_study(storage, "faces")).seed == 3
    return line


def test_setup_survives_the_store(tmp_path: Path) -> None:
    storage = store(tmp_path)
    setup = setup_of(fixes=("dropout=0.2",), ranges=("learning_rate=1e-4:1e-2:log",), seed=5)
    study = open_study(storage, setup)
    assert load_setup(study) == setup
    assert list(load_setup(study).specs()) == list(setup.space)
    assert Setup.from_json(json.loads(json.dumps(setup.to_json()))) == setup


def test_same_command_opens_the_same_study(tmp_path: Path) -> None:
    storage = store(tmp_path)
    first = study_of(storage)
    uid = load_setup(first).uid
    again = open_study(storage, setup_of())
    assert again._study_id == first._study_id
    assert load_setup(again).uid == uid


def test_only_the_ends_of_ranges_may_change(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study_of(storage)
    study = open_study(storage, setup_of(ranges=("dice_weight=1:2",), fixes=("dropout=0.1",)))
    assert load_setup(study).space["dice_weight"]["high"] == 2
    assert load_setup(study).fixed == {"dropout": 0.1}


def test_another_key_of_the_base_config_is_named(tmp_path: Path) -> None:
    line = refused(tmp_path, config={"learning_rate": 1e-3}, seed=3)
    assert "training.learning_rate 0.003, this run has 0.001" in line


def test_other_epochs_are_named_once(tmp_path: Path) -> None:
    line = refused(tmp_path, config={"epochs": 20}, seed=3)
    assert "training.epochs 12, this run has 20" in line
    assert "T_0" not in line


def test_other_data_are_named(tmp_path: Path) -> None:
    other = dataclasses.replace(FACES, fingerprint="fedcba9876543210", train=41)
    line = refused(tmp_path, data=other, seed=3)
    assert "fingerprint 01234567" in line
    assert "fingerprint fedcba98" in line


def test_another_kind_of_parameter_is_refused(tmp_path: Path) -> None:
    line = refused(tmp_path, ranges=("T_0=2:12",), seed=3)
    assert "T_0 as 12 | 6 | 4 | 3 | 2.4 | 2, this run has 2..12 whole" in line


def test_a_key_that_is_searched_only_now_is_refused(tmp_path: Path) -> None:
    line = refused(tmp_path, ranges=("learning_rate=1e-4:1e-2:log",), seed=3)
    assert "learning_rate not searched, this run searches 0.0001..0.01 log" in line


def test_another_seed_is_refused_where_it_was_given(tmp_path: Path) -> None:
    assert "seed 3, this run has 4" in refused(tmp_path, seed=4)


def test_what_was_not_given_stays_as_the_study_has_it(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study_of(storage, seed=3, sampler="random", pruner="none")
    kept = load_setup(open_study(storage, setup_of()))
    assert (kept.seed, kept.sampler, kept.pruner) == (3, "random", "none")
    changed = load_setup(open_study(storage, setup_of(pruner="median"), explicit=("pruner",)))
    assert (changed.sampler, changed.pruner) == ("random", "median")


def test_where_the_data_lie_is_no_part_of_the_identity(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study_of(storage)
    study = open_study(storage, setup_of(config={"data.root": "elsewhere"}))
    assert load_setup(study).data["root"] == "elsewhere"


def test_a_study_of_another_program_is_left_alone(tmp_path: Path) -> None:
    storage = store(tmp_path)
    foreign = optuna.create_study(study_name="faces", storage=storage)
    foreign.enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match=r"not made by search\.run"):
        study_of(storage)
    with pytest.raises(StudyError, match=r"not made by search\.run"):
        load_study(storage, "faces")


def test_an_unknown_study_is_named_with_the_nearest(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study_of(storage)
    with pytest.raises(StudyError, match="did you mean faces"):
        load_study(storage, "face")


def test_unknown_sampler_or_pruner_is_refused() -> None:
    with pytest.raises(StudyError, match="--sampler cma: not one of tpe, gp, random"):
        setup_of(sampler="cma")
    with pytest.raises(StudyError, match="--pruner wilcoxon: not one of restart-aware, median"):
        setup_of(pruner="wilcoxon")


def test_config_of_a_trial_under_constant_has_no_ramp() -> None:
    setup = setup_of()
    params = {**setup.defaults, "dice_schedule": "constant", "dice_ramp": 0.4, "T_0": 2.4}
    config = config_for(setup, params, seed=11)
    assert config.loss.dice_ramp == 0
    assert config.training.scheduler_params.T_0 == 2.4
    assert config.training.seed == 11
    assert config.training.early_stopping_patience is None
    dynamic = config_for(setup, {**params, "dice_schedule": "step"}, seed=11)
    assert dynamic.loss.dice_ramp == 0.4


def test_record_of_a_trial_goes_through_its_yaml(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    play(study, storage, setup, 1)
    trial = study.trials[0]
    config = config_for(setup, trial.params, seed=trial.user_attrs["seed"])
    text = to_yaml(config, search=search_record(setup, trial))
    read = load_yaml(text, "export")
    assert read["search"]["trial"] == 0
    assert read["search"]["epoch"] == setup.epochs
    assert read["search"]["value"] == trial.value
    again = config_from_dict({key: item for key, item in read.items() if key != "search"})
    assert again == config


def test_record_of_a_revived_row_tells_the_best_epoch_of_the_whole_trial(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = setup_of()
    play(study, storage, setup, 1)
    trial = study.get_trials()[0]
    trial.intermediate_values = {11: 0.1, 12: 0.2}
    trial.set_user_attr("best_epoch", 3)
    trial.set_user_attr("best_val_f", 0.9)
    record = search_record(setup, trial)
    assert (record["value"], record["epoch"]) == (0.9, 3)
    # while it runs, what it has reached is not there yet
    trial.state = optuna.trial.TrialState.RUNNING
    record = search_record(setup, trial)
    assert (record["value"], record["epoch"]) == (0.2, 12)


def test_seeds_differ_by_study_and_trial() -> None:
    seeds = {trial_seed(study, number) for study in range(5) for number in range(50)}
    assert len(seeds) == 250
    assert trial_seed(0, 0) == trial_seed(0, 0)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_name_that_is_no_folder_gets_one_of_its_own(tmp_path: Path) -> None:
    assert trial_folder(tmp_path, "faces-demo-48", 3) == tmp_path / "faces-demo-48" / "3"
    odd = ["../up", "a/b", "a:b", "..", "", "artifacts", "x" * 300 + "/"]
    folders = {trial_folder(tmp_path, name, 0) for name in odd}
    assert len(folders) == len(odd)
    for folder in folders:
        assert folder.parent.parent == tmp_path
        folder.mkdir(parents=True)


def test_total_and_drain_are_kept_in_the_study(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    set_total(study, 8)
    assert total_of(study) == 8
    before = drain_mark(study)
    drain(study)
    first = drain_mark(study)
    drain(study)
    assert len({before, first, drain_mark(study)}) == 3


# ------------------------------------------------------------------- studies of somebody's making


def attributed(storage: LeasedStorage, key: str, item: object, *, system: bool = False) -> None:
    study_id = optuna.create_study(
        study_name="faces", storage=storage, direction="maximize"
    )._study_id
    if system:
        storage.set_study_system_attr(study_id, key, item)  # type: ignore[arg-type]
    else:
        storage.set_study_user_attr(study_id, key, item)


def with_metric(storage: LeasedStorage) -> None:
    study = optuna.create_study(study_name="faces", storage=storage, direction="maximize")
    study.set_metric_names(["iou"])


def with_trials(storage: LeasedStorage) -> None:
    study = optuna.create_study(study_name="faces", storage=storage, direction="maximize")
    study.enqueue_trial({"dice_weight": 99.0})
    study.enqueue_trial({"lr": 1})
    study.add_trial(optuna.trial.create_trial(value=1.0))


FOREIGN: dict[str, tuple[Callable[[LeasedStorage], object], str]] = {
    "minimizes": (
        lambda storage: optuna.create_study(study_name="faces", storage=storage),
        "has the direction minimize, and scores here are one objective to maximize",
    ),
    "several": (
        lambda storage: optuna.create_study(
            study_name="faces", storage=storage, directions=["maximize", "minimize"]
        ),
        "has 2 objectives (maximize, minimize), and scores here",
    ),
    "not set": (
        lambda storage: storage.create_new_study([StudyDirection.NOT_SET], "faces"),
        "has the direction not set",
    ),
    "metric": (with_metric, "it has the metric iou"),
    "user attribute": (
        lambda storage: attributed(storage, "owner", "vision team"),
        "it has attributes of another program (owner)",
    ),
    "system attribute": (
        lambda storage: attributed(storage, "preference:is_preferential", True, system=True),
        "it has attributes of another program (preference:is_preferential)",
    ),
    "trials": (with_trials, "it holds trials of another program (2 waiting, 1 complete)"),
    "half rebuilt": (
        lambda storage: attributed(storage, REBUILT, "uid"),
        "it was left half made by search.rebuild",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_study_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    storage = store(tmp_path)
    make, why = FOREIGN[kind]
    make(storage)
    before = storage.get_all_studies(), storage.get_all_trials(1)
    with pytest.raises(StudyError) as refused:
        open_study(storage, setup_of())
    line = str(refused.value)
    assert line.startswith('study "faces" was not made by search.run, it ')
    assert why in line
    assert line.endswith(": name another with --study")
    after = storage.get_all_studies(), storage.get_all_trials(1)
    assert [vars(study) for study in after[0]] == [vars(study) for study in before[0]]
    assert after[1] == before[1]


@pytest.mark.parametrize(("rate", "joins"), [(3e-3, True), (1e-3, False)])
def test_a_study_made_by_another_run_this_moment_is_judged_as_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, joins: bool
) -> None:
    storage = store(tmp_path)
    optuna.create_study(study_name="faces", storage=storage, direction="maximize")
    read = identity.system_attrs_of

    def overtaken(study: optuna.Study) -> dict[str, Any]:
        # it is made while it is being judged
        monkeypatch.undo()
        study_of(store(tmp_path), config={"learning_rate": rate})
        return read(study)

    monkeypatch.setattr(identity, "system_attrs_of", overtaken)
    if joins:
        assert load_setup(study_of(storage)).name == "faces"
    else:
        with pytest.raises(StudyError, match=r"training\.learning_rate 0\.001"):
            study_of(storage)


def test_an_empty_study_that_maximizes_is_taken_over(tmp_path: Path) -> None:
    storage = store(tmp_path)
    made = optuna.create_study(
        study_name="faces",
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(),
    )
    save_note(made, "to be searched on Monday")
    study = open_study(storage, setup_of())
    assert study._study_id == made._study_id
    play(study, storage, load_setup(study), trials=2)
    assert study.best_value == max(trial.value or 0 for trial in study.get_trials())


def test_a_study_that_an_earlier_version_took_over_with_its_direction_is_not_gone_on_with(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    study = optuna.create_study(study_name="faces", storage=storage)
    study.set_user_attr(SETUP, setup_of().to_json())
    with pytest.raises(StudyError) as refused:
        open_study(storage, setup_of())
    assert "has the direction minimize" in str(refused.value)
    assert "another name with --study NAME (add --from faces to take its trials over)" in str(
        refused.value
    )
    with pytest.raises(StudyError, match="has the direction minimize"):
        context_at(tmp_path, storage)
