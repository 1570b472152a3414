"""A network's weights and gradients as two long vectors, with the network's tensors as views.

Clipping, optimiser and weight average then visit one tensor instead of sixty small ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatModel:
    """Parameters and buffers of `model` moved into vectors; the model works on as before.

    weights: float32 [number of trainable parameters]; `weights.grad`, as long, is what backward
    adds to. buffers: float32 [size of all float32 buffers and frozen parameters].
    Device and memory format of the model must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        trainable, others = _float32(model)
        self.weights = nn.Parameter(_vector(trainable))
        self.weights.grad = torch.zeros_like(self.weights)
        self.buffers = _vector(others)
        gradients = _views(self.weights.grad, trainable)
        for value, place, gradient in zip(
            trainable, _views(self.weights.detach(), trainable), gradients, strict=True
        ):
            value.data = place.copy_(value.detach())
            value.grad = gradient
        for value, place in zip(others, _views(self.buffers, others), strict=True):
            value.data = place.copy_(value.detach())

    def state(self, weights: Tensor, buffers: Tensor) -> dict[str, Tensor]:
        """The model's state_dict with these vectors in the place of its own: views of them.

        Whole numbers, such as a count of batches, are copies of the model's own.
        """
        trainable, others = _float32(self.model)
        places = _places(trainable, weights) | _places(others, buffers)
        return {
            name: places[id(value)] if id(value) in places else value.detach().clone()
            for name, value in self.model.state_dict(keep_vars=True).items()
        }

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector as long as the weights as one view per trainable parameter, by name."""
        places = _places(_float32(self.model)[0], vector)
        own = self.model.state_dict(keep_vars=True)
        return {name: places[id(value)] for name, value in own.items() if id(value) in places}


def _float32(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Trainable parameters, and what else is kept as float32, each once."""
    values = {id(value): value for value in model.state_dict(keep_vars=True).values()}.values()
    floats = [value for value in values if value.dtype == torch.float32]
    return (
        [value for value in floats if value.requires_grad],
        [value for value in floats if not value.requires_grad],
    )


def _places(values: Sequence[Tensor], vector: Tensor) -> dict[int, Tensor]:
    """Each value's view of `vector`, by identity: a parameter may have two names."""
    return dict(zip(map(id, values), _views(vector, values), strict=True))


def _vector(values: Sequence[Tensor]) -> Tensor:
    size = sum(value.numel() for value in values)
    return torch.zeros(size, device=values[0].device if values else None)


def _views(vector: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """Views of `vector`, one after the other, in the values' shapes and memory formats."""
    places, start = [], 0
    for value in values:
        part = vector[start : start + value.numel()]
        if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
            batch, channels, height, width = value.shape
            places.append(part.view(batch, height, width, channels).permute(0, 3, 1, 2))
        else:
            places.append(part.view(value.shape))
        start += value.numel()
    return places
