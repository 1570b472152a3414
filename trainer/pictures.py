"""Pictures of a training: its curves, and what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainer.data.classes import PALETTE
from trainer.data.dataset import Part
from trainer.files import atomic_path
from trainer.scoring import load_model, logits_of, to_device

Bytes = NDArray[np.uint8]

_TILE = 128
_GAP = 4
_HEAD = 16


def coloured(ids_HW: Bytes) -> Bytes:
    """A mask as a picture: uint8 [H, W] -> [H, W, 3]."""
    return np.array(PALETTE, dtype=np.uint8).reshape(-1, 3)[ids_HW]


def contact_sheet(weights: Path, part: Part, path: Path, *, count: int = 6) -> None:
    """Picture, truth and prediction of `count` pairs spread over a part, as one PNG or JPEG.

    weights: a checkpoint. Raises CheckpointError.
    """
    chosen = np.unique(np.linspace(0, len(part) - 1, min(count, len(part))).astype(int))
    model, _ = load_model(weights)
    images, masks = part.images[chosen], part.masks[chosen]
    with torch.inference_mode():
        predicted = logits_of(model, to_device(images, torch.device("cpu"))).argmax(dim=1)
    columns = [
        ("picture", list(images)),
        ("truth", [coloured(mask) for mask in masks]),
        ("prediction", [coloured(ids.numpy().astype(np.uint8)) for ids in predicted]),
    ]
    step = _TILE + _GAP
    sheet = Image.new("RGB", (step * len(chosen) + 76, step * len(columns) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, tiles) in enumerate(columns):
        pen.text((4, row * step + _TILE // 2), name, fill="black")
        for column, tile in enumerate(tiles):
            enlarged = Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (76 + column * step, row * step + _GAP))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


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
    # matplotlib takes half a second to import: only those who draw wait for it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    scores, losses, knobs = figure.subplots(3, 1, sharex=True)
    if any("val_f" in row for row in history):
        best = max(history, key=lambda row: row["val_f"])
        scores.plot(epochs, [row["val_f"] for row in history], label="val F", color="C0")
        scores.plot(epochs, [row["train_f"] for row in history], "--", label="train F", color="C1")
        scores.plot(
            [best["epoch"]],
            [best["val_f"]],
            "o",
            color="C0",
            label=f"best {best['val_f']:.4f} in epoch {best['epoch']}",
        )
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
