"""Neck, shoulders, clothes and a necklace."""

from __future__ import annotations

import math

import numpy as np

from trainer.data.synthetic.canvas import CLOTH, NECK, NECKLACE, Canvas, rgb
from trainer.data.synthetic.curves import oval, smooth
from trainer.data.synthetic.person import Face, Look, Random, near
from trainer.data.synthetic.pose import Pose


def body(canvas: Canvas, face: Face, look: Look, pose: Pose, random: Random) -> None:
    """Neck, shoulders, clothes, necklace. The body keeps its own lean."""
    base = pose.solid([(0.5, 0.8)], -0.22)[0]
    lean = look.tilt + 0.09 * math.sin(face.yaw)
    stout = near(random, 1, 0.08, 0.8, 1.25) * (0.93 if face.feminine else 1.12)
    half = 0.178 * stout
    shoulder = 0.915 + 0.075 * look.neckline
    middle = float(base[0]) + lean

    def across(y: float, width: float) -> tuple[float, float, float]:
        x = base[0] + lean * (y - 0.8) / 0.2
        return x - width, x + width, y

    rows = [
        across(0.62, half * 0.96),
        across(0.78, half * 0.95),
        across(0.88, half),
        across(min(shoulder, 1.0), half * 1.08),
        across(shoulder + 0.05, half * 1.5),
        across(shoulder + 0.12, half * 2.4),
        across(1.3, half * 3),
    ]
    neck = [(low, y) for low, _, y in rows] + [(high, y) for _, high, y in reversed(rows)]
    canvas.part(smooth(neck, 2), face.skin * 0.93, NECK)
    # the chin's shadow on the neck
    shade = oval(base[0] + 0.3 * lean, 0.88, half * 1.05, 0.075)
    canvas.blend(shade, face.skin * np.array([0.6, 0.52, 0.5]), 0.6, 0.02)
    if look.necklace:
        _necklace(canvas, middle, half, shoulder, random)
    if random.random() < 0.36:
        return  # bare shoulders, or a crop above the clothes
    cloth = random.uniform(15, 225) + random.normal(0, 30, 3)
    if random.random() < 0.35:
        cloth = random.uniform(14, 60) + random.normal(0, 6, 3)
    kind = random.random()
    opening = {0: 1.12, 1: 1.35, 2: 1.9}[0 if kind < 0.4 else 1 if kind < 0.75 else 2]
    depth = random.uniform(0.0, 0.05) if kind < 0.4 else random.uniform(0.03, 0.2)
    left, right = middle - half * opening, middle + half * opening
    slope = random.uniform(0.02, 0.14)
    collar = shoulder + 0.015
    # one shoulder towards the camera, and collars that stand up beside the neck
    lift = np.array([1, -1]) * random.normal(0, 0.05) - random.uniform(0, 0.05)
    high_left, high_right = collar + lift
    neckline = [(left, high_left), (middle, collar + depth), (right, high_right)]
    if kind < 0.55:  # round instead of pointed
        neckline[1:1] = [(left + 0.3 * half, collar + 0.8 * depth)]
        neckline[-1:-1] = [(right - 0.3 * half, collar + 0.8 * depth)]
    shape = [
        (-0.3, high_left + 1.4 * slope),
        (middle - 0.45, high_left + slope),
        (left - 0.02, high_left - 0.015),
        *neckline,
        (right + 0.02, high_right - 0.015),
        (middle + 0.45, high_right + slope),
        (1.3, high_right + 1.4 * slope),
        (1.3, 1.6),
        (-0.3, 1.6),
    ]
    outline = smooth(shape, 2)
    canvas.part(outline, cloth, CLOTH)
    patch, draw, key = canvas.inside(np.clip(outline, 0, 1))
    pattern = random.random()
    if pattern < 0.2:
        other = cloth + random.normal(0, 60, 3)
        step = random.uniform(0.03, 0.08)
        for at in np.arange(0, 2, step):
            ends = np.array([(at, 0.6), (at - 0.3 * slope, 1.1)])
            draw.line(canvas.local(ends, key), fill=rgb(other), width=max(1, canvas.fine // 90))
    for _ in range(3):  # folds
        x = random.uniform(0, 1)
        ends = np.array([(x, collar), (x + random.normal(0, 0.1), 1.05)])
        draw.line(canvas.local(ends, key), fill=rgb(cloth * 0.8), width=canvas.fine // 60)
    canvas.close(patch, (key[0], outline))
    edge = smooth(neckline, 2, closed=False)
    canvas.line(edge, cloth * 0.7, 0.006)
    if 0.55 <= kind < 0.7 and not face.feminine:  # a shirt's collar under a jacket
        for side, start in ((-1, left), (1, right)):
            flap = [
                (start, collar - 0.03),
                (middle, collar + depth),
                (start + side * 0.05, collar + 0.09),
            ]
            canvas.part(np.array(flap), np.clip(cloth * 0.3 + 170, 0, 255), CLOTH)


def _necklace(canvas: Canvas, middle: float, half: float, shoulder: float, random: Random) -> None:
    metal = [(214, 180, 96), (206, 206, 212), (235, 228, 215), (60, 50, 46)][random.integers(4)]
    top = min(0.9, shoulder - 0.03) + random.normal(0, 0.02)
    drop = random.uniform(0.03, 0.09)
    turn = np.linspace(-1, 1, 15)
    curve = np.stack([middle + 1.02 * half * turn, top + drop * (1 - turn**2)], axis=1)
    canvas.line(
        curve, metal, float(random.choice([0.004, 0.006, 0.012], p=[0.5, 0.35, 0.15])), NECKLACE
    )
    if random.random() < 0.5:
        size = random.uniform(0.008, 0.02)
        canvas.part(oval(middle, top + drop + size, size, 1.3 * size), metal, NECKLACE)
