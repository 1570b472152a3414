"""Outlines: a few points made smooth, ovals, the other side.

# x to the right, y down; in sides of the picture
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [N, 2]


def smooth(points: Any, rounds: int = 3, closed: bool = True) -> Points:
    """Corners cut (Chaikin): a smooth curve near a few points."""
    points = np.asarray(points, float).reshape(-1, 2)
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1)
        cut = cut.reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


def oval(x: float, y: float, half_width: float, half_height: float, count: int = 28) -> Points:
    turn = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([x + half_width * np.cos(turn), y + half_height * np.sin(turn)], axis=1)


def mirrored(points: Any, side: int) -> Points:
    """Points drawn for the right of the image, on the given side."""
    points = np.asarray(points, float).reshape(-1, 2)
    return np.stack([0.5 + side * (points[:, 0] - 0.5), points[:, 1]], axis=1)
