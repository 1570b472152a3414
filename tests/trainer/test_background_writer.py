from __future__ import annotations

import threading
from typing import Any
from unittest import mock

import pytest
import torch

from tests.support.fake_cuda import FakeDevice
from trainer.background_writer import HostCopies, Writer
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


def test_copies_keep_what_training_changes() -> None:
    copies = HostCopies(torch.device("cpu"))
    values = [torch.ones(3, requires_grad=True), torch.arange(2)]
    first = copies.of(values)
    with torch.no_grad():
        values[0].add_(1)
    second = copies.of(values)
    copies.wait()
    assert [one.tolist() for one in first] == [[1, 1, 1], [0, 1]]
    assert [one.tolist() for one in second] == [[2, 2, 2], [0, 1]]
    assert not any(one.requires_grad for one in first)


def test_copies_of_a_gpu_are_pinned_once_and_waited_for_by_who_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    pinned: list[Any] = []
    plain_empty, plain_copy = torch.empty, torch.Tensor.copy_

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            asked.append("made")

        def synchronize(self) -> None:
            asked.append(f"{threading.current_thread().name} on {FakeDevice.current()}")

    def empty(shape: Any, *, dtype: Any, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        pinned.append(plain_empty(shape, dtype=dtype))
        return pinned[-1]

    def copy(self: torch.Tensor, value: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        asked.append("waits" if not non_blocking else "copied")
        return plain_copy(self, value)

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.device", FakeDevice)
    monkeypatch.setattr(torch, "empty", empty)
    values = [torch.ones(3, requires_grad=True), torch.arange(2)]
    copies = HostCopies(torch.device("cuda:0"))
    read: list[list[Any]] = []
    for _ in range(2):
        with mock.patch.object(torch.Tensor, "copy_", copy):
            made = copies.of(values)
        with torch.no_grad():
            values[0].add_(1)
        with Writer() as writer:

            def write(made: list[torch.Tensor] = made) -> None:
                copies.wait()
                read.append([one.tolist() for one in made])

            writer.start(write, lambda: None)
            writer.wait()
    assert read == [[[1, 1, 1], [0, 1]], [[2, 2, 2], [0, 1]]]
    assert len(pinned) == 2
    assert asked == ["copied", "copied", "made", "checkpoint_0 on cuda:0"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_copies_what_is_there_when_it_gets_to_it() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    values = [torch.zeros(1_000_000, device=device), torch.zeros(20, dtype=torch.int64).to(device)]
    copies = HostCopies(device)
    for number in (1, 2):
        # some tens of milliseconds, in which Python goes on
        torch.cuda._sleep(50_000_000)
        for value in values:
            value.fill_(number)
        made = copies.of(values)
        # the first time memory is pinned, which may wait
        assert number == 1 or not torch.cuda.current_stream().query()
        for value in values:
            value.zero_()
        copies.wait()
        assert all(bool((one == number).all()) for one in made)
        assert all(one.is_pinned() for one in made)
