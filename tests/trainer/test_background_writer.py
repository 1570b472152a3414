from __future__ import annotations

import threading

import pytest

from trainer.background_writer import Writer
from trainer.errors import Diverged


def test_what_follows_comes_after_the_writing_on_the_threads_own_poll() -> None:
    told: list[str] = []
    go = threading.Event()

    def write() -> None:
        go.wait()
        told.append(f"written by {threading.current_thread() is not threading.main_thread()}")

    def then() -> None:
        told.append(f"told by {threading.current_thread() is threading.main_thread()}")

    with Writer() as writer:
        writer.start(write, then)
        writer.poll()
        assert told == []
        go.set()
        writer.wait()
        assert told == ["written by True", "told by True"]
        writer.poll()
        writer.wait()
    assert told == ["written by True", "told by True"]


def test_a_failure_to_write_is_raised_where_training_runs_and_nothing_is_reported() -> None:
    told: list[str] = []

    def write() -> None:
        raise OSError(28, "No space left on device")

    with Writer() as writer:
        writer.start(write, lambda: told.append("told"))
        with pytest.raises(OSError, match="No space"):
            writer.wait()
    assert told == []


def test_what_is_being_written_is_finished_before_an_error_leaves_the_block() -> None:
    told: list[str] = []
    go = threading.Event()

    def write() -> None:
        go.wait()
        told.append("written")

    def train() -> None:
        with Writer() as writer:
            writer.start(write, lambda: told.append("told"))
            threading.Timer(0.1, go.set).start()
            raise Diverged("in the next epoch")

    with pytest.raises(Diverged):
        train()
    assert told == ["written"]
