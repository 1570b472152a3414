"""Old results as a study of their own: whatever a file holds, what came of it can be read again."""

from __future__ import annotations

import csv
import html
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from search import compare, export, report, run
from search.importing.batches import METRIC, import_batch, read_batch
from search.reporting.dashboard_notes import study_note
from search.results.reading import results_of
from search.results.trials import Results
from search.study import identity
from search.study.attributes import CONFIG, CONTINUED, IMPORTED, RUN, SERIES, SETUP
from search.study.lookup import latest_study, named_study
from search.study.setup import StudyError
from storage import open_storage
from tests.support.paths import HISTORIES, ROOT
from tests.support.shells import one_line
from tests.support.studies import play, setup_of, store, study_of

# `import` is a keyword
main = importlib.import_module("search.import_results").main

OLD_CONFIG: dict[str, Any] = {
    "experiment": {"name": "lmsa_v1", "description": "targeting 0.71+"},
    "output_dir": "checkpoints/a",
    "data": {"batch_size": 32, "num_workers": 16, "val_split": 0.1},
    "model": {"name": "microsegformer", "num_classes": 19, "dropout": 0.15},
    "augmentation": {"rotation": 15},
    "loss": {"ce_weight": 1.0, "dice_weight": 1.5, "use_focal": False, "focal_gamma": 2.0},
    "training": {
        "epochs": 200,
        "learning_rate": "8e-4",
        "weight_decay": "1e-4",
        "scheduler": "CosineAnnealingLR",
        "early_stopping_patience": 999,
    },
}


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    """An old config with some of its values replaced."""
    names = OLD_CONFIG.keys() | sections.keys()
    return {
        name: {**OLD_CONFIG.get(name, {}), **sections[name]}
        if name in sections
        else OLD_CONFIG[name]
        for name in names
    }


