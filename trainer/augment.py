"""Augmentation of whole batches on the device where training runs.

B batch, C colour channel, H row, W column. Every call draws all its random numbers, wanted or not,
in a fixed order from one generator, so that switching one key on or off leaves the numbers of
the others as they were. An operation whose setting is 0 is not run at all.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainer.data.classes import SWAP

if TYPE_CHECKING:
    from trainer.config.sections import AugmentationConfig

# mean RGB of the published set (DOMAIN.md) and a rounded spread of its pixels; part of the
# model's contract, so that a checkpoint needs no statistics of its own data
MEAN_RGB = (0.502, 0.404, 0.352)
SD_RGB = (0.285, 0.265, 0.265)
# luma weights of ITU-R BT.601, the usual grey of a colour picture
GREY_RGB = (0.299, 0.587, 0.114)

# a crop keeps between half and nearly all of each side
CROP_SIDE = (0.5, 0.95)
# an erased rectangle covers up to this share of each side
ERASED_SIDE = (0.1, 0.35)


class _Draw(IntEnum):
    """Rows of the table of random numbers; append only, or every seed changes its meaning."""

    FLIP = 0
    ANGLE = auto()
    SCALE = auto()
    SHIFT_X = auto()
    SHIFT_Y = auto()
    CROP = auto()
    CROP_SIDE = auto()
    CROP_X = auto()
    CROP_Y = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()
    CUTMIX = auto()
    CUTMIX_ORDER = auto()
    CUTMIX_AREA = auto()
    CUTMIX_X = auto()
    CUTMIX_Y = auto()
    ERASE = auto()
    ERASE_WIDTH = auto()
    ERASE_HEIGHT = auto()
    ERASE_X = auto()
    ERASE_Y = auto()


class Draws(NamedTuple):
    """The random numbers of one batch: uniform [draw, B], and a seed for noise on every pixel."""

    table: Tensor
    noise_seed: int


def drawn(count: int, generator: torch.Generator) -> Draws:
    """Random numbers for `count` pictures, on the generator's device."""
    table = torch.rand(len(_Draw), count, generator=generator, device=generator.device)
    # pixel noise needs many numbers: one seed for them, drawn always, keeps the order fixed
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return Draws(table, int(seed.item()))


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A vector that is sent to a device once, not with every batch."""
    return torch.tensor(values, device=device)


def normalise(images: Tensor) -> Tensor:
    """Pictures as the model wants them.

    images: uint8 [B, H, W, 3] or [B, 3, H, W].
    Returns float32 [B, 3, H, W], contiguous, about zero mean and unit spread per channel.
    Raises ValueError on another shape or type.
    """
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or 3 not in (images.shape[1], images.shape[3])
    ):
        raise ValueError(
            f"pictures must be uint8 [B, H, W, 3] or [B, 3, H, W],"
            f" got {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1] != 3:
        images = images.permute(0, 3, 1, 2)
    mean = _constant(MEAN_RGB, images.device)[:, None, None]
    sd = _constant(SD_RGB, images.device)[:, None, None]
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    # one pass: (x / 255 - mean) / sd
    return torch.addcmul(-mean / sd, pixels, 1 / (255 * sd))


def flip_swap(images: Tensor, masks_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror every picture and swap the left/right ids of its mask; its own inverse.

    images: [B, 3, H, W]; masks_BHW: integer [B, H, W], ids 0-18. Returns both, same types.
    """
    # one lookup table: overwriting 4 by 5 and then 5 by 4 would merge both eyes
    swap = _constant(tuple(SWAP), masks_BHW.device).to(masks_BHW.dtype)
    return images.flip(-1), swap[masks_BHW.flip(-1).long()]


