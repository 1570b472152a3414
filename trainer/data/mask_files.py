"""A mask's ids, read only where its kind of file keeps every id.

# H row, W column
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.classes import FROM_OTHER_ORDER, NUM_CLASSES, SWAP
from trainer.data.image_files import Bytes, opened, orientation, upright
from trainer.errors import DataError

# kinds of file that keep every value; WebP and TIFF do or do not, see `_loses`
_LOSSLESS = ("PNG", "BMP", "DIB", "TGA")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")


class UnknownIds(DataError):
    """A mask with ids outside 0-18."""


@contextmanager
def _opened_mask(path: Path) -> Iterator[Image.Image]:
    """A loaded, upright picture whose file has kept every value. Raises DataError."""
    with opened(path) as picture:
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
        yield upright(picture, orientation(picture))


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
    with opened(path) as picture:
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
        " order of CelebAMask-HQ's own list); fix the mask, or leave it out with"
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
        with opened(path) as picture:
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


def in_our_order(mask_HW: Bytes) -> Bytes:
    """The mask with the ids of the other order translated to ours."""
    return np.array(FROM_OTHER_ORDER, np.uint8)[mask_HW]


def sides_swapped(mask_HW: Bytes) -> Bytes:
    """The mask with left and right ids exchanged."""
    return np.array(SWAP, np.uint8)[mask_HW]
