"""From a file to pixels: a picture as a viewer shows it, a mask as the ids that it holds.

A picture is upright (EXIF), scaled by its depth, transparent parts over black, and the first of
several frames. A mask is read only where its kind of file keeps every id.

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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.data.classes import NUM_CLASSES
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
# kinds of file that keep every value; WebP and TIFF do or do not, see `_loses`
_LOSSLESS = ("PNG", "BMP", "DIB", "TGA")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")

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


class UnknownIds(DataError):
    """A mask with ids outside 0-18."""


class _QuietPillow:
    """A block in which Pillow's warnings (odd EXIF, large pictures) do not reach the person.

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
def _opened(path: Path) -> Iterator[Image.Image]:
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
        # Pillow refuses before it tells width and height
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
    with _opened(path) as picture:
        picture.load()
        return picture


# --- pictures


def read_image(path: Path) -> Bytes:
    """A picture as a viewer shows it: uint8 [H, W, 3]. Raises DataError."""
    with _opened(path) as picture:
        picture.load()
        return np.asarray(_upright(_in_8_bits(picture, path), _orientation(picture)))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture, from the header. Raises DataError."""
    stored, shown = sizes(path)
    return shown or stored


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(width, height) as stored, and upright where that is another one. Raises DataError."""
    with _opened(path) as picture:
        width, height = picture.size
        # a square one has one size however it is turned
        if width != height and _orientation(picture, path) >= 5:
            return (width, height), (height, width)
        return (width, height), None


def unlike_stored(path: Path) -> str:
    """Why a picture's pixels are not simply the stored ones: "turned", "deep", "transparent" or "".

    Earlier versions took the stored ones, so this is part of what identifies a data set. A file
    that cannot be read gives "": loading says so.
    """
    try:
        with _opened(path) as picture:
            if _orientation(picture, path) != 1:
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


def _orientation(picture: Image.Image, header_of: Path | None = None) -> int:
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


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
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


# --- masks


@contextmanager
def _opened_mask(path: Path) -> Iterator[Image.Image]:
    """A loaded, upright picture whose file has kept every value. Raises DataError."""
    with _opened(path) as picture:
        reason = _loses(picture, path)
        if reason:
            raise DataError(
                f"{path}: {reason}, so its ids may be others than were drawn; save the mask anew as"
                " a PNG from what it was made of"
            )
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise DataError(f"{path}: {frames} pictures in one file; a mask is one, save it as PNG")
        picture.load()
        yield _upright(picture, _orientation(picture))


def _loses(picture: Image.Image, path: Path) -> str:
    """How the file may have changed values: "" if it cannot have."""
    kind = picture.format or "unknown"
    if kind in _LOSSLESS:
        return _cut(picture)
    if kind == "TIFF":
        compression = picture.info.get("compression")
        if compression in _LOSSY_TIFF:
            return f"a TIFF with {compression} compression is lossy"
        return _cut(picture)
    if kind == "WEBP":
        return "" if _webp_is_lossless(path) else "this WebP file is lossy"
    known = {"JPEG": "a JPEG file is lossy", "GIF": "a GIF file numbers its colours anew"}
    return known.get("JPEG" if kind == "MPO" else kind, f"a {kind} file is or may be lossy")


def _cut(picture: Image.Image) -> str:
    """Of colours of 16 bits Pillow keeps the upper half, which is 0 for an id."""
    deep = any(";16" in str(tile.args) for tile in getattr(picture, "tile", ()))
    return "it has colours of 16 bits, cut to 8" if deep and len(picture.getbands()) > 1 else ""


def _webp_is_lossless(path: Path) -> bool:
    """Whether the picture of a WebP file lies in a VP8L chunk."""
    content = path.read_bytes()
    at = 12  # RIFF, length, WEBP
    while at + 8 <= len(content):
        name, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        # chunks are padded to an even length
        at += 8 + length + length % 2
    return False