def entry(name: str, val_f: list[Any] | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
    """A run as the old trainer's histories have it."""
    scores = [0.1, 0.5, 0.4] if val_f is None else val_f
    numbers = [score for score in scores if isinstance(score, float)]
    return {
        "run": name,
        "config": changed(**sections),
        "val_f_score": scores,
        "train_f_score": [min(1.0, score + 0.1) for score in numbers],
        "lr": [1e-4 * (place + 1) for place in range(len(scores))],
    }


def written(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dump = yaml.safe_dump if path.suffix == ".yaml" else json.dumps
    path.write_text(dump(data), encoding="utf-8")
    return path


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/search.db"


def imported(folder: Path, file: Path, *flags: str, study: str = "old") -> Results:
    """What the store holds after an import that went well."""
    assert main([str(file), "--study", study, "--storage", url(folder), *flags]) == 0
    return results_of(named_study(open_storage(url(folder)), study))


def refused(
    folder: Path, capsys: pytest.CaptureFixture[str], file: Path, *flags: str, study: str = "old"
) -> str:
    return one_line(main, capsys, file, "--study", study, "--storage", url(folder), *flags)


# ------------------------------------------------------------------------------ a list of histories


def test_a_run_becomes_a_complete_trial_with_its_curve_and_the_seeds_figures(
    tmp_path: Path,
) -> None:
    results = imported(tmp_path, written(tmp_path / "runs.json", [entry("a")]))
    (one,) = results.outcomes
    assert (results.metric, results.imported) == (METRIC, True)
    assert (one.name, one.state.name, one.value) == ("a", "COMPLETE", 0.5)
    assert dict(one.curve) == {1: 0.1, 2: 0.5, 3: 0.4}
    assert dict(one.series["train_f"]) == {1: 0.2, 2: 0.6, 3: 0.5}
    assert one.series["lr"][3] == pytest.approx(3e-4)
    assert one.metrics["best_epoch"] == 2
    assert one.metrics["gap"] == pytest.approx(0.1)
    assert one.metrics["degradation"] == pytest.approx(0.1)
    assert one.metrics["ce_dice_ratio"] == "40:60"


def test_epochs_planned_and_epochs_trained_are_both_kept(tmp_path: Path) -> None:
    (one,) = imported(tmp_path, written(tmp_path / "runs.json", [entry("a")])).outcomes
    assert (one.budget, one.metrics["epochs_trained"]) == (200, 3)


def test_old_keys_are_named_once_for_all_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [entry("a"), entry("b", loss={"use_focal": True}), entry("c", data={"num_workers": 4})]
    imported(tmp_path, written(tmp_path / "runs.json", runs))
    notes = capsys.readouterr().err.splitlines()
    keys = [note.split()[1].rstrip(",:") for note in notes]
    assert len(keys) == len(set(keys))
    (focal,) = [note for note in notes if "use_focal" in note]
    assert focal.startswith("note: loss.use_focal, kept as it was: focal loss brought nothing")
    assert focal.endswith("(3 runs)")


def test_what_made_runs_differ_is_kept_and_what_had_no_effect_is_kept_apart(
    tmp_path: Path,
) -> None:
    loss = {"use_focal": True, "boundary_weight": 0.3}
    odd = entry("b", loss=loss, data={"num_workers": 4}, augmentation={"rotation": 30})
    runs = [entry("a"), odd]
    plain, focal = imported(tmp_path, written(tmp_path / "runs.json", runs)).outcomes
    assert (plain.config["loss.use_focal"], focal.config["loss.use_focal"]) == (False, True)
    # gamma says something only while focal loss is on
    assert "loss.focal_gamma" not in plain.config
    assert focal.config["loss.focal_gamma"] == 2.0
    # a key that nobody knows
    assert focal.config["loss.boundary_weight"] == 0.3
    # loader processes change nothing, and the old trainer never read its augmentation section
    for one in (plain, focal):
        assert not {"data.num_workers", "augmentation.rotation", "output_dir"} & one.config.keys()
    assert focal.attrs["ignored"]["augmentation.rotation"] == 30
    assert focal.attrs["ignored"]["data.num_workers"] == 4
    assert plain.config["model.name"] == "microsegformer"
    assert plain.attrs["experiment"] == {"name": "lmsa_v1", "description": "targeting 0.71+"}


def test_augmentation_counts_where_the_trainer_that_wrote_it_did_read_it(tmp_path: Path) -> None:
    ours = {"loss": {"dice_weight": 1.5}, "augmentation": {"rotation": 30.0}}
    on_gpu = entry("gpu", gpu_augmentation={"rotation_degrees": 20})
    runs = [{"run": "ours", "config": ours, "val_f_score": [0.1]}, on_gpu]
    own, other = imported(tmp_path, written(tmp_path / "runs.json", runs)).outcomes
    assert own.config["augmentation.rotation"] == 30.0
    assert other.config["augmentation.rotation"] == 20
    assert other.attrs["ignored"]["augmentation.rotation"] == 15


def test_keys_that_vary_are_parameters_by_their_short_names(tmp_path: Path) -> None:
    restarts = {
        "scheduler": "CosineAnnealingWarmRestarts",
        "scheduler_params": {"T_0": 25, "T_mult": 2, "eta_min": "1e-6"},
        "weight_decay": "2e-4",
    }
    runs = [entry("a"), entry("b", loss={"dice_weight": 2.0}, training=restarts)]
    first, second = imported(tmp_path, written(tmp_path / "runs.json", runs)).outcomes
    # plain cosine is one cycle over the whole budget
    assert dict(first.params) == {"dice_weight": 1.5, "weight_decay": 1e-4, "T_0": 200.0}
    assert dict(second.params) == {"dice_weight": 2.0, "weight_decay": 2e-4, "T_0": 25.0}
    assert first.row.distributions["weight_decay"] == optuna.distributions.FloatDistribution(
        1e-4, 2e-4, log=True
    )


def test_a_run_that_does_not_tell_a_key_has_no_such_parameter(tmp_path: Path) -> None:
    bare = {"run": "bare", "config": {"model": {"dropout": 0.3}}, "val_f_score": [0.3]}
    runs = [entry("a"), entry("b", loss={"dice_weight": 2.0}), bare]
    outcomes = imported(tmp_path, written(tmp_path / "runs.json", runs)).outcomes
    assert dict(outcomes[2].params) == {"dropout": 0.3}
    assert outcomes[2].metrics["ce_dice_ratio"] is None


def test_a_run_that_starts_from_anothers_weights_names_it_where_it_tells(tmp_path: Path) -> None:
    told = {"name": "lmsa_continue_v2", "description": "Continue from best model (0.5123)"}
    weights = {"resume_from": "checkpoints/plain/best.pth"}
    steep = [0.6 + 0.01 * epoch for epoch in range(12)]
    runs = [
        entry("plain"),
        entry("parent", [0.1, 0.51231]),
        entry("told", [0.48, 0.52], experiment=told),
        entry("weights", [0.45, 0.5], training=weights),
        entry("steep", steep),
        entry("flat", [0.04] * 12),
        entry("continuous", experiment={"name": "continuous_aug", "description": ""}),
    ]
    outcomes = imported(tmp_path, written(tmp_path / "runs.json", runs)).outcomes
    assert [one.continued for one in outcomes] == [
        *(None, None, "parent", "plain", "a run that is not named", None, None),
    ]


def test_what_the_file_says_of_its_metric_is_the_studys(tmp_path: Path) -> None:
    runs = {"metric": "F pooled per batch", "runs": [entry("a")]}
    results = imported(tmp_path, written(tmp_path / "runs.json", runs))
    assert results.metric == "F pooled per batch"
    other = imported(tmp_path, written(tmp_path / "b.json", runs), "--metric", "mine", study="b")
    assert other.metric == "mine"


def test_names_are_text_whatever_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "[bold]<script> :smile:"
    results = imported(tmp_path, written(tmp_path / "runs.json", [entry(name)]))
    assert results.outcomes[0].name == name
    assert name in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- again


def test_importing_twice_adds_nothing_and_another_file_adds_its_own(
    tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written(tmp_path / "runs.json", [entry("a"), entry("b", loss={"dice_weight": 2.0})])
    flags = ["--study", "old", "--storage", store_url]
    assert main([str(first), *flags]) == 0
    assert "study old: 2 runs added\n" in capsys.readouterr().out
    assert main([str(first), *flags]) == 0
    assert "study old: 0 runs added, 2 runs there already\n" in capsys.readouterr().out
    more = [entry("a"), entry("c", [0.2, 0.6], loss={"dice_weight": 3.0}, model={"dropout": 0.2})]
    assert main([str(written(tmp_path / "more.json", more)), *flags]) == 0
    assert "study old: 1 run added, 1 run there already\n" in capsys.readouterr().out
    results = results_of(named_study(open_storage(store_url), "old"))
    assert [one.name for one in results.outcomes] == ["a", "b", "c"]
    # dropout varies only since c came
    assert [dict(one.params) for one in results.outcomes] == [
        {"dice_weight": 1.5},
        {"dice_weight": 2.0},
        {"dice_weight": 3.0, "dropout": 0.2},
    ]
    study = named_study(open_storage(store_url), "old")
    assert study.user_attrs[IMPORTED]["source"] == "runs.json, more.json"
    assert study.best_value == 0.6


def test_two_imports_at_the_same_moment_show_each_run_once(tmp_path: Path, store_url: str) -> None:
    batch = read_batch(written(tmp_path / "runs.json", [entry("a"), entry("b")]))
    before, real = threading.Barrier(2), optuna.Study.add_trial

    def together(study: optuna.Study, trial: Any) -> None:
        # both have looked at what is there, neither has added anything
        if trial.user_attrs[RUN] == "a":
            before.wait(30)
        real(study, trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", together)
        with ThreadPoolExecutor(2) as pool:
            stores = [open_storage(store_url) for _ in range(2)]
            for done in [pool.submit(import_batch, store, "old", batch) for store in stores]:
                done.result()
    study = named_study(open_storage(store_url), "old")
    assert len(study.get_trials()) == 4
    results = results_of(study)
    assert sorted(one.name for one in results.outcomes) == ["a", "b"]
    assert len(results.rows) == 2


def test_an_import_overtaken_by_another_adds_to_its_study(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = read_batch(written(tmp_path / "runs.json", [entry("a"), entry("b")]))
    with closing(open_storage(sqlite_url)) as first, closing(open_storage(sqlite_url)) as second:
        optuna.create_study(study_name="old", storage=first, direction="maximize")
        read = identity.system_attrs_of

        def overtaken(study: optuna.Study) -> dict[str, Any]:
            # it is filled while it is being judged
            monkeypatch.undo()
            import_batch(second, "old", batch)
            return read(study)

        monkeypatch.setattr(identity, "system_attrs_of", overtaken)
        found = import_batch(first, "old", batch)
        assert (found.added, len(found.study.get_trials())) == ([], 2)


def test_a_copy_of_a_file_is_known_again(tmp_path: Path) -> None:
    first = written(tmp_path / "runs.json", [entry("a")])
    imported(tmp_path, first)
    shutil.copy(first, tmp_path / "copy.json")
    assert len(imported(tmp_path, tmp_path / "copy.json").outcomes) == 1


def test_a_run_is_known_again_in_its_own_folder(tmp_path: Path) -> None:
    run = entry("first")
    imported(tmp_path, written(tmp_path / "runs.json", [run]))
    curves = {key: value for key, value in run.items() if key not in ("run", "config")}
    written(tmp_path / "first" / "history.json", curves)
    config = yaml.safe_dump(OLD_CONFIG)
    # here a number, in the list a text
    assert "learning_rate: 8e-4" in config
    (tmp_path / "first" / "config.yaml").write_text(config, encoding="utf-8")
    assert len(imported(tmp_path, tmp_path / "first").outcomes) == 1


def test_another_run_of_the_same_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, written(tmp_path / "runs.json", [entry("a")]))
    other = written(tmp_path / "other.json", [entry("new"), entry("a", [0.2, 0.3])])
    line = refused(tmp_path, capsys, other)
    assert line.startswith(f"error: {other}: run a: the study has another run of this name")
    # not even the run that could have been added
    assert len(results_of(named_study(store(tmp_path), "old")).outcomes) == 1


def test_a_search_is_no_place_for_imported_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    play(study_of(storage, "faces"), storage, setup_of("faces"), 1)
    foreign = optuna.create_study(study_name="foreign", storage=storage)
    foreign.add_trial(optuna.create_trial(value=1.0))
    file = written(tmp_path / "runs.json", [entry("a")])
    line = refused(tmp_path, capsys, file, study="faces")
    assert 'study "faces" was made by search.run' in line
    assert "name another with --study" in line
    line = refused(tmp_path, capsys, file, study="foreign")
    assert (
        'study "foreign" was not made by search.import_results, it has the direction minimize'
        in line
    )
    plain = optuna.create_study(study_name="plain", storage=storage, direction="maximize")
    plain.add_trial(optuna.create_trial(value=1.0))
    line = refused(tmp_path, capsys, file, study="plain")
    assert "it holds trials of another program (1 complete): name another with --study" in line
    assert len(study_of(storage, "faces").trials) == 1


def test_runs_of_another_metric_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, written(tmp_path / "a.json", [entry("a")]), "--metric", "pooled")
    more = written(tmp_path / "b.json", [entry("b")])
    line = refused(tmp_path, capsys, more, "--metric", "per image")
    assert 'study "old" has the metric "pooled", these runs have "per image"' in line
    # nothing said: the study's own
    assert imported(tmp_path, more).metric == "pooled"


def test_a_search_cannot_go_on_in_an_imported_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, written(tmp_path / "runs.json", [entry("a")]))
    capsys.readouterr()
    flags = ["--storage", url(tmp_path), "--runs", str(tmp_path / "runs"), "--plain"]
    assert run.main([*flags, "--trials", "1", "--study", "old"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert 'study "old"' in line
    assert "--study" in line
    assert SETUP not in named_study(store(tmp_path), "old").user_attrs


def test_an_imported_study_is_never_the_latest_search(tmp_path: Path) -> None:
    storage = store(tmp_path)
    play(study_of(storage, "faces"), storage, setup_of("faces"), 1)
    imported(tmp_path, written(tmp_path / "runs.json", [entry("a")]))
    assert latest_study(storage) == "faces"
    with pytest.raises(StudyError, match="did you mean old"):
        named_study(storage, "olt")


# ---------------------------------------------------------------------------------------- folders


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    history = {key: value for key, value in entry("").items() if key not in ("run", "config")}
    written(tmp_path / "checkpoints" / "first" / "history.json", history)
    written(tmp_path / "checkpoints" / "first" / "config.yaml", OLD_CONFIG)
    rows = [
        {"epoch": epoch, "val_f": score, "train_f": score, "val_f_per_class": {"skin": score}}
        for epoch, score in enumerate([0.3, 0.6], 1)
    ]
    written(tmp_path / "checkpoints" / "ours" / "7" / "history.json", rows)
    ours = {"loss": {"dice_weight": 2.5}, "training": {"epochs": 2, "seed": 11}}
    written(tmp_path / "checkpoints" / "ours" / "7" / "config.json", ours)
    one, other = imported(tmp_path, tmp_path / "checkpoints").outcomes
    assert (one.name, one.value, one.params["dice_weight"]) == ("first", 0.5, 1.5)
    assert (other.name, other.value, other.params["dice_weight"]) == ("ours/7", 0.6, 2.5)
    assert (other.seed, other.budget) == (11, 2)
    assert sorted(other.series) == ["train_f", "val_f"]


@pytest.mark.parametrize("name", ["", "history.json", "config.yaml"])
def test_one_run_is_named_by_its_folder_or_either_of_its_files(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "first"
    written(folder / "history.json", {"val_f_score": [0.2, 0.3]})
    written(folder / "config.yaml", OLD_CONFIG)
    (one,) = imported(tmp_path, folder / name if name else folder).outcomes
    assert (one.name, one.value, one.config["loss.dice_weight"]) == ("first", 0.3, 1.5)


def test_a_history_without_a_config_says_that_its_settings_are_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "first" / "history.json", {"val_f_score": [0.2, 0.3]})
    (one,) = imported(tmp_path, tmp_path / "first").outcomes
    assert (one.value, dict(one.config), one.budget) == (0.3, {}, 2)
    assert "config.json beside it, so its settings are not known" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- tables

# as the seed's table is written: bold, with marks and percentages in brackets
BY_HAND = [
    ["Dice Weight", "Best Val F-Score", "Best Epoch", "Train@Best", "Train-Val Gap", "Final Val"],
    ["**1.0**", "0.6819", "80", "0.6802", "-0.0018", "0.6503"],
    ["**1.5**", "**0.6889** ⭐", "92", "0.6987", "+0.0098", "0.6544"],
    ["**2.0**", "0.6702 ❌", "68", "0.6783", "+0.0080", "0.6203"],
]
LOST = ["退化幅度", "0.0316 (4.6%)", "0.0344 (5.0%)", "0.0500 (7.5%)"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_table_that_was_made_by_hand_is_read_as_it_stands(
    tmp_path: Path, delimiter: str
) -> None:
    file = tmp_path / ("table.tsv" if delimiter == "\t" else "table.csv")
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows(
            [*row, lost] for row, lost in zip(BY_HAND, LOST, strict=True)
        )
    one, best, other = imported(tmp_path, file).outcomes
    assert [one.name, best.name, other.name] == [
        *("dice_weight 1", "dice_weight 1.5", "dice_weight 2"),
    ]
    assert best.value == 0.6889
    assert not best.curve
    known = {name: value for name, value in best.metrics.items() if value is not None}
    assert known == {
        "trial": 1,
        "state": "COMPLETE",
        "value": 0.6889,
        "params": {"dice_weight": 1.5},
        "best_val_f": 0.6889,
        "best_epoch": 92,
        "train_f_at_best": 0.6987,
        "gap": 0.0098,
        "final_val_f": 0.6544,
        "degradation": 0.0344,
        "degradation_pct": 5.0,
        "ce_dice_ratio": "40:60",
    }


def test_a_table_in_yaml_by_our_own_names_fills_in_what_follows(tmp_path: Path) -> None:
    rows = [
        {"run": "x", "dice_weight": 1.0, "best_val_f": 0.5, "final_val_f": 0.4, "seed": 3},
        {"run": "y", "dice_weight": 2.0, "best_val_f": 0.6, "train_f_at_best": 0.7, "epochs": 90},
    ]
    one, other = imported(tmp_path, written(tmp_path / "table.yaml", rows)).outcomes
    assert (one.name, one.seed) == ("x", 3)
    assert one.metrics["degradation"] == pytest.approx(0.1)
    assert one.metrics["degradation_pct"] == pytest.approx(20)
    assert other.metrics["gap"] == pytest.approx(0.1)
    assert (other.budget, other.metrics["ce_dice_ratio"]) == (90, "33:67")
    # a table says nothing of it
    assert other.metrics["still_rising"] is None


def test_rows_that_differ_in_nothing_but_the_score_get_names_of_their_own(tmp_path: Path) -> None:
    rows = [{"dice_weight": 1.5, "best_val_f": score} for score in (0.68, 0.69)]
    first = imported(tmp_path, written(tmp_path / "table.yaml", rows))
    assert [one.name for one in first.outcomes] == ["dice_weight 1.5", "dice_weight 1.5 (2)"]
    more = written(tmp_path / "more.yaml", [{"dice_weight": 1.5, "best_val_f": 0.7}])
    assert [one.name for one in imported(tmp_path, more).outcomes][2:] == ["dice_weight 1.5 (3)"]
    assert len(imported(tmp_path, tmp_path / "table.yaml").outcomes) == 3


def test_remarks_are_notes_and_unknown_columns_stay(tmp_path: Path) -> None:
    rows = [
        {"dice_weight": 1.5, "best_val_f": 0.6, "Status": "done", "backbone": "mit", "lr": "8e-4"}
    ]
    (one,) = imported(tmp_path, written(tmp_path / "table.yaml", rows)).outcomes
    assert one.note == "done"
    assert one.config["backbone"] == "mit"
    assert one.config["training.learning_rate"] == 8e-4


# ---------------------------------------------------------------------------------------- mistakes

NAN = float("nan")
BAD_RUNS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("nan", [entry("ok"), entry("a", [0.1, NAN])], r"run a: .*_score of epoch 2 is nan.*leave it"),
    ("null", [entry("a", [0.1, None])], "run a: val_f_score of epoch 2 is None, no number"),
    ("percent", [entry("a", [10.0, 68.9])], r"epoch 1 is 10, not in \[0, 1\]; .* divide by 100"),
    ("negative", [entry("a", [0.1, -0.2])], r"epoch 2 is -0.2, not in \[0, 1\]"),
    ("text", [entry("a", [0.1, "0.2"])], "val_f_score of epoch 2 is '0.2', no number"),
    ("empty", [entry("ok"), entry("a", [])], "run a: val_f_score is empty.*leave this run out"),
    ("unequal", [{**entry("a"), "lr": [0.1]}], "run a: lr has 1 values and val_f_score 3"),
    ("twice", [entry("a"), entry("a", [0.2])], "run a stands there twice; give each a name"),
    ("config", [{**entry("a"), "config": [1]}], r"run a: config: '\[1\]' is none; sections"),
    ("no curve", [{"run": "a", "config": {}}], "run a: no score; add a column best_val_f"),
    ("no run", [1], "entry 1: '1' is no run"),  # type: ignore[list-item]
    ("nothing", [], "holds no run"),
    ("seed", [{**entry("a"), "seed": -1}], "run a: seed: -1: a whole number"),
    (
        "metrics",
        [{**entry("a"), "metric": "x"}, {**entry("b"), "metric": "y"}],
        r"several metrics \(x; y\); .*--metric",
    ),
]


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str], file: Path, told: str) -> None:
    """One line that names the file, and no store."""
    line = refused(folder, capsys, file)
    assert line.startswith(f"error: {file}: ")
    assert re.search(told, line), line
    assert not (folder / "search.db").exists()


@pytest.mark.parametrize(("runs", "told"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_RUNS])
def test_a_mistake_in_a_history_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any, told: str
) -> None:
    assert_refused(tmp_path, capsys, written(tmp_path / "runs.json", runs), told)


BAD_ROWS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("percent", [{"best_val_f": 68.9}], r"row 1: best_val_f is 68.9, not in \[0, 1\]; .* percent"),
    ("guess", [{"best_val_f": "0.685-0.688?"}], r"row 1: best_val_f: '0.685-0.688\?' is no number"),
    ("untested", [{"dice_weight": 1.3}], "row 1: no score; .*leave out a run that was not trained"),
    ("bool", [{"best_val_f": True}], "row 1: best_val_f: True is no number"),
    ("upside down", [{"best_val_f": 0.5, "final_val_f": 0.6}], "final score 0.6 lies above .* 0.5"),
    ("too late", [{"best_val_f": 0.5, "best_epoch": 9, "epochs_trained": 5}], "best epoch 9 lies"),
    ("half", [{"best_val_f": 0.5, "best_epoch": 1.5}], "best_epoch: 1.5: a whole number of epochs"),
    ("twins", [{"best_val_f": 0.5}, {"best_val_f": 0.5}], "row 2: tells what row 1 does; give"),
    ("rising", [{"best_val_f": 0.5, "still_rising": "?"}], r"still_rising: '\?': write yes or no"),
]


