from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from search.execution.event_command import EventCommand, EventDetector
from tests.support.studies import wait_until


@pytest.fixture(autouse=True)
def _every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "search")


def events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_event_reaches_the_command_in_order_as_one_json_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = tmp_path / "heard"
    with EventCommand(f"cat >> '{heard}'", {"study": "faces", "trials": 3}) as command:
        command.send("new_best", trial=1, value=0.5)
        command.send("failed", trial=2, reason="a\nb")
    first, second = events(heard)
    assert first.pop("time") <= second.pop("time")
    assert first == {"event": "new_best", "study": "faces", "trials": 3, "trial": 1, "value": 0.5}
    assert (second["event"], second["reason"]) == ("failed", "a\nb")
    assert caplog.messages == []


def test_a_command_that_fails_is_named_and_the_next_event_is_told_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = tmp_path / "heard"
    script = f"cat >> '{heard}'; echo one >&2; echo no such channel >&2; exit 3"
    with EventCommand(script, {}) as command:
        command.send("new_best")
        command.send("finished")
    assert [event["event"] for event in events(heard)] == ["new_best", "finished"]
    assert caplog.messages == [
        "--on-event: the command ended with 3: no such channel (event new_best)",
        "--on-event: the command ended with 3: no such channel (event finished)",
    ]


def test_a_command_that_does_not_exist_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventCommand(str(tmp_path / "absent"), {}) as command:
        command.send("finished")
    (line,) = caplog.messages
    assert "ended with 127" in line
    assert "not found" in line


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alive = tmp_path / "alive"
    # the shell starts another process, which is the one that hangs
    script = f"(while true; do touch '{alive}'; sleep 0.1; done) & wait"
    with EventCommand(script, {}, timeout_s=1.0) as command:
        command.send("new_best")
        wait_until(lambda: bool(caplog.messages), "the end of the command")
    assert caplog.messages == [
        "--on-event: the command did not end within 1 s and was ended (event new_best)"
    ]
    time.sleep(0.2)
    # on a busy machine it may not have come to write
    alive.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not alive.exists()


def test_telling_does_not_wait_for_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = tmp_path / "told"
    # ends once it was told, and would never end if telling waited for it
    script = f"while [ ! -e '{told}' ]; do sleep 0.05; done"
    with EventCommand(script, {}, timeout_s=60.0) as command:
        command.send("new_best")
        told.touch()
    assert caplog.messages == []


def test_a_command_that_reads_nothing_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    # more than a pipe holds
    with EventCommand("true", {"study": "x" * 200_000}) as command:
        command.send("finished")
    assert caplog.messages == []


def test_without_a_command_nothing_is_started(caplog: pytest.LogCaptureFixture) -> None:
    with EventCommand(None, {}) as command:
        command.send("finished")
    assert caplog.messages == []


def trial(number: int, state: TrialState, value: float | None = None, **attrs: Any) -> Any:
    made = create_trial(state=state, value=value, user_attrs=attrs)
    made.number = number
    return made


def test_news_are_told_once_and_what_was_there_before_is_none() -> None:
    rows = [
        trial(0, TrialState.COMPLETE, 0.5),
        trial(1, TrialState.FAIL, reason="of yesterday"),
    ]
    detector = EventDetector(rows)
    assert list(detector.since(rows)) == []
    rows += [
        trial(2, TrialState.COMPLETE, 0.4),
        trial(3, TrialState.FAIL, reason="IndexError: 7"),
        trial(4, TrialState.FAIL, cancelled=True),
        trial(5, TrialState.COMPLETE, 0.6, f_score_full=0.55),
    ]
    best = {"trial": 5, "value": 0.6, "f_score_full": 0.55, "params": {}, "before": 0.5}
    assert list(detector.since(rows)) == [
        ("failed", {"trial": 3, "reason": "IndexError: 7"}),
        ("new_best", best),
    ]
    assert list(detector.since(rows)) == []


def test_a_command_that_still_hangs_at_the_end_does_not_outlive_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alive = tmp_path / "alive"
    script = f"(while true; do touch '{alive}'; sleep 0.1; done) & wait"
    with EventCommand(script, {}, timeout_s=1.0) as command:
        for _ in range(3):
            command.send("new_best")
        wait_until(alive.exists, "the command")
    assert "--on-event: the command took too long" in caplog.messages[-1]
    time.sleep(0.2)
    alive.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not alive.exists()


def test_a_command_that_says_something_that_is_no_text_is_heard_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with EventCommand(r"printf 'so \377\n' >&2; exit 1", {}) as command:
        command.send("new_best")
        command.send("finished")
    assert len(caplog.messages) == 2
    assert "so \ufffd (event finished)" in caplog.messages[1]
