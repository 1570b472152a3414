"""Built-in faces: drawn with Pillow from a seed, with masks of all 19 classes.

They stand in for photographs where none may be shipped. A head is a rough solid: parts are laid
out on a front view in units of the picture's side, lifted to a depth, turned (yaw, pitch), and
aligned by eyes and mouth the way CelebA-HQ aligns its photographs. How often a part is there, how
large it is and where it lies follow the published masks (a test compares them).

# x to the right, y down, z towards the camera; all in sides of the picture
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.classes import IDS

# changes with every change of the drawing: caches and fingerprints depend on it
VERSION = "faces-3"
SIDE = 256
SEED = 19
_FINE = 2  # colours are drawn this much larger and averaged, for smooth edges

Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]  # [N, 2]

BACKGROUND, SKIN, NOSE, GLASSES = IDS["background"], IDS["skin"], IDS["nose"], IDS["eye_g"]
MOUTH, U_LIP, L_LIP = IDS["mouth"], IDS["u_lip"], IDS["l_lip"]
HAIR, HAT, EARRING = IDS["hair"], IDS["hat"], IDS["ear_r"]
NECKLACE, NECK, CLOTH = IDS["neck_l"], IDS["neck"], IDS["cloth"]
# side +1 is the right of the image, so the person's left
EYE = {1: IDS["l_eye"], -1: IDS["r_eye"]}
BROW = {1: IDS["l_brow"], -1: IDS["r_brow"]}
EAR = {1: IDS["l_ear"], -1: IDS["r_ear"]}

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
_SLICES = np.array(
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
        return _mask(index)

    def files(self, index: int) -> tuple[Path, ...]:
        return ()


# every finished trial is scored against the validation part's own masks, 8 MB of them
@functools.lru_cache(maxsize=128)
def _mask(index: int) -> Bytes:
    return face(index)[1]


# decoding asks for the mask and then for the picture of the same face
@functools.lru_cache(maxsize=16)
def face(index: int) -> tuple[Bytes, Bytes]:
    """Face `index`: picture uint8 [256, 256, 3] and mask uint8 [256, 256], ids 0-18.

    The same index gives the same bytes in every process.
    """
    random = np.random.default_rng([SEED, index])
    person = _Face.drawn_from(random)
    canvas = _Canvas(SIDE)
    _paint(canvas, person, random)
    return canvas.finished(person, random)


# --- what a face is


@dataclass(frozen=True)
class _Face:
    """All that is drawn about a person before anything is painted."""

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
    def drawn_from(random: np.random.Generator) -> _Face:
        feminine = bool(random.random() < 0.63)
        yaw = float(np.clip(random.normal(0, math.radians(15)), -0.75, 0.75))
        pitch = float(np.clip(random.normal(0, math.radians(5)), -0.3, 0.3))
        tone = np.array(_SKIN_TONES[random.choice(len(_SKIN_TONES), p=_SKIN_SHARES)], float)
        hair = np.array(_HAIR_TONES[random.choice(len(_HAIR_TONES), p=_HAIR_SHARES)], float)
        if feminine:
            style = str(random.choice(["long", "tied", "short"], p=[0.87, 0.09, 0.04]))
        else:
            style = str(
                random.choice(["long", "short", "buzz", "bald"], p=[0.09, 0.74, 0.12, 0.05])
            )
        return _Face(
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
            width=float(random.normal(1.045, 0.05)) * (0.985 if feminine else 1.015),
            jaw=float(random.normal(1.0, 0.05)) * (0.97 if feminine else 1.05),
            chin=float(random.normal(0.004, 0.02)) + (-0.006 if feminine else 0.012),
        )

    def slices(self, rows: int = 44) -> np.ndarray:
        """The head's slices, [rows, 4], from the top to the chin."""
        table = _SLICES.copy()
        table[:, 1] *= self.width * np.interp(table[:, 0], [0.5, 0.78], [1.0, self.jaw])
        table[:, 0] += np.interp(table[:, 0], [0.6, 0.93], [0.0, self.chin])
        # even steps along the outline, or the top and the chin become corners
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(table[:, :2], axis=0).T))])
        at = np.linspace(0, along[-1], rows)
        return np.stack([np.interp(at, along, column) for column in table.T], axis=1)


class _Pose:
    """Turns points of the front view into the picture's plane."""

    def __init__(self, face: _Face, random: np.random.Generator) -> None:
        self._sin, self._cos = math.sin(face.yaw), math.cos(face.yaw)
        self._nod, self._nod_cos = math.sin(face.pitch), math.cos(face.pitch)
        self._matrix, self._shift = np.eye(2), np.zeros(2)
        eyes = self.at([(0.379, 0.4775), (0.621, 0.4775)])
        mouth = self.at([(0.5, 0.745)])[0]
        middle, across = eyes.mean(0), eyes[1] - eyes[0]
        down = mouth - middle
        # CelebA-HQ's frame, mostly from the eyes, partly from the way to the mouth
        axis = across / np.hypot(*across) + np.array([down[1], -down[0]]) / np.hypot(*down)
        axis /= np.hypot(*axis)
        scale = (0.2415 / np.hypot(*across)) ** 0.7 * (0.2675 / np.hypot(*down)) ** 0.3
        scale *= float(random.normal(1, 0.02))
        roll = -math.atan2(axis[1], axis[0]) + float(random.normal(0, math.radians(1.6)))
        turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        self._matrix = scale * turn
        goal = np.array([0.5, 0.4775]) + random.normal(0, (0.005, 0.004))
        self._shift = goal - self._matrix @ middle

    def at(self, points: Any, lift: Any = 0.0) -> Points:
        """Points on the face's surface; `lift` raises them from it."""
        points = np.asarray(points, float).reshape(-1, 2)
        across, down = (points[:, 0] - 0.5) / 0.34, (points[:, 1] - 0.5) / 0.52
        depth = 0.22 * (np.sqrt(np.clip(1 - across**2 - down**2, 0.0, 1)) - 1)
        return self.solid(points, depth + np.asarray(lift, float))

    def solid(self, points: Any, depth: Any) -> Points:
        """Points at a given depth."""
        points = np.asarray(points, float).reshape(-1, 2)
        x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
        depth = np.broadcast_to(np.asarray(depth, float), x.shape)
        turned_x = x * self._cos + depth * self._sin
        turned_z = depth * self._cos - x * self._sin
        turned_y = y * self._nod_cos + turned_z * self._nod
        return np.stack([turned_x, turned_y], axis=1) @ self._matrix.T + self._shift


