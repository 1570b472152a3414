"""Small data folders on disk, made of built-in faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.classes import NAMES, PALETTE
from trainer.data.synthetic import face

REAL = Path(__file__).parent.parent.parent / "shared" / "celebamask-mini"
SIDE = 64


def save_mask(ids: np.ndarray, path: Path) -> None:
    """A palette PNG of the ids."""
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette(PALETTE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def small_face(index: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A built-in face, every fourth pixel of it."""
    image, mask = face(index)
    step = len(mask) // side
    return image[::step, ::step], mask[::step, ::step]


def course(root: Path, stems: Sequence[str], side: int = SIDE) -> Path:
    """train/images/STEM.jpg and train/masks/STEM.png."""
    (root / "train" / "images").mkdir(parents=True)
    for index, stem in enumerate(stems):
        image, mask = small_face(index, side)
        Image.fromarray(image).save(root / "train" / "images" / f"{stem}.jpg", quality=90)
        save_mask(mask, root / "train" / "masks" / f"{stem}.png")
    return root


def official(root: Path, numbers: Sequence[int], side: int = SIDE) -> Path:
    """CelebA-HQ-img/N.jpg at twice the side, CelebAMask-HQ-mask-anno/0/NNNNN_part.png."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    masks.mkdir(parents=True)
    for index, number in enumerate(numbers):
        image, mask = small_face(index, side)
        large = Image.fromarray(image).resize((2 * side, 2 * side))
        large.save(root / "CelebA-HQ-img" / f"{number}.jpg", quality=90)
        for part in np.unique(mask):
            if part:
                plane = np.where(mask == part, 255, 0).astype(np.uint8)
                Image.fromarray(plane).save(masks / f"{number:05d}_{NAMES[part]}.png")
    return root
