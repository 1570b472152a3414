from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.execution.worker_loop import work
from search.export import main
from search.strategy.loading import load_study
from search.study.shared_state import drain
from search.trainers import faces
from tests.support.paths import ROOT
from tests.support.studies import context_at, fit_and, play, real_study, setup_of, store, study_of
from trainer import train
from trainer.config import load_yaml, read_config
from trainer.fit import fit
from trainer.presets import PRESETS

RESUMED, WHOLE, STOPPED, WAITING = range(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four trials: interrupted and resumed, whole, stopped, waiting. No runs."""
    there = tmp_path_factory.mktemp("export")
    storage = store(there)
    study = real_study(storage, total=3, config={"learning_rate": 0.0017})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "fit", fit_and(lambda: drain(study)))
        work(context_at(there, storage))
        assert study.get_trials()[RESUMED].state == TrialState.WAITING
        patch.undo()
        study.set_user_attr("total", 2)
        work(context_at(there, storage))
        study.set_user_attr("total", 3)
        study.enqueue_trial({"dropout": 0.1}, user_attrs={"priority": -1})

        def stop_the_third(config: Any, data: Any, **options: Any) -> Any:
            def heard(progress: Any) -> None:
                options["report"](progress)
                raise optuna.TrialPruned("after epoch 1")

            return fit(config, data, **(options | {"report": heard}))

        patch.setattr(faces, "fit", stop_the_third)
        work(context_at(there, storage))
    study.enqueue_trial({"dropout": 0.2})
    wanted = [TrialState.COMPLETE] * 2 + [TrialState.PRUNED, TrialState.WAITING]
    assert [trial.state for trial in study.get_trials()] == wanted
    # whatever a repetition needs must be in the export
    shutil.rmtree(there / "runs")
    return there


def trials(folder: Path) -> list[FrozenTrial]:
    return load_study(store(folder), "faces").get_trials()


def exported(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """What the command writes to standard output, as data."""
    capsys.readouterr()
    assert main(["--storage", f"sqlite:///{folder}/search.db", *flags]) == 0
    return dict(load_yaml(capsys.readouterr().out, "export"))


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    assert main(["--storage", f"sqlite:///{folder}/search.db", *flags]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    # the study that was chosen may be named before
    assert [line.startswith("error: ") for line in lines[-1:]] == [True]
    assert len(lines) == 1 or lines[0].startswith("study ")
    return lines[-1]


def best_f(out: Path) -> float:
    history = json.loads((out / "history.json").read_text())
    return max(row["val_f"] for row in history)


# ------------------------------------------------------------------------------- the same again


@pytest.mark.long
def test_an_interrupted_trial_trains_to_its_value_again_without_any_file_of_the_search(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.yaml"
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--trial", str(RESUMED)]
    assert main([*flags, "--out", str(out)]) == 0
    command = [sys.executable, "-m", "trainer.train", "--config", str(out), "--device", "cpu"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "again")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert best_f(tmp_path / "again") == pytest.approx(trials(folder)[RESUMED].value, abs=1e-6)
    assert "expected of a repetition: the same score to 1e-6" in done.stdout
    assert "note:" not in done.stdout


def test_a_whole_trial_trains_to_its_value_again(folder: Path, tmp_path: Path) -> None:
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--trial", str(WHOLE)]
    assert main([*flags, "--out", str(tmp_path / "out.yaml")]) == 0
    given = ["--config", str(tmp_path / "out.yaml"), "--out", str(tmp_path / "again")]
    assert train.main([*given, "--device", "cpu"]) == 0
    assert best_f(tmp_path / "again") == pytest.approx(trials(folder)[WHOLE].value, abs=1e-6)


@pytest.mark.long
def test_the_pasted_command_line_trains_to_the_value_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "line"
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--trial", str(WHOLE)]
    assert main([*flags, "--format", "cli", "--out", str(out)]) == 0
    done = subprocess.run(
        ["bash", "-c", f"{out.read_text().strip()} --out '{tmp_path}/again'"],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert best_f(tmp_path / "again") == pytest.approx(trials(folder)[WHOLE].value, abs=1e-6)


@pytest.mark.long
def test_a_preset_on_top_keeps_the_found_values_and_prints_what_it_replaces(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--trial", str(WHOLE)]
    assert main([*flags, "--out", str(tmp_path / "out.yaml")]) == 0
    given = ["--config", str(tmp_path / "out.yaml"), "--preset", "small", "--device", "cpu"]
    # the preset's own budget would take minutes
    assert train.main([*given, "--set", "epochs=2", "--out", str(tmp_path / "small")]) == 0
    said = capsys.readouterr().out
    notes = {line for line in said.splitlines() if line.startswith("note: ")}
    found, small = trials(folder)[WHOLE].params, PRESETS["small"]
    cycle = found["T_0"] / 2
    cycles = f"{found['T_0']} -> {cycle:g} (the same number of cycles)"
    assert notes == {
        "note: preset small: the file's runtime section is dropped",
        f"note: preset small: data.image_size: 16 -> {small.image_size}",
        f"note: preset small: model.width: 0.1 -> {small.width}",
        f"note: preset small: training.learning_rate: 0.0017 -> {small.learning_rate}",
        f"note: preset small: training.scheduler_params.T_0: {cycles}",
    }
    config, _ = read_config(tmp_path / "small" / "config.yaml")
    assert config.loss.dice_weight == found["dice_weight"]
    assert config.loss.dice_schedule == found["dice_schedule"]
    assert config.loss.label_smoothing == found["label_smoothing"]
    assert config.model.dropout == found["dropout"]
    assert config.training.weight_decay == found["weight_decay"]
    t_0 = config.training.scheduler_params.T_0
    assert t_0 == pytest.approx(cycle)


# ------------------------------------------------------------------------------------ which trial


def test_the_best_complete_trial_goes_to_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = exported(folder, capsys, "--study", "faces")
    best = load_study(store(folder), "faces").best_trial
    record = data["search"]
    assert (record["trial"], record["value"]) == (best.number, best.value)
    assert best.value == best.intermediate_values[record["epoch"]]
    assert record["epochs"] == 4
    assert record["command"].startswith("python -m search.export --storage sqlite:///")
    assert record["seed"] == data["training"]["seed"] == best.user_attrs["seed"]
    assert data["runtime"] == best.user_attrs["runtime"]
    assert data["training"]["early_stopping_patience"] is None
    assert data["loss"]["dice_weight"] == best.params["dice_weight"]


def test_a_pruned_trial_is_exported_by_its_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = trials(folder)[STOPPED]
    data = exported(folder, capsys, "--trial", str(STOPPED))
    assert data["search"]["trial"] == STOPPED
    assert data["search"]["value"] == pruned.intermediate_values[1]
    assert data["model"]["dropout"] == pruned.params["dropout"]


def test_a_trial_that_has_not_begun_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(folder, capsys, "--trial", str(WAITING))
    assert "trial 3 is WAITING and has never been trained" in line


def test_a_trial_that_does_not_exist_is_refused_with_how_many_there_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(folder, capsys, "--trial", "17")
    assert "--trial 17 does not exist; there are 4, counted from 0" in line


def test_a_study_without_a_complete_trial_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_of(store(tmp_path))
    assert "no trial is complete yet" in refusal(tmp_path, capsys, "--study", "faces")


def test_a_best_trial_that_nobody_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(store(tmp_path))
    # what the dashboard's tell does to a waiting trial
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.9))
    line = refusal(tmp_path, capsys, "--study", "faces")
    assert "trial 0 is COMPLETE and has never been trained" in line


# ------------------------------------------------------------------------------------ which study


def test_the_study_is_the_latest_and_that_is_said_apart_from_the_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    for name in ("old", "new", "new-confirm", "by-hand"):
        study = study_of(storage, name)
        play(study, storage, setup_of(name), 1)
    study.set_user_attr("imported", True)
    assert main(["--storage", f"sqlite:///{tmp_path}/search.db"]) == 0
    told = capsys.readouterr()
    assert told.err == "study new (the latest; another: --study NAME)\n"
    assert load_yaml(told.out, "export")["search"]["study"] == "new"
    assert exported(tmp_path, capsys, "--study", "old")["search"]["study"] == "old"
    assert capsys.readouterr().err == ""


def test_an_unknown_study_is_refused_with_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(folder, capsys, "--study", "face")
    assert line == 'error: no study "face" in the store: did you mean faces?'


def test_a_store_without_studies_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path)
    assert "no search yet; start one with" in refusal(tmp_path, capsys)


def test_a_missing_store_is_refused_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "search.db does not exist" in refusal(tmp_path, capsys)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- the file


def test_a_file_holds_what_standard_output_would(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = exported(folder, capsys)
    out = tmp_path / "new" / "best.yaml"
    assert main(["--storage", f"sqlite:///{folder}/search.db", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert f"of faces is in {out}\n" in told.err
    written = load_yaml(out.read_text(), "export")
    written["search"].pop("command")
    data["search"].pop("command")
    assert written == data


def test_a_refused_export_leaves_the_file_as_it_was(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.yaml"
    out.write_text("mine")
    refusal(folder, capsys, "--trial", "17", "--out", str(out))
    assert out.read_text() == "mine"


def test_a_file_that_cannot_be_written_leaves_nothing_half_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "name a file, not a folder" in refusal(folder, capsys, "--out", str(tmp_path))
    (tmp_path / "file").touch()
    line = refusal(folder, capsys, "--out", str(tmp_path / "file" / "best.yaml"))
    assert "a file stands where a folder is needed" in line
    assert [path.name for path in tmp_path.parent.glob(f"{tmp_path.name}*")] == [tmp_path.name]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_number_of_a_revival_means_its_whole_trial(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    play(study, storage, setup_of(), 1)
    first = study.get_trials()[0]
    row = create_trial(
        state=TrialState.COMPLETE,
        value=0.9,
        params=first.params,
        distributions=first.distributions,
        user_attrs={"seed": first.user_attrs["seed"], "continues": 0},
        intermediate_values={13: 0.9},
    )
    study.add_trial(row)
    texts = []
    for number in ("0", "1"):
        url = f"sqlite:///{tmp_path}/search.db"
        out = tmp_path / f"{number}.yaml"
        assert main(["--storage", url, "--trial", number, "--out", str(out)]) == 0
        texts.append(out.read_text())
    for text in texts:
        assert "  trial: 0\n" in text
        assert "  value: 0.9\n" in text