@pytest.mark.parametrize(("rows", "told"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_ROWS])
def test_a_mistake_in_a_table_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: Any, told: str
) -> None:
    assert_refused(tmp_path, capsys, written(tmp_path / "table.yaml", rows), told)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"[{", "not JSON: "),
        ("a.json", b"\xff\xfe\x00", "not a text file in UTF-8"),
        ("a.json", b'{"model": {"dropout": 0.1}}', "neither a list of runs, nor a history"),
        ("a.json", b"3", "neither a list of runs, nor a history"),
        ("a.csv", b"best_val_f,dice_weight\n0.5,1,2\n", "row 1: more cells than headings"),
        ("a.csv", b"best_val_f,dice_weight\n", "holds no run"),
        ("a.yaml", b"- [", "not YAML: "),
        ("history.json", b'[{"epoch": 1}]', "a row needs epoch and val_f"),
        ("history.json", b'[{"epoch": 2, "val_f": 0.1}]', "its epochs are not 1, 2, 3 and so on"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path, capsys, tmp_path / name)
    assert str(tmp_path / name) in line
    assert told in line


def test_a_path_that_holds_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or folder" in refused(tmp_path, capsys, tmp_path / "none.json")
    assert "no history.json in it or below" in refused(tmp_path, capsys, tmp_path)
    line = refused(tmp_path, capsys, written(tmp_path / "a.json", [entry("a")]), study=" ")
    assert "--study: a name is needed" in line


