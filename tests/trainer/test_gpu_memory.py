"""What a training needs of a GPU's memory, counted without one, and the table that says so."""

from __future__ import annotations

import gc
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from scripts.benchmarks.traffic import Traffic
from tests.support.fake_cuda import fake_cuda
from tests.support.paths import ROOT
from tests.trainer.test_gpu_step import on_gpu, step_of
from trainer import pixels
from trainer.augment import drawn
from trainer.data.dataset import Part
from trainer.lmsa import Lmsa
from trainer.metrics import ScoreKeeper
from trainer.pixels import Pixels
from trainer.probe import CUDA_CONTEXT_MB, noise
from trainer.scoring import measure
from trainer.step import Stepper

GPU = torch.device("cuda:0")
# 2,000 faces without the test part: pictures of the train and of the val part
FACES = 1600, 200
SIZES = [(128, 8), (128, 12), (256, 8), (256, 12), (512, 8), (512, 12), (512, 16)]
HEADING = "## Memory of a GPU"


class Needed(NamedTuple):
    """In MB."""

    training: float
    scoring: float
    pictures: float

    @property
    def in_all(self) -> float:
        return CUDA_CONTEXT_MB + self.training + self.scoring + self.pictures


def score(stepper: Stepper, scored: Pixels, count: int) -> None:
    """As `fit` does, without numbers."""
    width = stepper.config.model.width
    model = Lmsa(width=width, dropout=0.15, num_classes=19, aux=False).to(GPU)
    model = model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    with (
        mock.patch.object(FakeTensor, "tolist", lambda self: [0.5] * len(self)),
        mock.patch.object(ScoreKeeper, "scores", return_value=None),
    ):
        measure(model, scored, count, stepper.config)


def needed(size: int, batch: int) -> Needed:
    """The peak of a step, which is a graph's own, and of scoring; and what lies there for good."""
    real = drawn(batch, torch.Generator().manual_seed(0))
    with fake_cuda():
        with Traffic() as training:
            stepper = on_gpu(size, batch)
            step_of(stepper, batch, real)
            training.peak = training.held
            step_of(stepper, batch, real)
        part = noise(size, batch + 1).train
        scored = Pixels(part, GPU)
        with Traffic() as scoring:
            score(stepper, scored, len(part))
    pictures = sum(FACES) * size * size * 4
    gc.collect()
    return Needed(training.peak / 1e6, scoring.peak / 1e6, pictures / 1e6)


def row(size: int, batch: int, found: Needed) -> str:
    """A line of the README's table."""
    numbers = " | ".join(f"{value:,.0f} MB" for value in found)
    return f"| {size}, {batch} | {numbers} | {found.in_all / 1000:.1f} GB |"


def said() -> dict[tuple[int, int], list[float]]:
    """The README's table: training, scoring, pictures and all told in MB by pixels and batch."""
    text = (ROOT / "trainer/README.md").read_text(encoding="utf-8").partition(HEADING)[2]
    table = {}
    for line in text.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("| ") and cells[0][0].isdigit():
            size, batch = map(int, cells[0].split(","))
            units = {"MB": 1, "GB": 1000}
            values = [cell.replace(",", "").split() for cell in cells[1:]]
            table[size, batch] = [float(number) * units[unit] for number, unit in values]
    return table


def test_the_readme_has_a_line_for_each_size() -> None:
    assert list(said()) == SIZES


@pytest.mark.parametrize(("size", "batch"), SIZES)
def test_the_readme_says_what_memory_is_needed(size: int, batch: int) -> None:
    found = needed(size, batch)
    *parts, in_all = said()[size, batch]
    right = f"the line is {row(size, batch, found)}"
    assert parts == pytest.approx(list(found), rel=0.05), right
    # rounded to tenths of a GB
    assert in_all == pytest.approx(found.in_all, rel=0.05, abs=50), right


def test_the_whole_network_fits_small_cards() -> None:
    in_all = {size: values[-1] for size, values in said().items()}
    # a tenth for blocks that are rounded up and for what lies between them
    assert 1.1 * in_all[512, 8] < 8000
    assert 1.1 * in_all[512, 12] <= 8500
    assert 1.1 * in_all[512, 12] < 12000


def test_thirty_thousand_pictures_start_on_a_card_of_24_gb(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # as CelebAMask-HQ is split: a tenth each to val and test
    train, val = noise(512, 24_000).train, noise(512, 3_000).train
    assert train.images.nbytes + train.masks.nbytes > 24e9
    real = drawn(12, torch.Generator().manual_seed(0))
    with fake_cuda(), Traffic() as seen:
        free, _ = torch.cuda.mem_get_info()
        stepper = on_gpu(512, 12)
        stepper.pixels = placed(train)
        stepper.pixels.begin_epoch(np.arange(24_000).reshape(-1, 12))
        scored = placed(val)
        stepper.pixels.fetch(0)
        step_of(stepper, 12, real)
        # the graph keeps its memory
        training, seen.peak = seen.peak, seen.held
        score(stepper, scored, 12)
        # as large as val, of the streamed train part
        score(stepper, stepper.pixels, 12)
    assert 3_000 * 512 * 512 * 4 < seen.held < seen.peak
    assert training + seen.peak < free == 22e9
    assert "24,000 pictures take 25.2 GB" in capsys.readouterr().err


def placed(part: Part) -> Pixels:
    """Anew, as in a process of its own."""
    pixels._say_once.cache_clear()
    return Pixels(part, GPU)
