"""A picture and its mask, painted together."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.classes import IDS
from trainer.data.synthetic.curves import Points

FINE = 2  # colours are drawn this much larger and averaged, for smooth edges

BACKGROUND, SKIN, NOSE, GLASSES = IDS["background"], IDS["skin"], IDS["nose"], IDS["eye_g"]
MOUTH, U_LIP, L_LIP = IDS["mouth"], IDS["u_lip"], IDS["l_lip"]
HAIR, HAT, EARRING = IDS["hair"], IDS["hat"], IDS["ear_r"]
NECKLACE, NECK, CLOTH = IDS["neck_l"], IDS["neck"], IDS["cloth"]
# side +1 is the right of the image, so the person's left
EYE = {1: IDS["l_eye"], -1: IDS["r_eye"]}
BROW = {1: IDS["l_brow"], -1: IDS["r_brow"]}
EAR = {1: IDS["l_ear"], -1: IDS["r_ear"]}
BARE = (SKIN, NOSE, U_LIP, L_LIP, *EAR.values(), *EYE.values(), *BROW.values())


class Canvas:
    """A picture and its mask of side `size`, in pixels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fine = size * FINE
        self.picture = Image.new("RGB", (self.fine, self.fine))
        self.labels = Image.new("L", (size, size), BACKGROUND)
        # soft light and shade, painted around a middle grey, at a quarter of the fine size
        self.shade = Image.new("L", (size // 2, size // 2), 128)
        self._draw = ImageDraw.Draw(self.picture)
        self._mark = ImageDraw.Draw(self.labels)
        self._dim = ImageDraw.Draw(self.shade)

    def part(self, points: Points, colour: Any, label: int | None) -> None:
        """A filled outline, in the picture and (with a label) in the mask."""
        self._draw.polygon(pixels(points, self.fine), fill=rgb(colour))
        if label is not None:
            self._mark.polygon(pixels(points, self.size), fill=label)

    def label(self, points: Points, label: int) -> None:
        self._mark.polygon(pixels(points, self.size), fill=label)

    def line(self, points: Points, colour: Any, width: float, label: int | None = None) -> None:
        """An open line; width in sides of the picture."""
        fine_width = max(1, round(width * self.fine))
        self._draw.line(pixels(points, self.fine), rgb(colour), fine_width, joint="curve")
        if label is not None:
            self._mark.line(
                pixels(points, self.size), label, max(1, round(width * self.size)), joint="curve"
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
        ImageDraw.Draw(veil).polygon(pixels(moved, self.fine), fill=round(255 * share))
        if soft:
            veil = veil.filter(ImageFilter.GaussianBlur(soft * self.fine))
        self.picture.paste(rgb(colour), (left, top, right, bottom), veil)

    def soften(self, points: Points, change: float) -> None:
        """Lighter (change > 0) or darker skin around here; edges are blurred at the end."""
        grey = round(float(np.clip(128 * (1 + change), 0, 255)))
        self._dim.polygon(pixels(points, self.size // 2), fill=grey)

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
        ImageDraw.Draw(veil).polygon(pixels(moved, self.fine), fill=255)
        self.picture.paste(patch, box[:2], veil)

    def local(self, points: Points, key: Any) -> list[float]:
        return pixels(points - np.array(key[0][:2]) / self.fine, self.fine)

    def relabel(self, labels: np.ndarray) -> None:
        self.labels = Image.fromarray(labels)
        self._mark = ImageDraw.Draw(self.labels)


def pixels(points: Points, size: int) -> list[float]:
    # flat, which Pillow takes as well; it counts from pixel centres
    flat: list[float] = (points * size - 0.5).ravel().tolist()
    return flat


def rgb(colour: Any) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, round(float(value))))) for value in colour)
    return red, green, blue
