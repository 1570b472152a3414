"""What is behind the person."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.synthetic.canvas import Canvas, rgb
from trainer.data.synthetic.person import Random


def background(canvas: Canvas, random: Random) -> None:
    """Blurred colours, from plain to a crowd of lights."""
    base = random.uniform(14, 200) * (1 + random.normal(0, 0.14, 3)) + np.array([4, -3, -8])
    cells = int(random.choice([2, 3, 5, 9, 14]))
    strength = random.uniform(4, 60)
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
                fill=rgb(base + random.normal(0, 70, 3)),
            )
        small = small.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 3)))
    elif random.random() < 0.2:  # edges of a room
        draw = ImageDraw.Draw(small)
        for _ in range(int(random.integers(1, 4))):
            x = random.uniform(0, side)
            wide = random.uniform(0.05, 0.3) * side
            draw.rectangle((x, 0, x + wide, side), fill=rgb(base + random.normal(0, 35, 3)))
        small = small.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 4)))
    canvas.picture.paste(small.resize((canvas.fine, canvas.fine), Image.Resampling.BILINEAR))
