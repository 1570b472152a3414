"""Hair behind the head, and over it."""

from __future__ import annotations

import math

import numpy as np

from trainer.data.synthetic.canvas import HAIR, Canvas
from trainer.data.synthetic.curves import mirrored, oval, smooth
from trainer.data.synthetic.person import SLICES, Face, Look, Random, near
from trainer.data.synthetic.pose import Pose, outline


def hair_behind(canvas: Canvas, face: Face, look: Look, pose: Pose, random: Random) -> None:
    if face.style != "long":
        return
    volume = 0.085 * look.volume
    end = 0.62 + 0.42 * look.length
    wave = random.uniform(0, 0.025)
    sides = []
    for side in (-1, 1):
        spread = random.normal(0.035, 0.08) + 0.05 * look.volume
        rows = []
        for y in np.linspace(0.1, end, 11):
            bulge = volume + spread * np.clip((y - 0.35) / 0.5, 0, 1.2)
            ripple = wave * math.sin(18 * y + 5 * side * look.part) * np.clip(4 * y - 1, 0, 1)
            half = np.interp(y, SLICES[:6, 0], SLICES[:6, 1]) * face.width
            rows.append((0.5 + side * (half + bulge + ripple), y - 0.6 * volume * (y < 0.3)))
        rows.append((0.5 + side * 0.14, end + 0.03))
        sides.append(pose.solid(rows, -0.27))
    outline = smooth(np.concatenate([sides[0][::-1], sides[1]])[:-1], 2)
    canvas.part(outline, face.hair_colour * 0.72, HAIR)


def hair_before(canvas: Canvas, face: Face, look: Look, pose: Pose, random: Random) -> None:
    style = face.style
    if style == "bald":
        return
    if look.hat and random.random() < 0.45 and style != "long":
        return
    volume = {"buzz": 0.014, "short": 0.055, "tied": 0.035, "long": 0.08}[style] * look.volume
    fringe = 0.0
    if style == "long" and look.fringe < 0.16:
        fringe = random.uniform(0.08, 0.14)
    elif style == "short" and look.fringe < 0.25:
        fringe = random.uniform(0.02, 0.08)
    line = near(random, 0.215, 0.022, 0.15, 0.27) + fringe
    if style == "buzz":
        line -= 0.01
    part = look.part
    left, right = outline(face, pose, grow=volume)
    # the outer edge, over the skull, down to where the hair ends beside the face
    reach = {"buzz": 0.44, "short": 0.5, "tied": 0.42, "long": 0.5}[style]
    rows = face.slices()
    keep = rows[:, 0] < reach
    lift = np.clip((0.36 - rows[:, 0]) / 0.3, 0, 1) * volume * 1.15
    up = np.stack([np.zeros_like(lift), lift], axis=1)
    outer_left, outer_right = (left - up)[keep], (right - up)[keep]
    temple = 0.5 + 0.243 * face.width
    inner = [
        (temple + 0.012, reach),
        (temple, 0.42),
        (temple - 0.012, 0.34),
        (0.5 + 0.17, line + 0.035 + 0.3 * fringe),
        (0.5 + 0.08 + 0.5 * part, line + 0.004),
        (0.5 + part, line - 0.012),
        (0.5 - 0.08 + 0.5 * part, line + 0.004),
        (0.5 - 0.17, line + 0.035 + 0.3 * fringe),
        (1 - temple + 0.012, 0.34),
        (1 - temple, 0.42),
        (1 - temple - 0.012, reach),
    ]
    if style == "long" and not fringe:
        # parted hair falls from the parting to the temples
        fall = random.uniform(0.0, 0.05)
        inner[3] = (0.5 + 0.19, line + 0.075 + fall)
        inner[7] = (0.5 - 0.19, line + 0.075 + fall)
        inner[5] = (0.5 + part, line - 0.03)
    inner_points = smooth(pose.at(inner), 2, closed=False)
    outer = np.concatenate([outer_left[::-1], outer_right])
    cap = np.concatenate([outer, inner_points])
    canvas.part(cap, face.hair_colour, HAIR)
    if style == "tied" and random.random() < 0.5:
        bun = pose.solid(oval(0.5, 0.06, 0.1, 0.08), -0.3)
        canvas.part(bun, face.hair_colour * 0.9, HAIR)
    if style == "long":
        end = 0.62 + 0.42 * look.length
        for side in (-1, 1):
            _lock(canvas, face, look, pose, side, end, volume, random)
    if style != "buzz":
        gleam = [(0.3, 0.16), (0.42, 0.115), (0.58, 0.115), (0.7, 0.16), (0.6, 0.145), (0.4, 0.145)]
        shine = smooth(pose.solid(gleam, -0.1), 2)
        share = random.uniform(0.05, 0.3)
        canvas.blend(shine, np.clip(face.hair_colour * 1.5 + 25, 0, 255), share, 0.02)


def _lock(
    canvas: Canvas,
    face: Face,
    look: Look,
    pose: Pose,
    side: int,
    end: float,
    volume: float,
    random: Random,
) -> None:
    """Hair that falls beside the face, over the ear or behind it."""
    edge = 0.262 * face.width
    wave = random.uniform(0, 0.02)
    if look.covered[side]:
        inward = random.uniform(-0.035, 0.012)
        inner_y = np.linspace(0.3, end, 9)
        inner_x = edge + inward - 0.03 * np.clip((0.5 - inner_y) / 0.2, 0, 1)
        inner_x = inner_x + wave * np.sin(14 * inner_y)
        inner_x = inner_x - random.uniform(0.0, 0.09) * np.clip((inner_y - 0.7) / 0.3, 0, 1)
    else:
        # tucked: the lock comes out behind the ear
        inner_y = np.linspace(0.62, max(end, 0.78), 7)
        inner_x = edge - 0.01 - 0.03 * np.clip((inner_y - 0.62) / 0.2, 0, 1)
        inner_x = inner_x + wave * np.sin(14 * inner_y)
    outer_y = inner_y[::-1]
    outer_x = 0.272 + volume + 0.05 * np.clip((outer_y - 0.4) / 0.5, 0, 1)
    if not look.covered[side]:
        outer_x = np.maximum(outer_x, inner_x[::-1] + 0.04)
        depth = -0.25
    else:
        depth = -0.17
    ring = np.concatenate([np.stack([inner_x, inner_y], 1), np.stack([outer_x, outer_y], 1)])
    ring[:, 0] = 0.5 + ring[:, 0]
    canvas.part(smooth(pose.solid(mirrored(ring, side), depth), 2), face.hair_colour * 0.92, HAIR)
