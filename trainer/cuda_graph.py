"""A training step recorded once as a CUDA graph and replayed: the GPU no longer waits for Python.

The phases of a replayed step cannot be told apart: `lap` is called at its end alone.

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
from trainer.runtime import is_out_of_memory
from trainer.step import Numbers, Stepper

_WARM_UP_STEPS = 2


def can_be_captured(config: Config) -> bool:
    """Whether a replay does what the step would have done.

    Noise on pixels is drawn outside a graph, and another network may draw lots or count in Python.
    """
    return config.augmentation.noise == 0 and ":" not in config.model.name


class CapturedStep:
    """`stepper` as a graph for batches of one size. Called like it."""

    @classmethod
    def of(cls, stepper: Stepper, indices: Tensor, draws: Draws) -> CapturedStep | None:
        """None where the step cannot be captured: a model that waits for the device, say."""
        try:
            return cls(stepper, indices, draws)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            warnings.warn(f"training runs without a CUDA graph: {error}", stacklevel=2)
            return None

    def __init__(self, stepper: Stepper, indices: Tensor, draws: Draws) -> None:
        self.stepper = stepper
        self.indices, self.draws = indices.clone(), draws._replace(table=draws.table.clone())
        # keep, pace and scale of the optimiser, the Dice weight, the average's share; the warm-up
        # is to leave the weights where they are
        self.values = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], device=stepper.device)
        keep, pace, scale, dice_weight, share = self.values.unbind()
        self.numbers = Numbers(Rates(keep, pace, scale), dice_weight, share)
        self.graph = torch.cuda.CUDAGraph()
        kept = [value.clone() for value in _changed_by_a_step(stepper)]
        random = torch.cuda.get_rng_state(stepper.device)
        lap, stepper.lap = stepper.lap, lambda phase: None
        try:
            self._capture()
        finally:
            stepper.lap = lap
            torch.cuda.set_rng_state(random, stepper.device)
            for value, before in zip(_changed_by_a_step(stepper), kept, strict=True):
                value.copy_(before)

    def _capture(self) -> None:
        side = torch.cuda.Stream(self.stepper.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                self._step()
            # a step that waits for the device is to be found before the capture, which it breaks
            torch.cuda.set_sync_debug_mode("error")
            try:
                self._step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            with torch.cuda.graph(self.graph, stream=side):
                self.sums = self._step()
        torch.cuda.current_stream().wait_stream(side)

    def _step(self) -> Tensor:
        return self.stepper(self.indices, self.draws, self.numbers)

    def __call__(self, indices: Tensor, draws: Draws, numbers: Numbers) -> Tensor:
        """One step; float64 [3] that the next call overwrites."""
        self.indices.copy_(indices)
        self.draws.table.copy_(draws.table)
        now = torch.tensor([*numbers.rates, numbers.dice_weight, numbers.share])
        self.values.copy_(now.pin_memory(), non_blocking=True)
        self.graph.replay()
        self.stepper.lap("optimiser")
        return self.sums


def _changed_by_a_step(stepper: Stepper) -> list[Tensor]:
    return [
        stepper.flat.weights.detach(),
        stepper.average.weights,
        stepper.average.buffers,
        stepper.optimizer.mean,
        stepper.optimizer.square,
        *stepper.model.buffers(),
    ]
