from __future__ import annotations

import io
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

import space
from search.execution.live_view import StudySnapshot, View, render
from search.study.search_space import distribution
from search.study.wording import sparkline, tell

PARAMS: dict[str, Any] = {
    "dice_weight": 1.5,
    "dice_schedule": "constant",
    "dice_ramp": -0.123456,
    "label_smoothing": 0.123456,
    "dropout": 0.123456,
    "weight_decay": 1.23456e-05,
    "T_0": 4,
}
DISTRIBUTIONS = {name: distribution(spec) for name, spec in space.concrete(space.SPACE, 12).items()}
CURVE = [0.1, 0.3, 0.2, 0.4]


def row(number: int, state: TrialState, curve: list[float] | None = None, **attrs: Any) -> Any:
    scores = dict(enumerate(curve or [], start=1))
    value = max(scores.values()) if state == TrialState.COMPLETE else None
    begun = state != TrialState.WAITING
    trial = create_trial(
        state=state,
        value=value,
        params=PARAMS if begun else {},
        distributions=DISTRIBUTIONS if begun else {},
        intermediate_values=scores,
        user_attrs=attrs,
    )
    trial.number = number
    return trial


def standing(trials: list[FrozenTrial], **options: Any) -> StudySnapshot:
    given: dict[str, Any] = {
        "name": "faces",
        "total": 8,
        "epochs": 12,
        "finished_before": 0,
        "elapsed_s": 60.0,
    }
    return StudySnapshot(trials=trials, **(given | options))


MIXED = [
    row(0, TrialState.COMPLETE, CURVE),
    row(1, TrialState.PRUNED, CURVE),
    row(2, TrialState.RUNNING, CURVE * 3),
    row(3, TrialState.RUNNING),
    row(4, TrialState.WAITING),
    row(5, TrialState.FAIL),
]


