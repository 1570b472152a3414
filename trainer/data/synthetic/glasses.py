"""Clear, dark, or raised to the hair."""

from __future__ import annotations

import math

import numpy as np

from trainer.data.synthetic.canvas import BROW, EYE, GLASSES, Canvas
from trainer.data.synthetic.curves import mirrored
from trainer.data.synthetic.person import Face, Look, Random, near
from trainer.data.synthetic.pose import Pose


def glasses(canvas: Canvas, face: Face, look: Look, pose: Pose, random: Random) -> None:
    dark = look.glasses != "clear"
    up = 0.0 if look.glasses != "raised" else -0.29
    half_width = near(random, 0.113, 0.012, 0.088, 0.135)
    half_height = near(random, 0.066, 0.016, 0.036, 0.105)
    frame = random.uniform(10, 70) + random.normal(0, 12, 3)
    if random.random() < 0.3:
        frame = np.array([170, 150, 110]) + random.normal(0, 20, 3)
    thick = random.uniform(0.004, 0.016)
    power = random.uniform(2.2, 4)
    keep = (*EYE.values(), *BROW.values()) if not dark else ()
    under = np.asarray(canvas.labels).copy()
    for side in (-1, 1):
        turn = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * half_width
        y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * half_height
        ring = np.stack([0.63 + x, 0.487 + up + y], axis=1)
        lens = pose.at(mirrored(ring, side), 0.05)
        canvas.label(lens, GLASSES)
        canvas.blend(lens, (22, 20, 24) if dark else (205, 215, 220), 0.93 if dark else 0.07)
        canvas.line(np.concatenate([lens, lens[:2]]), frame, thick, GLASSES)
        glint = lens[[22, 25, 28, 31]] * 0.6 + lens.mean(0) * 0.4
        canvas.blend(glint, (240, 244, 250), 0.3 if dark else 0.16, 0.006)
        arm = [(0.63 + half_width, 0.465 + up), (0.5 + 0.268 * face.width, 0.475 + up)]
        if not up:
            ends = np.concatenate(
                [pose.at(mirrored(arm[:1], side), 0.04), pose.solid(mirrored(arm[1:], side), -0.15)]
            )
            canvas.line(ends, frame, max(thick, 0.007), GLASSES)
    bridge = [(0.5 - 0.02, 0.478 + up), (0.5, 0.468 + up), (0.5 + 0.02, 0.478 + up)]
    canvas.line(pose.at(bridge, 0.06), frame, max(thick, 0.006), GLASSES)
    if keep:
        # eyes and brows are annotated through clear glasses
        marked = np.asarray(canvas.labels).copy()
        seen = np.isin(under, keep)
        marked[seen] = under[seen]
        canvas.relabel(marked)
