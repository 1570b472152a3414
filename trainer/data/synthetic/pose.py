"""From the front view of a head to the plane of the picture.

# x to the right, y down, z towards the camera; all in sides of the picture
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trainer.data.synthetic.curves import Points
from trainer.data.synthetic.person import Face, Random


class Pose:
    """Turns points of the front view into the picture's plane."""

    def __init__(self, face: Face, random: Random) -> None:
        self._sin, self._cos = math.sin(face.yaw), math.cos(face.yaw)
        self._nod, self._nod_cos = math.sin(face.pitch), math.cos(face.pitch)
        self._matrix, self._shift = np.eye(2), np.zeros(2)
        eyes = self.at([(0.379, 0.4775), (0.621, 0.4775)])
        mouth = self.at([(0.5, 0.745)])[0]
        middle, across = eyes.mean(0), eyes[1] - eyes[0]
        down = mouth - middle
        # CelebA-HQ's frame, mostly from the eyes, partly from the way to the mouth
        axis = across / np.hypot(*across) + np.array([down[1], -down[0]]) / np.hypot(*down)
        axis /= np.hypot(*axis)
        scale = (0.2415 / np.hypot(*across)) ** 0.7 * (0.2675 / np.hypot(*down)) ** 0.3
        scale *= random.normal(1, 0.02)
        roll = -math.atan2(axis[1], axis[0]) + float(random.normal(0, math.radians(1.6)))
        turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        self._matrix = scale * turn
        goal = np.array([0.5, 0.4775]) + random.normal(0, (0.005, 0.004))
        self._shift = goal - self._matrix @ middle

    def at(self, points: Any, lift: Any = 0.0) -> Points:
        """Points on the face's surface; `lift` raises them from it."""
        points = np.asarray(points, float).reshape(-1, 2)
        across, down = (points[:, 0] - 0.5) / 0.34, (points[:, 1] - 0.5) / 0.52
        depth = 0.22 * (np.sqrt(np.clip(1 - across**2 - down**2, 0.0, 1)) - 1)
        return self.solid(points, depth + np.asarray(lift, float))

    def solid(self, points: Any, depth: Any) -> Points:
        """Points at a given depth."""
        points = np.asarray(points, float).reshape(-1, 2)
        x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
        depth = np.broadcast_to(np.asarray(depth, float), x.shape)
        turned_x = x * self._cos + depth * self._sin
        turned_z = depth * self._cos - x * self._sin
        turned_y = y * self._nod_cos + turned_z * self._nod
        return np.stack([turned_x, turned_y], axis=1) @ self._matrix.T + self._shift


def outline(face: Face, pose: Pose, grow: float = 0.0) -> tuple[Points, Points]:
    """The head's left and right edge in the picture, each from the top to the chin.

    On the side turned away the edge is the solid's silhouette; on the near side the face ends
    where the ear begins.
    """
    rows = face.slices()
    y, half, middle, deep = rows.T
    sin, cos = math.sin(face.yaw), math.cos(face.yaw)
    silhouette = np.sqrt((half * cos) ** 2 + (deep * sin) ** 2)
    edges = []
    for side in (-1, 1):
        # yaw > 0 looks to the right of the image: that side is the far one
        far = side * face.yaw > 0
        if far:
            wanted = middle * sin + side * silhouette
        else:
            wanted = side * half * cos + (middle + 0.03) * sin
        wanted = wanted + side * grow
        # back to front-view x at the slice's depth, so that one turn serves all points
        x = (wanted - middle * sin) / cos
        edges.append(pose.solid(np.stack([0.5 + x, y], axis=1), middle))
    return edges[0], edges[1]
