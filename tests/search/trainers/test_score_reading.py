"""What a program tells is read once, whenever it is looked at, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.trainers.growing_files import GrowingFile
from search.trainers.score_reading import History, OutputPattern, Reading, ReportFile
from trainer.errors import UserError


def told(readings: Sequence[Reading]) -> list[tuple[int, float]]:
    return [(one.epoch, one.score) for one in readings]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


# ----------------------------------------------------------------------------------- report file


def test_lines_are_reported_once_each_and_half_a_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    file = ReportFile(path)
    assert file.new() == []
    append(path, '{"epoch": 1, "score": 0.5, "loss": {"train": 0.7}}\n{"epoch": 2, "sc')
    assert file.new() == [Reading(1, 0.5, {"loss.train": 0.7})]
    append(path, 'ore": 0.6}\n')
    assert told(file.new()) == [(2, 0.6)]
    assert file.new() == []
    append(path, '{"epoch": 4, "score": 0.8}')
    assert file.new() == []
    # skipped epochs are fine, and the program has ended
    assert told(file.new(ended=True)) == [(4, 0.8)]
    assert file.odd == []


def test_a_repeated_epoch_counts_only_where_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    file = ReportFile(path)
    lines = ['{"epoch": 1, "score": 0.5}', '{"epoch": 1, "score": 0.5}']
    path.write_text("\n".join([*lines, '{"epoch": 1, "score": 0.4}\n']))
    assert told(file.new()) == [(1, 0.5), (1, 0.4)]


def test_what_is_no_report_is_passed_over_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    file = ReportFile(path)
    path.write_bytes(
        b'[1]\n{"epoch": 1}\nno JSON \xff\n{"epoch": 2.5, "score": 1}\n{"epoch": 1, "score": "x"}\n'
        b'{"epoch": -1, "score": 1}\n{"score": 0.5}\n{"score": 0.6}\n' + b"x" * 3_000_000
    )
    assert told(file.new()) == [(1, 0.5), (2, 0.6)]
    assert len(file.odd) == 5
    assert all(len(line) <= 120 for line in file.odd)
    assert "no 'score' in '{\"epoch\": 1}'" in file.why_nothing()
    # the line that was too long ends, and the next one counts
    append(path, 'x\n{"epoch": 3, "score": 0.7}\n')
    assert told(file.new()) == [(3, 0.7)]


def test_scores_that_are_no_finite_numbers_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    file = ReportFile(path)
    path.write_text('{"epoch": 1, "score": NaN}\n{"epoch": 2, "score": -Infinity}\n')
    first, second = file.new()
    assert math.isnan(first.score)
    assert second.score == -math.inf
    # NaN again is the same
    append(path, '{"epoch": 1, "score": NaN}\n')
    assert file.new() == []


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    file = ReportFile(path)
    path.write_text('{"score": 0.5}\n{"score": 0.6}\n')
    assert told(file.new()) == [(1, 0.5), (2, 0.6)]
    path.write_text('{"score": 0.5}\n')
    assert file.new() == []
    append(path, '{"score": 0.7}\n')
    assert told(file.new()) == [(2, 0.7)]
    # longer than before, and other
    path.write_text('{"score": 0.1}\n{"score": 0.7}\n{"score": 0.8}\n')
    assert told(file.new()) == [(1, 0.1), (3, 0.8)]


def test_a_program_that_counts_from_zero_is_counted_from_one_also_where_it_goes_on(
    tmp_path: Path,
) -> None:
    first = ReportFile(tmp_path / "first")
    (tmp_path / "first").write_text('{"epoch": 0, "score": 0.5}\n{"epoch": 1, "score": 0.6}\n')
    assert told(first.new()) == [(1, 0.5), (2, 0.6)]
    assert first.readings.from_zero
    second = ReportFile(tmp_path / "second", after=2, from_zero=True)
    (tmp_path / "second").write_text('{"epoch": 2, "score": 0.7}\n{"score": 0.8}\n')
    assert told(second.new()) == [(3, 0.7), (4, 0.8)]


def test_a_long_report_is_not_read_again_at_each_look(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("".join(f'{{"epoch": {n}, "score": 0.5}}\n' for n in range(1, 20_001)))
    file = ReportFile(path)
    assert len(file.new()) == 20_000
    begun = time.process_time()
    for epoch in range(20_001, 20_101):
        append(path, f'{{"epoch": {epoch}, "score": 0.5}}\n')
        assert told(file.new()) == [(epoch, 0.5)]
    assert time.process_time() - begun < 1


# --------------------------------------------------------------------------------------- history


def watched(folder: Path, pattern: str = "history.*", key: str = "val_f", **more: Any) -> History:
    return History([folder], pattern, key, time.time(), **more)


EPOCHS = [{"epoch": 1, "val_f": 0.5, "loss": 2.0}, {"epoch": 2, "val_f": 0.6, "loss": 1.0}]
FORMS = {
    "list.json": [json.dumps(EPOCHS[:1]), json.dumps(EPOCHS)],
    "indented.json": [json.dumps(EPOCHS[:1], indent=1), json.dumps(EPOCHS, indent=1)],
    "lists.json": [
        '{"epoch": [1], "val_f": [0.5], "loss": [2.0]}',
        '{"epoch": [1, 2], "val_f": [0.5, 0.6], "loss": [2.0, 1.0]}',
    ],
    "uncounted.json": [
        '{"val_f": [0.5], "loss": [2.0], "best": {"epoch": 1}}',
        '{"val_f": [0.5, 0.6], "loss": [2.0, 1.0], "best": {"epoch": 2}}',
    ],
    "indented_lists.json": [
        json.dumps({"val_f": [0.5], "loss": [2.0]}, indent=2),
        json.dumps({"val_f": [0.5, 0.6], "loss": [2.0, 1.0]}, indent=2),
    ],
    "lines.jsonl": [json.dumps(EPOCHS[0]) + "\n", "".join(json.dumps(e) + "\n" for e in EPOCHS)],
    "table.csv": ["epoch,val_f,loss\n1,0.5,2\n", "epoch,val_f,loss\n1,0.5,2\n2,0.6,1\n"],
    "uncounted.csv": ["val_f;loss\n0.5;2\n", "val_f;loss\n0.5;2\n0.6;1\n"],
    "latest.json": [json.dumps(EPOCHS[0]), json.dumps(EPOCHS[1])],
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("anew", [False, True], ids=["in place", "moved there"])
def test_each_form_is_read_as_it_grows(name: str, anew: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    with watched(tmp_path, name) as history:
        seen = []
        for text in FORMS[name]:
            if anew:
                (tmp_path / "new").write_text(text)
                (tmp_path / "new").replace(path)
            else:
                path.write_text(text)
            seen.append(history.new())
            assert history.new() == []
    first, second = seen
    assert told(first) == [(1, 0.5)]
    assert told(second) == [(2, 0.6)]
    assert [one.figures["loss"] for one in (*first, *second)] == [2.0, 1.0]
    assert history.odd == []


@pytest.mark.parametrize("name", FORMS)
def test_a_history_cut_anywhere_gives_nothing_that_is_not_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = FORMS[name][-1]
    with watched(tmp_path, name) as history:
        seen = []
        for cut in range(len(whole) + 1):
            path.write_text(whole[:cut])
            seen += history.new()
        seen += history.new(ended=True)
    expected = [(2, 0.6)] if name == "latest.json" else [(1, 0.5), (2, 0.6)]
    assert told(seen) == expected


@pytest.mark.parametrize("name", ["list.json", "lists.json", "uncounted.json"])
def test_a_history_that_changes_its_past_tells_that_again(name: str, tmp_path: Path) -> None:
    def text(scores: list[float]) -> str:
        if name == "list.json":
            return json.dumps([{"val_f": score} for score in scores])
        own = {} if name == "uncounted.json" else {"epoch": list(range(1, len(scores) + 1))}
        return json.dumps({**own, "val_f": scores})

    with watched(tmp_path, name) as history:
        seen = []
        for scores in ([0.1], [0.1, 0.2], [0.1, 0.3], [0.1, 0.3, 0.4], [0.1], [0.1, 0.3, 0.4, 0.5]):
            (tmp_path / name).write_text(text(scores))
            seen.append(told(history.new()))
    assert seen == [[(1, 0.1)], [(2, 0.2)], [(2, 0.3)], [(3, 0.4)], [], [(4, 0.5)]]


def test_a_history_that_is_written_between_two_steps_of_a_look_goes_on_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.json"
    file = watched(tmp_path)

    def write(epochs: int) -> None:
        text = json.dumps({"val_f": [0.1 * epoch for epoch in range(1, epochs + 1)]}, indent=1)
        path.write_text(text)

    write(3)
    assert [one.epoch for one in file.new()] == [1, 2, 3]
    path.write_text("")
    lines = GrowingFile.lines

    def late(self: GrowingFile, *, ended: bool = False) -> list[bytes]:
        write(4)
        return lines(self, ended=ended)

    monkeypatch.setattr(GrowingFile, "lines", late)
    first = told(file.new())
    write(4)
    assert first + told(file.new(ended=True)) == [(4, pytest.approx(0.4))]


def test_decimal_commas_of_a_table_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    file = watched(tmp_path)
    path.write_text("epoch;val_f;note\n1;0,25;a,1\n2;0.5;\n3;,75;x\n")
    assert told(file.new()) == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_keys_may_be_nested_and_a_score_that_is_null_is_no_epoch(tmp_path: Path) -> None:
    with watched(tmp_path, key="val.f") as history:
        path = tmp_path / "history.json"
        rows = [{"val": {"f": None}}, {"val": {"f": 0.5}}, {"loss": 1}, {"val": {"f": 0.6}}]
        path.write_text(json.dumps(rows))
        assert told(history.new()) == [(1, 0.5), (2, 0.6)]
    with watched(tmp_path, "state.json", "log_history.eval_f1") as history:
        rows = [{"epoch": 1.0, "loss": 2}, {"epoch": 1.0, "eval_f1": 0.5}]
        (tmp_path / "state.json").write_text(json.dumps({"log_history": rows, "step": 3}))
        assert told(history.new()) == [(1, 0.5)]
    with watched(tmp_path, "columns.json", "val.f") as history:
        (tmp_path / "columns.json").write_text('{"epoch": [0, 1], "val": {"f": [0.5, null]}}')
        assert told(history.new()) == [(1, 0.5)]


def test_a_key_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with watched(tmp_path, key="val_fscore") as history:
        (tmp_path / "history.json").write_text('{"loss": [1], "val_f_score": [0.5]}')
        assert history.new() == []
        line = history.why_nothing()
        assert "no 'val_fscore' in it: did you mean val_f_score?" in line
        assert "loss, val_f_score" in line
    with watched(tmp_path, "table.csv", "f") as history:
        (tmp_path / "table.csv").write_text("epoch,f1\n1,0.5\n")
        assert history.new() == []
        assert "did you mean f1?" in history.why_nothing()
    with watched(tmp_path, "none") as history:
        assert history.new() == []
        assert "no file of that name" in history.why_nothing()


def test_scores_that_do_not_match_the_epochs_are_counted_and_said(tmp_path: Path) -> None:
    with watched(tmp_path) as history:
        (tmp_path / "history.json").write_text('{"epoch": [1, 2, 3, 4, 5], "val_f": [0.5, 0.6]}')
        assert told(history.new()) == [(1, 0.5), (2, 0.6)]
        assert "5 epochs and 2 scores" in history.odd[0]


def test_only_what_changed_since_the_start_counts_and_what_is_new_goes_before(
    tmp_path: Path,
) -> None:
    own, current = tmp_path / "trial", tmp_path / "current"
    for folder in (own, current / "a", current / "b"):
        folder.mkdir(parents=True)
    old, other = (current / name / "history.json" for name in ("a", "b"))
    for path in (old, other):
        path.write_text('{"val_f": [0.1]}')
        os.utime(path, (1, 1))
    # file systems keep the time of the change of times, too
    since = time.time() + 0.05
    with History([own, current], "**/history.json", "val_f", since) as history:
        assert history.new(ended=True) == []
        time.sleep(0.06)
        old.write_text('{"val_f": [0.2]}')
        assert told(history.new(ended=True)) == [(1, 0.2)]
    with History([own, current], "**/history.json", "val_f", since) as history:
        new = current / "c" / "history.json"
        new.parent.mkdir()
        new.write_text('{"val_f": [0.3]}')
        old.write_text('{"val_f": [0.4]}')
        assert told(history.new()) == [(1, 0.3)]
    with History([own, current], "**/history.json", "val_f", since) as history:
        new.write_text('{"val_f": [0.5]}')
        (own / "history.json").write_text('{"val_f": [0.6]}')
        assert told(history.new()) == [(1, 0.6)]
        assert history.path == own / "history.json"


def test_a_file_that_was_not_there_counts_whatever_its_clock_says(tmp_path: Path) -> None:
    (tmp_path / "history.old").write_text('{"val_f": [0.1]}')
    # the file server is an hour behind
    with History([tmp_path], "history.*", "val_f", time.time() + 3600) as history:
        assert history.new(ended=True) == []
        (tmp_path / "history.new").write_text('{"val_f": [0.5]}')
        assert told(history.new(ended=True)) == [(1, 0.5)]


def test_a_pattern_may_be_absolute_and_links_are_not_searched(tmp_path: Path) -> None:
    project, own = tmp_path / "project", tmp_path / "own"
    project.mkdir()
    own.mkdir()
    (own / "linked").symlink_to(project)
    with (
        History([own], "**/history.json", "val_f", time.time()) as first,
        History([own], f"{project}/*.json", "val_f", time.time()) as second,
    ):
        (project / "history.json").write_text('{"val_f": [0.5]}')
        assert first.new() == []
        assert told(second.new()) == [(1, 0.5)]


def test_two_trials_never_read_one_history(tmp_path: Path) -> None:
    with watched(tmp_path) as first, watched(tmp_path) as second:
        (tmp_path / "history.json").write_text('{"val_f": [0.5]}')
        assert told(first.new()) == [(1, 0.5)]
        assert second.new() == []
        assert "is read by another trial" in second.why_nothing()
        (tmp_path / "history.2.json").write_text('{"val_f": [0.6]}')
        assert told(second.new(ended=True)) == [(1, 0.6)]
        # what was read once is kept to
        (tmp_path / "history.json").write_text('{"val_f": [0.5, 0.7]}')
        assert told(first.new()) == [(2, 0.7)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # keeps the epochs before
        (['{"val_f": [0.1, 0.2, 0.3]}'], [(1, 0.1), (2, 0.2), (3, 0.3)]),
        # begins a list of its own
        (['{"val_f": [0.3]}', '{"val_f": [0.3, 0.4]}'], [(3, 0.3), (4, 0.4)]),
        (['[{"val_f": 0.3}]', '[{"val_f": 0.3}, {"val_f": 0.4}]'], [(3, 0.3), (4, 0.4)]),
        (["val_f\n0.1\n0.2\n", "val_f\n0.1\n0.2\n0.3\n"], [(1, 0.1), (2, 0.2), (3, 0.3)]),
        (["val_f\n0.3\n", "val_f\n0.3\n0.4\n"], [(3, 0.3), (4, 0.4)]),
    ],
)
def test_a_resumed_program_that_names_no_epochs_goes_on_counting(
    texts: list[str], expected: list[tuple[int, float]], tmp_path: Path
) -> None:
    with watched(tmp_path, "history", after=2) as history:
        seen = []
        for text in texts:
            (tmp_path / "history").write_text(text)
            seen += history.new()
    assert told(seen) == expected


# ---------------------------------------------------------------------------------------- output


def fed(pattern: str, *pieces: bytes, **more: Any) -> list[tuple[int, float]]:
    found = OutputPattern(pattern, **more)
    return told([one for piece in pieces for one in found.feed(piece)] + found.end())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n"])
def test_lines_that_match_are_epochs_in_pieces_of_any_size(end: bytes) -> None:
    lines = [b"Epoch 1", b"Val  F-Score:\t0.5", b"\xff\xfe", b"Val F-Score: 0.6 (loss 2)"]
    lines += [b"Val F-Score: 0.6", b"val f-score: 0.9", b"Val F-Score: nan"]
    output = end.join([*lines, b"Val F-Score: 7e-1"])
    for size in (1, 2, 7, len(output)):
        pieces = [output[at : at + size] for at in range(0, len(output), size)]
        found = fed("Val F-Score: {score}", *pieces)
        assert [epoch for epoch, _ in found] == [1, 2, 3, 4, 5]
        assert [score for _, score in found if score == score] == [0.5, 0.6, 0.6, 0.7]


def test_a_number_is_not_taken_before_its_line_has_ended() -> None:
    pattern = OutputPattern("F {score}")
    assert pattern.feed(b"F 0.7") == []
    assert pattern.feed(b"1") == []
    assert told(pattern.feed(b"\n")) == [(1, 0.71)]


def test_colours_are_not_seen() -> None:
    output = b"\x1b[32mVal\x1b[0m F-\x1b[1mScore: \x1b[1;31m0.5\x1b[0m\n"
    assert fed("Val F-Score: {score}", output) == [(1, 0.5)]


def test_a_line_that_is_drawn_over_tells_once_what_it_told_last() -> None:
    bar = b"\r 10%| f=0.1\r 50%| f=0.1\r 90%| f=0.2\r100%| f=0.3"
    assert fed("f={score}", bar, b"\n", bar, b"\r\n") == [(1, 0.3), (2, 0.3)]
    # a bar that clears itself, and no bar at all
    assert fed("f={score}", bar, b"\r         \r", b"done\n", b"\n") == [(1, 0.3)]
    # nothing is told before the line ends
    assert OutputPattern("f={score}").feed(bar * 10 + b"\r") == []


def test_with_epochs_a_bar_over_all_of_them_tells_each_once_it_is_over() -> None:
    pattern = OutputPattern("{epoch}/9 {any} f={score}")
    assert pattern.feed(b"\r 1/9 [00:01<00:08, f=0.1]\r 1/9 [00:01<00:07, f=0.2]\r") == []
    assert told(pattern.feed(b" 2/9 [00:02, f=0.3]\r")) == [(1, 0.2)]
    assert told(pattern.feed(b"\n")) == [(2, 0.3)]
    # the same epoch again counts where it differs
    assert told(pattern.feed(b"2/9 | f=0.3\n2/9 | f=0.4\n")) == [(2, 0.4)]
    assert fed("Epoch {epoch}: {score:.4f}", b"Epoch 0: 0.5\nEpoch 1: 0.6\n") == [
        (1, 0.5),
        (2, 0.6),
    ]


def test_a_line_on_the_best_so_far_is_no_epoch() -> None:
    output = b"Epoch 1 took 3.2s, Val F: 0.5\nBest Val F: 0.5\nEpoch 2 took 1m 3s, Val F: 0.4\n"
    pattern = OutputPattern("Val F: {score}")
    assert told(pattern.feed(output)) == [(1, 0.5), (2, 0.4)]
    assert pattern.odd == ["'Best Val F: 0.5', since 'best' stands before it"]


def test_a_flood_is_read_quickly_and_a_line_without_an_end_is_forgotten() -> None:
    pattern = OutputPattern("F {score}")
    begun = time.process_time()
    piece = b"nothing to see here, at all\n" * 40_000
    for _ in range(20):
        assert pattern.feed(piece) == []
    for _ in range(20):
        assert pattern.feed(b"x" * 1_000_000) == []
    assert len(pattern._rest) < 20_000
    assert told(pattern.feed(b" F 0.5\n")) == [(1, 0.5)]
    assert time.process_time() - begun < 2


def test_a_bar_that_ends_within_a_flood_is_counted_once() -> None:
    assert fed("f={score}", b"f=0.1\r", b"\n" + b"other\n" * 99, b"f=0.2\n") == [
        (1, 0.1),
        (2, 0.2),
    ]


def test_why_nothing_was_found_names_the_last_lines() -> None:
    pattern = OutputPattern("Val F-Score: {score}")
    assert "nothing was printed" in pattern.why_nothing()
    pattern.feed(b"".join(b"Val F_Score: %d\n" % n for n in range(9)))
    line = pattern.why_nothing()
    assert line.startswith('--score "Val F-Score: {score}": found in no line')
    assert "'Val F_Score: 8'" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("Val F-Score:", 'it needs {score}, as in "Val F-Score: {score}"'),
        ("F {scroe}", "no placeholder {scroe}; write {score}"),
        ("F {}", "no placeholder {}; there are {score}, {epoch} and {any}"),
        ("F {score} {score}", "{score} stands there twice; keep one"),
        ("F {score", "write {{ for a brace"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        OutputPattern(pattern)
    assert str(refused.value).startswith(f'--score "{pattern}": ')
    assert words in str(refused.value)


def test_braces_are_written_twice() -> None:
    assert fed("{{'f': {score}}}", b"{'f': 0.5}\n") == [(1, 0.5)]
