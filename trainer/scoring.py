"""Score a network on a part of a data set, on both grids.

B batch, C class, H row, W column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer import checkpoint
from trainer.augment import normalise
from trainer.config import Config
from trainer.data.classes import SWAP
from trainer.data.dataset import Part
from trainer.losses import segmentation_loss
from trainer.metrics import ScoreKeeper, Scores
from trainer.model import model_of
from trainer.pixels import Pixels
from trainer.runtime import whole_float32

# pictures that are scored at once on a CPU. On a GPU no more than were trained on at once, and no
# more pixels than 4 pictures of 512 have, which keep it busy: what scoring needs comes on top of
# what a captured step needs, since the memory of a graph is no other's
AT_ONCE = 32
PIXELS_AT_ONCE = 4 * 512**2
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Measured:
    """Scores on the training grid, and the loss parts without their weights."""

    scores: Scores
    ce: float
    dice: float


def batches(count: int, config: Config, device: torch.device) -> list[slice]:
    """Slices that cover `count` pictures in order, of as many as are scored at once.

    config: that the network was trained with. How many are scored at once changes no score.
    """
    size = AT_ONCE
    if device.type != "cpu":
        trained = config.runtime.micro_batch or config.data.batch_size
        size = max(1, min(trained, PIXELS_AT_ONCE // config.data.image_size**2))
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def to_device(array: Bytes, device: torch.device) -> Tensor:
    """A tensor of a slice of a read-only array; copied, so that the cache cannot be changed."""
    return torch.from_numpy(np.array(array)).to(device, non_blocking=True)


@whole_float32()
def logits_of(
    model: nn.Module, images: Tensor, *, tta_flip: bool = False, channels_last: bool = False
) -> Tensor:
    """Logits float32 [B, C, H, W] of pictures uint8 [B, H, W, 3]; the model is in eval mode.

    In float32 whatever the training was computed in: bfloat16 gave 0.16 % of the pixels of 100
    published faces another label, and moved a picture's score by up to 0.005.

    tta_flip: average with the mirrored picture's logits, mirrored back, left and right traded.
    """
    inputs = normalise(images)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    logits: Tensor = model(inputs).float()
    if tta_flip:
        swap = torch.tensor(SWAP, device=logits.device)
        mirrored = model(inputs.flip(-1)).float().flip(-1)[:, swap]
        logits = (logits + mirrored) / 2
    return logits


def class_ids(logits_BCHW: Tensor) -> Tensor:
    """The class with the highest logit, the first on a tie: int64 [B, H, W]."""
    # on a CPU argmax takes three times as long
    return logits_BCHW.max(dim=1).indices


@torch.inference_mode()
def measure(
    model: nn.Module,
    pixels: Pixels,
    count: int,
    config: Config,
    *,
    queued: Callable[[], None] = lambda: None,
) -> Measured:
    """Score on the training grid.

    pixels, count: the first `count` pictures of a part. model: in eval mode, on their device.
    config: of the training. queued: called after every batch, on a GPU when it was asked for, not
    when it was done. A GPU is waited for once, at the end.
    """
    keeper = ScoreKeeper()
    sums = torch.zeros(2, dtype=torch.float64, device=pixels.device)

    # a function: what one batch needed is let go before the next
    def add(images: Tensor, masks: Tensor) -> None:
        target = masks.long()
        logits = logits_of(model, images, channels_last=bool(config.runtime.channels_last))
        terms = segmentation_loss(logits, target, dice_average=config.loss.dice_average)
        sums.add_(torch.stack([terms.ce, terms.dice]).double() * len(target))
        keeper.add(class_ids(logits), target)

    for pair in pixels.slices(batches(count, config, pixels.device)):
        add(*pair)
        # whoever is called need not bear this mode
        with torch.inference_mode(False):
            queued()
    ce, dice = keeper.read_with(sums)
    return Measured(keeper.scores(), ce / count, dice / count)


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Config]:
    """A trained network in eval mode, and its config. Raises CheckpointError or ConfigError."""
    content = checkpoint.read(path)
    config = checkpoint.config_of(content, path)
    model = model_of(config)
    checkpoint.load_weights(model, content["state_dict"], path)
    return model.to(device).eval(), config


class BothGrids(NamedTuple):
    """Scores on the training grid, and at each mask's own size, image by image."""

    reduced: ScoreKeeper
    full: ScoreKeeper


def final_scores(
    weights: Path, part: Part, *, device: torch.device | str = "cpu", tta_flip: bool = False
) -> dict[str, Any]:
    """Every score of a checkpoint on a part of a data set, as `trainer.evaluate --json` prints it.

    f_score: on the training grid. f_score_full: logits upsampled bilinearly to each mask's own
    size, against the untouched mask. The others are pooled on the training grid.
    Raises CheckpointError if the checkpoint cannot be used, DataError for an unsound mask.
    """
    reduced, full = scored_images(weights, part, device=device, tta_flip=tta_flip)
    scores = dataclasses.asdict(reduced.scores())
    f_score = scores.pop("f_score")
    return {"f_score": f_score, "f_score_full": full.scores().f_score, **scores}


@torch.inference_mode()
def scored_images(
    weights: Path, part: Part, *, device: torch.device | str = "cpu", tta_flip: bool = False
) -> BothGrids:
    """What `final_scores` is made of, for who needs the score of each image.

    Raises CheckpointError if the checkpoint cannot be used, DataError for an unsound mask.
    """
    device = torch.device(device)
    model, config = load_model(weights, device)
    reduced, full = ScoreKeeper(), ScoreKeeper()
    for where in batches(len(part), config, device):
        logits = logits_of(model, to_device(part.images[where], device), tta_flip=tta_flip)
        target = to_device(part.masks[where], device)
        reduced.add(class_ids(logits), target.long())
        for offset, one in enumerate(logits):
            truth = to_device(part.full_mask(where.start + offset), device).long()
            full.add(upsampled_ids(one, *truth.shape)[None], truth[None])
    return BothGrids(reduced, full)


def upsampled_ids(logits_CHW: Tensor, height: int, width: int) -> Tensor:
    """Class ids int64 [height, width] of one picture's logits [C, H, W], upsampled bilinearly."""
    raised = functional.interpolate(
        logits_CHW[None], size=(height, width), mode="bilinear", align_corners=False
    )
    return class_ids(raised)[0]
