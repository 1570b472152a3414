"""Light, shade, strands of hair and camera noise, on a painted canvas."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from trainer.data.synthetic.canvas import BARE, CLOTH, EAR, FINE, HAIR, NECK, SKIN, Canvas
from trainer.data.synthetic.person import Face, Random, near

_BARE = np.isin(np.arange(256), BARE)
_BODY = np.isin(np.arange(256), (NECK, CLOTH))


def developed(canvas: Canvas, face: Face, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 [S, S, 3] and the mask uint8 [S, S] of a painted canvas."""
    labels = np.asarray(canvas.labels).copy()
    for ear in EAR.values():
        # nobody draws an outline around a sliver
        if np.count_nonzero(labels == ear) < 0.0012 * labels.size:
            labels[labels == ear] = SKIN
    image = np.asarray(canvas.picture.reduce(FINE)).astype(np.float32)
    return _lit(image, labels, canvas.shade, face, random), labels


def _lit(
    image: np.ndarray, labels: np.ndarray, shade: Image.Image, face: Face, random: Random
) -> np.ndarray:
    """Light, shade, strands of hair, camera noise; float32 [S, S, 3] in, uint8 out."""
    size = image.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    # a solid lit from one side, a little from above
    from_side = near(random, 0, 0.5, -1, 1)
    across, down = (x - 0.5) / 0.36, (y - 0.52) / 0.56
    front = np.sqrt(np.clip(1 - across**2 - down**2, 0.04, 1))
    light = 0.58 + 0.40 * front + 0.20 * from_side * across - 0.08 * down
    soft = shade.filter(ImageFilter.GaussianBlur(size * 0.009))
    soft = soft.resize((size, size), Image.Resampling.BILINEAR)
    relief = np.asarray(soft).astype(np.float32) / 128
    gain = np.ones((size, size), np.float32)
    bare = _BARE[labels]
    gain[bare] = (light * relief)[bare]
    body = _BODY[labels]
    gain[body] = (0.86 + 0.16 * from_side * across + np.zeros_like(y))[body]
    gain *= _strands(labels, face, random)
    image = image * gain[..., None]
    # the room: warmth, brightness, a gradient, contrast
    warmth = random.normal(0.02, 0.04)
    tint = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
    fall = 1 + random.normal(0, 0.1) * (x - 0.5) + random.normal(0, 0.1) * (y - 0.5)
    image = image * tint * (fall * near(random, 1.0, 0.12, 0.6, 1.3))[..., None]
    contrast = near(random, 1.0, 0.12, 0.7, 1.3)
    image = 110 + (image - 110) * contrast
    # film's shoulder: bright skin keeps its shape instead of turning white
    bright = image > 190
    image[bright] = 190 + 65 * np.tanh((image[bright] - 190) / 65)
    noise = random.standard_normal((size, size, 1), dtype=np.float32)
    grain = random.uniform(1.0, 5.0)
    return np.clip(image + grain * noise, 0, 255).astype(np.uint8)


def _strands(labels: np.ndarray, face: Face, random: Random) -> np.ndarray:
    """Light and dark strands that run from the crown; 1 outside the hair."""
    size = labels.shape[0]
    gain = np.ones((size, size), np.float32)
    rows, columns = np.nonzero(labels == HAIR)
    table = random.normal(1, 0.16, 512).astype(np.float32)
    broad = random.normal(1, 0.14, 64).astype(np.float32)
    wave = random.uniform(0, 0.25)
    rate = random.uniform(8, 26)
    if not len(rows):
        return gain
    x = (columns / size - 0.5 - 0.05 * face.yaw).astype(np.float32)
    y = (rows / size - 0.02).astype(np.float32)
    far = np.hypot(x, y)
    # strands fan out at the crown and hang straight below
    turn = np.arctan2(x, np.maximum(y, 0.02) + 0.25) + wave * 0.15 * np.sin(rate * far)
    place = (turn * 150) % 511
    low = place.astype(np.intp)
    share = place - low
    fine = table[low] * (1 - share) + table[low + 1] * share
    gain[rows, columns] = fine * broad[((turn * 16) % 63).astype(np.intp)]
    return gain
