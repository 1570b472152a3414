from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.faces import tiny_config, tiny_faces
from trainer.augment import drawn
from trainer.cuda_graph import CapturedStep, can_be_captured
from trainer.model import model_of
from trainer.pixels import Pixels
from trainer.step import Stepper


def test_a_step_with_noise_on_pixels_is_not_captured() -> None:
    assert can_be_captured(tiny_config())
    assert not can_be_captured(tiny_config({"noise": 0.1}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device")
def test_captured_steps_are_the_same_steps(tmp_path: Path) -> None:
    device = torch.device("cuda")
    config = tiny_config({"dropout": 0.0, "device": "cuda"})
    pixels = Pixels(tiny_faces().train, device)
    losses = []
    for captured in (False, True):
        torch.manual_seed(0)
        stepper = Stepper(config, model_of(config).to(device), pixels, device, ema_decay=0.9)
        generator = torch.Generator().manual_seed(1)
        step: Stepper | CapturedStep = stepper
        rows = []
        for number in range(10):
            chosen = torch.arange(8, device=device) + number
            draws = drawn(8, generator)
            draws = draws._replace(table=draws.table.to(device))
            if captured and number == 0:
                made = CapturedStep.of(stepper, chosen, draws)
                assert made is not None
                step = made
            rows.append(step(chosen, draws, stepper.numbers(1e-3, 1.5)).tolist())
        losses.append(rows)
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-2, atol=0)
