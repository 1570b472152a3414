"""A whole training on a GPU that is not there: what it waits for, what it writes, when it ends."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scripts.benchmarks.traffic import Traffic
from tests.support.fake_cuda import FakeDevice, FakeEvent, FakeGraph
from tests.support.fake_training import fake_training, tiny
from tests.support.gpu_clock import GpuClock
from trainer import checkpoint
from trainer.background_writer import Writer
from trainer.fit import Progress, _Training, fit
from trainer.probe import noise
from trainer.run_ahead import STEPS
from trainer.runtime import release

BATCHES = 5
FACES = noise(32, 8 * BATCHES)
BATCHES_ON_CLOCK = 30


def shapes(path: Path) -> Any:
    """What a checkpoint holds, and where its tensors lie, without its numbers."""
    content = checkpoint.read(path)
    # how many epochs were better is another matter
    del content["history"][1:]
    storages: dict[int, int] = {}

    def shape(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return type(leaf)
        storage = leaf.untyped_storage()
        # which of the vectors it is a view of
        vector = storages.setdefault(storage.data_ptr(), len(storages))
        return (leaf.dtype, tuple(leaf.shape), leaf.stride(), leaf.device.type, vector)

    return tree_map(shape, content)


# what begins an epoch: the order of the pictures, their draws, and the numbers of the steps
COPIES_PER_EPOCH = 3
# weights and buffers, their average, counts, and the two moments of the optimiser
VECTORS = 7


def test_an_epoch_waits_once_and_copies_nothing_between_its_steps(tmp_path: Path) -> None:
    laps: list[tuple[str, int]] = []
    timed: list[bool] = []
    reported: list[int] = []

    def lap(phase: str) -> None:
        laps.append((phase, len(traffic.transfers)))
        timed.append(torch.backends.cudnn.benchmark)

    with fake_training() as seen, Traffic() as traffic:
        result = fit(
            tiny(),
            FACES,
            out=tmp_path,
            lap=lap,
            report=lambda progress: reported.append(progress.epoch),
        )
    assert reported == [1, 2]
    assert [row["step"] for row in result.history] == [BATCHES, 2 * BATCHES]
    waits = Counter(wait.place for wait in traffic.waits)
    assert sum(count for place, count in waits.items() if place.startswith("fit.py")) <= 2, waits
    assert {place.partition(":")[0] for place in waits} <= {"fit.py", "scoring.py", "metrics.py"}
    # from the end of each step to the end of the next one
    steps = [copied for phase, copied in laps if phase == "optimiser"]
    assert len(steps) == 2 * BATCHES
    for first in (0, BATCHES):
        epoch = steps[first : first + BATCHES]
        assert epoch[-1] == epoch[0]
    # the whole second epoch: what begins it, its steps, its scoring, and its checkpoint
    begun = next(copied for phase, copied in laps if phase == "checkpoint")
    copies = Counter(copy.place.partition(":")[0] for copy in traffic.transfers[begun:])
    assert copies.pop("background_writer.py") == VECTORS
    for name in ("scoring.py", "metrics.py"):
        copies.pop(name, None)
    assert copies.total() == COPIES_PER_EPOCH, copies
    assert seen.events.count("capture ends") == 1
    # cuDNN times what it can do, and afterwards is as it was
    assert all(timed)
    assert not torch.backends.cudnn.benchmark


def test_the_writer_gets_tensors_of_the_cpu_and_all_that_a_training_on_one_keeps(
    tmp_path: Path,
) -> None:
    with fake_training() as seen:
        fit(tiny(), FACES, out=tmp_path / "gpu")
    # the second epoch is no better
    assert [name for name, _ in seen.written] == ["best.pt", "last.pt", "last.pt"]
    assert all(devices == {"cpu"} for _, devices in seen.written)
    assert {name.partition("_")[0] for name in seen.threads} == {"checkpoint"}
    fit(tiny(**{"runtime.device": "cpu"}), FACES, out=tmp_path / "cpu")
    for name in ("best.pt", "last.pt"):
        assert shapes(tmp_path / "gpu" / name) == shapes(tmp_path / "cpu" / name)


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    with fake_training():
        fit(tiny(), FACES, out=tmp_path / "a", last_epoch=1)
        result = fit(tiny(), FACES, out=tmp_path / "b", resume_from=tmp_path / "a" / "last.pt")
    assert [row["step"] for row in result.history] == [BATCHES, 2 * BATCHES]
    assert checkpoint.read(tmp_path / "b" / "last.pt")["adamw"]["steps"] == 2 * BATCHES


@pytest.mark.parametrize("ends", ["by itself", "by an error"])
def test_what_touches_the_gpu_does_so_on_its_own_device(tmp_path: Path, ends: str) -> None:
    """Elsewhere CUDA would begin a context on the first GPU: half a gigabyte for every worker."""
    calls: list[tuple[str, str, str | None]] = []

    def note(call: str) -> None:
        thread = threading.current_thread().name.partition("_")[0]
        calls.append((call, thread, FakeDevice.current()))

    def empty_cache() -> None:
        note("the cache is emptied")

    def synchronize(event: FakeEvent) -> None:
        note("an event is waited for")

    class Graph(FakeGraph):
        def __del__(self) -> None:
            note("a graph is destroyed")

    def report(progress: Progress) -> None:
        if ends == "by an error":
            raise Pruned

    with (
        fake_training(),
        mock.patch("torch.cuda.CUDAGraph", Graph),
        mock.patch("torch.cuda.empty_cache", empty_cache),
        mock.patch.object(FakeEvent, "synchronize", synchronize),
    ):
        error: Exception | None = None
        try:
            fit(tiny(), FACES, out=tmp_path, report=report)
        except Pruned as pruned:
            error = pruned
        # not before: what the frames of an error hold
        assert ("a graph is destroyed", "MainThread", "cuda:0") in calls or error is not None
        release("cuda:0", error)
    assert {(call, thread) for call, thread, _ in calls} == {
        ("an event is waited for", "checkpoint"),
        ("a graph is destroyed", "MainThread"),
        ("the cache is emptied", "MainThread"),
    }
    assert {device for _, _, device in calls} == {"cuda:0"}


# ------------------------------------------------------------------------- when a verdict comes


class Pruned(Exception):
    pass


@contextlib.contextmanager
def on_clock(clock: GpuClock, written_after: int, scored: Callable[[], None]) -> Iterator[None]:
    """A training whose GPU is a clock; the checkpoint of its first epoch is on disk once so many
    steps of the second are done. scored: called where an epoch is scored."""
    writer, go = Writer(), threading.Event()

    def write(path: Path, content: Any) -> None:
        if path.name == "last.pt" and content["epoch"] == 1:
            assert go.wait(60)
        to_disk(path, content)

    def end_of_writing() -> None:
        go.set()
        # the one thread of the writer takes this up after what it is at
        writer._pool.submit(lambda: None).result()

    def read(tensor: Tensor) -> float:
        if tensor.device.type == "cuda":
            clock.block()
        return 0.5

    def score(training: _Training) -> float:
        scored()
        return 0.5

    clock.at(BATCHES_ON_CLOCK + written_after, end_of_writing)
    with fake_training(read=read, scores=score):
        to_disk = checkpoint.write
        with (
            mock.patch("trainer.checkpoint.write", write),
            mock.patch("trainer.fit.Writer", return_value=writer),
            mock.patch.object(FakeGraph, "replay", clock.launch),
            clock.running(),
        ):
            yield


@pytest.mark.parametrize("written_after", [1, 10, BATCHES_ON_CLOCK])
def test_a_verdict_costs_at_most_four_steps(tmp_path: Path, written_after: int) -> None:
    """The report comes within four steps of when the checkpoint is on disk, and may end it all."""
    clock = GpuClock()
    told: list[tuple[int, int, int]] = []
    scored: list[int] = []

    def report(progress: Progress) -> None:
        told.append((progress.epoch, clock.done, clock.queued))
        raise Pruned

    with (
        on_clock(clock, written_after, lambda: scored.append(clock.done)),
        pytest.raises(Pruned),
    ):
        fit(tiny(), noise(32, 8 * BATCHES_ON_CLOCK), out=tmp_path, report=report)
    written = BATCHES_ON_CLOCK + written_after
    ((epoch, done, queued),) = told
    assert epoch == 1
    assert written <= done <= written + STEPS
    # what was in vain
    assert queued <= written + STEPS
    assert clock.queued == queued
    assert scored == [BATCHES_ON_CLOCK]
    assert checkpoint.read(tmp_path / "last.pt")["epoch"] == 1
