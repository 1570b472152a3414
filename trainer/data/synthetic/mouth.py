"""Lips, and the mouth between them."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import L_LIP, MOUTH, U_LIP, Canvas
from trainer.data.synthetic.curves import oval, smooth
from trainer.data.synthetic.person import Look, Random, near
from trainer.data.synthetic.pose import Pose


def mouth(canvas: Canvas, look: Look, pose: Pose, random: Random) -> None:
    half = near(random, 0.104, 0.011, 0.075, 0.135) + 0.5 * max(0, look.smile)
    upper = near(random, 0.0245, 0.006, 0.011, 0.04)
    lower = near(random, 0.04, 0.008, 0.02, 0.06)
    line = 0.7415 - 0.32 * look.gape + random.normal(0, 0.005)
    corner = line - look.smile + 0.45 * look.gape
    top = line - upper
    below = line + look.gape
    bottom = below + lower
    x = np.array([-1, -0.72, -0.4, -0.14, 0, 0.14, 0.4, 0.72, 1.0]) * half + 0.5
    bow = np.array([0, 0.42, 0.86, 1.06, 0.93, 1.06, 0.86, 0.42, 0])
    dip = np.array([0, 0.62, 0.92, 1.0, 1.04, 1.0, 0.92, 0.62, 0])

    def edge(y: float, shape: np.ndarray) -> np.ndarray:
        return np.stack([x, corner + (y - corner) * shape], axis=1)

    upper_edge, between = edge(top, bow), edge(line, dip)
    opening, lower_edge = edge(below, dip), edge(bottom, dip)
    lift = 0.02
    if look.gape > 0:
        hole = smooth(pose.at(np.concatenate([between, opening[::-1]]), lift), 2)
        canvas.part(hole, (70, 26, 28), MOUTH)
        patch, draw, key = canvas.inside(hole)
        shown = min(look.gape * 0.8, 0.03)
        teeth = np.concatenate(
            [between - np.array([0, 0.004]), (between + np.array([0, shown]))[::-1]]
        )
        teeth[:, 0] = 0.5 + (teeth[:, 0] - 0.5) * 0.86
        draw.polygon(canvas.local(smooth(pose.at(teeth, lift), 2), key), fill=(226, 218, 206))
        for at in np.linspace(-0.6, 0.6, 7) * half + 0.5:
            gap = pose.at([(at, line - 0.01), (at, line + shown)], lift)
            draw.line(canvas.local(gap, key), fill=(198, 186, 176), width=1)
        canvas.close(patch, key)
    canvas.part(
        smooth(pose.at(np.concatenate([upper_edge, between[::-1]]), lift), 2), look.lip * 0.9, U_LIP
    )
    low = smooth(pose.at(np.concatenate([opening, lower_edge[::-1]]), lift), 2)
    canvas.part(low, look.lip * 1.04, L_LIP)
    shine = pose.at(oval(0.5, below + 0.45 * lower, 0.35 * half, 0.16 * lower), lift)
    canvas.blend(shine, np.clip(look.lip * 1.5 + 30, 0, 255), 0.35, 0.005)
    if look.gape == 0:
        seam = pose.at(between, lift)
        canvas.line(seam, look.lip * 0.5, 0.004)
