"""Convolutions of a network computed in the way in which a CPU is fastest.

They change how a network computes, not what: parameters, names and results stay (results to the
rounding of float32), and so do checkpoints. Any network made of torch's modules can have them.

B batch, C channel, D channel of the result, H row, W column, P = H * W pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# floats that a vector unit takes at a time; the class count, 19, fills no whole number of them
_LANES = 8


def use_fast_convolutions(model: nn.Module) -> nn.Module:
    """Change the pointwise and depthwise convolutions of `model`, in place; returns it.

    For networks on a CPU with channels_last tensors and channels in whole eights; others are
    computed as before, or no faster.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            if _is_pointwise(module):
                module.__class__ = Pointwise
            elif _is_depthwise(module):
                module.__class__ = Depthwise
    return model


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels > 1


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as one matrix product.

    torch unfolds and refolds the picture for it where one thread works on a small batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H, W]."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        weight = self.weight.flatten(1)
        if self.out_channels % _LANES:
            # the logits: the loss reads whole planes of a class
            bias = weight.new_zeros(self.out_channels) if self.bias is None else self.bias
            if torch.is_autocast_enabled("cpu"):
                kind = torch.get_autocast_dtype("cpu")
                x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
            planes: Tensor = _Planes.apply(x, weight, bias)
            return planes
        rows = nn.functional.linear(x.permute(0, 2, 3, 1), weight, self.bias)
        return rows.permute(0, 3, 1, 2)


class _Planes(torch.autograd.Function):
    """channels_last pixels to contiguous planes, and gradients back to channels_last."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_DC: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_DC)
        batch, _, height, width = x_BCHW.shape
        planes_BDP = torch.baddbmm(
            bias_D[:, None], weight_DC.expand(batch, -1, -1), x_BCHW.flatten(2)
        )
        return planes_BDP.view(batch, -1, height, width)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW, weight_DC = ctx.saved_tensors
        batch, _, height, width = x_BCHW.shape
        outer_BDP = outer[0].flatten(2)
        x_BPC = x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
        to_x_BPC = outer_BDP.transpose(1, 2) @ weight_DC
        to_weight_DC = torch.bmm(outer_BDP, x_BPC).sum(dim=0)
        to_x = to_x_BPC.view(batch, height, width, -1).permute(0, 3, 1, 2)
        return to_x, to_weight_DC, outer_BDP.sum(dim=(0, 2))


class Depthwise(nn.Conv2d):
    """A depthwise convolution, also under autocast in the type of its weights: faster so."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))
