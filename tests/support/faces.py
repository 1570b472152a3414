"""Tiny trainings for tests: a few built-in faces, a narrow network, one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import Config, config_from_dict, with_values
from trainer.data.dataset import FaceData, load_faces
from trainer.runtime import choose_runtime

IMAGES = 40
TINY: dict[str, Any] = {
    "model": {"width": 0.2},
    "data": {"image_size": 24, "batch_size": 8, "synthetic_images": IMAGES},
    "training": {"epochs": 3, "early_stopping_patience": None},
    "runtime": {"device": "cpu", "threads": 1},
}


# the columns of history.json
ROW = [
    *("epoch", "step", "lr", "dice_weight", "train_loss", "train_ce", "train_dice", "val_ce"),
    *("val_dice", "train_f", "val_f", "val_f_per_class", "f_large", "f_small", "seconds"),
]


def timeless(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A history without what a clock wrote."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def tiny_config(values: Mapping[str, Any] | None = None) -> Config:
    """A config that trains in about a second, with some values changed."""
    return choose_runtime(with_values(config_from_dict(TINY), values or {}))


def tiny_faces(image_size: int = 24) -> FaceData:
    """The faces of `tiny_config`."""
    return load_faces("synthetic", image_size=image_size, synthetic_images=IMAGES)
