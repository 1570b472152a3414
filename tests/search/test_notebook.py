"""A study as pandas tables and plotly figures, for a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState, create_trial

import search
import space
from search import load
from search.execution.worker_loop import work
from search.notebook import LoadedStudy
from search.results.evidence import Evidence
from search.results.findings.every_finding import findings
from search.study.attributes import IMPORTED, RUN, SERIES
from search.study.setup import StudyError
from search.study.training_metrics import COLUMNS
from storage import StorageError
from tests.support.documents import section
from tests.support.studies import (
    ROOT,
    context_at,
    environment,
    play,
    real_study,
    setup_of,
    store,
    study_of,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store and the runs of a study of three tiny trainings."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "runs").mkdir()
    storage = store(folder / "runs")
    real_study(storage, total=3, pruner="none")
    work(context_at(folder, storage))
    return folder


def loaded(folder: Path, name: str | None = None) -> LoadedStudy:
    return load(name, f"sqlite:///{folder}/search.db", folder / "runs")


def example() -> str:
    """The Python block of the document's part about notebooks."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", section("In a notebook"), re.M | re.S)
    return str(code)


def python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


# -------------------------------------------------------------------------------------- example


@pytest.mark.long
def test_the_example_of_the_readme_runs_as_it_stands(trained: Path) -> None:
    done = python(example(), trained)
    assert (done.returncode, done.stderr) == (0, "")
    view = load("faces", f"sqlite:///{trained}/runs/search.db", trained / "runs")
    assert view.findings()[0] in done.stdout
    assert view.best is not None
    printed = [float(number) for number in re.findall(r"\d\.\d+", done.stdout)]
    assert pytest.approx(view.best.value, abs=1e-5) in printed
    assert [path.name for path in trained.glob("*.html")] != []


# ---------------------------------------------------------------------------------------- tables


def test_the_table_has_a_row_a_trial_and_types_that_can_be_computed_with(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    study.enqueue_trial({"dropout": 0.25}, user_attrs={"note": "mine"})
    play(study, storage, setup_of(), 3)
    study.enqueue_trial({"dropout": 0.2})
    table = loaded(tmp_path, "faces").table()
    params = list(setup_of().specs())
    heads = ["trial", "name", "state", "value", *COLUMNS, *params, "seed", "note"]
    assert list(table.columns) == heads
    trials = study.get_trials()
    assert table["trial"].tolist() == [trial.number for trial in trials] == [0, 1, 2, 3]
    assert table["state"].tolist() == [trial.state.name for trial in trials]
    assert table["dropout"].tolist()[0] == 0.25
    assert table["note"].tolist()[0] == "mine"
    assert table["value"].isna().tolist() == [False, False, False, True]
    floats = ["value", "gap", "train_f_at_best", "instability", "dice_weight", "T_0"]
    assert {str(table[name].dtype) for name in floats} == {"float64"}
    for name in ("best_epoch", "epochs_trained", "seed"):
        assert str(table[name].dtype) == "Int64"
    assert str(table["still_rising"].dtype) == "boolean"
    for name in ("name", "state", "dice_schedule", "ce_dice_ratio", "note"):
        assert pd.api.types.is_string_dtype(table[name].dtype)
    best = table.loc[table["value"].idxmax()]
    assert best["trial"] == study.best_trial.number
    assert best["value"] == study.best_trial.value


def test_the_types_are_the_same_in_a_study_without_trials(tmp_path: Path) -> None:
    storage = store(tmp_path)
    # ends that a person wrote without a point
    table = {**space.SPACE, "dice_weight": space.Float(1, 2)}
    study = study_of(storage, table=table)
    empty = loaded(tmp_path, "faces")
    assert (empty.best, len(empty.table()), len(empty.curves())) == (None, 0, 0)
    assert list(empty.curves().columns) == ["trial", "epoch", "val_f"]
    play(study, storage, setup_of(table=table), 2)
    full = loaded(tmp_path, "faces")
    assert empty.table().dtypes.to_dict() == full.table().dtypes.to_dict()
    assert empty.curves().dtypes.to_dict() == full.curves().dtypes.to_dict()
    assert str(full.table().dtypes["dice_weight"]) == "float64"
    assert repr(empty) == "<study faces: 0 trials, no complete trial>"
    best = study.best_trial
    assert repr(full) == f"<study faces: 2 trials, best {best.value:.4f} (trial {best.number})>"


def test_a_parameter_of_whole_numbers_keeps_its_type(tmp_path: Path) -> None:
    storage = store(tmp_path)
    ranges = ("batch_size=4:8",)
    study = study_of(storage, ranges=ranges)
    types = loaded(tmp_path, "faces").table().dtypes
    assert str(types["batch_size"]) == "Int64"
    play(study, storage, setup_of(ranges=ranges), 2)
    assert loaded(tmp_path, "faces").table().dtypes["batch_size"] == types["batch_size"]


def test_the_curves_have_a_row_an_epoch_with_what_the_history_holds(trained: Path) -> None:
    view = load("faces", f"sqlite:///{trained}/runs/search.db", trained / "runs")
    curves = view.curves()
    assert list(curves.columns)[:3] == ["trial", "epoch", "val_f"]
    assert {"train_f", "lr", "train_loss"} < set(curves.columns)
    assert len(curves) == 3 * 4
    assert not curves[["val_f", "train_f", "lr"]].isna().any().any()
    assert {str(curves[name].dtype) for name in ("trial", "epoch")} == {"int64"}
    for one in view.results.outcomes:
        mine = curves[curves["trial"] == one.number]
        assert dict(zip(mine["epoch"], mine["val_f"], strict=True)) == one.curve
    wide = curves.pivot(index="epoch", columns="trial", values="val_f")
    assert wide.shape == (4, 3)


def test_without_the_runs_folder_the_curves_are_the_reported_scores(trained: Path) -> None:
    view = load("faces", f"sqlite:///{trained}/runs/search.db", trained / "nowhere")
    assert list(view.curves().columns) == ["trial", "epoch", "val_f"]
    assert len(view.curves()) == 3 * 4


def test_an_imported_study_is_loaded_too(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="old", storage=store(tmp_path), direction="maximize")
    study.set_user_attr(IMPORTED, {"metric": "F pooled per batch", "source": "old.json"})
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=0.5,
            params={"batch_size": 32},
            distributions={"batch_size": optuna.distributions.IntDistribution(16, 32)},
            intermediate_values={1: 0.4, 2: 0.5},
            user_attrs={RUN: "run one", SERIES: {"train_f": [0.5, 0.6]}},
        )
    )
    view = loaded(tmp_path, "old")
    table, curves = view.table(), view.curves()
    assert table["name"].tolist() == ["run one"]
    assert str(table["batch_size"].dtype) == "Int64"
    assert curves["train_f"].tolist() == [0.5, 0.6]


