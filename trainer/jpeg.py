"""A picture small enough to be carried inside a page."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image


def jpeg_of(path: Path, *, widest: int = 1200, quality: int = 82) -> bytes:
    """The bytes of a picture file as JPEG, at most `widest` pixels wide.

    Raises OSError where the file is missing or no picture.
    """
    with Image.open(path) as picture:
        plain = picture.convert("RGB")
    plain.thumbnail((widest, 10 * widest))
    written = io.BytesIO()
    plain.save(written, "JPEG", quality=quality, optimize=True)
    return written.getvalue()