# --- painting


class _Canvas:
    """A picture and its mask, painted together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fine = size * _FINE
        self.picture = Image.new("RGB", (self.fine, self.fine))
        self.labels = Image.new("L", (size, size), BACKGROUND)
        # soft light and shade, painted around a middle grey, at a quarter of the fine size
        self.shade = Image.new("L", (size // 2, size // 2), 128)
        self._draw = ImageDraw.Draw(self.picture)
        self._mark = ImageDraw.Draw(self.labels)
        self._dim = ImageDraw.Draw(self.shade)

    def part(self, points: Points, colour: Any, label: int | None) -> None:
        """A filled outline, in the picture and (with a label) in the mask."""
        self._draw.polygon(_pixels(points, self.fine), fill=_rgb(colour))
        if label is not None:
            self._mark.polygon(_pixels(points, self.size), fill=label)

    def label(self, points: Points, label: int) -> None:
        self._mark.polygon(_pixels(points, self.size), fill=label)

    def line(self, points: Points, colour: Any, width: float, label: int | None = None) -> None:
        """An open line; width in sides of the picture."""
        fine_width = max(1, round(width * self.fine))
        self._draw.line(_pixels(points, self.fine), _rgb(colour), fine_width, joint="curve")
        if label is not None:
            self._mark.line(
                _pixels(points, self.size), label, max(1, round(width * self.size)), joint="curve"
            )

    def blend(self, points: Points, colour: Any, share: float, soft: float = 0.0) -> None:
        """A see-through filled outline in the picture alone; `soft` blurs its edge."""
        margin = 3 * soft
        low = np.floor((points.min(0) - margin) * self.fine).astype(int)
        high = np.ceil((points.max(0) + margin) * self.fine).astype(int) + 1
        left, top = (max(0, int(value)) for value in low)
        right, bottom = (min(self.fine, int(value)) for value in high)
        if right <= left or bottom <= top:
            return
        veil = Image.new("L", (right - left, bottom - top), 0)
        moved = points - np.array([left, top]) / self.fine
        ImageDraw.Draw(veil).polygon(_pixels(moved, self.fine), fill=round(255 * share))
        if soft:
            veil = veil.filter(ImageFilter.GaussianBlur(soft * self.fine))
        self.picture.paste(_rgb(colour), (left, top, right, bottom), veil)

    def soften(self, points: Points, change: float) -> None:
        """Lighter (change > 0) or darker skin around here; edges are blurred at the end."""
        grey = round(float(np.clip(128 * (1 + change), 0, 255)))
        self._dim.polygon(_pixels(points, self.size // 2), fill=grey)

    def inside(self, points: Points) -> tuple[Image.Image, ImageDraw.ImageDraw, Any]:
        """A patch to draw on that `close` pastes back within the outline: (patch, draw, key)."""
        low = np.clip(np.floor(points.min(0) * self.fine).astype(int), 0, self.fine - 1)
        high = np.clip(np.ceil(points.max(0) * self.fine).astype(int) + 1, 1, self.fine)
        box = (
            int(low[0]),
            int(low[1]),
            max(int(high[0]), int(low[0]) + 1),
            max(int(high[1]), int(low[1]) + 1),
        )
        patch = self.picture.crop(box)
        return patch, ImageDraw.Draw(patch), (box, points)

    def close(self, patch: Image.Image, key: Any) -> None:
        box, points = key
        veil = Image.new("L", patch.size, 0)
        moved = points - np.array(box[:2]) / self.fine
        ImageDraw.Draw(veil).polygon(_pixels(moved, self.fine), fill=255)
        self.picture.paste(patch, box[:2], veil)

    def local(self, points: Points, key: Any) -> list[float]:
        return _pixels(points - np.array(key[0][:2]) / self.fine, self.fine)

    def relabel(self, labels: np.ndarray) -> None:
        self.labels = Image.fromarray(labels)
        self._mark = ImageDraw.Draw(self.labels)

    def finished(self, face: _Face, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(self.labels).copy()
        for ear in EAR.values():
            # nobody draws an outline around a sliver
            if np.count_nonzero(labels == ear) < 0.0012 * labels.size:
                labels[labels == ear] = SKIN
        picture = self.picture.reduce(_FINE)
        image = np.asarray(picture).astype(np.float32)
        image = _lit(image, labels, self.shade, face, random)
        return image, labels


def _pixels(points: Points, size: int) -> list[float]:
    # flat, which Pillow takes as well; it counts from pixel centres
    flat: list[float] = (points * size - 0.5).ravel().tolist()
    return flat


def _rgb(colour: Any) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, round(float(value))))) for value in colour)
    return red, green, blue


def _smooth(points: Any, rounds: int = 3, closed: bool = True) -> Points:
    """Corners cut (Chaikin): a smooth curve near a few points."""
    points = np.asarray(points, float).reshape(-1, 2)
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1)
        cut = cut.reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


def _oval(x: float, y: float, half_width: float, half_height: float, count: int = 28) -> Points:
    turn = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([x + half_width * np.cos(turn), y + half_height * np.sin(turn)], axis=1)


def _mirrored(points: Any, side: int) -> Points:
    """Points drawn for the right of the image, on the given side."""
    points = np.asarray(points, float).reshape(-1, 2)
    return np.stack([0.5 + side * (points[:, 0] - 0.5), points[:, 1]], axis=1)


def _paint(canvas: _Canvas, face: _Face, random: np.random.Generator) -> None:
    pose = _Pose(face, random)
    look = _Look.drawn_from(face, random)
    _background(canvas, random)
    _hair_behind(canvas, face, look, pose, random)
    _body(canvas, face, look, pose, random)
    for side in (-1, 1):
        if not look.covered[side]:
            _ear(canvas, face, look, pose, side, random)
    _head(canvas, face, look, pose)
    _nose(canvas, face, pose, random)
    _mouth(canvas, face, look, pose, random)
    for side in (-1, 1):
        _eye(canvas, face, look, pose, side, random)
        _brow(canvas, face, look, pose, side, random)
    if look.glasses in ("clear", "dark"):
        _glasses(canvas, face, look, pose, random)
    _hair_before(canvas, face, look, pose, random)
    if look.hat:
        _hat(canvas, face, look, pose, random)
    if look.glasses == "raised":
        _glasses(canvas, face, look, pose, random)
    for side in (-1, 1):
        if look.earring[side]:
            _earring(canvas, face, look, pose, side, random)


@dataclass(frozen=True)
class _Look:
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
    def drawn_from(face: _Face, random: np.random.Generator) -> _Look:
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
        return _Look(
            glasses=glasses,
            hat=hat,
            earring=earring,
            necklace=bool(random.random() < (0.085 if feminine else 0.012)),
            covered={side: not bare[side] for side in (-1, 1)},
            gape=float(np.clip(gape, 0, 0.075)) if gape > 0 else 0.0,
            smile=float(np.clip(random.normal(0.012 + 0.25 * gape, 0.009), -0.012, 0.035)),
            open_eyes=float(np.clip(random.normal(1.0, 0.24), 0.4, 1.7)),
            gaze=float(np.clip(random.normal(0, 0.25), -0.6, 0.6)),
            beard=0.0 if feminine or random.random() < 0.45 else float(random.uniform(0.12, 0.6)),
            fringe=float(random.random()),
            part=float(np.clip(random.normal(0, 0.08), -0.16, 0.16)),
            volume=float(np.clip(random.normal(1.1, 0.3), 0.4, 1.8)),
            length=float(np.clip(random.normal(1.0, 0.16), 0.66, 1.3)),
            neckline=float(np.clip(random.normal(0.0, 1.0), -1.7, 2)),
            tilt=float(random.normal(0, 0.1)),
            lip=natural * (1 - made_up) + rouge * made_up,
            iris=np.array(
                [(70, 46, 30), (52, 34, 26), (96, 74, 44), (88, 116, 136), (84, 104, 82)][
                    random.choice(5, p=[0.38, 0.24, 0.14, 0.16, 0.08])
                ],
                float,
            ),
            brow=float(np.clip(random.normal(1.0, 0.32), 0.45, 2.0)) * (0.9 if feminine else 1.12),
        )


def _background(canvas: _Canvas, random: np.random.Generator) -> None:
    """Blurred colours, from plain to a crowd of lights."""
    base = random.uniform(14, 200) * (1 + random.normal(0, 0.14, 3)) + np.array([4, -3, -8])
    cells = int(random.choice([2, 3, 5, 9, 14]))
    strength = float(random.uniform(4, 60))
    rough = (
        base
        + random.normal(0, strength, (cells, cells, 1))
        + random.normal(0, strength * 0.35, (cells, cells, 3))
    )
    small = Image.fromarray(np.clip(rough, 0, 255).astype(np.uint8))
    side = canvas.size // 2
    small = small.resize((side, side), Image.Resampling.BICUBIC)
    if random.random() < 0.25:  # lights, or letters on a wall at a premiere
        draw = ImageDraw.Draw(small)
        for _ in range(int(random.integers(4, 14))):
            x, y = random.uniform(0, side, 2)
            radius = random.uniform(0.01, 0.05) * side
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=_rgb(base + random.normal(0, 70, 3)),
            )
        small = small.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 3))))
    elif random.random() < 0.2:  # edges of a room
        draw = ImageDraw.Draw(small)
        for _ in range(int(random.integers(1, 4))):
            x = random.uniform(0, side)
            wide = random.uniform(0.05, 0.3) * side
            draw.rectangle((x, 0, x + wide, side), fill=_rgb(base + random.normal(0, 35, 3)))
        small = small.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 4))))
    canvas.picture.paste(small.resize((canvas.fine, canvas.fine), Image.Resampling.BILINEAR))


def _outline(face: _Face, pose: _Pose, grow: float = 0.0) -> tuple[Points, Points]:
    """The head's left and right edge in the picture, each from the top to the chin.

    On the side turned away the edge is the solid's silhouette; on the near side the face ends
    where the ear begins.
    """
    rows = face.slices()
    y, half, middle, deep = rows.T
    sin, cos = math.sin(face.yaw), math.cos(face.yaw)
    silhouette = np.sqrt((half * cos) ** 2 + (deep * sin) ** 2)
    edges = []
    for side in (-1, 1):
        # yaw > 0 looks to the right of the image: that side is the far one
        far = side * face.yaw > 0
        if far:
            wanted = middle * sin + side * silhouette
        else:
            wanted = side * half * cos + (middle + 0.03) * sin
        wanted = wanted + side * grow
        # back to front-view x at the slice's depth, so that one turn serves all points
        x = (wanted - middle * sin) / cos
        edges.append(pose.solid(np.stack([0.5 + x, y], axis=1), middle))
    return edges[0], edges[1]


def _head(canvas: _Canvas, face: _Face, look: _Look, pose: _Pose) -> None:
    left, right = _outline(face, pose)
    skull = _smooth(np.concatenate([left, right[::-1]]), 2)
    canvas.part(skull, face.skin, SKIN)
    # cheeks, temples, the shade beside the nose and under the brows
    for side in (-1, 1):
        cheek = pose.at(_mirrored(_oval(0.615, 0.63, 0.06, 0.05), side))
        canvas.soften(cheek, 0.07)
        canvas.blend(cheek, face.skin * np.array([1.0, 0.78, 0.76]), 0.28, 0.025)
        canvas.soften(pose.at(_mirrored(_oval(0.72, 0.73, 0.04, 0.09), side)), -0.14)
        canvas.soften(pose.at(_mirrored(_oval(0.62, 0.465, 0.062, 0.034), side)), -0.2)
        canvas.soften(pose.at(_mirrored(_oval(0.55, 0.46, 0.02, 0.03), side)), -0.2)
        canvas.soften(pose.at(_mirrored(_oval(0.715, 0.36, 0.03, 0.1), side)), -0.1)
    canvas.soften(pose.at(_oval(0.5, 0.3, 0.12, 0.06)), 0.1)
    canvas.soften(pose.at(_oval(0.5, 0.835, 0.06, 0.012)), -0.2)
    canvas.soften(pose.at(_oval(0.5, 0.88, 0.05, 0.025)), 0.08)
    if look.beard:
        shape = [(0.285, 0.6), (0.33, 0.69), (0.4, 0.695), (0.5, 0.69)]
        shape += [(1 - x, y) for x, y in shape[-2::-1]]
        shape += [(0.72, 0.8), (0.6, 0.92), (0.5, 0.94), (0.4, 0.92), (0.28, 0.8)]
        hair = face.hair_colour * 0.75
        canvas.blend(pose.at(_smooth(shape)), hair, look.beard, 0.014)


def _nose(canvas: _Canvas, face: _Face, pose: _Pose, random: np.random.Generator) -> None:
    wide = float(np.clip(random.normal(1.0, 0.1), 0.75, 1.3)) * (0.97 if face.feminine else 1.04)
    low = float(random.normal(0.670, 0.008))
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
    outline = _smooth(pose.at(ring[:, :2], ring[:, 2] * 1.2), 2)
    canvas.part(outline, face.skin * 1.01, NOSE)
    dark = face.skin * np.array([0.5, 0.4, 0.38])
    for side in (-1, 1):
        wing = _mirrored([(0.53 * wide + 0.5 * (1 - wide), 0.659)], side)[0]
        nostril = pose.at(_oval(wing[0], wing[1], 0.0125, 0.0065), 0.05)
        canvas.blend(nostril, dark, 0.85, 0.003)
        crease = _mirrored([(0.548, 0.615), (0.574, 0.635), (0.578, 0.66), (0.565, 0.671)], side)
        bent = _smooth(pose.at(crease, 0.035), 2, closed=False)
        canvas.line(bent, face.skin * np.array([0.82, 0.74, 0.72]), 0.003)
        canvas.soften(pose.at(_mirrored(_oval(0.545, 0.575, 0.014, 0.06), side), 0.03), -0.12)
    canvas.soften(pose.at(_oval(0.5, 0.55, 0.012, 0.08), 0.06), 0.16)
    canvas.soften(pose.at(_oval(0.5, 0.635, 0.02, 0.018), 0.09), 0.2)
    canvas.soften(pose.at(_oval(0.5, 0.69, 0.04, 0.012), 0.02), -0.22)


def _mouth(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    half = float(np.clip(random.normal(0.104, 0.011), 0.075, 0.135)) + 0.5 * max(0, look.smile)
    upper = float(np.clip(random.normal(0.0245, 0.006), 0.011, 0.04))
    lower = float(np.clip(random.normal(0.04, 0.008), 0.02, 0.06))
    line = 0.7415 - 0.32 * look.gape + float(random.normal(0, 0.005))
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
        hole = _smooth(pose.at(np.concatenate([between, opening[::-1]]), lift), 2)
        canvas.part(hole, (70, 26, 28), MOUTH)
        patch, draw, key = canvas.inside(hole)
        shown = min(look.gape * 0.8, 0.03)
        teeth = np.concatenate(
            [between - np.array([0, 0.004]), (between + np.array([0, shown]))[::-1]]
        )
        teeth[:, 0] = 0.5 + (teeth[:, 0] - 0.5) * 0.86
        draw.polygon(canvas.local(_smooth(pose.at(teeth, lift), 2), key), fill=(226, 218, 206))
        for at in np.linspace(-0.6, 0.6, 7) * half + 0.5:
            gap = pose.at([(at, line - 0.01), (at, line + shown)], lift)
            draw.line(canvas.local(gap, key), fill=(198, 186, 176), width=1)
        canvas.close(patch, key)
    canvas.part(
        _smooth(pose.at(np.concatenate([upper_edge, between[::-1]]), lift), 2),
        look.lip * 0.9,
        U_LIP,
    )
    low = _smooth(pose.at(np.concatenate([opening, lower_edge[::-1]]), lift), 2)
    canvas.part(low, look.lip * 1.04, L_LIP)
    shine = pose.at(_oval(0.5, below + 0.45 * lower, 0.35 * half, 0.16 * lower), lift)
    canvas.blend(shine, np.clip(look.lip * 1.5 + 30, 0, 255), 0.35, 0.005)
    if look.gape == 0:
        seam = pose.at(between, lift)
        canvas.line(seam, look.lip * 0.5, 0.004)


def _eye(
    canvas: _Canvas,
    face: _Face,
    look: _Look,
    pose: _Pose,
    side: int,
    random: np.random.Generator,
) -> None:
    half = 0.0525 * float(np.clip(random.normal(1, 0.05), 0.85, 1.15))
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
    outline = _smooth(pose.at(_mirrored(ring, side)), 2)
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
            disc = pose.at(_mirrored(_oval(centre[0], centre[1], radius, radius), side))
            draw.polygon(canvas.local(disc, key), fill=_rgb(colour))
        lid = _mirrored(_oval(middle[0], middle[1] - 1.55 * up, half * 1.1, up), side)
        draw.polygon(canvas.local(pose.at(lid), key), fill=(120, 100, 96))
        canvas.close(patch, key)
        glint = pose.at(
            _mirrored(_oval(centre[0], centre[1], 0.0035, 0.0035, 10), side)
        ) + np.array([0.004, -0.006])
        canvas.part(glint, (250, 250, 250), None)
    lash = _mirrored(ring[[0, 1, 2, 3, 4]], side)
    dark = np.minimum(face.hair_colour * 0.5, face.skin * 0.35)
    thick = 0.0062 if face.feminine else 0.0038
    canvas.line(_smooth(pose.at(lash), 2, closed=False), dark, thick)
    canvas.line(
        _smooth(pose.at(_mirrored(ring[[4, 5, 6, 7, 0]], side)), 2, closed=False),
        face.skin * 0.62,
        0.002,
    )
    fold = _mirrored(ring[[0, 1, 2, 3, 4]] - (0, 0.014), side)
    canvas.line(_smooth(pose.at(fold), 2, closed=False), face.skin * 0.7, 0.0028)


def _brow(
    canvas: _Canvas,
    face: _Face,
    look: _Look,
    pose: _Pose,
    side: int,
    random: np.random.Generator,
) -> None:
    raised = float(random.normal(0, 0.011))
    arch = float(np.clip(random.normal(0.022, 0.008), 0.002, 0.04))
    thick = 0.0285 * look.brow
    reach = float(random.normal(0.222, 0.014))
    inner = float(random.normal(0.549, 0.007))
    at = np.linspace(0, 1, 9)
    x = inner + (reach - inner + 0.5) * at
    spine = 0.4365 - raised - arch * np.sin(np.pi * np.clip(at * 0.9 + 0.02, 0, 1)) * 1.15
    width = thick * np.interp(at, [0, 0.15, 0.55, 1], [0.75, 1.05, 0.9, 0.25])
    ring = np.concatenate(
        [np.stack([x, spine - width / 2], 1), np.stack([x, spine + width / 2], 1)[::-1]]
    )
    outline = _smooth(pose.at(_mirrored(ring, side)), 2)
    colour = np.minimum(face.hair_colour * 0.7, face.skin * 0.66)
    share = float(np.clip(random.normal(0.75, 0.12), 0.45, 0.95))
    canvas.label(outline, BROW[side])
    canvas.blend(outline, colour, share, 0.0025)


def _ear(
    canvas: _Canvas,
    face: _Face,
    look: _Look,
    pose: _Pose,
    side: int,
    random: np.random.Generator,
) -> None:
    high = float(np.clip(random.normal(1, 0.12), 0.7, 1.4))
    wide = float(np.clip(random.normal(1, 0.2), 0.55, 1.6))
    base = 0.5 + 0.262 * face.width
    shape = np.array(
        [
            (base - 0.03, 0.49),
            (base + 0.02 * wide, 0.455),
            (base + 0.062 * wide, 0.465),
            (base + 0.078 * wide, 0.51),
            (base + 0.058 * wide, 0.575),
            (base + 0.042 * wide, 0.63),
            (base + 0.018 * wide, 0.662),
            (base - 0.012, 0.652),
            (base - 0.035, 0.6),
        ]
    )
    shape[:, 1] = 0.56 + (shape[:, 1] - 0.56) * high
    outline = _smooth(pose.solid(_mirrored(shape, side), -0.2), 2)
    canvas.part(outline, face.skin * np.array([0.97, 0.88, 0.86]), EAR[side])
    inner = shape[1:7] * (0.6, 1) + (0.4 * (base + 0.02), 0)
    inner[:, 1] = 0.55 + (inner[:, 1] - 0.55) * 0.75
    canvas.line(
        _smooth(pose.solid(_mirrored(inner, side), -0.2), 2, closed=False),
        face.skin * np.array([0.7, 0.58, 0.56]),
        0.007,
    )


def _body(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    """Neck, shoulders, clothes, necklace. The body keeps its own lean."""
    base = pose.solid([(0.5, 0.8)], -0.22)[0]
    lean = look.tilt + 0.09 * math.sin(face.yaw)
    stout = float(np.clip(random.normal(1, 0.08), 0.8, 1.25)) * (0.93 if face.feminine else 1.12)
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
    canvas.part(_smooth(neck, 2), face.skin * 0.93, NECK)
    # the chin's shadow on the neck
    shade = _oval(base[0] + 0.3 * lean, 0.88, half * 1.05, 0.075)
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
    depth = float(random.uniform(0.0, 0.05)) if kind < 0.4 else float(random.uniform(0.03, 0.2))
    left, right = middle - half * opening, middle + half * opening
    slope = float(random.uniform(0.02, 0.14))
    collar = shoulder + 0.015
    # one shoulder towards the camera, and collars that stand up beside the neck
    lift = np.array([1, -1]) * float(random.normal(0, 0.05)) - float(random.uniform(0, 0.05))
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
    outline = _smooth(shape, 2)
    canvas.part(outline, cloth, CLOTH)
    patch, draw, key = canvas.inside(np.clip(outline, 0, 1))
    pattern = random.random()
    if pattern < 0.2:
        other = cloth + random.normal(0, 60, 3)
        step = float(random.uniform(0.03, 0.08))
        for at in np.arange(0, 2, step):
            ends = np.array([(at, 0.6), (at - 0.3 * slope, 1.1)])
            draw.line(canvas.local(ends, key), fill=_rgb(other), width=max(1, canvas.fine // 90))
    for _ in range(3):  # folds
        x = float(random.uniform(0, 1))
        ends = np.array([(x, collar), (x + random.normal(0, 0.1), 1.05)])
        draw.line(canvas.local(ends, key), fill=_rgb(cloth * 0.8), width=canvas.fine // 60)
    canvas.close(patch, (key[0], outline))
    edge = _smooth(neckline, 2, closed=False)
    canvas.line(edge, cloth * 0.7, 0.006)
    if 0.55 <= kind < 0.7 and not face.feminine:  # a shirt's collar under a jacket
        for side, start in ((-1, left), (1, right)):
            flap = [
                (start, collar - 0.03),
                (middle, collar + depth),
                (start + side * 0.05, collar + 0.09),
            ]
            canvas.part(np.array(flap), np.clip(cloth * 0.3 + 170, 0, 255), CLOTH)


def _necklace(
    canvas: _Canvas, middle: float, half: float, shoulder: float, random: np.random.Generator
) -> None:
    metal = [(214, 180, 96), (206, 206, 212), (235, 228, 215), (60, 50, 46)][random.integers(4)]
    top = min(0.9, shoulder - 0.03) + float(random.normal(0, 0.02))
    drop = float(random.uniform(0.03, 0.09))
    turn = np.linspace(-1, 1, 15)
    curve = np.stack([middle + 1.02 * half * turn, top + drop * (1 - turn**2)], axis=1)
    canvas.line(
        curve, metal, float(random.choice([0.004, 0.006, 0.012], p=[0.5, 0.35, 0.15])), NECKLACE
    )
    if random.random() < 0.5:
        size = float(random.uniform(0.008, 0.02))
        canvas.part(_oval(middle, top + drop + size, size, 1.3 * size), metal, NECKLACE)


# --- hair


def _hair_behind(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    if face.style != "long":
        return
    volume = 0.085 * look.volume
    end = 0.62 + 0.42 * look.length
    wave = float(random.uniform(0, 0.025))
    sides = []
    for side in (-1, 1):
        spread = float(random.normal(0.035, 0.08)) + 0.05 * look.volume
        rows = []
        for y in np.linspace(0.1, end, 11):
            bulge = volume + spread * np.clip((y - 0.35) / 0.5, 0, 1.2)
            ripple = wave * math.sin(18 * y + 5 * side * look.part) * np.clip(4 * y - 1, 0, 1)
            half = np.interp(y, _SLICES[:6, 0], _SLICES[:6, 1]) * face.width
            rows.append((0.5 + side * (half + bulge + ripple), y - 0.6 * volume * (y < 0.3)))
        rows.append((0.5 + side * 0.14, end + 0.03))
        sides.append(pose.solid(rows, -0.27))
    outline = _smooth(np.concatenate([sides[0][::-1], sides[1]])[:-1], 2)
    canvas.part(outline, face.hair_colour * 0.72, HAIR)


def _hair_before(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    style = face.style
    if style == "bald":
        return
    if look.hat and random.random() < 0.45 and style != "long":
        return
    volume = {"buzz": 0.014, "short": 0.055, "tied": 0.035, "long": 0.08}[style] * look.volume
    fringe = 0.0
    if style == "long" and look.fringe < 0.16:
        fringe = float(random.uniform(0.08, 0.14))
    elif style == "short" and look.fringe < 0.25:
        fringe = float(random.uniform(0.02, 0.08))
    line = float(np.clip(random.normal(0.215, 0.022), 0.15, 0.27)) + fringe
    if style == "buzz":
        line -= 0.01
    part = look.part
    left, right = _outline(face, pose, grow=volume)
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
        fall = float(random.uniform(0.0, 0.05))
        inner[3] = (0.5 + 0.19, line + 0.075 + fall)
        inner[7] = (0.5 - 0.19, line + 0.075 + fall)
        inner[5] = (0.5 + part, line - 0.03)
    inner_points = _smooth(pose.at(inner), 2, closed=False)
    outer = np.concatenate([outer_left[::-1], outer_right])
    cap = np.concatenate([outer, inner_points])
    canvas.part(cap, face.hair_colour, HAIR)
    if style == "tied" and random.random() < 0.5:
        bun = pose.solid(_oval(0.5, 0.06, 0.1, 0.08), -0.3)
        canvas.part(bun, face.hair_colour * 0.9, HAIR)
    if style == "long":
        end = 0.62 + 0.42 * look.length
        for side in (-1, 1):
            _lock(canvas, face, look, pose, side, end, volume, random)
    if style != "buzz":
        gleam = [(0.3, 0.16), (0.42, 0.115), (0.58, 0.115), (0.7, 0.16), (0.6, 0.145), (0.4, 0.145)]
        shine = _smooth(pose.solid(gleam, -0.1), 2)
        share = float(random.uniform(0.05, 0.3))
        canvas.blend(shine, np.clip(face.hair_colour * 1.5 + 25, 0, 255), share, 0.02)


def _lock(
    canvas: _Canvas,
    face: _Face,
    look: _Look,
    pose: _Pose,
    side: int,
    end: float,
    volume: float,
    random: np.random.Generator,
) -> None:
    """Hair that falls beside the face, over the ear or behind it."""
    edge = 0.262 * face.width
    wave = float(random.uniform(0, 0.02))
    if look.covered[side]:
        inward = float(random.uniform(-0.035, 0.012))
        inner_y = np.linspace(0.3, end, 9)
        inner_x = edge + inward - 0.03 * np.clip((0.5 - inner_y) / 0.2, 0, 1)
        inner_x = inner_x + wave * np.sin(14 * inner_y)
        inner_x = inner_x - float(random.uniform(0.0, 0.09)) * np.clip((inner_y - 0.7) / 0.3, 0, 1)
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
    canvas.part(_smooth(pose.solid(_mirrored(ring, side), depth), 2), face.hair_colour * 0.92, HAIR)


def _hat(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    colour = random.uniform(20, 210) + random.normal(0, 30, 3)
    left, right = _outline(face, pose, grow=float(random.uniform(0.05, 0.12)))
    rows = face.slices()
    brim = float(np.clip(random.normal(0.335, 0.045), 0.22, 0.43))
    keep = rows[:, 0] < brim + 0.03
    high = np.array([0.0, float(random.uniform(0.05, 0.14))])
    rise = np.clip((0.3 - rows[:, 0:1]) / 0.25, 0, 1) * high
    outer = np.concatenate([(left - rise)[keep][::-1], (right - rise)[keep]])
    front = [(0.5 + 0.27, brim + 0.02), (0.5, brim - 0.035), (0.5 - 0.27, brim + 0.02)]
    crown = np.concatenate([outer, _smooth(pose.at(front), 2, closed=False)])
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
        canvas.part(_smooth(pose.at(peak, 0.12), 2), colour * 0.75, HAT)
    elif look.hat == "brim":
        wide = float(random.uniform(0.38, 0.5))
        ring = _oval(0.5, brim - 0.02, wide, float(random.uniform(0.05, 0.1)))
        band = crown - np.array([0, 0.03])
        canvas.part(crown, colour * 0.45, HAT)
        canvas.part(band, colour, HAT)
        canvas.part(pose.at(ring), colour * 0.8, HAT)
    elif look.hat == "hood":
        for side in (-1, 1):
            y = np.linspace(0.2, 1.0, 8)
            inner = 0.248 * face.width + 0.03 * np.sin(3 * y)
            outer = 0.36 + 0.16 * y + float(random.uniform(-0.02, 0.05))
            ring = np.concatenate([np.stack([inner, y], 1), np.stack([outer, y], 1)[::-1]])
            ring[:, 0] += 0.5
            canvas.part(pose.solid(_mirrored(ring, side), -0.15), colour * 0.9, HAT)
    else:
        for at in np.linspace(0.28, 0.72, 10):
            rib = pose.solid([(0.5 + (at - 0.5) * 0.7, 0.06), (at, brim)], -0.1)
            canvas.line(rib, colour * 0.86, 0.006)
        cuff = pose.at([(0.235, brim - 0.02), (0.5, brim - 0.06), (0.765, brim - 0.02)])
        canvas.line(_smooth(cuff, 2, closed=False), colour * 0.82, 0.05, HAT)


# --- things worn


def _glasses(
    canvas: _Canvas, face: _Face, look: _Look, pose: _Pose, random: np.random.Generator
) -> None:
    dark = look.glasses != "clear"
    up = 0.0 if look.glasses != "raised" else -0.29
    half_width = float(np.clip(random.normal(0.113, 0.012), 0.088, 0.135))
    half_height = float(np.clip(random.normal(0.066, 0.016), 0.036, 0.105))
    frame = random.uniform(10, 70) + random.normal(0, 12, 3)
    if random.random() < 0.3:
        frame = np.array([170, 150, 110]) + random.normal(0, 20, 3)
    thick = float(random.uniform(0.004, 0.016))
    power = float(random.uniform(2.2, 4))
    keep = (*EYE.values(), *BROW.values()) if not dark else ()
    under = np.asarray(canvas.labels).copy()
    for side in (-1, 1):
        turn = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * half_width
        y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * half_height
        ring = np.stack([0.63 + x, 0.487 + up + y], axis=1)
        lens = pose.at(_mirrored(ring, side), 0.05)
        canvas.label(lens, GLASSES)
        canvas.blend(lens, (22, 20, 24) if dark else (205, 215, 220), 0.93 if dark else 0.07)
        canvas.line(np.concatenate([lens, lens[:2]]), frame, thick, GLASSES)
        glint = lens[[22, 25, 28, 31]] * 0.6 + lens.mean(0) * 0.4
        canvas.blend(glint, (240, 244, 250), 0.3 if dark else 0.16, 0.006)
        arm = [(0.63 + half_width, 0.465 + up), (0.5 + 0.268 * face.width, 0.475 + up)]
        if not up:
            ends = np.concatenate(
                [
                    pose.at(_mirrored(arm[:1], side), 0.04),
                    pose.solid(_mirrored(arm[1:], side), -0.15),
                ]
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


def _earring(
    canvas: _Canvas,
    face: _Face,
    look: _Look,
    pose: _Pose,
    side: int,
    random: np.random.Generator,
) -> None:
    metal = np.array(
        [(222, 188, 104), (212, 212, 220), (240, 236, 228), (90, 150, 160), (40, 36, 40)][
            random.integers(5)
        ],
        float,
    )
    lobe = pose.solid(_mirrored([(0.5 + 0.275 * face.width, 0.655)], side), -0.19)[0]
    kind = random.random()
    size = float(np.clip(random.lognormal(0.3, 0.6), 0.5, 4.0))
    if kind < 0.25:
        canvas.part(_oval(lobe[0], lobe[1], 0.013 * size**0.5, 0.013 * size**0.5), metal, EARRING)
    elif kind < 0.55:
        radius = 0.032 * size
        ring = _oval(lobe[0], lobe[1] + radius, 0.75 * radius, radius)
        canvas.line(np.concatenate([ring, ring[:2]]), metal, 0.007 + 0.003 * size, EARRING)
    else:
        drop = 0.045 * size
        canvas.line(np.array([lobe, lobe + np.array([0, drop])]), metal, 0.006, EARRING)
        wide = 0.016 * size**0.7
        canvas.part(_oval(lobe[0], lobe[1] + drop, wide, 1.7 * wide), metal, EARRING)
        canvas.part(
            _oval(lobe[0], lobe[1] + 0.4 * drop, 0.6 * wide, 0.6 * wide), metal * 0.85, EARRING
        )


# --- light

_BARE = np.isin(
    np.arange(256), (SKIN, NOSE, U_LIP, L_LIP, *EAR.values(), *EYE.values(), *BROW.values())
)
_BODY = np.isin(np.arange(256), (NECK, CLOTH))


def _lit(
    image: np.ndarray,
    labels: np.ndarray,
    shade: Image.Image,
    face: _Face,
    random: np.random.Generator,
) -> np.ndarray:
    """Light, shade, strands of hair, camera noise; float32 [S, S, 3] in, uint8 out."""
    size = image.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    # a solid lit from one side, a little from above
    from_side = float(np.clip(random.normal(0, 0.5), -1, 1))
    across, down = (x - 0.5) / 0.36, (y - 0.52) / 0.56
    front = np.sqrt(np.clip(1 - across**2 - down**2, 0.04, 1))
    light = 0.58 + 0.40 * front + 0.20 * from_side * across - 0.08 * down
    soft = shade.filter(ImageFilter.GaussianBlur(size * 0.009))
    soft = soft.resize((size, size), Image.Resampling.BILINEAR)
    relief = np.asarray(soft).astype(np.float32) / 128
    gain = np.ones((size, size), np.float32)
    bare = _BARE[labels]
    gain[bare] = (light * relief)[bare]
    body = _BODY[labels]
    gain[body] = (0.86 + 0.16 * from_side * across + np.zeros_like(y))[body]
    gain *= _strands(labels, face, random)
    image = image * gain[..., None]
    # the room: warmth, brightness, a gradient, contrast
    warmth = float(random.normal(0.02, 0.04))
    tint = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
    fall = 1 + float(random.normal(0, 0.1)) * (x - 0.5) + float(random.normal(0, 0.1)) * (y - 0.5)
    image = image * tint * (fall * float(np.clip(random.normal(1.0, 0.12), 0.6, 1.3)))[..., None]
    contrast = float(np.clip(random.normal(1.0, 0.12), 0.7, 1.3))
    image = 110 + (image - 110) * contrast
    # film's shoulder: bright skin keeps its shape instead of turning white
    bright = image > 190
    image[bright] = 190 + 65 * np.tanh((image[bright] - 190) / 65)
    noise = random.standard_normal((size, size, 1), dtype=np.float32)
    grain = float(random.uniform(1.0, 5.0))
    return np.clip(image + grain * noise, 0, 255).astype(np.uint8)


def _strands(labels: np.ndarray, face: _Face, random: np.random.Generator) -> np.ndarray:
    """Light and dark strands that run from the crown; 1 outside the hair."""
    size = labels.shape[0]
    gain = np.ones((size, size), np.float32)
    rows, columns = np.nonzero(labels == HAIR)
    table = random.normal(1, 0.16, 512).astype(np.float32)
    broad = random.normal(1, 0.14, 64).astype(np.float32)
    wave = float(random.uniform(0, 0.25))
    rate = float(random.uniform(8, 26))
    if not len(rows):
        return gain
    x = (columns / size - 0.5 - 0.05 * face.yaw).astype(np.float32)
    y = (rows / size - 0.02).astype(np.float32)
    far = np.hypot(x, y)
    # strands fan out at the crown and hang straight below
    turn = np.arctan2(x, np.maximum(y, 0.02) + 0.25) + wave * 0.15 * np.sin(rate * far)
    place = (turn * 150) % 511
    low = place.astype(np.intp)
    share = place - low
    fine = table[low] * (1 - share) + table[low + 1] * share
    gain[rows, columns] = fine * broad[((turn * 16) % 63).astype(np.intp)]
    return gain