# ------------------------------------------------------------------------------ figures, findings


def test_figures_and_sentences_are_the_report_s(trained: Path) -> None:
    view = load("faces", f"sqlite:///{trained}/runs/search.db", trained / "runs")
    figures = view.figures()
    assert figures
    assert {type(figure) for figure in figures.values()} == {go.Figure}
    said = findings(Evidence(view.results)).values()
    assert view.findings() == [text for own in said for text in own]
    assert view.best is not None
    assert view.best.value == view.table()["value"].max()


# ----------------------------------------------------------------------------------------- study


def test_the_latest_search_is_loaded_unless_one_is_named(tmp_path: Path) -> None:
    storage = store(tmp_path)
    for name in ("old", "new", "new-confirm"):
        play(study_of(storage, name), storage, setup_of(name), 1)
    assert loaded(tmp_path).name == "new"
    assert loaded(tmp_path, "old").name == "old"
    assert loaded(tmp_path, "new-confirm").name == "new-confirm"


def test_what_is_not_there_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        loaded(tmp_path)
    assert list(tmp_path.iterdir()) == []
    study_of(store(tmp_path))
    with pytest.raises(StudyError, match="did you mean faces"):
        loaded(tmp_path, "face")


# --------------------------------------------------------------------------------------- imports


def test_importing_search_loads_nothing_and_sets_nothing_up() -> None:
    code = (
        "import sys, search\n"
        "heavy = ('torch', 'optuna', 'sqlalchemy', 'pandas', 'plotly', 'search.notebook')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "from search import load\n"
        "print(load.__module__, [name for name in heavy[:5] if name in sys.modules])\n"
    )
    done = python(code)
    assert (done.stdout, done.stderr) == ("[]\nsearch.notebook []\n", "")


def test_a_name_that_search_does_not_have_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = search.lod
    with pytest.raises(ImportError):
        exec("from search import lod", {})


def test_without_pandas_the_text_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(store(tmp_path))
    view = loaded(tmp_path, "faces")
    # an entry of None is how Python marks a module as not to be found
    monkeypatch.setitem(sys.modules, "pandas", None)
    asked: list[Any] = [view.table, view.curves]
    for ask in asked:
        with pytest.raises(ImportError, match=re.escape("pip install .[notebook]")):
            ask()
    assert view.findings() is not None
