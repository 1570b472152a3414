"""Notes and figures in the store, as optuna-dashboard shows them."""

from __future__ import annotations

import random
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note
from optuna_dashboard._note import get_note_from_system_attrs

from search.reporting.dashboard_notes import Board, publish, study_note
from search.results.reading import results_of
from search.strategy.loading import load_study
from search.study.attributes import JUDGED
from search.study.trial_notes import YOURS, put_note, trial_note
from search.study.wording import escaped
from tests.support.repeated import repeated
from tests.support.simulated import row
from tests.support.studies import EPOCHS, by_dice, play, setup_of, store, study_of

COMMANDS = {"watch": "python -m search.dashboard"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    with closing(store(folder)) as storage:
        play(study_of(storage), storage, setup_of(), 6, by_dice)
    return folder


@pytest.fixture
def played(whole: Path, tmp_path: Path) -> optuna.Study:
    """A copy of a study of six trials, to change."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return load_study(store(tmp_path), "faces")


def graphs(study: optuna.Study) -> set[str]:
    attrs = study._storage.get_study_system_attrs(study._study_id)
    return {key.split(":")[2] for key in attrs if key.startswith("dashboard:plot_data:")}


def test_the_note_of_a_study_tells_its_standing_its_best_trials_and_what_comes_next(
    played: optuna.Study,
) -> None:
    results = results_of(played)
    text = study_note(results, 40, COMMANDS)
    assert text.startswith("**6 of 40 trials finished**")
    best = results.best
    assert best is not None
    assert f"| | {best.name} |" in text
    assert f"| best val F | {best.value:.4f} |" in text
    assert "- watch: `python -m search.dashboard`" in text


def test_the_note_of_repeats_compares_configurations_and_no_single_seeds(tmp_path: Path) -> None:
    params = row(setup_of(), random.Random(0)).params
    scores = {"one": (params, [0.5, 0.52]), "two": (params | {"dice_weight": 2.0}, [0.4, 0.6])}
    study = repeated(store(tmp_path), scores)
    how = {"labels": ["one", "two"], "cap": 2, "first": 2, "margin": 1.0}
    study.set_user_attr(JUDGED, how)
    publish(study, COMMANDS)
    note = get_note(study)
    assert "one and two cannot be told apart after 2 seeds" in note
    assert "| one | 2 | 0.5100 |" in note
    assert "trial 3" not in note
    assert "confirm" in graphs(study)


def test_a_study_without_trials_has_a_note_as_well(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    publish(study, COMMANDS)
    assert get_note(study).startswith("**0 of 40 trials finished**")
    assert graphs(study) == set()


def test_figures_stand_beside_the_note_and_are_overwritten(played: optuna.Study) -> None:
    publish(played, COMMANDS)
    first = graphs(played)
    assert {"dice", "restarts"} <= first
    publish(played, COMMANDS)
    assert graphs(played) == first


def test_what_a_person_writes_below_the_line_stays_and_what_is_above_is_renewed(
    played: optuna.Study,
) -> None:
    put_note(played, "standing 1")
    from optuna_dashboard import save_note

    save_note(played, f"{get_note(played)}\nmine: *look again at trial 3*")
    put_note(played, "standing 2")
    assert get_note(played) == f"standing 2\n\n{YOURS}\nmine: *look again at trial 3*"


def test_a_note_that_a_person_wrote_alone_is_left_alone(played: optuna.Study) -> None:
    from optuna_dashboard import save_note

    save_note(played, "do not touch")
    put_note(played, "standing")
    assert get_note(played) == "do not touch"


@pytest.mark.parametrize(
    ("attrs", "state", "line"),
    [
        ({"stopped": True}, TrialState.PRUNED, "stopped by hand after 2 of 12 epochs"),
        ({}, TrialState.PRUNED, "pruned after 2 of 12 epochs: parked, it may go on"),
        (
            {"verdict": {"rule": "median", "epoch": 2, "epochs": 12, "best": 0.4}},
            TrialState.PRUNED,
            "why: at epoch 2 of 12, best 0.4000: below what the median rule asks for",
        ),
        ({"still_rising": True}, TrialState.COMPLETE, "still rising at its end"),
        ({"continues": 3}, TrialState.COMPLETE, "goes on from row 3"),
        ({"exceptions": 1}, TrialState.COMPLETE, "interrupted by an error"),
        ({"micro_batch": 4}, TrialState.COMPLETE, "trained in parts of 4 pictures"),
        ({"expect": [0.5, 0.6]}, TrialState.COMPLETE, "not as expected: 0.4000, expected 0.5"),
        ({"expect": [0.3, 0.6]}, TrialState.COMPLETE, "**as expected: 0.4000, expected 0.3"),
    ],
)
def test_the_note_of_a_trial_warns(attrs: dict[str, Any], state: TrialState, line: str) -> None:
    trial = create_trial(
        state=state,
        value=0.4 if state == TrialState.COMPLETE else None,
        user_attrs=attrs,
        intermediate_values={1: 0.3, 2: 0.4},
    )
    assert line in trial_note(trial, EPOCHS).replace("\\", "")


def test_names_and_notes_stay_text() -> None:
    bad = "<script>alert(1)</script> | **x** [y](javascript:z)"
    trial = create_trial(state=TrialState.COMPLETE, value=0.4, user_attrs={"note": bad})
    note = trial_note(trial, EPOCHS)
    assert "<script>" not in note
    assert escaped(bad) in note
    assert "\\[y\\]" in note
    assert "\\|" in note


def test_the_board_renews_when_a_trial_has_ended_and_once_more_at_the_end(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    said: list[str] = []
    with Board(study, COMMANDS, said.append):
        play(study, storage, setup_of(), 2, by_dice)
    assert get_note(study).startswith("**2 of 40 trials finished**")
    assert said == []
    assert "board" not in {thread.name for thread in threading.enumerate()}


def test_a_trial_that_ends_while_the_note_is_written_is_in_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    writing, ended = threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> None:
        publish(*args, **options)
        writing.set()
        ended.wait(30)

    monkeypatch.setattr("search.reporting.dashboard_notes.publish", slow)
    with Board(study, COMMANDS, print):
        assert writing.wait(30)
        play(study, storage, setup_of(), 1, by_dice)
        # the block is left while the first note is still being written
        threading.Timer(0.3, ended.set).start()
    assert get_note(study).startswith("**1 of 40 trials finished**")


def test_no_figure_is_drawn_before_a_trial_has_ended(played: optuna.Study) -> None:
    with Board(played, COMMANDS, print):
        pass
    assert get_note(played).startswith("**6 of 40 trials finished**")
    assert graphs(played) == set()


def test_a_bug_in_a_figure_is_told_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = study_of(storage)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of a figure")

    monkeypatch.setattr("search.reporting.dashboard_notes.study_note", broken)
    said: list[str] = []
    with Board(study, COMMANDS, said.append):
        play(study, storage, setup_of(), 1, by_dice)
    assert len(said) == 1
    assert "ZeroDivisionError: of a figure" in said[0]


def test_a_study_that_is_deleted_meanwhile_is_left_to_the_supervisor(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    said: list[str] = []
    with Board(study, COMMANDS, said.append):
        optuna.delete_study(study_name=study.study_name, storage=storage)
    assert said == []


def test_notes_of_trials_are_found_by_the_dashboard(played: optuna.Study) -> None:
    trial = played.get_trials()[2]
    put_note(optuna.trial.Trial(played, trial._trial_id), trial_note(trial, EPOCHS))
    attrs = played._storage.get_study_system_attrs(played._study_id)
    assert "best val F" in get_note_from_system_attrs(attrs, trial._trial_id)["body"]