def augmented(
    images: Tensor, masks_BHW: Tensor, settings: AugmentationConfig, drawn: Draws
) -> tuple[Tensor, Tensor]:
    """A random variant of every picture of a batch.

    images: uint8 as `normalise` takes them, or its float32 result [B, 3, H, W];
    masks_BHW: integer [B, H, W], ids 0-18; settings: section `augmentation` of the config.
    drawn: the only randomness, on the pictures' device.
    Returns float32 [B, 3, H, W] and int64 [B, H, W]; inputs stay as they are.
    """
    masks, draws = masks_BHW, drawn.table
    if images.shape[1] != 3:
        images = images.permute(0, 3, 1, 2)
    # as long as they are bytes
    if settings.horizontal_flip > 0:
        images, masks = _flip_some(images, masks, draws[_Draw.FLIP] < settings.horizontal_flip)
    if images.dtype == torch.uint8:
        images = normalise(images)
    images, masks = _move(images, masks, settings, draws)
    images = _recolour(images, settings, draws)
    if settings.cutmix > 0:
        images, masks = _cutmix(images, masks, settings.cutmix, draws)
    if settings.erasing > 0:
        images = _erase(images, settings.erasing, draws)
    if settings.noise > 0:
        images = _add_noise(images, settings.noise, drawn.noise_seed)
    return images, masks.long()


