"""The network `lmsa`.

It (light, multi-scale attention) is an encoder-decoder. The small parts of a face carry half
of the score and are a few pixels wide, so the decoder comes back to full resolution with a skip
at every stride from 1 on. Plain 3x3 convolutions do the fine grids: depthwise ones are slow on
CPUs. Where grids are coarse, parallel 3, 5 and 7 wide depthwise branches see several scales, and
a channel attention chooses among them per picture.

This file needs nothing but torch: `trainer.predict --package` puts it into the zip as it is.

B batch, C channel, H row, W column.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# channels at strides 1, 2, 4, 8, 16 for width 1.0
CHANNELS = (32, 88, 136, 176, 208)
# 8 channels before 19 classes, with dropout on them, scored 0.1 lower
MIN_CHANNELS = 16
BRANCH_SIDES = (3, 5, 7)


def channels_at(width: float) -> tuple[int, ...]:
    """Channels at strides 1, 2, 4, 8, 16: whole eights, as vector units like them.

    >>> channels_at(1.0), channels_at(0.35)
    ((32, 88, 136, 176, 208), (16, 32, 48, 64, 72))
    """
    return tuple(max(MIN_CHANNELS, 8 * round(width * channels / 8)) for channels in CHANNELS)


def _halved(x: Tensor) -> Tensor:
    """The larger of each 2x2 pixels: [B, C, H, W] -> [B, C, H // 2, W // 2]."""
    return functional.max_pool2d(x, 2)


def _raised(x: Tensor, size: torch.Size) -> Tensor:
    """The nearest pixel for each of a finer grid: [B, C, h, w] -> [B, C, *size], of x's type.

    CUDA's autocast would copy to float32, and the sum with the skip would be float32 too, only to
    be rounded for the convolution. Rounding that sum at once gives the same digits.
    """
    with torch.autocast("cuda", enabled=False):
        return functional.interpolate(x, size=size, mode="nearest")


def _conv_unit(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU: [B, in, H, W] -> [B, out, H, W]."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class MultiScaleAttention(nn.Module):
    """Parallel depthwise branches of 3, 5 and 7 pixels, weighed per channel by attention.

    [B, C, H, W] -> [B, C, H, W], residual; starts as the identity.
    Source: the branch weights are those of Li et al., Selective Kernel Networks, 2019.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=False)
            for side in BRANCH_SIDES
        )
        hidden = max(8, channels // 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.weigh = nn.Linear(hidden, channels * len(BRANCH_SIDES))
        self.leave = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        nn.init.zeros_(self.leave[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        branches = [branch(entered) for branch in self.branches]
        context_BC = torch.stack(branches).sum(dim=0).mean(dim=(2, 3))
        weights = self.weigh(functional.relu(self.squeeze(context_BC)))
        # sigmoid, not softmax: a channel may also be closed in every branch
        weights = weights.view(x.shape[0], len(branches), -1, 1, 1).sigmoid()
        mixed = sum(weights[:, i] * branch for i, branch in enumerate(branches))
        out: Tensor = x + self.leave(mixed)
        return out


class _Up(nn.Module):
    """Coarse features added to a finer skip: [B, C, h, w] and [B, D, H, W] -> [B, D, H, W]."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        # channels are reduced before the upsampling: a quarter of the work
        self.reduce = nn.Sequential(nn.Conv2d(coarse, fine, 1, bias=False), nn.BatchNorm2d(fine))
        self.mix = _conv_unit(fine, fine)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        raised = _raised(self.reduce(coarse), skip.shape[-2:])
        # added, not joined: joining takes a fifth longer on a CPU, same score within noise
        out: Tensor = self.mix(raised + skip)
        return out


class Lmsa(nn.Module):
    """Light encoder-decoder with multi-scale attention.

    Pictures float [B, 3, H, W] as `augment.normalise` makes them, any H and W from 16 up, ->
    logits [B, num_classes, H, W]. With aux in training mode: (logits, [logits at stride 4]).
    """

    def __init__(self, *, width: float, dropout: float, num_classes: int, aux: bool) -> None:
        super().__init__()
        c1, c2, c4, c8, c16 = channels_at(width)
        self.stem = _conv_unit(3, c1)
        self.stage2 = nn.Sequential(_conv_unit(c1, c2), _conv_unit(c2, c2))
        self.stage4 = nn.Sequential(_conv_unit(c2, c4), _conv_unit(c4, c4))
        self.stage8 = nn.Sequential(_conv_unit(c4, c8), MultiScaleAttention(c8))
        self.stage16 = nn.Sequential(_conv_unit(c8, c16), MultiScaleAttention(c16))
        # whole channels at the coarsest grid: single pixels there are known from their neighbours
        self.dropout = nn.Dropout2d(dropout)
        self.up8 = _Up(c16, c8)
        self.up4 = _Up(c8, c4)
        self.up2 = _Up(c4, c2)
        self.up1 = _Up(c2, c1)
        self.head = nn.Conv2d(c1, num_classes, 1)
        self.aux_head = nn.Conv2d(c4, num_classes, 1) if aux else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        x1 = self.stem(images)
        x2 = self.stage2(_halved(x1))
        x4 = self.stage4(_halved(x2))
        x8 = self.stage8(_halved(x4))
        x16 = self.dropout(self.stage16(_halved(x8)))
        y4 = self.up4(self.up8(x16, x8), x4)
        logits: Tensor = self.head(self.up1(self.up2(y4, x2), x1))
        if self.aux_head is not None and self.training:
            return logits, [self.aux_head(y4)]
        return logits