def drawn(
    shown: StudySnapshot, width: int, *, ascii_only: bool = False, colour: bool = False
) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if ascii_only else "utf-8")
    console = Console(
        file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(render(shown, width=width, ascii_only=ascii_only))
    out.seek(0)
    return out.read()


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_nothing_is_wider_than_the_console(width: int, ascii_only: bool) -> None:
    lines = drawn(standing(MIXED), width, ascii_only=ascii_only).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for told in ("2/8 finished", "complete 1 pruned 1 running 2 waiting 1 failed 1", "best 0.4000"):
        assert told in text


def test_the_view_at_80_columns() -> None:
    lines = drawn(standing(MIXED), 80, ascii_only=True).splitlines()
    assert [line.rstrip() for line in lines] == [
        "faces  2/8 finished, 1 min 0 s gone, 1 min 40 s left",
        # a quarter of 76: without colour only what is done is drawn
        "-" * 19,
        "complete 1  pruned 1  running 2  waiting 1  failed 1",
        "",
        "trial  epoch  F-score    best  curve",
        "    2  12/12   0.4000  0.4000  _+-#_+-#_+-#",
        "    3   0/12        -       -",
        "",
        "best 0.4000 trial 0: dice_weight 1.5, dice_schedule constant, dice_ramp",
        "-0.123456, label_smoothing 0.123456, dropout 0.123456, weight_decay 1.23456e-05,",
        "T_0 4",
    ]


def test_a_wide_console_shows_the_parameters_of_running_trials() -> None:
    narrow, wide = (drawn(standing(MIXED), width) for width in (80, 160))
    assert "parameters" not in narrow
    assert narrow.count("dice_weight") == 1
    assert "parameters" in wide
    assert wide.count("dice_weight 1.5, dice_schedule constant") == 3


def test_repeats_are_shown_by_their_configuration_and_its_mean() -> None:
    low, high = {"configuration": "dice_weight 1"}, {"configuration": "[b] 2"}
    trials = [
        row(0, TrialState.COMPLETE, [0.4], **low),
        row(1, TrialState.COMPLETE, [0.5], **high),
        row(2, TrialState.COMPLETE, [0.48], **low),
        row(3, TrialState.RUNNING, [0.3], **high),
    ]
    lines = drawn(standing(trials), 80, ascii_only=True).splitlines()
    assert [line.rstrip() for line in lines[3:]] == [
        "",
        "configuration  trial  epoch  F-score    best  curve",
        "[b] 2              3   1/12   0.3000  0.3000  _",
        "",
        "means [b] 2 0.5000 (1), dice_weight 1 0.4400 (2)",
    ]
    begun = drawn(standing(trials[3:]), 80)
    assert "means: no repeat is complete yet" in begun
    # the highest of single seeds is no news
    told = view_lines(trials[:1], trials)
    assert told == [
        "trial 1 COMPLETE 0.5000 after 1/12 epochs  [3/8, 1 min 0 s]  [b] 2",
        "trial 2 COMPLETE 0.4800 after 1/12 epochs  [3/8, 1 min 0 s]  dice_weight 1",
    ]


def test_without_colour_there_is_no_escape_code() -> None:
    assert "\x1b" not in drawn(standing(MIXED), 80)
    assert "\x1b[" in drawn(standing(MIXED), 80, colour=True)


def test_a_study_without_a_trial_can_be_shown() -> None:
    text = drawn(standing([]), 80)
    assert "0/8 finished, 1 min 0 s gone, ? left" in text
    assert "none is complete yet" in text


def test_copies_and_revivals_are_not_finished_trials() -> None:
    trials = [
        row(0, TrialState.COMPLETE, [0.5], copied_from="old/3"),
        row(1, TrialState.PRUNED, [0.2]),
        row(2, TrialState.COMPLETE, [0.3], continues=1),
        row(3, TrialState.COMPLETE, [0.4]),
    ]
    shown = standing(trials)
    assert shown.finished == 2
    assert shown.count(TrialState.PRUNED) == 1
    assert shown.count(TrialState.COMPLETE) == 1
    # a copy may be the best
    assert shown.best is not None
    assert shown.best.number == 0


def test_a_revived_trial_may_be_the_best_under_its_first_number() -> None:
    trials = [
        row(0, TrialState.COMPLETE, [0.4]),
        row(1, TrialState.PRUNED, [0.2]),
        row(2, TrialState.COMPLETE, [0.2, 0.6], continues=1),
    ]
    assert "best 0.6000 trial 1: " in drawn(standing(trials), 80)


def test_a_revival_is_shown_under_its_first_number_with_the_whole_curve() -> None:
    first = row(1, TrialState.PRUNED, [0.1, 0.3])
    gone_on = row(4, TrialState.RUNNING, continues=1)
    gone_on.intermediate_values = {3: 0.4}
    lines = drawn(
        standing([row(0, TrialState.COMPLETE, [0.5]), first, gone_on]), 80, ascii_only=True
    )
    assert "    1 (row 4)   3/12   0.4000  0.4000  _+#" in [
        f"    {line.rstrip()}" for line in lines.splitlines()
    ]
    assert "running 1  waiting 0  failed 0  revived 1" in lines


def test_a_revival_takes_no_share_of_the_time_left() -> None:
    done = [row(number, TrialState.COMPLETE, [0.1]) for number in range(4)]
    revival = row(4, TrialState.RUNNING, [0.1] * 6, continues=0)
    assert standing([*done, revival], finished_before=2).seconds_left() == pytest.approx(120)


def test_time_left_goes_by_the_pace_of_this_run() -> None:
    done = [row(number, TrialState.COMPLETE, [0.1]) for number in range(4)]
    # 2 trials of this run in 60 s, 4 to go
    assert standing(done, finished_before=2).seconds_left() == pytest.approx(120)
    assert standing(done, finished_before=4).seconds_left() is None
    # 6 of 12 epochs of a fifth trial: 2.5 in 60 s, 3.5 to go
    half = [*done, row(4, TrialState.RUNNING, [0.1] * 6)]
    assert standing(half, finished_before=2).seconds_left() == pytest.approx(84)


def test_time_left_is_never_negative() -> None:
    done = [row(number, TrialState.COMPLETE, [0.1]) for number in range(9)]
    assert standing(done).seconds_left() == 0


def test_a_long_curve_is_drawn_in_the_width_given() -> None:
    assert sparkline([i / 99 for i in range(100)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.5, 0.5], 8) == "▁▁"
    assert sparkline([], 8) == ""
    assert sparkline([0.0, 1.0], 8, ascii_only=True).isascii()


def view_lines(*looks: list[FrozenTrial]) -> list[str]:
    out = io.StringIO()
    with View(Console(file=out, width=80), plain=False) as view:
        for trials in looks:
            view.update(standing(trials))
    return out.getvalue().splitlines()


def test_without_a_terminal_each_ended_trial_is_one_line() -> None:
    running = row(2, TrialState.RUNNING, [0.3])
    before = [row(0, TrialState.COMPLETE, [0.2])]
    first = [*before, row(1, TrialState.COMPLETE, [0.5, 0.4]), running]
    second = [*first[:2], row(2, TrialState.PRUNED, [0.3]), row(3, TrialState.FAIL)]
    lines = view_lines(before, first, first, second)
    assert lines == [
        "trial 1 COMPLETE 0.5000 after 2/12 epochs  [2/8, 1 min 0 s]  new best: "
        "dice_weight 1.5, dice_schedule constant, dice_ramp -0.123456, label_smoothing 0.123456, "
        "dropout 0.123456, weight_decay 1.23456e-05, T_0 4",
        "trial 2 PRUNED 0.3000 after 1/12 epochs  [3/8, 1 min 0 s]",
        "trial 3 FAIL after 0/12 epochs  [3/8, 1 min 0 s]",
    ]


def test_a_revived_trial_is_told_by_its_first_number_when_it_goes_on_and_when_it_ends() -> None:
    before = [row(0, TrialState.COMPLETE, [0.35]), row(1, TrialState.PRUNED, [0.1, 0.3])]
    gone_on = row(2, TrialState.RUNNING, continues=1)
    ended = row(2, TrialState.COMPLETE, [0.4], continues=1)
    ended.intermediate_values = {3: 0.4}
    lines = view_lines(before, [*before, gone_on], [*before, ended])
    assert lines[0] == "trial 1 (goes on as row 2) after 2/12 epochs"
    assert lines[1].startswith(
        "trial 1 (goes on as row 2) COMPLETE 0.4000 after 3/12 epochs  [2/8, 1 min 0 s]  new best: "
    )
    assert len(lines) == 2


def test_a_repeat_is_told_by_the_trial_that_it_repeats_and_is_never_the_best() -> None:
    before = [row(0, TrialState.COMPLETE, [0.35])]
    begun = row(1, TrialState.RUNNING, [0.2], repeats=0, gain=0.126)
    ended = row(1, TrialState.COMPLETE, [0.4], repeats=0, gain=0.126)
    assert view_lines(before, [*before, begun], [*before, ended]) == [
        "row 1 repeats trial 0 with a fresh seed: expected gain 0.13 deviations between seeds",
        "trial 0 (repeated as row 1) COMPLETE 0.4000 after 1/12 epochs  [1/8, 1 min 0 s]",
    ]
    lines = drawn(standing([*before, begun]), 80, ascii_only=True)
    assert any(
        line.split()[:5] == ["0", "(row", "1)", "1/12", "0.2000"] for line in lines.splitlines()
    )
    assert "failed 0  repeats 1" in lines
    assert standing([*before, begun], finished_before=0).seconds_left() == pytest.approx(420)


def test_what_earlier_runs_finished_is_no_news() -> None:
    assert view_lines([row(0, TrialState.COMPLETE, [0.2])]) == []


@pytest.mark.parametrize("terminal", [False, True])
def test_prose_is_broken_between_words_on_a_terminal_and_a_command_nowhere(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=20, force_terminal=terminal, color_system=None)
    command = "to go on: python -m search.run --trials 40"
    for line in ("2 workers on cpu, 1 thread each", command):
        tell(console, line)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    broken = ["2 workers on cpu, 1", "thread each"]
    assert lines == [*(broken if terminal else [" ".join(broken)]), command]


def test_a_line_that_is_indented_stays_so_where_it_is_broken() -> None:
    out = io.StringIO()
    tell(
        Console(file=out, width=16, force_terminal=True, color_system=None),
        "  trial 3: dropout 0.1",
    )
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "  trial 3:",
        "  dropout 0.1",
    ]


def test_a_view_that_is_used_again_wipes_nothing_of_what_stands_above() -> None:
    out = io.StringIO()
    view = View(Console(file=out, width=80, force_terminal=True, color_system=None), plain=False)
    with view:
        view.update(standing(MIXED))
    print("for look 2", file=out)
    said = len(out.getvalue())
    with view:
        view.update(standing(MIXED))
        begun = out.getvalue()[said:]
    assert "complete 1" in begun
    # cursor up
    assert "\x1b[1A" not in begun


def test_a_terminal_gets_the_live_view_and_plain_lines_where_they_are_wanted() -> None:
    texts = {}
    for plain in (False, True):
        out = io.StringIO()
        console = Console(file=out, width=80, force_terminal=True, color_system=None)
        with View(console, plain=plain) as view:
            view.update(standing(MIXED))
        texts[plain] = out.getvalue()
    assert "\x1b[" in texts[False]
    assert "complete 1  pruned 1" in texts[False]
    assert "\x1b[" not in texts[True]
