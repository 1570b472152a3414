"""AdamW on one vector.

torch's own optimiser does the same; making one takes more than a second, in which it imports the
compiler, and that is a third of what a worker needs to its first step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Rates(NamedTuple):
    """What a step needs besides the gradient; tensors where they are to be read from a device."""

    # 1 - learning rate x weight decay
    keep: float | Tensor
    # learning rate / (1 - beta_1^step)
    pace: float | Tensor
    # 1 / sqrt(1 - beta_2^step)
    scale: float | Tensor


class AdamW:
    """Adam with decoupled weight decay; betas .9 and .999, epsilon 1e-8, as torch's defaults.

    weights: float32 [N], changed in place. Source: Loshchilov and Hutter, Decoupled Weight Decay
    Regularization, 2019.
    """

    def __init__(self, weights: Tensor, *, weight_decay: float) -> None:
        self.weights = weights
        self.weight_decay = weight_decay
        self.steps = 0
        self.mean = torch.zeros_like(weights)
        self.square = torch.zeros_like(weights)

    def next_rates(self, lr: float) -> Rates:
        """Rates of the coming step; counts it."""
        self.steps += 1
        return Rates(
            keep=1 - lr * self.weight_decay,
            pace=lr / (1 - _BETA_1**self.steps),
            scale=1 / math.sqrt(1 - _BETA_2**self.steps),
        )

    @torch.no_grad()
    def step(self, gradient: Tensor, rates: Rates) -> None:
        """Change the weights by a gradient, float32 [N]."""
        self.weights.mul_(rates.keep)
        self.mean.lerp_(gradient, 1 - _BETA_1)
        self.square.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        size = self.square.sqrt().mul_(rates.scale).add_(_EPSILON)
        self.weights.sub_(torch.div(self.mean, size, out=size).mul_(rates.pace))
