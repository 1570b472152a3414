"""Studies side by side: the figures are counted by hand, and what does not compare is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from search.compare import main, parser
from search.importing.batches import import_batch, read_batch
from search.results.reading import results_of
from search.results.study_comparison import (
    Reached,
    comparable_groups,
    differing_keys,
    first_reached,
    incomparable_reasons,
    letter,
    print_comparison,
    work_s,
)
from search.results.trials import Results
from search.strategy.loading import load_study
from search.study.attributes import SETUP
from search.study.lineages import nothing_better_for, utc
from search.study.lookup import load_setup, named_study
from search.study.run_records import _moment, trial_record
from storage import LeasedStorage
from tests.support.paths import ROOT
from tests.support.shells import one_line
from tests.support.studies import FACES, setup_of, store, study_of

START = datetime(2026, 1, 1)
C, P, F = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def add(
    study: optuna.Study,
    state: TrialState,
    curve: list[float],
    begin_s: float,
    end_s: float,
    **attrs: Any,
) -> None:
    """A trial with a curve, trained from begin to end (seconds after the start of all)."""
    row = create_trial(
        state=state,
        value=max(curve) if state == C else None,
        params={"dropout": attrs.pop("dropout", 0.1)},
        distributions={"dropout": FloatDistribution(0.0, 0.4)},
        user_attrs=attrs,
        intermediate_values=dict(enumerate(curve, 1)),
    )
    row.datetime_start = START + timedelta(seconds=begin_s)
    row.datetime_complete = START + timedelta(seconds=end_s)
    study.add_trial(row)


def quick(storage: LeasedStorage, name: str = "quick", **options: Any) -> Results:
    """.5 after 10 s and 3 epochs, .7 after 60 s and 8 epochs."""
    study = study_of(storage, name, **options)
    add(study, C, [0.3, 0.5], 0, 10)
    add(study, P, [0.2], 0, 8)
    add(study, C, [0.3, 0.6, 0.7], 10, 60, dropout=0.3)
    add(study, F, [0.1, 0.1], 10, 20)
    return results_of(study)


def slow(storage: LeasedStorage, name: str = "slow", **options: Any) -> Results:
    """.68 after 100 s and 4 epochs, .8 after 200 s."""
    study = study_of(storage, name, **options)
    add(study, C, [0.3, 0.4, 0.5, 0.68], 0, 100)
    add(study, C, [0.8], 100, 200, dropout=0.2)
    return results_of(study)


def imported(folder: Path, storage: LeasedStorage, name: str = "old") -> Results:
    run = {"run": "[red]mine", "config": {"loss": {"dice_weight": 2.0}}, "val_f_score": [0.6, 0.9]}
    (folder / "runs.json").write_text(json.dumps([run]), encoding="utf-8")
    return results_of(import_batch(storage, name, read_batch(folder / "runs.json")).study)


def said(studies: list[Results], width: int = 80) -> str:
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        print_comparison(console, studies)
    return capture.get()


def cells(text: str, title: str, first: str) -> list[str]:
    """The words of one row below a table's title."""
    lines = text.splitlines()
    (at,) = [place for place, line in enumerate(lines) if line.startswith(title)]
    return next(line.split() for line in lines[at + 1 :] if line.split()[:1] == [first])


