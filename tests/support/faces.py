"""Tiny trainings for tests: a few built-in faces, a narrow network, one thread."""

from __future__ import annotations

from collections.abc import Mapping
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


def tiny_config(values: Mapping[str, Any] | None = None) -> Config:
    """A config that trains in about a second, with some values changed."""
    return choose_runtime(with_values(config_from_dict(TINY), values or {}))


def tiny_faces(image_size: int = 24) -> FaceData:
    """The faces of `tiny_config`."""
    return load_faces("synthetic", image_size=image_size, synthetic_images=IMAGES)
