"""Who is drawn: head, hair and skin; what they wear, and how they hold their face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Random = np.random.Generator

_SKIN_TONES = (
    (242, 200, 174),
    (234, 186, 156),
    (224, 170, 138),
    (214, 160, 126),
    (190, 134, 100),
    (146, 98, 70),
    (104, 68, 50),
)
_SKIN_SHARES = (0.2, 0.26, 0.22, 0.14, 0.08, 0.06, 0.04)
_HAIR_TONES = (
    (34, 27, 26),
    (58, 40, 32),
    (88, 60, 42),
    (124, 86, 56),
    (178, 134, 84),
    (214, 178, 124),
    (132, 62, 36),
    (150, 144, 140),
)
_HAIR_SHARES = (0.2, 0.24, 0.19, 0.12, 0.09, 0.08, 0.04, 0.04)

# the head in front view: y, half width, depth of the middle of the slice, half depth
SLICES = np.array(
    [
        (0.06, 0.000, -0.30, 0.02),
        (0.09, 0.110, -0.29, 0.12),
        (0.15, 0.190, -0.27, 0.18),
        (0.24, 0.240, -0.23, 0.21),
        (0.34, 0.262, -0.21, 0.21),
        (0.46, 0.268, -0.20, 0.20),
        (0.58, 0.262, -0.19, 0.18),
        (0.68, 0.244, -0.17, 0.15),
        (0.77, 0.205, -0.14, 0.12),
        (0.85, 0.145, -0.10, 0.09),
        (0.905, 0.080, -0.07, 0.05),
        (0.928, 0.000, -0.05, 0.01),
    ]
)


def near(random: Random, mean: float, spread: float, low: float, high: float) -> float:
    """A normal draw, kept between two ends."""
    return float(np.clip(random.normal(mean, spread), low, high))


@dataclass(frozen=True)
class Face:
    """A head as it is built, before it is dressed."""

    yaw: float
    pitch: float
    feminine: bool
    skin: np.ndarray
    hair_colour: np.ndarray
    style: str  # bald, buzz, short, tied, long
    width: float
    jaw: float
    chin: float

    @staticmethod
    def drawn_from(random: Random) -> Face:
        feminine = bool(random.random() < 0.63)
        yaw = near(random, 0, math.radians(15), -0.75, 0.75)
        pitch = near(random, 0, math.radians(5), -0.3, 0.3)
        tone = np.array(_SKIN_TONES[random.choice(len(_SKIN_TONES), p=_SKIN_SHARES)], float)
        hair = np.array(_HAIR_TONES[random.choice(len(_HAIR_TONES), p=_HAIR_SHARES)], float)
        if feminine:
            style = str(random.choice(["long", "tied", "short"], p=[0.87, 0.09, 0.04]))
        else:
            style = str(
                random.choice(["long", "short", "buzz", "bald"], p=[0.09, 0.74, 0.12, 0.05])
            )
        return Face(
            yaw=yaw,
            pitch=pitch,
            feminine=feminine,
            skin=np.clip(tone * random.normal(1, 0.018, 3) * random.normal(1, 0.05), 20, 252),
            hair_colour=np.clip(
                hair * random.normal(1, 0.03, 3) * random.normal(1, 0.1) + random.normal(0, 4),
                8,
                250,
            ),
            style=style,
            width=random.normal(1.045, 0.05) * (0.985 if feminine else 1.015),
            jaw=random.normal(1.0, 0.05) * (0.97 if feminine else 1.05),
            chin=random.normal(0.004, 0.02) + (-0.006 if feminine else 0.012),
        )

    def slices(self) -> np.ndarray:
        """The head's slices, [44, 4], from the top to the chin."""
        table = SLICES.copy()
        table[:, 1] *= self.width * np.interp(table[:, 0], [0.5, 0.78], [1.0, self.jaw])
        table[:, 0] += np.interp(table[:, 0], [0.6, 0.93], [0.0, self.chin])
        # even steps along the outline, or the top and the chin become corners
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(table[:, :2], axis=0).T))])
        at = np.linspace(0, along[-1], 44)
        return np.stack([np.interp(at, along, column) for column in table.T], axis=1)


@dataclass(frozen=True)
class Look:
    """What the person wears and how they hold their face."""

    glasses: str | None
    hat: str | None
    earring: dict[int, bool]
    necklace: bool
    covered: dict[int, bool]  # hair over the ear
    gape: float
    smile: float
    open_eyes: float
    gaze: float
    beard: float
    fringe: float
    part: float
    volume: float
    length: float
    neckline: float
    tilt: float
    lip: np.ndarray
    iris: np.ndarray
    brow: float

    @staticmethod
    def drawn_from(face: Face, random: Random) -> Look:
        feminine = face.feminine
        glasses = None
        if random.random() < 0.062:
            glasses = str(random.choice(["clear", "dark", "raised"], p=[0.5, 0.38, 0.12]))
        hat = None
        if random.random() < 0.056:
            hat = str(random.choice(["cap", "beanie", "brim", "hood"], p=[0.3, 0.25, 0.2, 0.25]))
        long = face.style == "long"
        kind = random.random()
        # both covered, one, none: hair over the ears is what hides them
        bare = {-1: True, 1: True}
        if long:
            if kind < 0.62:
                bare = {-1: False, 1: False}
            elif kind < 0.93:
                side = 1 if random.random() < 0.54 else -1
                bare[side] = True
                bare[-side] = False
        wears = random.random() < (0.36 if feminine else 0.02)
        one = random.random()
        earring = {
            side: bool(wears and (side == 1 or one < 0.75) and (side == -1 or one > 0.2))
            for side in (-1, 1)
        }
        gape = max(0.0, random.normal(0.034, 0.016)) if random.random() < 0.565 else 0.0
        natural = np.array([176, 92, 86]) * face.skin / np.array([235, 190, 165])
        rouge = np.array(
            [(178, 40, 56), (196, 84, 92), (150, 36, 60), (206, 112, 110)][random.integers(4)],
            float,
        )
        made_up = 0.65 * random.random() if feminine else 0.0
        return Look(
            glasses=glasses,
            hat=hat,
            earring=earring,
            necklace=bool(random.random() < (0.085 if feminine else 0.012)),
            covered={side: not bare[side] for side in (-1, 1)},
            gape=float(np.clip(gape, 0, 0.075)) if gape > 0 else 0.0,
            smile=near(random, 0.012 + 0.25 * gape, 0.009, -0.012, 0.035),
            open_eyes=near(random, 1.0, 0.24, 0.4, 1.7),
            gaze=near(random, 0, 0.25, -0.6, 0.6),
            beard=0.0 if feminine or random.random() < 0.45 else random.uniform(0.12, 0.6),
            fringe=random.random(),
            part=near(random, 0, 0.08, -0.16, 0.16),
            volume=near(random, 1.1, 0.3, 0.4, 1.8),
            length=near(random, 1.0, 0.16, 0.66, 1.3),
            neckline=near(random, 0.0, 1.0, -1.7, 2),
            tilt=random.normal(0, 0.1),
            lip=natural * (1 - made_up) + rouge * made_up,
            iris=np.array(
                [(70, 46, 30), (52, 34, 26), (96, 74, 44), (88, 116, 136), (84, 104, 82)][
                    random.choice(5, p=[0.38, 0.24, 0.14, 0.16, 0.08])
                ],
                float,
            ),
            brow=near(random, 1.0, 0.32, 0.45, 2.0) * (0.9 if feminine else 1.12),
        )
