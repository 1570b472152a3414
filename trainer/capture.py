"""A training step recorded once as a CUDA graph and replayed: the GPU no longer waits for Python.

Learning rate, Dice weight and the average's share are read from the device at every replay, as
are the pictures' numbers and their random draws.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from trainer.adamw import Rates
from trainer.augment import Draws
from trainer.config import Config
from trainer.step import Numbers, Stepper

_WARM_UP_STEPS = 3


def can_be_captured(config: Config) -> bool:
    """Whether the steps of a training are all alike: noise on pixels is drawn outside a graph."""
    return config.augmentation.noise == 0


class CapturedStep:
    """`stepper` as a graph for batches of one size. Called like it."""

    @classmethod
    def of(cls, stepper: Stepper, indices: Tensor, draws: Draws) -> CapturedStep | None:
        """None where the step cannot be captured: a model that waits for the device, say."""
        try:
            return cls(stepper, indices, draws)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"training runs without a CUDA graph: {error}", stacklevel=2)
            return None

    def __init__(self, stepper: Stepper, indices: Tensor, draws: Draws) -> None:
        self.stepper = stepper
        self.indices, self.draws = indices.clone(), draws._replace(table=draws.table.clone())
        # keep, pace and scale of the optimiser, the Dice weight, the average's share
        self.values = torch.zeros(5, device=stepper.device)
        keep, pace, scale, dice_weight, share = self.values.unbind()
        self.numbers = Numbers(Rates(keep, pace, scale), dice_weight, share)
        self.graph = torch.cuda.CUDAGraph()
        kept = [value.clone() for value in _changed_by_a_step(stepper)]
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_STEPS):
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.sums = self._step()
        finally:
            for value, before in zip(_changed_by_a_step(stepper), kept, strict=True):
                value.copy_(before)

    def _step(self) -> Tensor:
        return self.stepper(self.indices, self.draws, self.numbers)

    def __call__(self, indices: Tensor, draws: Draws, numbers: Numbers) -> Tensor:
        """One step; float64 [3] that the next call overwrites."""
        self.indices.copy_(indices)
        self.draws.table.copy_(draws.table)
        now = torch.tensor([*numbers.rates, numbers.dice_weight, numbers.share])
        self.values.copy_(now.pin_memory(), non_blocking=True)
        self.graph.replay()
        return self.sums


def _changed_by_a_step(stepper: Stepper) -> list[Tensor]:
    counts = [value for value in stepper.model.buffers() if value.dtype != torch.float32]
    return [
        stepper.flat.weights.detach(),
        stepper.flat.buffers,
        stepper.average.weights,
        stepper.average.buffers,
        stepper.optimizer.mean,
        stepper.optimizer.square,
        *counts,
    ]
