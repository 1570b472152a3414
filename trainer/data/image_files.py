"""A picture's pixels as a viewer shows them.

Upright (EXIF), scaled by its depth, transparent parts over black, the first of several frames.

# H row, W column
"""

from __future__ import annotations

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.errors import DataError

# a picture of 30,000 x 30,000 would take 2.7 GB once decoded
MAX_PIXELS = 64_000_000

Bytes = NDArray[np.uint8]


def _formats() -> tuple[str, ...]:
    """The kinds of picture that this Pillow reads.

    It registers documents, films and stubs as well; those are no image/..., or cannot be written.
    """
    Image.init()
    image = (kind for kind in Image.ID if Image.MIME.get(kind, "").startswith("image/"))
    return tuple(kind for kind in image if kind in Image.OPEN and kind in Image.SAVE)


FORMATS = _formats()
IMAGE_SUFFIXES = tuple(
    sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
)
ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# modes in which alpha, depth or a palette's transparency play no part
_PLAIN = ("RGB", "L", "1", "CMYK", "YCbCr", "HSV", "LAB", "P")

# what Pillow's decoders raise on damaged files, besides OSError
_DAMAGE = (
    *(SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RuntimeError),
)


class _QuietPillow:
    """A block in which Pillow's warnings (odd EXIF, large pictures) do not reach the user.

    Python's warning filters belong to the process, so the first thread in sets them and the last
    one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._caught is not None:
                self._caught.__exit__(None, None, None)
                self._caught = None


quiet_pillow = _QuietPillow()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture with only its header read. Raises DataError that names the file, also for damage
    that shows while the block decodes."""
    try:
        with quiet_pillow, Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(path, f"{width} x {height}"))
            yield picture
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        # Pillow refuses before it gives width and height
        count = re.search(r"\d+", str(error))
        raise DataError(_too_large(path, f"{int(count[0]):,}" if count else "its")) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: not a picture; replace it, or leave it out with trainer.check --repair"
        ) from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (OSError, *_DAMAGE) as error:
        raise DataError(
            f"{path}: cannot be decoded ({error}); replace it, or leave it out with"
            " trainer.check --repair"
        ) from None


def _too_large(path: Path, size: str) -> str:
    return f"{path}: {size} pixels is more than {MAX_PIXELS:,} in all; make the picture smaller"


def decode(path: Path) -> Image.Image:
    """An open, fully decoded picture in its own mode, as it is stored. Raises DataError that names
    the file."""
    with opened(path) as picture:
        picture.load()
        return picture


def read_image(path: Path) -> Bytes:
    """A picture as a viewer shows it: uint8 [H, W, 3]. Raises DataError."""
    with opened(path) as picture:
        picture.load()
        return np.asarray(upright(_in_8_bits(picture, path), orientation(picture)))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture, from the header. Raises DataError."""
    stored, shown = sizes(path)
    return shown or stored


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(width, height) as stored, and upright where that is another one. Raises DataError."""
    with opened(path) as picture:
        width, height = picture.size
        # a square one has one size however it is turned
        if width != height and orientation(picture, path) >= 5:
            return (width, height), (height, width)
        return (width, height), None


def unlike_stored(path: Path) -> str:
    """Why a picture's pixels are not simply the stored ones: "turned", "deep", "transparent" or "".

    Earlier versions took the stored ones, so this is part of what identifies a data set. A file
    that cannot be read gives "": loading says so.
    """
    try:
        with opened(path) as picture:
            if orientation(picture, path) != 1:
                return "turned"
            if picture.mode in _PLAIN and "transparency" not in picture.info:
                return ""
            picture.load()
            as_stored, as_shown = picture.convert("RGB"), _in_8_bits(picture, path)
            if np.array_equal(np.asarray(as_stored), np.asarray(as_shown)):
                return ""
            return "deep" if picture.mode[0] in "IF" else "transparent"
    except DataError:
        return ""


def orientation(picture: Image.Image, header_of: Path | None = None) -> int:
    """The EXIF orientation, 1-8; 1 where nothing sound is said.

    header_of: the file, where only the header has been read.
    """
    if picture.format == "TIFF":
        # Pillow turns these itself
        return 1
    if header_of is not None and picture.format == "PNG" and "exif" not in picture.info:
        # may stand after the pixels, and Pillow would decode them all to look
        content = header_of.read_bytes()
        if not any(word in content for word in (b"eXIf", b"exif", b"iTXt", b"zTXt", b"tEXt")):
            return 1
    found: object = None
    # a viewer passes over a damaged EXIF block
    with suppress(OSError, *_DAMAGE):
        found = picture.getexif().get(ORIENTATION)
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture if orientation == 1 else picture.transpose(_UPRIGHT[orientation])


def _in_8_bits(picture: Image.Image, path: Path) -> Image.Image:
    """A loaded picture as RGB: scaled by its depth, transparent parts over black."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _scaled(picture, path).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            # what a picture hides is not to be learned from
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            picture = Image.alpha_composite(black, picture)
    return picture.convert("RGB")


def _scaled(picture: Image.Image, path: Path) -> Image.Image:
    """A grey picture of more than 8 bits, in 8.

    One that only uses the values of 8 bits keeps them: such files come from pictures of 8 bits.
    """
    values = np.asarray(picture).astype(np.float64)
    least, most = values.min(initial=0), values.max(initial=0)
    if picture.mode == "F":
        # floats have no depth: light is 0 to 1 there, unless it is 0 to 255
        # NaN is neither
        if not (least >= 0 and most <= 255):
            raise DataError(
                f"{path}: floating-point pixels from {least:g} to {most:g}; 0 to 1 is needed, or"
                " save the picture in 8 or 16 bits"
            )
        factor = 255.0 if most <= 1 else 1.0
    elif least < 0:
        raise DataError(f"{path}: negative pixels, {least:g}; save the picture in 8 or 16 bits")
    else:
        factor = 1.0 if most <= 255 else 255 / 65535 if most <= 65535 else 255 / (2**31 - 1)
    return Image.fromarray((values * factor + (0.5 if factor != 1 else 0)).astype(np.uint8))