def read_ids(path: Path) -> Bytes:
    """A mask's ids as they are, uint8 [H, W]: palette or grey values of any depth, or colours of
    equal channels. Raises DataError where ids may be lost, or on real colours."""
    with _opened_mask(path) as picture:
        if picture.mode == "1":
            return np.asarray(picture.convert("L"))
        if picture.mode in ("P", "L"):
            return np.asarray(picture)
        values = np.asarray(picture)
        if picture.mode in ("LA", "PA", "RGBA"):
            values = _opaque(values, path)
        elif picture.mode not in ("RGB", "F") and not picture.mode.startswith("I"):
            raise DataError(_no_ids(path, picture.mode))
        if values.ndim == 3:
            if not (values == values[..., :1]).all():
                raise DataError(_no_ids(path, picture.mode))
            values = values[..., 0]
        ids = values.astype(np.uint8)
        if not np.array_equal(ids, values):
            strange = values[ids != values]
            raise UnknownIds(_no_such_id(f"{strange.flat[0]:g}", path))
        return ids


def palette_of(path: Path) -> Bytes | None:
    """The colours of a palette picture from its header: uint8 [K, 3]; None for any other picture.

    Raises DataError.
    """
    with _opened(path) as picture:
        colours = picture.getpalette("RGB") if picture.mode == "P" else None
        return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)


def _opaque(values: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """The channels without the last one, alpha; clear pixels may be background."""
    colours, alpha = values[..., :-1], values[..., -1]
    unclear = ((alpha > 0) & (alpha < 255)) | ((alpha == 0) & colours.any(axis=-1))
    if unclear.any():
        raise DataError(
            f"{path}: {int(unclear.sum())} pixels of the mask are transparent and no background;"
            " save it without alpha"
        )
    return colours


def _no_ids(path: Path, mode: str) -> str:
    return (
        f"{path}: a mask in colours (mode {mode}); palette or grey ids 0-18 are needed, so put the"
        " id of each colour's class in its place and save a PNG"
    )


def _no_such_id(number: object, where: object) -> str:
    return (
        f"{where}: id {number} is none of 0-18 (background, skin, nose, ... cloth, in the"
        " order of CelebAMask-HQ's own list); mend the mask, or leave it out with"
        " trainer.check --repair"
    )


def check_ids(ids_HW: Bytes, where: object) -> Bytes:
    """The same mask. Raises DataError if an id is above 18."""
    highest = int(ids_HW.max(initial=0))
    if highest >= NUM_CLASSES:
        raise UnknownIds(_no_such_id(highest, where))
    return ids_HW


def read_part(path: Path) -> NDArray[np.bool_]:
    """Where a part mask of the official layout is on: bool [H, W].

    Published as 0 and 255; 0 and 1, the class's id, two colours of a palette or 16 bits say the
    same, and grey edges of a resized mask count from the middle. Raises DataError.
    """
    with _opened_mask(path) as picture:
        values = _brightness(picture)
        most = values.max(initial=0)
        if most == 0 and picture.mode in ("P", "PA"):
            # black all over: the palette says nothing, its numbers do
            values = np.asarray(picture.getchannel(0))
            most = values.max(initial=0)
        if most == 0 and picture.mode in ("LA", "PA", "RGBA"):
            shape = picture.getchannel("A").getextrema()
            if shape not in ((0, 0), (255, 255)):
                raise DataError(
                    f"{path}: the part is drawn by its transparency; save it as black and white"
                )
        # the published masks' own middle wherever anything is brighter
        on = values > (127 if 127 < most <= 255 else most / 2)
        return np.asarray(on, dtype=np.bool_)


def part_unlike_stored(path: Path) -> bool:
    """Whether a part mask is on where earlier versions, which took what is brighter than half of
    255, saw nothing: see `unlike_stored`."""
    try:
        with _opened(path) as picture:
            as_stored = np.asarray(picture.convert("L"))
        return bool(as_stored.max(initial=0) <= 127 and read_part(path).any())
    except DataError:
        return False


def _brightness(picture: Image.Image) -> NDArray[Any]:
    """The brightest channel of each pixel, as far as it is opaque; grey values as they are."""
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode == "L" or picture.mode == "F" or picture.mode.startswith("I"):
        return np.asarray(picture)
    values = np.asarray(picture.convert("RGBA"))
    colour = values[..., :3].max(axis=2)
    return np.where(values[..., 3] > 127, colour, 0).astype(np.uint8)
