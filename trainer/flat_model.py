"""A network's weights and gradients as two long vectors, with the network's tensors as views.

Clipping, optimiser and weight average then visit one tensor instead of sixty small ones, and a
snapshot copies three instead of eighty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

# numbers of a vector between the places where tensors may begin: a GPU's kernels read 16 bytes at
# once from a multiple of 16, which in bfloat16 are eight numbers
_AT_ONCE = 8
# of weights, buffers and counts
_DTYPES = (torch.float32, torch.float32, torch.int64)


class FlatModel:
    """Parameters and buffers of `model` moved into vectors; the model works on as before.

    weights: float32 [number of trainable parameters]; `weights.grad`, as long, is what backward
    adds to, or what `Leaves` gathers. buffers: float32 [size of all float32 buffers and frozen
    parameters]. counts: int64 [size of all int64 buffers], such as a count of batches. Off the CPU
    every tensor begins at a multiple of 16 bytes, and the gaps between them hold zeros.
    Device and memory format of the model must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        values = _Values.of(model)
        device = next((value.device for kind in values for value in kind), None)
        # on a CPU a gap would move the last digit of the gradient's norm
        self._unit = 1 if device is None or device.type == "cpu" else _AT_ONCE
        weights, self.buffers, self.counts = (
            torch.zeros(self._places(kind)[-1], dtype=dtype, device=device)
            for kind, dtype in zip(values, _DTYPES, strict=True)
        )
        self.weights = nn.Parameter(weights)
        self.weights.grad = torch.zeros_like(weights)
        for kind, vector in zip(values, (weights, self.buffers, self.counts), strict=True):
            for value, view in zip(kind, self._views(vector, kind), strict=True):
                value.data = view.copy_(value.detach())
        gradients = self._views(self.weights.grad, values.trainable)
        for value, view in zip(values.trainable, gradients, strict=True):
            value.grad = view

    def state(self, weights: Tensor, buffers: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """The model's state_dict with these vectors in the place of its own: views of them.

        The vectors may lie on another device. What is neither float32 nor int64 is copied
        from the model to where they lie.
        """
        views: dict[int, Tensor] = {}
        for kind, vector in zip(_Values.of(self.model), (weights, buffers, counts), strict=True):
            views |= self._views_by_id(vector, kind)
        return {
            name: views[id(value)]
            if id(value) in views
            else value.detach().to(weights.device, copy=True)
            for name, value in self.model.state_dict(keep_vars=True).items()
        }

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector as long as the weights as one view per trainable parameter, by name."""
        views = self._views_by_id(vector, _Values.of(self.model).trainable)
        own = self.model.state_dict(keep_vars=True)
        return {name: views[id(value)] for name, value in own.items() if id(value) in views}

    def _views_by_id(self, vector: Tensor, values: Sequence[Tensor]) -> dict[int, Tensor]:
        """Each value's view of `vector`, by identity: a parameter may have two names."""
        return dict(zip(map(id, values), self._views(vector, values), strict=True))

    def _places(self, values: Sequence[Tensor]) -> list[int]:
        """Where each value begins in its vector, and the vector's size."""
        places, end = [], 0
        for value in values:
            places.append(-(-end // self._unit) * self._unit)
            end = places[-1] + value.numel()
        return [*places, end]

    def _views(self, vector: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
        """Views of `vector`, one after the other, in the values' shapes and memory formats."""
        *places, size = self._places(values)
        assert vector.numel() == size
        return [
            _shaped(vector[start : start + value.numel()], value)
            for start, value in zip(places, values, strict=True)
        ]


class Leaves:
    """What a GPU's steps are differentiated by: weights are cast, and gradients gathered, at once.

    Autocast casts every weight, casts its gradient back and adds it to its place, each by a kernel
    of its own: a fifth of a step's kernels, for the same numbers. A step calls `begin`, then for
    each part of its batch `forward` and, after backward, `gather`.

    lowered: whether the weights of convolutions and linear layers come as bfloat16, as autocast to
    it would have them; else only the gradients are gathered.
    """

    def __init__(self, flat: FlatModel, *, lowered: bool) -> None:
        self.flat = flat
        self._vector = torch.zeros_like(flat.weights, dtype=torch.bfloat16)
        trainable = _Values.of(flat.model).trainable
        casts = flat._views(self._vector, trainable)
        assert flat.weights.grad is not None
        places = flat._views(flat.weights.grad, trainable)
        names = {id(value): name for name, value in flat.model.named_parameters()}
        cast_by_autocast = {
            id(value)
            for module in flat.model.modules()
            if lowered and isinstance(module, (nn.Conv2d, nn.Linear))
            for value in module.parameters(recurse=False)
        }
        self._given: dict[str, Tensor] = {}
        # of bfloat16 and of float32: a kernel takes many tensors of one type
        self._pairs: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
        for value, cast, place in zip(trainable, casts, places, strict=True):
            value.grad = None
            if id(value) in cast_by_autocast:
                leaf = cast.detach().requires_grad_()
                self._given[names[id(value)]] = leaf
                self._pairs[0].append((leaf, place))
            else:
                self._pairs[1].append((value, place))
        self._first = True

    def begin(self) -> None:
        """Cast the weights of the coming step."""
        self._first = True
        for leaf, _ in [*self._pairs[0], *self._pairs[1]]:
            # left over where an earlier step broke off
            leaf.grad = None
        if self._given:
            self._vector.copy_(self.flat.weights.detach())

    def forward(self, images: Tensor) -> Any:
        """What the model makes of the images."""
        return functional_call(self.flat.model, self._given, (images,))

    @torch.no_grad()
    def gather(self) -> None:
        """Bring what backward has just found into `flat.weights.grad`, which begins as zeros."""
        for pairs in self._pairs:
            met = [(leaf.grad, place) for leaf, place in pairs if leaf.grad is not None]
            if met:
                places = [place for _, place in met]
                found = [_with_strides_of(place, gradient) for gradient, place in met]
                (torch._foreach_copy_ if self._first else torch._foreach_add_)(places, found)
            for leaf, _ in pairs:
                leaf.grad = None
        self._first = False


def _with_strides_of(place: Tensor, value: Tensor) -> Tensor:
    """The same tensor with the strides of `place`, which sides of one pixel leave open.

    Only tensors of the same strides are copied many at once.
    """
    for size, wanted, stride in zip(place.shape, place.stride(), value.stride(), strict=True):
        if size > 1 and wanted != stride:
            return value
    return value.as_strided(place.shape, place.stride())


class _Values(NamedTuple):
    """A model's tensors by the vector that they go into, each once."""

    trainable: list[Tensor]
    others: list[Tensor]
    counts: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> _Values:
        values = {id(value): value for value in model.state_dict(keep_vars=True).values()}.values()
        floats = [value for value in values if value.dtype == torch.float32]
        return cls(
            trainable=[value for value in floats if value.requires_grad],
            others=[value for value in floats if not value.requires_grad],
            counts=[value for value in values if value.dtype == torch.int64],
        )


def _shaped(part: Tensor, value: Tensor) -> Tensor:
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        batch, channels, height, width = value.shape
        return part.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return part.view(value.shape)
