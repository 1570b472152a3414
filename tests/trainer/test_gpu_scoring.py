"""Scoring on a GPU that is not there: what it waits for, what it moves, how much at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from scripts.benchmarks.traffic import Traffic
from tests.support.faces import tiny_config
from tests.support.fake_cuda import fake_cuda
from trainer import scoring
from trainer.config import Config, with_values
from trainer.data.dataset import FaceData, Part
from trainer.fit import fit
from trainer.lmsa import Lmsa
from trainer.metrics import ScoreKeeper
from trainer.pictures import contact_sheet
from trainer.pixels import Pixels, Stream
from trainer.probe import noise
from trainer.scoring import batches, measure, scored_images

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


def trained_by(size: int, batch: int, **values: object) -> Config:
    own = {"data.image_size": size, "data.batch_size": batch, "runtime.channels_last": True}
    return with_values(Config(), {**own, **values})


def scored_on_gpu(part: Part, config: Config, stream: bool) -> tuple[Traffic, Traffic]:
    """What is done by placing the pictures and by a scoring after that."""
    model = Lmsa(width=config.model.width, dropout=0.15, num_classes=19, aux=False)
    model = model.to(memory_format=torch.channels_last).to(GPU).eval().requires_grad_(False)
    with Traffic() as placed:
        pixels = Pixels(part, GPU)
        if stream:
            pixels.resident, pixels.stream = None, Stream(part, GPU)
    fake = torch._subclasses.fake_tensor.FakeTensor
    with (
        # what is read has no numbers
        mock.patch.object(fake, "tolist", lambda self: [0.5] * len(self)),
        mock.patch.object(ScoreKeeper, "scores", return_value=None),
    ):
        measure(model, pixels, 1, config)
        with Traffic() as seen:
            measure(model, pixels, len(part), config)
    return placed, seen


def test_a_scoring_waits_once_and_sends_nothing() -> None:
    with fake_cuda():
        placed, seen = scored_on_gpu(noise(32, 20).train, trained_by(32, 6), stream=False)
    assert len(placed.transfers) == 2
    assert seen.waits == []
    assert [one.name for one in seen.transfers] == ["aten._to_copy.default"]
    assert seen.transfers[0].place.startswith("metrics.py")
    assert sum(op.name == "aten.scatter_add_.default" for op in seen.ops) >= 4


def test_a_streamed_scoring_sends_each_batch_once() -> None:
    with fake_cuda():
        _, seen = scored_on_gpu(noise(32, 20).train, trained_by(32, 6), stream=True)
    assert seen.waits == []
    # pictures and masks of 4 batches, and the result
    assert len(seen.transfers) == 2 * 4 + 1


@pytest.mark.parametrize("size", [64, 512])
def test_a_picture_is_scored_in_half_the_memory_of_its_training(size: int) -> None:
    # bytes a pixel of a picture: training at full width needs 1,320
    with fake_cuda():
        _, seen = scored_on_gpu(noise(size, 4).train, trained_by(size, 12), stream=False)
    assert seen.peak / (4 * size * size) < 1000


def test_as_many_are_scored_at_once_as_fit_the_training() -> None:
    def sizes(count: int, config: Config, device: torch.device) -> list[int]:
        found = batches(count, config, device)
        assert [number for one in found for number in range(count)[one]] == list(range(count))
        return [one.stop - one.start for one in found]

    assert sizes(70, trained_by(512, 12), CPU) == [32, 32, 6]
    assert sizes(10, trained_by(512, 12), GPU) == [4, 4, 2]
    assert sizes(10, trained_by(512, 12, **{"runtime.micro_batch": 3}), GPU) == [3, 3, 3, 1]
    assert sizes(10, trained_by(128, 8), GPU) == [8, 2]
    assert sizes(2, trained_by(2048, 8), GPU) == [1, 1]
    assert sizes(0, trained_by(64, 8), GPU) == []


class _Looked:
    """How many pictures each network was shown at a time."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.counts.append(len(given[0]))


@pytest.fixture
def looked() -> Iterator[_Looked]:
    seen = _Looked()

    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, Lmsa) and not module.training:
            seen(module, given)

    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    yield seen
    handle.remove()


def test_everybody_who_scores_keeps_to_it(
    faces: FaceData, tmp_path: Path, looked: _Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config({"epochs": 1})
    fit(config, faces, out=tmp_path)
    weights, part = tmp_path / "best.pt", faces.train
    before = scored_images(weights, part).reduced
    assert max(looked.counts) > 3
    looked.counts.clear()
    monkeypatch.setattr(scoring, "AT_ONCE", 3)
    fit(config, faces, out=tmp_path)
    after = scored_images(weights, part).reduced
    contact_sheet(weights, part, tmp_path / "sheet.png")
    # the network is checked with one picture
    assert set(looked.counts) <= {1, 2, 3}
    assert len(looked.counts) > 2 * len(part) // 3
    assert after.scores() == before.scores()