# ------------------------------------------------------------------------- numbers, as people write

HEAD = "best_val_f,dice_weight,epochs\n0.5,1,100\n"


def csv_file(folder: Path, text: str | bytes) -> Path:
    file = folder / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


EPOCHS_REFUSED = [
    (f"{HEAD}0.6,2,{cell}\n", f"{says}")
    for cell, says in (
        ('"1,000"', "epochs: '1,000' may be 1000 or 1.000; write one of these"),
        ("24 epochs", "epochs: '24 epochs' is no number; write it like 150"),
        ("auto", "epochs: 'auto' is no number"),
        ("1e400", "epochs: '1e400' is beyond what a number can be here"),
        ("2024-01-01", "epochs: '2024-01-01' is no number"),
        ("$5", "epochs: '$5' is no number"),
        ("5 €", "epochs: '5 €' is no number"),
        ("50%", "epochs: '50%': a whole number is needed, such as 150"),
        ("1.000", "epochs: '1.000': a whole number is needed, such as 150"),
        ("1_000", "epochs: '1_000' is no number"),
        ("1:30", "epochs: '1:30' is no number"),
        ("0x10", "epochs: '0x10' is no number"),
        ("0", "training.epochs: 0 is no number of epochs"),
        ("1.5", "epochs: '1.5': a whole number is needed"),
        ("٣", "epochs: '٣' is no number"),
    )
]
COLUMNS_REFUSED = [
    (f"best_val_f,dice_weight,{column}\n0.5,1,{cell}\n", says)
    for column, cell, says in (
        ("best_epoch", "1e400", "best_epoch: '1e400' is beyond"),
        ("best_epoch", "92%", "best_epoch: '92%': a whole number of epochs is needed"),
        ("best_epoch", "1.000", "best_epoch: '1.000': a whole number of epochs is needed"),
        ("dropout", "10%", "dropout: '10%' is in percent; write it like 0.15"),
        ("gap", "1%", "gap: '1%' is in percent; write it like 0.0098"),
        ("lr", "8e-4 (log)", "lr: '8e-4 (log)' is no number"),
        ("T_0", "auto", "T_0: 'auto' is no number"),
        ("batch_size", "2x8", "batch_size: '2x8' is no number; write it like 150"),
        ("seed", '"1,000"', "seed: '1,000': a whole number"),
        ("seed", "9" * 5000, "a whole number"),
        ("dice_weight", "2", "two columns are headed 'dice_weight'"),
        ("loss.dice_weight", "2", "loss.dice_weight is 1 by 'dice_weight' and 2 by"),
        ("value", "0.6", "best_val_f is 0.5 by 'best_val_f' and 0.6 by 'value'; leave one"),
    )
]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        *EPOCHS_REFUSED,
        *COLUMNS_REFUSED,
        ("best_val_f,dice_weight\n,1\n,2\n", "row 1: no score; add"),
        ("best_val_f,dice_weight\nfailed,1\n,2\n", "row 1: no score but 'failed'; add"),
    ],
)
def test_a_cell_that_may_be_no_number_is_refused_before_anything_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, says: str
) -> None:
    assert says in refused(tmp_path, capsys, csv_file(tmp_path, table))
    assert not (tmp_path / "search.db").exists()


