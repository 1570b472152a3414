"""The skull with its cheeks and beard, and the ears."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import EAR, SKIN, Canvas
from trainer.data.synthetic.curves import mirrored, oval, smooth
from trainer.data.synthetic.person import Face, Look, Random, near
from trainer.data.synthetic.pose import Pose, outline


def head(canvas: Canvas, face: Face, look: Look, pose: Pose) -> None:
    left, right = outline(face, pose)
    skull = smooth(np.concatenate([left, right[::-1]]), 2)
    canvas.part(skull, face.skin, SKIN)
    # cheeks, temples, the shade beside the nose and under the brows
    for side in (-1, 1):
        cheek = pose.at(mirrored(oval(0.615, 0.63, 0.06, 0.05), side))
        canvas.soften(cheek, 0.07)
        canvas.blend(cheek, face.skin * np.array([1.0, 0.78, 0.76]), 0.28, 0.025)
        canvas.soften(pose.at(mirrored(oval(0.72, 0.73, 0.04, 0.09), side)), -0.14)
        canvas.soften(pose.at(mirrored(oval(0.62, 0.465, 0.062, 0.034), side)), -0.2)
        canvas.soften(pose.at(mirrored(oval(0.55, 0.46, 0.02, 0.03), side)), -0.2)
        canvas.soften(pose.at(mirrored(oval(0.715, 0.36, 0.03, 0.1), side)), -0.1)
    canvas.soften(pose.at(oval(0.5, 0.3, 0.12, 0.06)), 0.1)
    canvas.soften(pose.at(oval(0.5, 0.835, 0.06, 0.012)), -0.2)
    canvas.soften(pose.at(oval(0.5, 0.88, 0.05, 0.025)), 0.08)
    if look.beard:
        shape = [(0.285, 0.6), (0.33, 0.69), (0.4, 0.695), (0.5, 0.69)]
        shape += [(1 - x, y) for x, y in shape[-2::-1]]
        shape += [(0.72, 0.8), (0.6, 0.92), (0.5, 0.94), (0.4, 0.92), (0.28, 0.8)]
        hair = face.hair_colour * 0.75
        canvas.blend(pose.at(smooth(shape)), hair, look.beard, 0.014)


def ear(canvas: Canvas, face: Face, pose: Pose, side: int, random: Random) -> None:
    high = near(random, 1, 0.12, 0.7, 1.4)
    wide = near(random, 1, 0.2, 0.55, 1.6)
    base = 0.5 + 0.262 * face.width
    shape = np.array(
        [
            (base - 0.03, 0.49),
            (base + 0.02 * wide, 0.455),
            (base + 0.062 * wide, 0.465),
            (base + 0.078 * wide, 0.51),
            (base + 0.058 * wide, 0.575),
            (base + 0.042 * wide, 0.63),
            (base + 0.018 * wide, 0.662),
            (base - 0.012, 0.652),
            (base - 0.035, 0.6),
        ]
    )
    shape[:, 1] = 0.56 + (shape[:, 1] - 0.56) * high
    outline = smooth(pose.solid(mirrored(shape, side), -0.2), 2)
    canvas.part(outline, face.skin * np.array([0.97, 0.88, 0.86]), EAR[side])
    inner = shape[1:7] * (0.6, 1) + (0.4 * (base + 0.02), 0)
    inner[:, 1] = 0.55 + (inner[:, 1] - 0.55) * 0.75
    canvas.line(
        smooth(pose.solid(mirrored(inner, side), -0.2), 2, closed=False),
        face.skin * np.array([0.7, 0.58, 0.56]),
        0.007,
    )
