"""Where the classes of one mask lie, and whether its left and right are reversed.

# H row, W column, C class
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.classes import IDS, NUM_CLASSES

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

_PAIRS = (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))
# how far apart the two of a pair are on an upright, frontal face, in sides of the picture
_APART = {"l_eye": 0.24, "l_brow": 0.25, "l_ear": 0.62}
# of one part from the nose; the nose moves with the head's turn, so the ear says most
_OFF_NOSE = {"l_eye": 0.12, "l_brow": 0.125, "l_ear": 0.31}


@dataclass(frozen=True)
class Shape:
    """Where the classes of a mask lie. Shares of the sides; NaN for a class that is absent.

    area_C: share of pixels. x_C, y_C: centre of gravity.
    """

    area_C: Floats
    x_C: Floats
    y_C: Floats


def shape_of(mask_HW: Bytes) -> Shape:
    """Areas and centres of the classes of a mask, uint8 [H, W], ids 0-18."""
    height, width = mask_HW.shape
    flat = mask_HW.ravel()
    area = np.bincount(flat, minlength=NUM_CLASSES).astype(float)
    columns = np.broadcast_to((np.arange(width) + 0.5) / width, mask_HW.shape).ravel()
    rows = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], mask_HW.shape).ravel()
    with np.errstate(invalid="ignore"):
        x = np.bincount(flat, columns, NUM_CLASSES) / np.where(area, area, np.nan)
        y = np.bincount(flat, rows, NUM_CLASSES) / np.where(area, area, np.nan)
    return Shape(area / flat.size, x, y)


def sides_vote(shape: Shape) -> float:
    """Below 0: left and right are reversed; above 0: they are right; 0: nothing tells.

    Each pair of eyes, brows and ears votes by the way from the right part to the left one, along
    the face's own horizontal, so a tilted head tells as well as an upright one; a part that is
    alone votes by its way from the nose. A vote is the way in shares of the usual way, clipped to
    1, so a pair that is hardly apart (a head turned far) says little.
    """
    across = _across(shape)
    votes = 0.0
    for left, right in _PAIRS:
        left_at, right_at = _at(shape, left), _at(shape, right)
        if left_at is not None and right_at is not None:
            way = float((left_at - right_at) @ across)
            votes += float(np.clip(way / _APART[left], -1, 1))
            continue
        origin = _at(shape, "nose")
        if origin is None:
            origin = _centre(shape, ("u_lip", "l_lip", "mouth"))
        if origin is None:
            continue
        for at, sign in ((left_at, 1.0), (right_at, -1.0)):
            if at is not None:
                way = sign * float((at - origin) @ across)
                # alone, a part is half a pair
                votes += 0.5 * float(np.clip(way / _OFF_NOSE[left], -1, 1))
    return votes


def is_reversed(shape: Shape) -> bool:
    """Whether the left/right ids are reversed, from where the parts lie."""
    return sides_vote(shape) < 0


def _at(shape: Shape, name: str) -> Floats | None:
    number = IDS[name]
    if shape.area_C[number] == 0:
        return None
    return np.array([shape.x_C[number], shape.y_C[number]])


def _centre(shape: Shape, names: Sequence[str]) -> Floats | None:
    """The middle of the parts that are there, each counted once; the same if sides are swapped."""
    places = [place for name in names if (place := _at(shape, name)) is not None]
    return np.mean(places, axis=0) if places else None


def _across(shape: Shape) -> Floats:
    """The direction of the person's left on an unreversed mask: a unit vector [x, y].

    A quarter turn from the way that leads from the eyes to the mouth; (1, 0) if that is hidden.
    """
    upper = _centre(shape, ("l_eye", "r_eye", "l_brow", "r_brow"))
    lower = _centre(shape, ("u_lip", "l_lip", "mouth"))
    if upper is None:
        upper = _at(shape, "nose")
    if lower is None:
        lower = _at(shape, "nose")
    if upper is None or lower is None:
        return np.array([1.0, 0.0])
    down = lower - upper
    length = float(np.hypot(*down))
    if length < 0.02:
        return np.array([1.0, 0.0])
    return np.array([down[1], -down[0]]) / length


def relabelled(shape: Shape, table: Sequence[int]) -> Shape:
    """The shape of the mask after every id went through a table that merges none."""
    back = np.argsort(np.asarray(table))
    return Shape(shape.area_C[back], shape.x_C[back], shape.y_C[back])