@pytest.mark.parametrize(
    ("cell", "key", "value"),
    [
        *((word, "epochs", None) for word in ("", "-", "N/A", "nan", "NaN", "none", "—")),
        *(("010", "epochs", 10), ("150.0", "epochs", 150), ("1e2", "epochs", 100)),
        *(("**20**", "epochs", 20), ("'3'", "run", "'3'"), ("010", "run", "010")),
        *(('"0,1"', "dropout", 0.1), ('"0,100"', "dropout", 0.1), ('",5"', "dropout", 0.5)),
        *(("−0.2", "dice_ramp", -0.2), ("2024-01-01", "run", "2024-01-01")),
        *(('"1,000"', "length", "1,000"), ("1_000", "length", "1_000"), ("no", "amp", False)),
        *(("auto", "early_stopping_patience", "auto"), ("5", "early_stopping_patience", 5)),
        *(("no", "compile", False), ("1e400", "length", "1e400"), ("no", "dice_schedule", "no")),
    ],
)
def test_a_cell_is_read_as_what_it_spells(
    tmp_path: Path, cell: str, key: str, value: object
) -> None:
    batch = read_batch(csv_file(tmp_path, f"best_val_f,{key}\n0.5,{cell}\n"))
    known = {name.rpartition(".")[2]: it for name, it in batch.runs[0].settings.config.items()}
    assert (batch.runs[0].name if key == "run" else known.get(key)) == value


