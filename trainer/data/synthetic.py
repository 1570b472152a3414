"""Built-in faces, drawn with Pillow from a seed: all 19 classes, nobody's picture.

Positions, areas and frequencies follow the published set's (means in the numbers below, measured
over 1,000 masks). They make a search work out of the box; what is found on them says nothing of
real faces.

Coordinates are shares of the side, x to the right, y down; left and right are the person's, so the
left eye lies at x = 0.62.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.classes import IDS as ID

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Colour = tuple[int, int, int]

# changes with every change of the drawing: caches and fingerprints depend on it
VERSION = "faces-1"
SIDE = 256
SEED = 19

# how often a part is worn or seen, shares of all pictures
GLASSES, HAT, EARRINGS, NECKLACE, CLOTH, OPEN_MOUTH, NO_HAIR = (
    0.06,
    0.055,
    0.3,
    0.06,
    0.6,
    0.55,
    0.03,
)


@dataclass(frozen=True)
class SyntheticSource:
    """`count` built-in faces; the same index is the same face whatever the count."""

    count: int

    @property
    def name(self) -> str:
        return "synthetic"

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(f"face-{index:05d}" for index in range(self.count))

    def image(self, index: int) -> Bytes:
        return face(index)[0]

    def mask(self, index: int) -> Bytes:
        return face(index)[1]

    def files(self, index: int) -> tuple[Path, ...]:
        return ()


# decoding asks for the mask and then for the picture of the same face
@functools.lru_cache(maxsize=16)
def face(index: int) -> tuple[Bytes, Bytes]:
    """Face `index`: picture uint8 [256, 256, 3] and mask uint8 [256, 256], ids 0-18."""
    random = np.random.default_rng([SEED, index])
    return _Drawing(random).draw()


def _curve(centre: tuple[float, float], rx: float, ry: float, power: float = 2.0) -> Floats:
    """A closed superellipse, [48, 2]: power 2 is an ellipse, above it is boxier."""
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    cosine, sine = np.cos(t), np.sin(t)
    x = np.sign(cosine) * np.abs(cosine) ** (2 / power)
    y = np.sign(sine) * np.abs(sine) ** (2 / power)
    return np.stack([centre[0] + rx * x, centre[1] + ry * y], axis=1)


def _band(points: Sequence[tuple[float, float]], widths: Sequence[float]) -> Floats:
    """A closed band around an open line, `widths` wide at its points: brows and lips."""
    line = np.asarray(points)
    half = np.asarray(widths)[:, None] * np.array([[0.0, 0.5]])
    return np.concatenate([line - half, (line + half)[::-1]])


def _arc(x0: float, x1: float, y: float, bend: float, count: int = 13) -> list[tuple[float, float]]:
    """Points of a parabola from x0 to x1 that lies `bend` below y in its middle."""
    u = np.linspace(-1, 1, count)
    return [((x0 + x1) / 2 + (x1 - x0) / 2 * v, y + bend * (1 - v * v)) for v in u]


class _Drawing:
    """One face while it is drawn: picture and mask take the same shapes."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.image = Image.new("RGB", (SIDE, SIDE))
        self.mask = Image.new("L", (SIDE, SIDE))
        self.pen = ImageDraw.Draw(self.image)
        self.label = ImageDraw.Draw(self.mask)
        # pictures of the set are aligned by the eyes, so heads turn little in the frame
        self.roll = math.radians(self.normal(0, 3, 9))
        self.scale = self.normal(1.0, 0.03, 0.08)
        self.shift = (self.normal(0, 0.01, 0.03), self.normal(0, 0.01, 0.03))
        # a head that turns moves its outline against its features; + is towards the left ear
        self.turn = self.normal(0, 0.5, 1.0)
        self.skin = self._skin_colour()

    # --------------------------------------------------------------------------- random numbers

    def normal(self, mean: float, sd: float, limit: float) -> float:
        """A normal number, clipped to mean +- limit."""
        return mean + float(np.clip(self.random.normal(0, sd), -limit, limit))

    def between(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def _skin_colour(self) -> Floats:
        tones = np.array(
            [(241, 206, 184), (224, 176, 148), (198, 144, 112), (150, 100, 72), (96, 62, 46)]
        )
        at = self.between(0, len(tones) - 1.001) ** 1.0 * self.between(0.55, 1.0)
        low = int(at)
        tone = tones[low] + (tones[low + 1] - tones[low]) * (at - low)
        return tone + self.random.normal(0, 6, 3)

    def near(self, colour: Floats | Colour, factor: float = 1.0, sd: float = 6.0) -> Floats:
        return np.asarray(colour) * factor + self.random.normal(0, sd, 3)

    # ----------------------------------------------------------------------------------- drawing

    def place(self, points: Floats) -> list[tuple[float, float]]:
        """Shares of the side -> pixels, with the picture's roll, scale and shift."""
        x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
        cosine, sine = math.cos(self.roll), math.sin(self.roll)
        px = 0.5 + self.shift[0] + self.scale * (cosine * x - sine * y)
        py = 0.5 + self.shift[1] + self.scale * (sine * x + cosine * y)
        return list(zip((SIDE * px).tolist(), (SIDE * py).tolist(), strict=True))

    def shape(self, points: Floats, part: str | None, colour: Floats) -> None:
        """Fill a polygon in the picture; and in the mask, unless part is None (a mere detail)."""
        pixels = self.place(points)
        self.pen.polygon(pixels, fill=_rgb(colour))
        if part is not None:
            self.label.polygon(pixels, fill=ID[part])

    def draw(self) -> tuple[Bytes, Bytes]:
        """Back to front."""
        self._background()
        hair = None if self.chance(NO_HAIR) else self._hair_plan()
        if hair is not None:
            self._back_hair(hair)
        self._body()
        ears = self._ears(hair)
        self._head()
        self._eyes_and_brows()
        self._nose()
        self._mouth()
        if self.chance(GLASSES):
            self._glasses()
        if hair is not None:
            self._front_hair(hair)
        if self.chance(HAT):
            self._hat()
        if self.chance(EARRINGS):
            self._earrings(ears)
        return self._lit(), np.asarray(self.mask, dtype=np.uint8)

    def _background(self) -> None:
        top, bottom = self.random.uniform(30, 235, 3), self.random.uniform(30, 235, 3)
        rows = np.linspace(0, 1, SIDE)[:, None, None]
        ramp = top + (bottom - top) * rows
        self.image.paste(Image.fromarray(np.broadcast_to(ramp, (SIDE, SIDE, 3)).astype(np.uint8)))
        for _ in range(int(self.random.integers(0, 6))):
            blob = _curve(
                (self.between(0, 1), self.between(0, 1)),
                self.between(0.05, 0.3),
                self.between(0.05, 0.4),
                self.between(1.5, 5),
            )
            self.shape(blob, None, self.near(top if self.chance(0.5) else bottom, 1.0, 30))
        self.image = self.image.filter(ImageFilter.GaussianBlur(self.between(1, 6)))
        self.pen = ImageDraw.Draw(self.image)

    def _body(self) -> None:
        sway = 0.02 * self.turn
        half = self.between(0.15, 0.21)
        throat = self.near(self.skin, 0.86)
        neck = np.array(
            [
                (0.5 - half, 0.72),
                (0.5 + half, 0.72),
                (0.5 + half + sway, 0.93),
                (0.5 + half + 0.1, 1.1),
                (0.5 - half - 0.1, 1.1),
                (0.5 - half + sway, 0.93),
            ]
        )
        self.shape(neck, "neck", throat)
        if self.chance(CLOTH):
            colour = self.random.uniform(15, 235, 3)
            top = self.between(0.84, 0.97)
            opening = self.between(0.08, 0.3)
            depth = self.between(0.0, 0.12)
            cloth = np.array(
                [
                    (-0.1, top + 0.09),
                    (0.22, top + 0.02),
                    (0.5 - opening, top),
                    (0.5 + sway, top + depth),
                    (0.5 + opening, top),
                    (0.78, top + 0.02),
                    (1.1, top + 0.09),
                    (1.1, 1.2),
                    (-0.1, 1.2),
                ]
            )
            self.shape(cloth, "cloth", colour)
            seam = _band(_arc(0.5 - opening, 0.5 + opening, top + 0.01, depth), [0.012] * 13)
            self.shape(seam, "cloth", self.near(colour, 0.75))
        if self.chance(NECKLACE):
            y = self.between(0.9, 0.95)
            wide = self.between(0.1, 0.16)
            metal = np.array((225.0, 200.0, 120.0)) if self.chance(0.6) else np.full(3, 215.0)
            chain = _band(_arc(0.5 - wide, 0.5 + wide, y, self.between(0.03, 0.06)), [0.014] * 13)
            self.shape(chain, "neck_l", self.near(metal))

    def _head(self) -> None:
        x = 0.5 - 0.03 * self.turn
        rx, chin = self.normal(0.262, 0.012, 0.03), self.normal(0.905, 0.02, 0.04)
        top = 0.19
        t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        middle = 0.5
        # a jaw narrower than the forehead
        jaw = self.between(0.1, 0.24)
        side = np.cos(t) * rx * (1 - jaw * np.clip(np.sin(t), 0, 1) ** 2)
        height = np.where(np.sin(t) > 0, chin - middle, middle - top)
        outline = np.stack([x + side, middle + np.sin(t) * height], axis=1)
        self.shape(outline, "skin", self.skin)
        # cheeks and a shaded side tell the network of a round head
        shade = outline.copy()
        towards = math.copysign(1.0, self.turn)
        shade[:, 0] = x + (outline[:, 0] - x) * 0.35 - towards * rx * 0.62
        shade[:, 1] = middle + (outline[:, 1] - middle) * 0.72
        self.shape(shade, None, self.near(self.skin, 0.93, 2))
        blush = self.skin * np.array((1.03, 0.93, 0.92))
        for centre in (0.36, 0.64):
            self.shape(_curve((centre, 0.64), 0.06, 0.045), None, blush)
        if self.chance(0.15):
            beard = outline[np.sin(t) > 0.35] * np.array((1.0, 1.0))
            inner = _curve((x, 0.68), 0.15, 0.13)
            self.shape(beard, None, self.near(self.skin, 0.72, 3))
            self.shape(inner, None, self.skin)

    def _eyes_and_brows(self) -> None:
        iris = np.array(
            ((70, 45, 30), (60, 90, 130), (85, 110, 70), (40, 30, 25))[
                int(self.random.integers(0, 4))
            ],
            dtype=float,
        )
        openness = self.normal(0.0165, 0.004, 0.009)
        hair = self.near((60, 42, 30), self.between(0.4, 1.5))
        lift, thick = self.normal(0, 0.011, 0.025), self.normal(0.027, 0.006, 0.013)
        tilt = self.normal(0.008, 0.006, 0.015)
        gaze = self.normal(0, 0.008, 0.015)
        for sign, eye, brow in ((1, "l_eye", "l_brow"), (-1, "r_eye", "r_brow")):
            # the far eye of a turned head is narrower
            far = 1 - 0.22 * max(0.0, -sign * self.turn)
            x = 0.5 + sign * 0.121
            rx = 0.047 * far
            socket = _curve((x, 0.474), rx * 1.35, openness * 1.9)
            self.shape(socket, None, self.near(self.skin, 0.86, 3))
            eye_line = np.concatenate(
                [
                    np.asarray(_arc(x - rx, x + rx, 0.479, -openness * 1.05)),
                    np.asarray(_arc(x - rx, x + rx, 0.479, openness * 0.85))[::-1],
                ]
            )
            self.shape(eye_line, eye, self.near((228, 222, 218), 1.0, 4))
            self.shape(_curve((x + gaze, 0.478), 0.017 * far, openness * 0.95), None, iris)
            self.shape(_curve((x + gaze, 0.478), 0.007, openness * 0.5), None, np.full(3, 12.0))
            lid = _band(_arc(x - rx, x + rx, 0.478, -openness * 1.1), [0.006] * 13)
            self.shape(lid, None, np.full(3, 35.0))
            inner, outer = 0.5 + sign * 0.05, 0.5 + sign * (0.05 + 0.155 * far)
            points = _arc(min(inner, outer), max(inner, outer), 0.428 + lift, -0.018)
            leaning = [(px, py + tilt * (abs(px - 0.5) - 0.12) / 0.08) for px, py in points]
            taper = np.linspace(1.1, 0.45, 13) if sign > 0 else np.linspace(0.45, 1.1, 13)
            self.shape(_band(leaning, (thick * taper).tolist()), brow, hair)

    def _nose(self) -> None:
        tip = 0.5 + 0.02 * self.turn
        wide, end = self.normal(0.074, 0.007, 0.016), self.normal(0.664, 0.012, 0.025)
        bridge = 0.026
        outline = np.array(
            [
                (0.5 - bridge, 0.475),
                (0.5 + bridge, 0.475),
                (tip + bridge * 1.2, 0.56),
                (tip + wide, end - 0.045),
                (tip + wide * 0.8, end - 0.012),
                (tip + wide * 0.3, end),
                (tip - wide * 0.3, end),
                (tip - wide * 0.8, end - 0.012),
                (tip - wide, end - 0.045),
                (tip - bridge * 1.2, 0.56),
            ]
        )
        self.shape(outline, "nose", self.near(self.skin, 0.95, 3))
        self.shape(_curve((tip, end - 0.075), 0.016, 0.07), None, self.near(self.skin, 1.06, 2))
        for sign in (-1, 1):
            nostril = _curve((tip + sign * wide * 0.45, end - 0.014), 0.016, 0.009)
            self.shape(nostril, None, self.near(self.skin, 0.5, 3))

    def _mouth(self) -> None:
        x = 0.5 + 0.012 * self.turn
        half = self.normal(0.106, 0.014, 0.032)
        y = self.normal(0.737, 0.012, 0.025)
        opened = max(0.006, self.normal(0.034, 0.014, 0.03)) if self.chance(OPEN_MOUTH) else 0.0
        smile = self.normal(0.012, 0.012, 0.025)
        lips = self.near((178, 80, 82), self.between(0.75, 1.15)) * 0.7 + self.skin * 0.3
        upper = self.normal(0.02, 0.004, 0.009)
        lower = self.normal(0.036, 0.006, 0.014)
        u = np.linspace(-1, 1, 21)
        arch = np.sqrt(np.clip(1 - u * u, 0, 1))
        corner = y - smile * u * u
        line_top = corner - opened * 0.3 * arch
        line_bottom = corner + opened * arch
        # two peaks below the nose
        bow = arch * (1 + 0.25 * np.cos(2 * math.pi * u) * (np.abs(u) < 0.5))
        across = x + half * u
        rise, fall = line_top - upper * bow, line_bottom + lower * arch
        self.shape(_between_lines(across, rise, line_top + 0.002), "u_lip", lips)
        self.shape(_between_lines(across, line_bottom - 0.002, fall), "l_lip", lips * 1.08)
        if opened:
            inside = _between_lines(across * 0.94 + x * 0.06, line_top, line_bottom)
            teeth = np.array((232.0, 226.0, 216.0))
            dark = np.array((90.0, 40.0, 42.0))
            self.shape(inside, "mouth", teeth if self.chance(0.75) else dark)
        else:
            self.shape(_between_lines(across, corner - 0.003, corner + 0.003), None, lips * 0.6)

    def _ears(self, hair: _Hair | None) -> dict[int, tuple[float, float]]:
        """Ears that the hair leaves free; sign -> the lobe's place, also of a hidden ear."""
        lobes = {}
        for sign, part in ((1, "l_ear"), (-1, "r_ear")):
            x = 0.5 - 0.03 * self.turn + sign * 0.265
            y = self.normal(0.555, 0.02, 0.04)
            # the ear on the side that a head turns away from comes into view
            shown = max(0.25, 1 - 0.75 * max(0.0, sign * self.turn))
            rx, ry = 0.05 * shown, self.normal(0.092, 0.012, 0.025)
            lobes[sign] = (x + sign * 0.02, y + ry * 1.05)
            if hair is None or not hair.covers_ears[sign]:
                self.shape(_curve((x, y), rx, ry, 2.2), part, self.near(self.skin, 0.94, 3))
                inner = _curve((x + sign * 0.008, y), rx * 0.5, ry * 0.6)
                self.shape(inner, None, self.near(self.skin, 0.76, 3))
        return lobes

    def _glasses(self) -> None:
        dark = self.chance(0.4)
        frame = self.random.uniform(10, 90, 3)
        rx, ry = self.between(0.095, 0.125), self.between(0.055, 0.085)
        power = self.between(2, 4.5)
        for sign in (-1, 1):
            rim = _curve((0.5 + sign * 0.135, 0.482), rx, ry, power)
            self.shape(rim, "eye_g" if dark else None, frame)
            if dark:
                self.shape(
                    _curve((0.5 + sign * 0.135, 0.482), rx - 0.012, ry - 0.012, power),
                    "eye_g",
                    self.near((30, 30, 36), 1.0, 8),
                )
            else:
                self._clear_lens(sign, rx, ry, power)
        bridge = _band(_arc(0.47, 0.53, 0.47, -0.006), [0.014] * 13)
        self.shape(bridge, "eye_g", frame)
        for sign in (-1, 1):
            x0, x1 = sorted((0.5 + sign * (0.13 + rx), 0.5 + sign * 0.3))
            self.shape(_band(_arc(x0, x1, 0.468, 0.0), [0.014] * 13), "eye_g", frame)

    def _clear_lens(self, sign: int, rx: float, ry: float, power: float) -> None:
        """Through clear glass the eye is seen, but the set labels all of the lens as glasses."""
        centre = (0.5 + sign * 0.135, 0.482)
        outer = _curve(centre, rx, ry, power)
        glass = self.near(self.skin, 0.97, 3)
        self.label.polygon(self.place(outer), fill=ID["eye_g"])
        self.shape(_curve(centre, rx - 0.013, ry - 0.013, power), None, glass)
        eye = "l_eye" if sign > 0 else "r_eye"
        x = 0.5 + sign * 0.121
        self.shape(_curve((x, 0.479), 0.044, 0.017), eye, np.full(3, 225.0))
        self.shape(_curve((x, 0.479), 0.016, 0.016), None, np.full(3, 45.0))

    def _hair_plan(self) -> _Hair:
        long = self.chance(0.6)
        covered = {sign: long and self.chance(0.72) or self.chance(0.12) for sign in (-1, 1)}
        tones = (
            (28, 22, 20),
            (62, 42, 30),
            (105, 70, 42),
            (172, 132, 82),
            (205, 172, 118),
            (120, 52, 32),
            (150, 148, 146),
        )
        colour = self.near(tones[int(self.random.integers(0, len(tones)))], 1.0, 10)
        return _Hair(
            colour=colour,
            long=long,
            volume=self.between(0.0, 1.0),
            hairline=self.normal(0.3, 0.028, 0.06),
            parting=self.between(-0.6, 0.6),
            fringe=self.chance(0.18),
            covers_ears=covered,
        )

    def _back_hair(self, hair: _Hair) -> None:
        x = 0.5 - 0.02 * self.turn
        rx = 0.3 + 0.1 * hair.volume
        top = 0.115 - 0.08 * hair.volume
        if not hair.long:
            cap = _curve((x, 0.4), rx - 0.01, 0.4 - top, 2.3)
            self.shape(cap[cap[:, 1] < 0.58], "hair", self.near(hair.colour, 0.8, 3))
            return
        end = self.between(0.75, 1.15)
        wave = self.between(0.0, 0.035)
        y = np.linspace(0.4, end, 20)
        swing = wave * np.sin(np.linspace(0, self.between(4, 14), 20))
        spread = rx + (y - 0.4) * self.between(-0.05, 0.22) + swing
        crown = _curve((x, 0.42), rx, 0.42 - top, 2.2)
        crown = crown[crown[:, 1] <= 0.42]
        crown = crown[np.argsort(crown[:, 0])]
        outline = np.concatenate(
            [
                crown,
                np.stack([x + spread, y], axis=1),
                np.stack([x - spread, y], axis=1)[::-1],
            ]
        )
        self.shape(outline, "hair", self.near(hair.colour, 0.8, 3))
        self._strands(outline, hair, 10)

    def _front_hair(self, hair: _Hair) -> None:
        x = 0.5 - 0.03 * self.turn
        rx = 0.275 + 0.05 * hair.volume
        top = 0.13 - 0.06 * hair.volume
        crown = _curve((x, 0.44), rx, 0.44 - top, 2.2)
        crown = crown[crown[:, 1] <= 0.43]
        crown = crown[np.argsort(crown[:, 0])]
        u = np.linspace(1, -1, 25)
        if hair.fringe:
            low = 0.395 + 0.02 * np.sin(np.linspace(0, 20, 25)) + 0.05 * np.abs(u) ** 3
        else:
            # highest at the parting, falling towards the temples
            low = hair.hairline + 0.13 * np.abs(u - hair.parting * 0.5) ** 1.6
        edge = np.stack([x + 0.245 * u, np.minimum(low, 0.46)], axis=1)
        outline = np.concatenate([crown, edge])
        self.shape(outline, "hair", hair.colour)
        self._strands(outline, hair, 14)
        for sign in (-1, 1):
            if hair.covers_ears[sign]:
                low_end = self.between(0.66, 1.05) if hair.long else 0.6
                inner = x + sign * self.between(0.205, 0.235)
                outer = x + sign * (0.3 + 0.06 * hair.volume)
                lock = np.array(
                    [
                        (x + sign * 0.2, 0.34),
                        (outer, 0.32),
                        (outer + sign * 0.02, (0.34 + low_end) / 2),
                        (outer, low_end),
                        (inner + sign * 0.03, low_end),
                        (inner, 0.52),
                    ]
                )
                self.shape(lock, "hair", self.near(hair.colour, 0.94, 3))

    def _strands(self, outline: Floats, hair: _Hair, count: int) -> None:
        """Lighter and darker lines, only in the picture, only where the mask says hair."""
        strands = Image.new("RGB", self.image.size)
        where = Image.new("L", self.image.size)
        pen, wanted = ImageDraw.Draw(strands), ImageDraw.Draw(where)
        low, high = outline.min(axis=0), outline.max(axis=0)
        for _ in range(count):
            x0, y0 = self.random.uniform(low, high)
            bend = self.normal(0, 0.05, 0.1)
            points = np.array([(x0, y0), (x0 + bend, y0 + 0.12), (x0 + bend * 0.6, y0 + 0.26)])
            pixels = self.place(points)
            pen.line(pixels, fill=_rgb(hair.colour * self.between(0.7, 1.4)), width=3)
            wanted.line(pixels, fill=150, width=3)
        is_hair = self.mask.point([255 if i == ID["hair"] else 0 for i in range(256)])
        black = Image.new("L", self.image.size)
        self.image.paste(strands, mask=Image.composite(where, black, is_hair))

    def _hat(self) -> None:
        x = 0.5 - 0.02 * self.turn
        colour = self.random.uniform(15, 230, 3)
        brim = self.between(0.26, 0.36)
        rx = self.between(0.3, 0.38)
        crown = _curve((x, brim), rx, self.between(0.24, 0.36), self.between(2, 3.5))
        self.shape(crown[crown[:, 1] <= brim + 0.01], "hat", colour)
        wide = rx * self.between(1.0, 1.35)
        band = _band(_arc(x - wide, x + wide, brim, self.between(-0.02, 0.03)), [0.055] * 13)
        self.shape(band, "hat", self.near(colour, 0.8))

    def _earrings(self, lobes: dict[int, tuple[float, float]]) -> None:
        metal = np.array((228.0, 200.0, 110.0)) if self.chance(0.5) else np.full(3, 220.0)
        if self.chance(0.2):
            metal = self.random.uniform(20, 235, 3)
        drop = self.between(0.012, 0.075)
        for x, y in lobes.values():
            if self.chance(0.72):
                self.shape(
                    _curve((x, y + drop), self.between(0.012, 0.028), drop + 0.008),
                    "ear_r",
                    self.near(metal),
                )

    def _lit(self) -> Bytes:
        """Light from a side, a lens that is not quite sharp, a sensor that is not quite clean."""
        soft = self.image.filter(ImageFilter.GaussianBlur(self.between(0.6, 1.4)))
        pixels = np.asarray(soft, dtype=np.float64)
        across = np.linspace(-1, 1, SIDE)
        angle = self.between(0, 2 * math.pi)
        slope = math.cos(angle) * across[None, :] + math.sin(angle) * across[:, None]
        light = self.normal(0.93, 0.12, 0.25) * (1 + self.between(0, 0.25) * slope)
        tint = 1 + self.random.normal(0, 0.04, 3)
        pixels = pixels * light[:, :, None] * tint
        pixels += self.random.normal(0, self.between(2, 7), pixels.shape)
        return np.clip(pixels, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Hair:
    """One head of hair. covers_ears: by the sign of the side, + is the person's left."""

    colour: Floats
    long: bool
    volume: float
    hairline: float
    parting: float
    fringe: bool
    covers_ears: dict[int, bool]


def _between_lines(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """The closed area between two lines over the same x."""
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])


def _rgb(colour: Floats) -> Colour:
    red, green, blue = (int(np.clip(channel, 0, 255)) for channel in colour)
    return red, green, blue
