"""Caps, beanies, brims and hoods."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import HAT, Canvas
from trainer.data.synthetic.curves import mirrored, oval, smooth
from trainer.data.synthetic.person import Face, Look, Random, near
from trainer.data.synthetic.pose import Pose, outline


def hat(canvas: Canvas, face: Face, look: Look, pose: Pose, random: Random) -> None:
    colour = random.uniform(20, 210) + random.normal(0, 30, 3)
    left, right = outline(face, pose, grow=random.uniform(0.05, 0.12))
    rows = face.slices()
    brim = near(random, 0.335, 0.045, 0.22, 0.43)
    keep = rows[:, 0] < brim + 0.03
    high = np.array([0.0, random.uniform(0.05, 0.14)])
    rise = np.clip((0.3 - rows[:, 0:1]) / 0.25, 0, 1) * high
    outer = np.concatenate([(left - rise)[keep][::-1], (right - rise)[keep]])
    front = [(0.5 + 0.27, brim + 0.02), (0.5, brim - 0.035), (0.5 - 0.27, brim + 0.02)]
    crown = np.concatenate([outer, smooth(pose.at(front), 2, closed=False)])
    canvas.part(crown, colour, HAT)
    if look.hat == "cap":
        peak = [
            (0.27, brim - 0.03),
            (0.5, brim - 0.07),
            (0.73, brim - 0.03),
            (0.74, brim + 0.035),
            (0.5, brim + 0.055),
            (0.26, brim + 0.035),
        ]
        canvas.part(smooth(pose.at(peak, 0.12), 2), colour * 0.75, HAT)
    elif look.hat == "brim":
        wide = random.uniform(0.38, 0.5)
        ring = oval(0.5, brim - 0.02, wide, random.uniform(0.05, 0.1))
        band = crown - np.array([0, 0.03])
        canvas.part(crown, colour * 0.45, HAT)
        canvas.part(band, colour, HAT)
        canvas.part(pose.at(ring), colour * 0.8, HAT)
    elif look.hat == "hood":
        for side in (-1, 1):
            y = np.linspace(0.2, 1.0, 8)
            inner = 0.248 * face.width + 0.03 * np.sin(3 * y)
            outer = 0.36 + 0.16 * y + random.uniform(-0.02, 0.05)
            ring = np.concatenate([np.stack([inner, y], 1), np.stack([outer, y], 1)[::-1]])
            ring[:, 0] += 0.5
            canvas.part(pose.solid(mirrored(ring, side), -0.15), colour * 0.9, HAT)
    else:
        for at in np.linspace(0.28, 0.72, 10):
            rib = pose.solid([(0.5 + (at - 0.5) * 0.7, 0.06), (at, brim)], -0.1)
            canvas.line(rib, colour * 0.86, 0.006)
        cuff = pose.at([(0.235, brim - 0.02), (0.5, brim - 0.06), (0.765, brim - 0.02)])
        canvas.line(smooth(cuff, 2, closed=False), colour * 0.82, 0.05, HAT)