def test_a_score_in_percent_is_a_hundredth(tmp_path: Path) -> None:
    file = csv_file(tmp_path, "best_val_f,final_val_f,degradation\n68.89%,0.9%,4.6%\n")
    (one,) = imported(tmp_path, file).outcomes
    assert (one.value, one.metrics["final_val_f"]) == (0.6889, 0.009)
    assert one.metrics["degradation_pct"] == 4.6


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_a_spreadsheet_with_its_delimiter_and_decimal_commas_is_read(
    tmp_path: Path, encoding: str
) -> None:
    text = (
        "sep=;\r\nbest_val_f;dice_weight;epochs;length;note\r\n"
        '0,6889;1,5;100;1,25;"one; 1,5"\r\n0,67;2,0;100;1,000;\r\n'
    )
    best, other = imported(tmp_path, csv_file(tmp_path, text.encode(encoding))).outcomes
    assert (best.value, best.params, best.note) == (0.6889, {"dice_weight": 1.5}, "one; 1,5")
    assert (best.config["length"], other.config["length"]) == (1.25, "1,000")
    assert (other.value, other.params, other.budget) == (0.67, {"dice_weight": 2.0}, 100)


def test_a_point_may_stand_for_thousands_where_commas_are_decimal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = csv_file(tmp_path, "best_val_f;dice_weight\n0,6889;1.500\n")
    assert "dice_weight: '1.500' may be 1500 or 1.500" in refused(tmp_path, capsys, file)
    (one,) = imported(tmp_path, csv_file(tmp_path, "best_val_f;dice_weight\n0.6;1.500\n")).outcomes
    assert one.config["loss.dice_weight"] == 1.5


