"""Eyes and brows."""

from __future__ import annotations

import numpy as np

from trainer.data.synthetic.canvas import BROW, EYE, Canvas, rgb
from trainer.data.synthetic.curves import mirrored, oval, smooth
from trainer.data.synthetic.person import Face, Look, Random, near
from trainer.data.synthetic.pose import Pose


def eye(canvas: Canvas, face: Face, look: Look, pose: Pose, side: int, random: Random) -> None:
    half = 0.0525 * near(random, 1, 0.05, 0.85, 1.15)
    up = 0.0166 * look.open_eyes
    down = 0.0122 * (0.5 + 0.5 * look.open_eyes)
    tilt = 0.004
    middle = np.array([0.6205, 0.4785])
    shape = [
        (-1.0, 0.35 * down + tilt),
        (-0.62, -0.62 * up),
        (-0.1, -1.12 * up),
        (0.45, -0.92 * up),
        (1.0, -0.05 * up - tilt),
        (0.6, 0.75 * down),
        (0.0, 1.1 * down),
        (-0.55, 0.95 * down),
    ]
    ring = np.array([(middle[0] + half * x, middle[1] + y) for x, y in shape])
    outline = smooth(pose.at(mirrored(ring, side)), 2)
    shut = look.open_eyes < 0.46
    canvas.part(outline, face.skin * 0.93 if shut else (222, 214, 208), EYE[side])
    if not shut:
        patch, draw, key = canvas.inside(outline)
        centre = np.array([middle[0] + side * half * look.gaze * 0.5, middle[1] - 0.001])
        for radius, colour in (
            (0.0200, look.iris * 0.5),
            (0.0178, look.iris),
            (0.0088, np.array([14, 12, 12])),
        ):
            disc = pose.at(mirrored(oval(centre[0], centre[1], radius, radius), side))
            draw.polygon(canvas.local(disc, key), fill=rgb(colour))
        lid = mirrored(oval(middle[0], middle[1] - 1.55 * up, half * 1.1, up), side)
        draw.polygon(canvas.local(pose.at(lid), key), fill=(120, 100, 96))
        canvas.close(patch, key)
        glint = pose.at(mirrored(oval(centre[0], centre[1], 0.0035, 0.0035, 10), side)) + np.array(
            [0.004, -0.006]
        )
        canvas.part(glint, (250, 250, 250), None)
    lash = mirrored(ring[[0, 1, 2, 3, 4]], side)
    dark = np.minimum(face.hair_colour * 0.5, face.skin * 0.35)
    thick = 0.0062 if face.feminine else 0.0038
    canvas.line(smooth(pose.at(lash), 2, closed=False), dark, thick)
    canvas.line(
        smooth(pose.at(mirrored(ring[[4, 5, 6, 7, 0]], side)), 2, closed=False),
        face.skin * 0.62,
        0.002,
    )
    fold = mirrored(ring[[0, 1, 2, 3, 4]] - (0, 0.014), side)
    canvas.line(smooth(pose.at(fold), 2, closed=False), face.skin * 0.7, 0.0028)


def brow(canvas: Canvas, face: Face, look: Look, pose: Pose, side: int, random: Random) -> None:
    raised = random.normal(0, 0.011)
    arch = near(random, 0.022, 0.008, 0.002, 0.04)
    thick = 0.0285 * look.brow
    reach = random.normal(0.222, 0.014)
    inner = random.normal(0.549, 0.007)
    at = np.linspace(0, 1, 9)
    x = inner + (reach - inner + 0.5) * at
    spine = 0.4365 - raised - arch * np.sin(np.pi * np.clip(at * 0.9 + 0.02, 0, 1)) * 1.15
    width = thick * np.interp(at, [0, 0.15, 0.55, 1], [0.75, 1.05, 0.9, 0.25])
    ring = np.concatenate(
        [np.stack([x, spine - width / 2], 1), np.stack([x, spine + width / 2], 1)[::-1]]
    )
    outline = smooth(pose.at(mirrored(ring, side)), 2)
    colour = np.minimum(face.hair_colour * 0.7, face.skin * 0.66)
    share = near(random, 0.75, 0.12, 0.45, 0.95)
    canvas.label(outline, BROW[side])
    canvas.blend(outline, colour, share, 0.0025)
