"""Where pictures lie on a GPU, and how they get there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from scripts.benchmarks.traffic import Traffic, addresses
from tests.support.faces import timeless, tiny_config
from tests.support.fake_cuda import FakeEvent, FakeStream, fake_cuda, unpinned
from tests.support.streams import QueuedStreams
from tests.trainer.test_gpu_step import on_gpu, step_of
from trainer import pixels
from trainer.augment import drawn
from trainer.data.dataset import FaceData, Part
from trainer.data.synthetic import SyntheticSource
from trainer.fit import fit
from trainer.pixels import SLOTS, Pixels, Stream
from trainer.probe import noise

CPU = torch.device("cpu")


def numbered(count: int) -> Part:
    """A part whose pictures and masks are of their own number."""
    numbers = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 2, 2, 3))
    masks = np.broadcast_to(numbers[:, None, None], (count, 2, 2))
    names = tuple(map(str, range(count)))
    return Part(names, images, masks, SyntheticSource(count), tuple(range(count)))


def streamed(part: Part) -> Pixels:
    """As on a GPU that has no room for the part."""
    it = Pixels(part, CPU)
    it.stream = Stream(part, CPU)
    return it


@pytest.fixture(autouse=True)
def no_kept_stream() -> Iterator[None]:
    pixels._copies_of.cache_clear()
    pixels._say_once.cache_clear()
    yield
    pixels._copies_of.cache_clear()


# --- what is read is what was asked for, whatever runs late


def read_late(seed: int, *forgotten: str) -> tuple[list[list[int]], list[list[int]]]:
    """Numbers of the pictures that two epochs with scoring read, and those that they should."""
    machine = QueuedStreams(seed, forgotten)
    pixels._copies_of.cache_clear()
    read: list[list[int]] = []
    wanted: list[list[int]] = []

    def look(images: torch.Tensor, masks: torch.Tensor, numbers: list[int]) -> None:
        wanted.append([*numbers, *numbers])
        machine.main.ask(
            lambda: read.append([*images[:, 0, 0, 0].tolist(), *masks[:, 1, 1].tolist()])
        )

    with machine.installed():
        ours = streamed(numbered(40))
        for epoch in range(2):
            order = torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).view(10, 4)
            ours.begin_epoch(order)
            # the last steps are left out, as where a training is given up
            for number, rows in enumerate(order[: 9 - epoch]):
                ours.fetch(number)
                look(*ours.batch(rows), rows.tolist())
            parts = [slice(start, min(start + 3, 20)) for start in range(0, 20, 3)]
            for where, pair in zip(parts[: 5 + 2 * epoch], ours.slices(parts), strict=False):
                look(*pair, list(range(20))[where])
    return read, wanted


@pytest.mark.parametrize("seed", range(20))
def test_no_picture_is_overwritten_before_it_was_read(seed: int) -> None:
    read, wanted = read_late(seed)
    assert len(wanted) == 29
    assert read == wanted


@pytest.mark.parametrize(
    "forgotten", ["synchronize", "main.wait_event", "side.wait_event", "side.wait_stream"]
)
def test_a_forgotten_wait_is_found(forgotten: str) -> None:
    runs = [read_late(seed, forgotten) for seed in range(20)]
    assert any(read != wanted for read, wanted in runs)


def test_as_many_batches_as_there_are_slots_are_under_way() -> None:
    machine = QueuedStreams(0)
    machine.eagerness = 0.0
    with machine.installed():
        ours = streamed(numbered(40))
        ours.begin_epoch(torch.arange(40).view(10, 4))
        # of each batch a wait, two copies and an event; none was waited for
        assert len(machine.side.asked) >= 4 * SLOTS
        ours.fetch(0)
        # the first batch had to arrive before its slot was filled again, and no other
        assert ours.stream is not None
        assert [slot.arrived.reached for slot in ours.stream.slots] == [1, 0, 0, 0]


# --- the same training


@contextlib.contextmanager
def prompt_streams() -> Iterator[None]:
    stubs = {
        "torch.cuda.Stream": FakeStream,
        "torch.cuda.Event": FakeEvent,
        "torch.cuda.current_stream": FakeStream,
        "torch.cuda.stream": lambda stream: contextlib.nullcontext(),
        "trainer.pixels._pinned": unpinned,
    }
    with contextlib.ExitStack() as stack:
        for name, stub in stubs.items():
            stack.enter_context(mock.patch(name, stub))
        yield


def test_a_streamed_training_is_the_resident_one(
    faces: FaceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config({"epochs": 2, "dropout": 0.2})
    plain = fit(config, faces, out=tmp_path / "plain")
    made: list[Pixels] = []

    def placed(part: Part, device: torch.device) -> Pixels:
        made.append(streamed(part))
        return made[-1]

    monkeypatch.setattr("trainer.fit.Pixels", placed)
    with prompt_streams():
        other = fit(config, faces, out=tmp_path / "streamed")
    assert [len(one.stream.rows) for one in made if one.stream] == [1, 1]
    assert timeless(other.history) == timeless(plain.history)


# --- where they lie


def test_a_large_set_is_streamed_and_that_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    train = noise(512, 24_000).train
    with fake_cuda():
        device = torch.device("cuda:0")
        with Traffic() as seen:
            small = Pixels(noise(512, 100).train, device)
            large = [Pixels(train, device) for _ in range(2)]
        assert small.stream is None
        assert seen.held == 100 * 512 * 512 * 4
        for one in large:
            assert one.resident is None
            assert one.stream is not None
    assert capsys.readouterr().err == (
        "note: 24,000 pictures take 25.2 GB, more than 25% of the memory that is free on cuda:0:"
        " they are streamed from the cache on disk\n"
    )


def test_what_a_warm_up_reads_before_the_first_batch_is_a_picture() -> None:
    def dirty(shape: tuple[int, ...], **_: object) -> torch.Tensor:
        return torch.full(shape, 255, dtype=torch.uint8)

    with prompt_streams(), mock.patch("torch.empty", dirty):
        ours = streamed(numbered(40))
        ours.begin_epoch(torch.arange(40).view(10, 4))
        images, masks = ours.batch(torch.arange(4))
    assert (images.shape, masks.shape) == ((4, 2, 2, 3), (4, 2, 2))
    assert masks.max() < 19


def test_pictures_are_sent_to_be_resident_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_PIECE_BYTES", 3 * 12)
    part = numbered(10)
    assert torch.equal(pixels._sent(part.images, CPU), torch.from_numpy(part.images.copy()))


def test_a_step_reads_streamed_pictures_without_waiting_or_fetching() -> None:
    real, order = drawn(6, torch.Generator().manual_seed(0)), np.arange(48).reshape(8, 6)
    with fake_cuda():
        stepper = on_gpu(32, 6)
        ours = stepper.pixels
        ours.resident, ours.stream = None, Stream(noise(32, 48).train, ours.device)
        with Traffic() as begun:
            ours.begin_epoch(order)
        step_of(stepper, 6, real)
        before = addresses(ours.batch(torch.zeros(6)))
        with Traffic() as fetched:
            ours.fetch(0)
        step = step_of(stepper, 6, real)
        with Traffic() as fetched_last:
            ours.fetch(7)
        ours.begin_epoch(order)
        after = addresses(ours.batch(torch.zeros(6)))
    # pictures and masks
    assert len(begun.transfers) == 2 * SLOTS
    assert len(fetched.transfers) == 2
    assert fetched_last.transfers == []
    assert (fetched.waits, step.waits, step.transfers) == ([], [], [])
    # a captured step finds its pictures where they were
    assert before == after