@pytest.mark.parametrize(
    "word",
    ["", "N/A", "-", "running", "failed", "NaN", "**Running**", "crashed", "?", "未完成", " "],
)
def test_rows_of_runs_that_did_not_end_are_left_out_and_named(tmp_path: Path, word: str) -> None:
    rows = f"0.6,2,100\n{word},3,100\n\n{word},4,100\n0.7,5,100\n"
    batch = read_batch(csv_file(tmp_path, HEAD + rows))
    assert [run.best for run in batch.runs] == [0.5, 0.6, 0.7]
    why = word.strip() or "empty"
    assert list(batch.notes) == [
        f"{tmp_path}/table.csv: 2 rows without a score left out: row 3 ({why}), row 5 ({why})"
    ]


def test_of_many_rows_without_a_score_a_few_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, csv_file(tmp_path, HEAD + "running,2,100\n" * 7))
    err = capsys.readouterr().err
    assert "7 rows without a score left out: row 2 (running), row 3 (running)," in err
    assert "row 6 (running), 2 more" in err
    rows = [{"run": "a", "best_val_f": None}, {"run": "b", "best_val_f": NAN}, {"best_val_f": 0.5}]
    imported(tmp_path, written(tmp_path / "rows.json", rows), study="other")
    assert "2 rows without a score left out: run a (empty), run b (nan)" in capsys.readouterr().err


def test_the_numbers_that_pandas_writes_before_each_row_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = csv_file(tmp_path, ",best_val_f,dice_weight,\n0,0.5,1,\n1,0.6,2,\n")
    results = imported(tmp_path, file)
    assert [one.name for one in results.outcomes] == ["dice_weight 1", "dice_weight 2"]
    assert "a column without a heading is left out" in capsys.readouterr().err


def test_a_cell_may_hold_a_line_end(tmp_path: Path) -> None:
    file = csv_file(tmp_path, 'run,best_val_f,note\na,0.5,"one\ntwo\u2028three"\n')
    (one,) = imported(tmp_path, file).outcomes
    assert one.note == "one\ntwo\u2028three"


def test_a_key_that_stands_twice_is_refused_in_every_kind_of_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text, says in [
        ("a.yaml", "- best_val_f: 0.5\n  best_val_f: 0.6\n", "a.yaml, line 2: key 'best_val_f'"),
        ("a.json", '[{"best_val_f": 0.5,\n"best_val_f": 0.6}]', "a.json, line 2: key 'best_val_f'"),
        ("run/config.yaml", "loss: {}\nmodel: {}\nloss: {}\n", "config.yaml, line 3: key 'loss'"),
        ("run/config.json", '{"loss": {},\n"loss": {}}', "config.json, line 2: key 'loss'"),
    ]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        history = {"val_f_score": [0.1]}
        what = file
        if "run/" in name:
            written(file.parent / "history.json", history)
            what = file.parent
        assert says in refused(tmp_path, capsys, what)
        file.unlink()
    assert not (tmp_path / "search.db").exists()


def test_names_and_numbers_of_a_table_in_yaml_are_read_by_one_rule(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(
        "- {run: 010, best_val_f: '0.5', dice_weight: 010, note: 2024-01-01, ce:dice: 40:60}\n"
        "- {run: no, best_val_f: 0.6, epochs: '24', config: {experiment: {name: 1e5}}}\n"
    )
    one, other = imported(tmp_path, file).outcomes
    assert (one.name, one.value, one.note) == ("010", 0.5, "2024-01-01")
    assert one.config["loss.dice_weight"] == 10
    assert one.metrics["ce_dice_ratio"] == "40:60"
    assert (other.name, other.budget, other.attrs["experiment"]) == ("no", 24, {"name": "1e5"})


@pytest.mark.parametrize("epochs", ["24 epochs", [1, 2], True, 0, -5, 1.5, "1e400"])
def test_a_config_without_a_number_of_epochs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: object
) -> None:
    file = written(tmp_path / "runs.json", [entry("ok"), entry("a", training={"epochs": epochs})])
    line = refused(tmp_path, capsys, file)
    assert f"run a: training.epochs: {epochs!r} is no number of epochs" in line
    assert not (tmp_path / "search.db").exists()


def test_a_name_that_no_store_keeps_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.json"
    file.write_text('[{"run": "\\udcff", "val_f_score": [0.1]}]')
    assert "half a letter" in refused(tmp_path, capsys, file)
    assert not (tmp_path / "search.db").exists()


def test_switches_of_an_old_config_are_read_however_they_are_written(tmp_path: Path) -> None:
    off = entry("a", loss={"use_focal": "no", "focal_gamma": 2.0})
    (one,) = imported(tmp_path, written(tmp_path / "runs.json", [off])).outcomes
    # says nothing while focal loss is off
    assert "loss.focal_gamma" not in one.config


# ------------------------------------------------------------- what an earlier version has stored


