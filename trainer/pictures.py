"""Pictures of a training: its curves, and what the network sees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainer.data.cache import usable_folder, usable_home
from trainer.data.classes import NUM_CLASSES, PALETTE
from trainer.data.dataset import Part
from trainer.files import atomic_path
from trainer.history import TRAIN_F_SCORE, best_epoch, f_scores
from trainer.metrics import confusion, image_f_scores
from trainer.scoring import batches, class_ids, load_model, logits_of, to_device

Bytes = NDArray[np.uint8]

_TILE = 128
_GAP = 4
# height of the scores' line
_FOOT = 16


def coloured(ids_HW: Bytes) -> Bytes:
    """A mask as a picture: uint8 [H, W] -> [H, W, 3]."""
    return np.array(PALETTE, dtype=np.uint8).reshape(-1, 3)[ids_HW]


def contact_sheet(
    weights: Path, part: Part, path: Path, *, count: int = 6, device: torch.device | str = "cpu"
) -> None:
    """Picture, truth and prediction of a part's best and worst scored pairs, as one PNG or JPEG.

    The best ones first; of `count` pairs the larger half. Below each stands its F-score, in [0, 1],
    on the training grid. weights: a checkpoint. Raises CheckpointError.
    """
    predicted, scores = _predicted(weights, part, torch.device(device))
    ranked = np.argsort(-scores, kind="stable")
    good = min(len(ranked), (count + 1) // 2)
    chosen = np.concatenate([ranked[:good], ranked[max(good, len(ranked) - count // 2) :]])
    columns = [
        ("picture", [part.images[i] for i in chosen]),
        ("truth", [coloured(part.masks[i]) for i in chosen]),
        ("prediction", [coloured(predicted[i]) for i in chosen]),
    ]
    step = _TILE + _GAP
    size = (step * len(chosen) + 76, step * len(columns) + _GAP + _FOOT)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, tiles) in enumerate(columns):
        pen.text((4, row * step + _TILE // 2), name, fill="black")
        for column, tile in enumerate(tiles):
            enlarged = Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (76 + column * step, row * step + _GAP))
    for column, score in enumerate(scores[chosen]):
        pen.text((76 + column * step, len(columns) * step + _GAP), f"F {score:.3f}", fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary)


@torch.inference_mode()
def _predicted(
    weights: Path, part: Part, device: torch.device
) -> tuple[Bytes, NDArray[np.float64]]:
    """Class ids uint8 [N, S, S] and the score of each image [N]."""
    model, config = load_model(weights, device)
    ids, scores = [], []
    for where in batches(len(part), config, device):
        found = class_ids(logits_of(model, to_device(part.images[where], device)))
        truth = to_device(part.masks[where], device).long()
        scores.append(image_f_scores(confusion(found, truth, NUM_CLASSES)).cpu().numpy())
        ids.append(found.to(torch.uint8).cpu().numpy())
    return np.concatenate(ids), np.concatenate(scores)


def curves_picture(
    history: Sequence[dict[str, Any]],
    path: Path,
    *,
    title: str = "",
    restarts: Sequence[float] = (),
) -> None:
    """Scores, losses, learning rate and Dice weight over the epochs, as one picture.

    history: rows of history.json. restarts: epochs after which the learning rate starts anew.
    """
    if usable_home() is None:
        # matplotlib keeps its list of fonts there, and would make another in every process
        os.environ.setdefault("MPLCONFIGDIR", str(usable_folder() / "matplotlib"))
    # matplotlib takes half a second to import: only those who draw wait for it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    scores, losses, knobs = figure.subplots(3, 1, sharex=True)
    val = f_scores(history)
    best = best_epoch(val)
    if best is not None:
        train = [row[TRAIN_F_SCORE] for row in history]
        scores.plot(epochs, list(val.values()), label="val F", color="C0")
        scores.plot(epochs, train, "--", label="train F", color="C1")
        label = f"best {val[best]:.4f} in epoch {best}"
        scores.plot([best], [val[best]], "o", color="C0", label=label)
        scores.legend(loc="lower right")
        losses.plot(epochs, [row["val_ce"] for row in history], label="val CE", color="C0")
        losses.plot(epochs, [row["val_dice"] for row in history], label="val Dice", color="C2")
    losses.plot(epochs, [row["train_ce"] for row in history], "--", label="train CE", color="C0")
    losses.plot(
        epochs, [row["train_dice"] for row in history], "--", label="train Dice", color="C2"
    )
    losses.legend(loc="upper right")
    scores.set_ylabel("F-score")
    losses.set_ylabel("loss, unweighted")
    knobs.plot(epochs, [row["lr"] for row in history], color="C3")
    knobs.set_ylabel("learning rate at epoch's end")
    weights = knobs.twinx()
    weights.plot(epochs, [row["dice_weight"] for row in history], "--", color="C4")
    weights.set_ylabel("Dice weight (dashed)")
    knobs.set_xlabel("epoch")
    for axes in (scores, losses, knobs):
        for epoch in restarts:
            axes.axvline(epoch, color="grey", linewidth=0.6, linestyle=":")
    if title:
        # a dollar sign in a name starts no formula
        scores.set_title(title, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
