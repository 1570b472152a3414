"""Studs, rings and drops."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import EARRING, Canvas
from trainer.data.synthetic.curves import mirrored, oval
from trainer.data.synthetic.person import Face, Random
from trainer.data.synthetic.pose import Pose


def earring(canvas: Canvas, face: Face, pose: Pose, side: int, random: Random) -> None:
    metal = np.array(
        [(222, 188, 104), (212, 212, 220), (240, 236, 228), (90, 150, 160), (40, 36, 40)][
            random.integers(5)
        ],
        float,
    )
    lobe = pose.solid(mirrored([(0.5 + 0.275 * face.width, 0.655)], side), -0.19)[0]
    kind = random.random()
    size = float(np.clip(random.lognormal(0.3, 0.6), 0.5, 4.0))
    if kind < 0.25:
        canvas.part(oval(lobe[0], lobe[1], 0.013 * size**0.5, 0.013 * size**0.5), metal, EARRING)
    elif kind < 0.55:
        radius = 0.032 * size
        ring = oval(lobe[0], lobe[1] + radius, 0.75 * radius, radius)
        canvas.line(np.concatenate([ring, ring[:2]]), metal, 0.007 + 0.003 * size, EARRING)
    else:
        drop = 0.045 * size
        canvas.line(np.array([lobe, lobe + np.array([0, drop])]), metal, 0.006, EARRING)
        wide = 0.016 * size**0.7
        canvas.part(oval(lobe[0], lobe[1] + drop, wide, 1.7 * wide), metal, EARRING)
        canvas.part(
            oval(lobe[0], lobe[1] + 0.4 * drop, 0.6 * wide, 0.6 * wide), metal * 0.85, EARRING
        )