def test_a_study_with_text_for_its_epochs_can_still_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts: list[Any] = ["1,000", "24 epochs", "N/A", "inf"]
    told = [100, *texts, [1, 2], -3, True]
    storage = store(tmp_path)
    study = optuna.create_study(study_name="old", storage=storage, direction="maximize")
    study.set_user_attr(IMPORTED, {"metric": METRIC, "source": "table.csv"})
    kind = optuna.distributions.CategoricalDistribution(texts)
    for number, epochs in enumerate(told):
        params = {"epochs": epochs} if epochs in texts else {}
        study.add_trial(
            optuna.create_trial(
                value=0.5 + number / 100,
                params=params,
                distributions=dict.fromkeys(params, kind),
                user_attrs={
                    RUN: f"run {number}",
                    CONFIG: {"training.epochs": epochs, "loss.dice_weight": 1.0 + number},
                    "best_val_f": 0.5 + number / 100,
                },
            )
        )
    play(study_of(storage, "faces"), storage, setup_of("faces"), 1)
    page, markdown = tmp_path / "r.html", tmp_path / "r.md"
    for command, flags in [
        (report.main, ["--study", "old", "--out", str(page), "--markdown", str(markdown)]),
        (export.main, ["--study", "old", "--format", "csv"]),
        (compare.main, ["old", "faces"]),
    ]:
        capsys.readouterr()
        assert command([*flags, "--storage", url(tmp_path)]) == 0
        err = capsys.readouterr().err
        assert "note: study old: trial 1 (run 1): training.epochs is '1,000', no number" in err
        assert "note: study old: 2 more trials likewise" in err
    shown = html.unescape(page.read_text(encoding="utf-8"))
    assert "training.epochs is '24 epochs', no number" in shown
    assert "24 epochs" in markdown.read_text(encoding="utf-8")
    results = results_of(named_study(storage, "old"))
    assert [one.budget for one in results.outcomes] == [100, *[0] * 7]
    assert len(results.troubles) == 7
    # the dashboard's note, and a later import into the same study
    assert "run 7" in study_note(results, None, {})
    more = written(tmp_path / "more.yaml", [{"run": "new", "best_val_f": 0.7, "epochs": 24}])
    assert len(imported(tmp_path, more).outcomes) == 9


def test_a_cycle_without_length_does_not_keep_the_report_for_ever(tmp_path: Path) -> None:
    rows = [
        {"best_val_f": 0.5, "epochs": 10**12, "T_0": 1, "dice_weight": 1.0},
        {"best_val_f": 0.6, "epochs": 100, "T_0": 1e-9, "dice_weight": 2.0},
    ]
    imported(tmp_path, written(tmp_path / "table.yaml", rows))
    where = ["--storage", url(tmp_path), "--out", str(tmp_path / "r.html")]
    assert report.main(["--study", "old", *where]) == 0


# ---------------------------------------------------------------------------------------- command


def test_the_command_runs_as_a_module_and_shows_no_password(tmp_path: Path) -> None:
    file = written(tmp_path / "runs.json", [entry("a")])
    command = [
        sys.executable,
        "-m",
        "search.import_results",
        str(file),
        "--study",
        "old",
        "--storage",
    ]

    def done(storage: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, storage], cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    good = done(url(tmp_path))
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "study old: 1 run added")
    bad = done("postgresql+psycopg://me:sesame@127.0.0.1:1/none")
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1
    assert "sesame" not in bad.stdout + bad.stderr


# ---------------------------------------------------------------------------------------- the seed


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The user's 19 runs."""
    return imported(tmp_path_factory.mktemp("seed"), HISTORIES)


def test_the_seeds_19_runs_are_trials_with_their_whole_curves(seeds: Results) -> None:
    runs = {one["run"]: one for one in json.loads(HISTORIES.read_text(encoding="utf-8"))}
    assert len(seeds.outcomes) == len(runs) == 19
    for one in seeds.outcomes:
        told = runs[one.attrs[RUN]]
        assert list(one.curve.values()) == told["val_f_score"]
        assert one.attrs[SERIES]["train_f"] == told["train_f_score"]
        assert one.attrs[SERIES]["lr"] == told["lr"]
        assert one.value == max(told["val_f_score"])
        assert one.budget == told["config"]["training"]["epochs"]
        assert one.attrs[CONFIG]["loss.dice_weight"] == told["config"]["loss"]["dice_weight"]
    assert seeds.metric == METRIC


def test_of_the_seeds_runs_one_continues_the_best_one_of_the_table(seeds: Results) -> None:
    continued = {one.name: one.continued for one in seeds.outcomes if one.attrs.get(CONTINUED)}
    assert continued == {"microsegformer_20251009_172335": "microsegformer_20251008_025917"}


def test_the_seeds_true_differences_are_seen(seeds: Results) -> None:
    focal = [one.name for one in seeds.outcomes if one.config.get("loss.use_focal")]
    assert focal == ["microsegformer_20251007_211515", "microsegformer_20251007_224140"]
    restarts = [one for one in seeds.outcomes if one.config["training.scheduler_params.T_0"] == 25]
    assert [one.budget for one in restarts] == [200, 200]
    assert [one.metrics["still_rising"] for one in restarts] == [True, True]
    assert {*seeds.outcomes[0].params, *seeds.outcomes[-1].params} == {
        *("dice_weight", "dropout", "weight_decay", "T_0", "learning_rate", "epochs"),
        "warmup_epochs",
    }


def test_a_dropped_key_that_is_a_mapping_stays_as_it_was_written(tmp_path: Path) -> None:
    # found by the fuzz: seed 365
    odd = entry("a", data={"val_split": {"a": 1}})
    (read,) = read_batch(written(tmp_path / "runs.json", [odd])).runs
    assert read.settings.config["data.val_split.a"] == 1


@pytest.mark.parametrize("text", ["-,run", "- -", "3"])
def test_a_file_of_words_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    # found by the fuzz: seed 804
    file = tmp_path / "table.yaml"
    file.write_text(text)
    refused(tmp_path, capsys, file)