def flat(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------- figures


def test_a_score_is_reached_when_the_first_complete_trial_with_it_ends(tmp_path: Path) -> None:
    results = quick(store(tmp_path))
    # the pruned trial had ended by then, the third had not
    assert first_reached(results, 0.5) == Reached(10, 3)
    # all four, the failed one too
    assert first_reached(results, 0.51) == Reached(60, 8)
    assert first_reached(results, 0.71) is None
    assert work_s(results) == 10 + 8 + 50 + 10


# in zones whose clocks are changed, or whose day is another than that of UTC
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns"])
def test_a_change_of_clocks_costs_no_time(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (Path("/usr/share/zoneinfo") / zone).is_file():
        pytest.skip("no time zones on this machine: the package tzdata is needed")
    # 02:50 in summer time, 02:20 and 02:55 after the change, when Berlin has that hour again
    began, first, second = (
        datetime(2026, 10, 25, hour, minute, tzinfo=UTC)
        for hour, minute in ((0, 50), (1, 20), (1, 55))
    )
    study = study_of(store(tmp_path))
    for value, start, end in ((0.5, began, first), (0.7, first, second), (0.4, began, began)):
        row = create_trial(
            value=value,
            params={"dropout": 0.1},
            distributions={"dropout": FloatDistribution(0.0, 0.4)},
            intermediate_values={1: value},
        )
        row.datetime_start, row.datetime_complete = start, end
        study.add_trial(row)
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        # one that an earlier run has written into the store, read anew
        read = load_study(store(tmp_path), "faces")
        results = results_of(read)
        assert first_reached(results, 0.5) == Reached(30 * 60, 2)
        assert first_reached(results, 0.7) == Reached(65 * 60, 3)
        assert work_s(results) == (30 + 35) * 60
        rows = read.get_trials()
        ends = [utc(row.datetime_complete) for row in rows if row.datetime_complete is not None]
        assert ends == [first, second, began]
        rows[2].values = [0.9]
        assert nothing_better_for(rows) == 2
        record = trial_record(setup_of(), rows[1], {})["row"]
        assert record["started"] == first.isoformat()
        assert utc(_moment(record["started"])) == first
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_was_taken_over_from_another_study_took_no_time(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    add(study, C, [0.6], -500, -400, copied_from="older/3")
    add(study, C, [0.7], 0, 10)
    results = results_of(study)
    assert first_reached(results, 0.6) == Reached(None, 0)
    assert first_reached(results, 0.7) == Reached(10, 1)
    assert work_s(results) == 10


def test_the_tables_show_what_each_study_reached_and_how_soon(tmp_path: Path) -> None:
    storage = store(tmp_path)
    text = said([quick(storage), slow(storage)])
    standing = "What they reached"
    assert cells(text, standing, "A") == [
        *("A", "3", "1", "0.7000", "2", "1", "min", "0", "s", "1", "min", "18", "s", "8")
    ]
    assert cells(text, standing, "B") == [
        *("B", "2", "0", "0.8000", "1", "3", "min", "20", "s", "3", "min", "20", "s", "5")
    ]
    # .7 is what both reached; 95 % of it, .665, slow had after its first trial
    assert "0.7000 (all reached it)" in text
    assert "0.6650 (95%)" in text
    times = "Time since its first trial began"
    assert " ".join(cells(text, times, "A")) == "A 1 min 0 s, 8 1 min 0 s, 8 1 min 0 s, 8"
    assert " ".join(cells(text, times, "B")) == "B 3 min 20 s, 5 3 min 20 s, 5 1 min 40 s, 4"
    assert "python -m search.confirm says" in flat(text)


def test_a_study_that_reached_nothing_says_never(tmp_path: Path) -> None:
    storage = store(tmp_path)
    nothing = study_of(storage, "nothing")
    add(nothing, P, [0.1], 0, 5)
    text = said([quick(storage), slow(storage), results_of(nothing)])
    assert cells(text, "Time since", "C") == ["C", "never", "never", "never"]
    assert cells(text, "What they reached", "C")[:5] == ["C", "1", "1", "-", "-"]


def test_empty_studies_are_compared_without_scores(tmp_path: Path) -> None:
    storage = store(tmp_path)
    empty = [results_of(study_of(storage, name)) for name in ("one", "two")]
    text = said(empty)
    assert cells(text, "What they reached", "B") == ["B", "0", "0", "-", "-", "-", "-", "-"]
    assert "Time since" not in text
    assert "How the studies were set up: no difference" in flat(text)


# ------------------------------------------------------------------------------------- differences


def test_the_best_trials_and_the_setups_are_told_apart_key_by_key(tmp_path: Path) -> None:
    storage = store(tmp_path)
    other = slow(
        storage, config={"learning_rate": 2e-3}, sampler="random", ranges=("dropout=0:0.3",)
    )
    text = said([quick(storage), other])
    best = "How the best were trained (A trial 2, B trial 1)"
    assert cells(text, best, "dropout") == ["dropout", "0.3", "0.2"]
    assert cells(text, best, "learning_rate") == ["learning_rate", "0.003", "0.002"]
    setups = "How the studies were set up"
    assert cells(text, setups, "sampler") == ["sampler", "tpe", "random"]
    assert cells(text, setups, "dropout") == ["dropout", "0..0.4", "0..0.3"]
    # what is the same is not listed
    assert "weight_decay" not in text
    assert "do not compare" not in text


def test_a_key_that_one_study_fixes_and_the_other_searches_is_a_difference(tmp_path: Path) -> None:
    storage = store(tmp_path)
    text = said([quick(storage), slow(storage, fixes=("dice_weight=2.0",))])
    assert "Known of B alone: dice_weight fixed 2" in flat(text)


def test_keys_that_only_one_tells_are_no_differences() -> None:
    differ, alone = differing_keys([{"a": "1", "b": "2"}, {"a": "1", "c": "3"}, {"a": "2"}])
    assert (differ, alone) == (["a"], [["b"], ["c"], []])


# ------------------------------------------------------------------------------------ comparability


def test_studies_of_other_data_or_another_grid_are_said_not_to_compare(tmp_path: Path) -> None:
    storage = store(tmp_path)
    other = dataclasses.replace(FACES, fingerprint="fedcba9876543210", name="mine")
    studies = [
        quick(storage),
        quick(storage, "mine", data=other),
        quick(storage, "fine", config={"image_size": 96}),
        slow(storage),
    ]
    assert comparable_groups(studies) == [[0, 3], [1], [2]]
    text = flat(said(studies))
    assert (
        "Scores of B do not compare with those of A, D: the data mine, 40 train, 8 val,"
        " fedcba98, not synthetic, 40 train, 8 val, 01234567." in text
    )
    assert (
        "Scores of C do not compare with those of A, D: scored on a grid of 96 pixels, not 64."
        in text
    )


def test_a_study_of_another_metric_is_said_not_to_compare(tmp_path: Path) -> None:
    storage = store(tmp_path)
    quick(storage)
    study = named_study(storage, "quick")
    changed = dataclasses.replace(load_setup(study), metric="pooled")
    study.set_user_attr(SETUP, changed.to_json())
    assert incomparable_reasons(results_of(study), slow(storage)) == [
        'the metric "pooled", not "f_score per image, training grid"'
    ]


def test_imported_runs_are_shown_and_compare_with_nothing(tmp_path: Path) -> None:
    storage = store(tmp_path)
    old, older = imported(tmp_path, storage), imported(tmp_path, storage, "older")
    text = said([quick(storage), old, older])
    assert cells(text, "What they reached", "B") == [*("B", "1", "0", "0.9000", "0", "-", "-", "2")]
    assert (
        'Scores of B do not compare with those of A: imported with the metric "as reported by the'
        ' imported runs; not comparable with f_score here", on data that nobody told.'
    ) in flat(text)
    assert "Scores of C do not compare" in text
    assert "Time since" not in text
    assert cells(text, "How the best were trained", "dice_weight")[1:] == ["1.5", "2", "2"]
    assert "B [red]mine" in flat(text)
    # whichever is named first
    assert "trained here, not imported" in flat(
        said([old, results_of(named_study(storage, "quick"))])
    )


def test_repeats_are_shown_by_configuration(tmp_path: Path) -> None:
    storage = store(tmp_path)
    again = study_of(storage, "quick-confirm")
    for label, scores in {"trial 0": [0.5, 0.6], "dice_weight 1.5": [0.7, 0.8, 0.9]}.items():
        for seed, score in enumerate(scores):
            add(again, C, [score], 0, 10, configuration=label, seed=seed)
    text = said([quick(storage), results_of(again)])
    assert cells(text, "Repeats in B", "dice_weight") == ["dice_weight", "1.5", "0.8000", "3"]
    assert cells(text, "Repeats in B", "trial") == ["trial", "0", "0.5500", "2"]
    # the highest of many repeats would be luck, and they are no search
    assert cells(text, "What they reached", "B")[3:7] == ["mean", "0.8000", "-", "-"]
    assert "Time since" not in text


def test_of_repeats_a_trial_of_the_best_configuration_is_set_beside_the_others(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    again = study_of(storage, "quick-confirm")
    for label, dropout, score in (
        ("a", 0.3, 0.7),
        ("a", 0.3, 0.7),
        ("b", 0.2, 0.8),
        ("b", 0.2, 0.3),
    ):
        add(again, C, [score], 0, 10, dropout=dropout, configuration=label)
    text = said([slow(storage), results_of(again)])
    assert cells(text, "How the best were trained", "dropout") == ["dropout", "0.2", "0.3"]


# ----------------------------------------------------------------------------------------- the look


@pytest.mark.parametrize("width", [80, 160])
def test_eight_studies_with_long_names_fit_the_terminal(tmp_path: Path, width: int) -> None:
    storage = store(tmp_path)
    studies = [
        quick(storage, f"faces-small-64-with-a-long-name-{n}", config={"learning_rate": n * 1e-4})
        for n in range(1, 9)
    ]
    studies.append(imported(tmp_path, storage))
    text = said(studies, width)
    assert max(map(len, text.splitlines())) <= width
    assert cells(text, "What they reached", "H")[0] == "H"
    # no cell is cut short
    assert "…" not in text
    assert letter(8) == "I"


def test_a_name_is_text_whatever_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    quick(storage, "[bold]x :smile:")
    slow(storage, "<script>")
    flags = ["--storage", f"sqlite:///{tmp_path}/search.db"]
    assert main(["[bold]x :smile:", "<script>", *flags]) == 0
    out = capsys.readouterr().out
    assert "[bold]x :smile:" in out
    assert "<script>" in out


# ---------------------------------------------------------------------------------------- command


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *names: str) -> str:
    return one_line(main, capsys, *names, "--storage", f"sqlite:///{folder}/search.db").rstrip("\n")


def test_a_name_that_does_not_exist_is_one_line_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    quick(storage)
    line = refused(tmp_path, capsys, "quick", "quik")
    assert line == 'error: no study "quik" in the store: did you mean quick?'
    assert "with what? name a second study" in refused(tmp_path, capsys, "quick", "quick")
    optuna.create_study(study_name="foreign", storage=storage)
    assert 'study "foreign" was not made by search.run' in refused(
        tmp_path, capsys, "quick", "foreign"
    )


def test_a_store_that_is_not_there_is_one_line_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(tmp_path, capsys, "one", "two").startswith("error: ")
    assert not (tmp_path / "search.db").exists()


def test_the_command_runs_as_a_module_and_changes_nothing(tmp_path: Path) -> None:
    storage = store(tmp_path)
    quick(storage)
    slow(storage)
    before = [dict(study.user_attrs) for study in storage.get_all_studies()]
    command = [sys.executable, "-m", "search.compare", "quick", "slow", "--storage"]
    done = subprocess.run(
        [*command, f"sqlite:///{tmp_path}/search.db"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert before == [dict(study.user_attrs) for study in storage.get_all_studies()]


def test_help_shows_examples_that_parse() -> None:
    text = parser().format_help().splitlines()
    examples = [line.split() for line in text if line.startswith("  python -m search.compare")]
    assert len(examples) == 3
    for words in examples:
        assert len(parser().parse_args(words[3:]).studies) >= 2
