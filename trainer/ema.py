"""An exponential moving average of a model's weights: what is scored, and what is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.flat_model import FlatModel


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

    def __init__(self, flat: FlatModel, decay: float) -> None:
        self.flat = flat
        self.decay = decay
        self.updates = 0
        self.weights = flat.weights.detach().clone()
        self.buffers = flat.buffers.clone()

    def next_share(self) -> float:
        """What the coming update gives to the model's present weights; counts it."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        return 1 - decay

    @torch.no_grad()
    def update(self, share: float | Tensor) -> None:
        """Take in `share`, 0 to 1, of the model's present weights."""
        self.weights.lerp_(self.flat.weights, share)
        self.buffers.lerp_(self.flat.buffers, share)

    @property
    def state(self) -> dict[str, Tensor]:
        """As the model's state_dict: views of the average, and of the model's own counts."""
        return self.flat.state(self.weights, self.buffers, self.flat.counts)

    def restore(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint's average."""
        for name, value in self.state.items():
            value.copy_(state[name])
        self.updates = updates