def _between(draw_B: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draw_B


@lru_cache(maxsize=64)
def _centres(count: int, device: torch.device) -> Tensor:
    """Pixel centres along a side whose ends are -1 and 1, computed once for a device."""
    return (torch.arange(count, device=device) + 0.5) * (2 / count) - 1


def _flip_some(images: Tensor, masks: Tensor, chosen_B: Tensor) -> tuple[Tensor, Tensor]:
    flipped_images, flipped_masks = flip_swap(images, masks)
    return (
        torch.where(chosen_B[:, None, None, None], flipped_images, images),
        torch.where(chosen_B[:, None, None], flipped_masks, masks),
    )


def _move(
    images: Tensor, masks: Tensor, settings: AugmentationConfig, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotation, scale, shift and crop as one resampling: each further one would blur again."""
    low, high = settings.scale_range
    if not (
        settings.rotation > 0 or settings.shift > 0 or settings.crop > 0 or low != 1 or high != 1
    ):
        return images, masks
    rows, columns = masks.shape[-2:]
    # of all draws at once: on a GPU a small operation takes as long as a large one
    signed = _between(draws, -1, 1)
    angle = math.radians(settings.rotation) * signed[_Draw.ANGLE]
    # a face drawn larger is sampled more densely
    zoom = 1 / _between(draws[_Draw.SCALE], low, high)
    # frame coordinates run from -1 to 1, so a shift by a share s of the frame is 2s
    shift_x = 2 * settings.shift * signed[_Draw.SHIFT_X]
    shift_y = 2 * settings.shift * signed[_Draw.SHIFT_Y]
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    # a crop looks at a window inside the moved picture: side and centre in frame coordinates
    cropped = draws[_Draw.CROP] < settings.crop
    side = torch.where(cropped, _between(draws[_Draw.CROP_SIDE], *CROP_SIDE), 1.0)
    centre_x = (1 - side) * signed[_Draw.CROP_X] - shift_x
    centre_y = (1 - side) * signed[_Draw.CROP_Y] - shift_y
    aspect = columns / rows  # rotation turns pixels, not frame coordinates
    frame_x, frame_y = _centres(columns, images.device), _centres(rows, images.device)[:, None]

    def plane(by_x: Tensor, by_y: Tensor, offset: Tensor) -> Tensor:
        by_x, by_y, offset = (value[:, None, None] for value in (by_x, by_y, offset))
        return by_x * frame_x + (by_y * frame_y + offset)

    x_BHW = plane(cosine * side, sine * side / aspect, cosine * centre_x + sine / aspect * centre_y)
    y_BHW = plane(
        -sine * side * aspect, cosine * side, -sine * aspect * centre_x + cosine * centre_y
    )
    grid = torch.stack([x_BHW, y_BHW], dim=3)
    # border: what lies outside repeats the frame's last pixels, in picture and mask alike
    moved = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    column = ((x_BHW + 1) * (columns / 2)).floor_().clamp_(0, columns - 1).long()
    row = ((y_BHW + 1) * (rows / 2)).floor_().clamp_(0, rows - 1).long()
    nearest = torch.add(column, row, alpha=columns).flatten(1)
    return moved, masks.flatten(1).gather(1, nearest).view_as(masks)


def _recolour(images: Tensor, settings: AugmentationConfig, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation as one matrix and one offset per picture.

    A factor is drawn from [1 - strength, 1 + strength]. Nothing is clipped: clipping would cost
    two more passes, and the network does not mind a value above white.
    """
    jitter = settings.color_jitter
    if not (jitter.brightness > 0 or jitter.contrast > 0 or jitter.saturation > 0):
        return images
    grey = _constant(GREY_RGB, images.device)
    mean = _constant(MEAN_RGB, images.device)
    sd = _constant(SD_RGB, images.device)
    strength = _constant((jitter.brightness, jitter.contrast, jitter.saturation), images.device)
    signed = _between(draws[_Draw.BRIGHTNESS : _Draw.SATURATION + 1], -1, 1)
    brightness, contrast, saturation = (1 + strength[:, None] * signed).unbind()
    # saturation mixes each colour with its pixel's grey, contrast with the picture's mean grey
    identity = torch.eye(3, device=images.device)
    mix_BCC = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * grey.expand(
        3, 3
    )
    mix_BCC = (brightness * contrast)[:, None, None] * mix_BCC
    mean_grey_B = (images.mean(dim=(2, 3)) * sd + mean) @ grey
    offset_BC = ((1 - contrast) * brightness * mean_grey_B)[:, None]
    # the same map between normalised colours
    mix_normal_BCC = mix_BCC * sd / sd[:, None]
    offset_normal_BC = (mix_BCC @ mean + offset_BC - mean) / sd
    # plane by plane: a product of 3x3 matrices with pictures is slower
    out = torch.empty_like(images)
    for channel in range(3):
        first, second, third = mix_normal_BCC[:, channel, :, None, None].unbind(1)
        plane = torch.addcmul(offset_normal_BC[:, channel, None, None], images[:, 0], first)
        plane.addcmul_(images[:, 1], second)
        torch.addcmul(plane, images[:, 2], third, out=out[:, channel])
    return out


def _inside(
    rows: int, columns: int, left: Tensor, top: Tensor, width: Tensor, height: Tensor
) -> Tensor:
    """Pixels of a rectangle given in shares of the frame, bool [B, H, W]."""
    x = (torch.arange(columns, device=left.device) + 0.5) / columns
    y = (torch.arange(rows, device=left.device) + 0.5) / rows
    in_x = (x >= left[:, None]) & (x < (left + width)[:, None])
    in_y = (y >= top[:, None]) & (y < (top + height)[:, None])
    return in_y[:, :, None] & in_x[:, None, :]


def _cutmix(
    images: Tensor, masks: Tensor, probability: float, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another picture of the batch, its mask too.

    Source: Yun et al., CutMix, 2019, with a pasted area uniform in [0, 1/2].
    """
    partner = draws[_Draw.CUTMIX_ORDER].argsort()
    side = (0.5 * draws[_Draw.CUTMIX_AREA]).sqrt()
    # rectangles that are not wanted get no pixel
    side = torch.where(draws[_Draw.CUTMIX] < probability, side, 0.0)
    left = (1 - side) * draws[_Draw.CUTMIX_X]
    top = (1 - side) * draws[_Draw.CUTMIX_Y]
    pasted = _inside(masks.shape[-2], masks.shape[-1], left, top, side, side)
    return (
        torch.where(pasted[:, None], images[partner], images),
        torch.where(pasted, masks[partner], masks),
    )


def _erase(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Grey out a rectangle of the picture only: the mask still asks what is behind it.

    Source: Zhong et al., Random Erasing, 2017.
    """
    chosen = draws[_Draw.ERASE] < probability
    width = torch.where(chosen, _between(draws[_Draw.ERASE_WIDTH], *ERASED_SIDE), 0.0)
    height = torch.where(chosen, _between(draws[_Draw.ERASE_HEIGHT], *ERASED_SIDE), 0.0)
    left = (1 - width) * draws[_Draw.ERASE_X]
    top = (1 - height) * draws[_Draw.ERASE_Y]
    erased = _inside(images.shape[-2], images.shape[-1], left, top, width, height)
    return images.masked_fill(erased[:, None], 0.0)  # 0 is the mean colour once normalised


def _add_noise(images: Tensor, sd: float, seed: int) -> Tensor:
    """Gaussian noise of `sd` in units of the picture's range 0 to 1, per pixel and channel."""
    own = torch.Generator(device=images.device).manual_seed(seed)
    noise = torch.randn(images.shape, generator=own, device=images.device)
    spread = sd / _constant(SD_RGB, images.device)
    return torch.addcmul(images, noise, spread[:, None, None])
