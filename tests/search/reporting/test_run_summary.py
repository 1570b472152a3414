from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

import space
from search.reporting.run_summary import best_trials_table, command, disk_use, importance, summary
from search.results.answer import study_answer
from search.results.statistics.importance import LEAST_TRIALS
from search.study.lookup import load_setup
from search.study.names import RUNS, STORAGE
from search.study.search_space import distribution
from tests.support.studies import play, setup_of, store, study_of

DISTRIBUTIONS = {
    name: distribution(spec) for name, spec in space.concrete(space.SPACE, 150).items()
}
PARAMS: dict[str, Any] = {
    "dice_weight": 1.234567,
    "dice_schedule": "constant",
    "dice_ramp": -0.512345,
    "label_smoothing": 0.123456,
    "dropout": 0.123456,
    "weight_decay": 1.234567e-05,
    "T_0": 37.5,
}


def rows(count: int, **params: list[Any]) -> list[FrozenTrial]:
    """Complete trials 0.1, 0.2, ... with some parameters of their own."""
    made = []
    for index in range(count):
        own = {name: values[index] for name, values in params.items()}
        made.append(
            create_trial(
                state=TrialState.COMPLETE,
                value=(index + 1) / 10,
                params=PARAMS | own,
                distributions=DISTRIBUTIONS,
                intermediate_values={1: (index + 1) / 10},
            )
        )
        made[-1].number = index
    return made


def said(study: optuna.Study, **options: Any) -> str:
    out = io.StringIO()
    given: dict[str, Any] = {"storage": STORAGE, "runs": RUNS}
    summary(Console(file=out, width=80), study, load_setup(study), **(given | options))
    return out.getvalue()


