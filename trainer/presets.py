"""Three sizes of training, thought in optimiser steps: `demo`, `small` and `full`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Preset:
    """A size of training. steps: optimiser steps of an unpruned trial."""

    image_size: int
    width: float
    batch_size: int
    learning_rate: float
    steps: int
    why: str
    # built-in faces only; None leaves the config's
    synthetic_images: int | None = None
    synthetic_image_size: int | None = None


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        image_size=48,
        width=0.35,
        batch_size=8,
        learning_rate=8e-3,
        steps=450,
        synthetic_images=500,
        why="built-in faces on a CPU: a whole search in minutes, to see how it works",
    ),
    "small": Preset(
        image_size=64,
        width=0.35,
        batch_size=8,
        learning_rate=6e-3,
        steps=2000,
        why="own data on a CPU: enough steps for eyes and lips to appear",
    ),
    "full": Preset(
        image_size=512,
        synthetic_image_size=128,
        width=1.0,
        batch_size=12,
        learning_rate=8e-4,
        steps=20000,
        why="a GPU: the whole network on the leaderboard's grid (128 pixels on built-in faces)",
    ),
}

DEMO_WARNING = "demonstration: values do not transfer"


def steps_per_epoch(train_images: int, batch_size: int) -> int:
    """Optimiser steps of one epoch: whole batches only, at least one."""
    return max(1, train_images // batch_size)


def default_preset(root: str, *, cuda: bool) -> str:
    """The preset that fits the data and the machine."""
    if cuda:
        return "full"
    return "demo" if root == SYNTHETIC else "small"


def preset_values(
    name: str, *, root: str, train_images: int | None = None, batch_size: int | None = None
) -> dict[str, Any]:
    """What a preset sets, by key: size, width, batch size, learning rate, epochs.

    train_images: size of the training part, by which steps become epochs; without it the epochs
    are left out. batch_size: the one really used, if not the preset's.
    Raises ConfigError if there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is none of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    on_built_in = root == SYNTHETIC
    size = (preset.synthetic_image_size if on_built_in else None) or preset.image_size
    values: dict[str, Any] = {
        "data.image_size": size,
        "model.width": preset.width,
        "data.batch_size": preset.batch_size,
        "training.learning_rate": preset.learning_rate,
    }
    if on_built_in and preset.synthetic_images is not None:
        values["data.synthetic_images"] = preset.synthetic_images
    if train_images is not None:
        per_epoch = steps_per_epoch(train_images, batch_size or preset.batch_size)
        values["training.epochs"] = math.ceil(preset.steps / per_epoch)
    return values


def table() -> list[tuple[str, ...]]:
    """Rows to print: name, pixels, width, batch, learning rate, steps, why."""
    return [
        (
            name,
            str(p.image_size),
            f"{p.width:g}",
            str(p.batch_size),
            f"{p.learning_rate:g}",
            f"{p.steps:,}",
            p.why,
        )
        for name, p in PRESETS.items()
    ]
