"""One optimiser step: augmentation, forward, loss, backward, clipping, AdamW, weight average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.adamw import AdamW, Rates
from trainer.augment import Draws, augmented
from trainer.config import Config
from trainer.ema import WeightAverage
from trainer.flat_model import FlatModel, Leaves
from trainer.losses import training_loss
from trainer.pixels import Pixels

# called with the name of the phase that has just ended: data, forward, backward, optimiser
Lap = Callable[[str], None]


class Numbers(NamedTuple):
    """What changes from step to step besides the pictures; tensors in a captured step."""

    rates: Rates
    dice_weight: float | Tensor
    # of the present weights in their average, 0 to 1
    share: float | Tensor


class Epoch(NamedTuple):
    """What the steps of an epoch are given, one row or item per step; tensors on the CPU.

    order: int64 [steps, B], the pictures. draws: their random numbers.
    """

    order: Tensor
    draws: Sequence[Draws]
    numbers: Sequence[Numbers]

    def draw_table(self) -> Tensor:
        """float32 [steps, draw, B]."""
        return torch.stack([one.table for one in self.draws])


class Stepper:
    """A model with its optimiser and weight average, one step at a time.

    config: with a decided runtime. model: on `device`, in the memory format of training; its
    tensors become views of `flat`. ema_decay: of the weight average, per step. lap: called after
    every phase, on a GPU when it was asked for, not when it was done.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        pixels: Pixels,
        device: torch.device,
        *,
        ema_decay: float,
        lap: Lap | None = None,
    ) -> None:
        self.config, self.pixels, self.device = config, pixels, device
        self.lap: Lap = lap or (lambda phase: None)
        self.model = model
        self.flat = FlatModel(model)
        self.average = WeightAverage(self.flat, ema_decay)
        self.optimizer = AdamW(
            self.flat.weights.detach(), weight_decay=config.training.weight_decay
        )
        self.leaves = self._leaves()
        self.forward: Callable[[Tensor], Any] = model
        if config.runtime.compile:
            self.forward = torch.compile(model)
        elif self.leaves is not None:
            self.forward = self.leaves.forward
        self.channels_last = bool(config.runtime.channels_last)
        # what the loss is computed by; the Dice weight comes anew with every step
        self.loss_settings = config.loss.model_dump(
            exclude={"dice_weight", "dice_schedule", "dice_ramp"}
        )

    def numbers(self, lr: float, dice_weight: float) -> Numbers:
        """Of the coming step, which is counted by that."""
        return Numbers(self.optimizer.next_rates(lr), dice_weight, self.average.next_share())

    def __call__(self, indices: Tensor, draws: Draws, numbers: Numbers) -> Tensor:
        """One step on the pictures `indices`, int64 [B]; float64 [3]: loss, CE and Dice.

        The sums stay on the device: reading them back would wait for it at every step.
        """
        images, masks = augmented(*self.pixels.batch(indices), self.config.augmentation, draws)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.lap("data")
        gradient = self.flat.weights.grad
        assert gradient is not None
        gradient.zero_()
        if self.leaves is not None:
            self.leaves.begin()
        measured = torch.zeros(3, dtype=torch.float64, device=self.device)
        size = self.config.runtime.micro_batch or len(images)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            measured += self._accumulate(
                images[part], masks[part], numbers.dice_weight, len(images[part]) / len(images)
            )
        self._clip(gradient)
        self.optimizer.step(gradient, numbers.rates)
        self.average.update(numbers.share)
        self.lap("optimiser")
        return measured

    def _accumulate(
        self, images: Tensor, masks: Tensor, dice_weight: float | Tensor, share: float
    ) -> Tensor:
        """Add the gradient of a micro-batch that is `share` of the batch."""
        with torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=self.config.runtime.precision == "bfloat16",
        ):
            outputs = self.forward(images)
        terms = training_loss(outputs, masks, dice_weight=dice_weight, **self.loss_settings)
        self.lap("forward")
        total = terms.total if share == 1 else terms.total * share
        total.backward()
        if self.leaves is not None:
            self.leaves.gather()
        self.lap("backward")
        return share * torch.stack([terms.total, terms.ce, terms.dice]).detach().double()

    def _leaves(self) -> Leaves | None:
        """None on a CPU, whose time goes elsewhere."""
        if self.device.type == "cpu":
            return None
        runtime = self.config.runtime
        # a compiler casts as it likes; another network may compute in float32 with its weights
        lowered = not runtime.compile and ":" not in self.config.model.name
        return Leaves(self.flat, lowered=lowered and runtime.precision == "bfloat16")

    def _clip(self, gradient: Tensor) -> None:
        """As torch's clip_grad_norm_."""
        longest = self.config.training.max_grad_norm
        if longest > 0:
            gradient.mul_((longest / (gradient.norm() + 1e-6)).clamp_(max=1.0))


class EagerSteps:
    """Takes an epoch's steps one after the other: `begin`, then a call for each.

    sums: float64 [3], over the steps of the epoch so far: loss, CE and Dice.
    """

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper

    def begin(self, epoch: Epoch) -> None:
        """Send what the steps of an epoch are given."""
        device = self.stepper.device
        tables = epoch.draw_table().to(device)
        draws = [one._replace(table=table) for one, table in zip(epoch.draws, tables, strict=True)]
        self._left: Iterator[tuple[Tensor, Draws, Numbers]] = zip(
            epoch.order.to(device), draws, epoch.numbers, strict=True
        )
        # kept on the device: reading a loss back would wait for it at every step
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def __call__(self) -> None:
        """The epoch's next step."""
        self.sums += self.stepper(*next(self._left))
