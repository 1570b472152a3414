"""An exponential moving average of a model's weights: what is scored, and what is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decay_for(horizon_epochs: float, steps_per_epoch: int) -> float:
    """Decay per step whose memory reaches back `horizon_epochs`; 0 for no averaging.

    >>> decay_for(0.5, 100)
    0.98
    """
    steps = horizon_epochs * steps_per_epoch
    return 0.0 if steps <= 1 else 1 - 1 / steps


class WeightAverage:
    """The running average of a model's parameters and buffers.

    The first steps count more than the decay says, or the random start would be remembered.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged: list[Tensor] = []
        present: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.state[name])
                present.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averaged, present, 1 - decay)

    def restore(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint's average."""
        for name, value in state.items():
            self.state[name].copy_(value)
        self.updates = updates