def test_the_table_of_the_best_five_fits_80_columns(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    # numbers of three digits and figures of every length
    for trial in rows(104):
        trial.params = PARAMS
        trial.set_user_attr("best_val_f", trial.value)
        trial.set_user_attr("gap", -0.1234)
        trial.set_user_attr("degradation_pct", 12.3)
        trial.set_user_attr("ce_dice_ratio", "100:0")
        trial.set_user_attr("best_epoch", 150)
        trial.set_user_attr("still_rising", True)
        trial.value = min(1.0, trial.value or 0)
        study.add_trial(trial)
    out = io.StringIO()
    Console(file=out, width=80).print(best_trials_table(study))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    headings = [line.split()[0] for line in lines]
    # title, numbers, state, 11 figures, 7 parameters: none is broken in two
    assert len(lines) == 2 + 1 + 11 + 7
    assert headings[-7:] == list(PARAMS)
    assert lines[2].split() == ["state", *["complete"] * 5]


def test_importances_need_enough_complete_trials() -> None:
    few = rows(LEAST_TRIALS - 1)
    assert importance(few) is None
    pruned = rows(3)
    for trial in pruned:
        trial.number += 100
        trial.state = TrialState.PRUNED
    assert importance([*few, *pruned]) is None


def test_importances_find_what_mattered() -> None:
    steps = [0.5 + 0.3 * index for index in range(11)]
    shares = importance(rows(11, dice_weight=steps))
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == "dice_weight"


def test_a_revived_trial_is_one_point_for_importances() -> None:
    ten = rows(LEAST_TRIALS, dropout=[index / 30 for index in range(10)])
    ten[-1].set_user_attr("continues", 0)
    assert importance(ten) is None


def test_equal_values_do_not_break_the_end_of_a_run(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    play(study, storage, setup_of(), LEAST_TRIALS + 1, lambda params, epoch: 0.5)
    assert "finished trials" in said(study)


def test_a_command_holds_the_interpreter_and_no_default() -> None:
    assert command("search.dashboard", storage=STORAGE, runs=RUNS) == shlex.join(
        [sys.executable, "-m", "search.dashboard"]
    )


def test_a_command_holds_what_differs_from_the_defaults() -> None:
    given = {"storage": "sqlite:///my runs/x.db", "runs": "my runs"}
    words = shlex.split(command("search.dashboard", **given))
    assert words[3:] == ["--storage", "sqlite:///my runs/x.db", "--runs", "my runs"]
    words = shlex.split(command("search.export", study="faces", **given))
    # it reads no files of the runs
    assert words[3:] == ["--storage", "sqlite:///my runs/x.db", "--study", "faces"]


def test_a_command_never_shows_a_password() -> None:
    text = command("search.export", storage="postgresql://ann:se@cret@db/faces", runs=RUNS)
    assert "cret" not in text
    assert "ann:***@db/faces" in text


def test_the_end_of_a_run_names_the_best_trial_and_what_was_saved(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    play(study, storage, setup_of(), 12)
    trials = study.get_trials(deepcopy=False)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    trained = sum(len(trial.intermediate_values) for trial in trials)
    assert 0 < pruned < 12
    text = said(study)
    first = f"12 finished trials, {pruned} pruned ({pruned / 12:.0%}); {trained} of 144 epochs"
    assert text.startswith(first)
    answer = study_answer(study)
    assert answer is not None
    assert answer.expected is not None
    worth = f"{answer.expected:.4f} ± {answer.error:.4f} expected with a fresh seed"
    assert f"answer: trial {answer.trial.number}, f_score {worth}" in text
    assert f"-m search.export --study {study.study_name} --out best.yaml\n" in text
    assert "watch:  " in text


def test_the_end_of_a_run_says_what_revivals_cost_and_brought(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    first, parked, gone_on = rows(3)
    for trial, state, curve, continues in (
        (first, TrialState.COMPLETE, {1: 0.3, 2: 0.5}, None),
        (parked, TrialState.PRUNED, {1: 0.2}, None),
        (gone_on, TrialState.COMPLETE, {2: 0.3, 3: 0.4}, 1),
    ):
        trial.state, trial.intermediate_values, trial.value = state, curve, max(curve.values())
        if continues is not None:
            trial.set_user_attr("continues", continues)
        study.add_trial(trial)
    assert said(study).splitlines()[:2] == [
        "2 finished trials, 1 pruned (50%); 5 of 24 epochs trained (21%)",
        "revived 1 of them (1) for 2 epochs (8%); none of these is the best",
    ]
    gone_on.value, gone_on.intermediate_values = 0.9, {2: 0.9}
    study.add_trial(gone_on)
    text = said(study)
    assert "revived 1 of them (1) for 3 epochs (12%); one of these is the best" in text
    assert "answer: trial 1, f_score 0.9000 with one seed" in text


def test_a_study_without_a_finished_trial_still_gets_its_commands(tmp_path: Path) -> None:
    text = said(study_of(store(tmp_path)))
    assert [line.split(":")[0] for line in text.strip().splitlines()] == [
        *("watch", "report", "confirm", "export")
    ]


def test_commands_are_one_line_however_long(tmp_path: Path) -> None:
    study = study_of(store(tmp_path), "a-study-with-" + "a-long-" * 20 + "name")
    text = said(study, storage=f"sqlite:///{tmp_path}/search.db")
    assert len(text.strip().splitlines()) == 4


def test_disk_use_counts_files_of_all_folders(tmp_path: Path) -> None:
    (tmp_path / "0" / "1").mkdir(parents=True)
    (tmp_path / "0" / "1" / "last.pt").write_bytes(b"12345")
    (tmp_path / "search.db").write_bytes(b"123")
    assert disk_use(tmp_path) == 8


def test_a_file_that_another_machine_removes_meanwhile_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"123")
    (tmp_path / "gone").write_bytes(b"12345")
    is_file = Path.is_file

    def removed_after(path: Path) -> bool:
        there = is_file(path)
        if path.name == "gone":
            os.unlink(path)
        return there

    monkeypatch.setattr(Path, "is_file", removed_after)
    assert disk_use(tmp_path) == 3
