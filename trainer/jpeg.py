"""A picture small enough to be carried inside a page."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

_WIDEST, _QUALITY = 1200, 82


def jpeg_of(path: Path) -> bytes:
    """The bytes of a picture file as JPEG, at most 1,200 pixels wide.

    Raises OSError where the file is missing or no picture.
    """
    with Image.open(path) as picture:
        plain = picture.convert("RGB")
    plain.thumbnail((_WIDEST, 10 * _WIDEST))
    written = io.BytesIO()
    plain.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()
