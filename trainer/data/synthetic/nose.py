"""The nose."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import NOSE, Canvas
from trainer.data.synthetic.curves import mirrored, oval, smooth
from trainer.data.synthetic.person import Face, Random, near
from trainer.data.synthetic.pose import Pose


def nose(canvas: Canvas, face: Face, pose: Pose, random: Random) -> None:
    wide = near(random, 1.0, 0.1, 0.75, 1.3) * (0.97 if face.feminine else 1.04)
    low = random.normal(0.670, 0.008)
    half = [
        (0.527, 0.456, 0.01),
        (0.533, 0.52, 0.03),
        (0.547, 0.58, 0.055),
        (0.568, 0.615, 0.05),
        (0.583, 0.638, 0.035),
        (0.579, 0.660, 0.03),
        (0.545, 0.666, 0.055),
        (0.512, low + 0.004, 0.065),
    ]
    right = [(0.5 + (x - 0.5) * wide, y, lift) for x, y, lift in half]
    left = [(1 - x, y, lift) for x, y, lift in reversed(right)]
    ring = np.array(right + left)
    outline = smooth(pose.at(ring[:, :2], ring[:, 2] * 1.2), 2)
    canvas.part(outline, face.skin * 1.01, NOSE)
    dark = face.skin * np.array([0.5, 0.4, 0.38])
    for side in (-1, 1):
        wing = mirrored([(0.53 * wide + 0.5 * (1 - wide), 0.659)], side)[0]
        nostril = pose.at(oval(wing[0], wing[1], 0.0125, 0.0065), 0.05)
        canvas.blend(nostril, dark, 0.85, 0.003)
        crease = mirrored([(0.548, 0.615), (0.574, 0.635), (0.578, 0.66), (0.565, 0.671)], side)
        bent = smooth(pose.at(crease, 0.035), 2, closed=False)
        canvas.line(bent, face.skin * np.array([0.82, 0.74, 0.72]), 0.003)
        canvas.soften(pose.at(mirrored(oval(0.545, 0.575, 0.014, 0.06), side), 0.03), -0.12)
    canvas.soften(pose.at(oval(0.5, 0.55, 0.012, 0.08), 0.06), 0.16)
    canvas.soften(pose.at(oval(0.5, 0.635, 0.02, 0.018), 0.09), 0.2)
    canvas.soften(pose.at(oval(0.5, 0.69, 0.04, 0.012), 0.02), -0.22)
