"""What is wrong with a data set: files, sizes, ids, class order, duplicates, reversed sides.

# H row, W column, C class
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.cache import Tick
from trainer.data.classes import FROM_OTHER_ORDER, IDS, NUM_CLASSES, SWAP
from trainer.data.sources import (
    OfficialSource,
    SizeMismatch,
    Source,
    UnknownIds,
    content_hash,
    list_folder,
    quiet_pillow,
)
from trainer.errors import DataError
from trainer.files import atomic_write_text

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

# raise it when the geometry below changes: remembered answers are then asked again
VERSION = 1

PAIRS = (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"))
# how far apart the two of a pair are on an upright, frontal face, in sides of the picture
_APART = {"l_eye": 0.24, "l_brow": 0.25, "l_ear": 0.62}
# of one part from the nose; the nose moves with the head's turn, so the ear says most
_OFF_NOSE = {"l_eye": 0.12, "l_brow": 0.125, "l_ear": 0.31}


# --- geometry of one mask


@dataclass(frozen=True)
class Shape:
    """Where the classes of a mask lie. Shares of the sides; NaN for a class that is absent.

    area_C: share of pixels. x_C, y_C: centre of gravity.
    """

    area_C: Floats
    x_C: Floats
    y_C: Floats


def shape_of(mask_HW: Bytes) -> Shape:
    """Areas and centres of the classes of a mask, uint8 [H, W], ids 0-18."""
    height, width = mask_HW.shape
    flat = mask_HW.ravel()
    area = np.bincount(flat, minlength=NUM_CLASSES).astype(float)
    columns = np.broadcast_to((np.arange(width) + 0.5) / width, mask_HW.shape).ravel()
    rows = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], mask_HW.shape).ravel()
    with np.errstate(invalid="ignore"):
        x = np.bincount(flat, columns, NUM_CLASSES) / np.where(area, area, np.nan)
        y = np.bincount(flat, rows, NUM_CLASSES) / np.where(area, area, np.nan)
    return Shape(area / flat.size, x, y)


def sides_vote(shape: Shape) -> float:
    """Below 0: left and right are reversed; above 0: they are right; 0: nothing tells.

    Each pair of eyes, brows and ears votes by the way from the right part to the left one, along
    the face's own horizontal, so a tilted head tells as well as an upright one; a part that is
    alone votes by its way from the nose. A vote is the way in shares of the usual way, clipped to
    1, so a pair that is hardly apart (a head turned far) says little.
    """
    across = _across(shape)
    votes = 0.0
    for left, right in PAIRS:
        left_at, right_at = _at(shape, left), _at(shape, right)
        if left_at is not None and right_at is not None:
            way = float((left_at - right_at) @ across)
            votes += float(np.clip(way / _APART[left], -1, 1))
            continue
        origin = _at(shape, "nose")
        if origin is None:
            origin = _centre(shape, ("u_lip", "l_lip", "mouth"))
        if origin is None:
            continue
        for at, sign in ((left_at, 1.0), (right_at, -1.0)):
            if at is not None:
                way = sign * float((at - origin) @ across)
                # alone, a part is half a pair
                votes += 0.5 * float(np.clip(way / _OFF_NOSE[left], -1, 1))
    return votes


def is_reversed(shape: Shape) -> bool:
    """Whether the left/right ids are reversed, from where the parts lie."""
    return sides_vote(shape) < 0


def _at(shape: Shape, name: str) -> Floats | None:
    number = IDS[name]
    if shape.area_C[number] == 0:
        return None
    return np.array([shape.x_C[number], shape.y_C[number]])


def _centre(shape: Shape, names: Sequence[str]) -> Floats | None:
    """The middle of the parts that are there, each counted once; the same if sides are swapped."""
    places = [place for name in names if (place := _at(shape, name)) is not None]
    return np.mean(places, axis=0) if places else None


def _across(shape: Shape) -> Floats:
    """The direction of the person's left on an unreversed mask: a unit vector [x, y].

    A quarter turn from the way that leads from the eyes to the mouth; (1, 0) if that is hidden.
    """
    upper = _centre(shape, ("l_eye", "r_eye", "l_brow", "r_brow"))
    lower = _centre(shape, ("u_lip", "l_lip", "mouth"))
    if upper is None:
        upper = _at(shape, "nose")
    if lower is None:
        lower = _at(shape, "nose")
    if upper is None or lower is None:
        return np.array([1.0, 0.0])
    down = lower - upper
    length = float(np.hypot(*down))
    if length < 0.02:
        return np.array([1.0, 0.0])
    return np.array([down[1], -down[0]]) / length


# --- the class order of one mask

# middle height and usual area of parts that tell the orders apart, of the published masks; left
# and right do not matter to a height
_USUAL = {
    # name: (height, sd of the height, share of the pixels)
    "nose": (0.577, 0.03, 0.0206),
    "l_eye": (0.478, 0.025, 0.0022),
    "r_eye": (0.478, 0.025, 0.0022),
    "l_brow": (0.414, 0.03, 0.0042),
    "r_brow": (0.414, 0.03, 0.0042),
    "l_ear": (0.561, 0.06, 0.0065),
    "r_ear": (0.561, 0.06, 0.0065),
    "mouth": (0.744, 0.035, 0.0046),
    "u_lip": (0.725, 0.035, 0.0040),
    "l_lip": (0.767, 0.035, 0.0066),
    "hair": (0.361, 0.14, 0.31),
    "neck": (0.917, 0.05, 0.041),
    "cloth": (0.925, 0.06, 0.039),
}


def _fit(shape: Shape, meaning: Sequence[int]) -> float:
    """How well the parts lie where they usually do if id i means class meaning[i]; higher is
    better, 0 is perfect."""
    names = {IDS[name]: usual for name, usual in _USUAL.items()}
    misfits = []
    for number in range(1, NUM_CLASSES):
        usual = names.get(meaning[number])
        if usual is None or shape.area_C[number] == 0:
            continue
        height, spread, area = usual
        away = (shape.y_C[number] - height) / spread
        # an area within a factor of three of the usual one says nothing
        size = max(0.0, abs(float(np.log(shape.area_C[number] / area))) - 1.1)
        # one strange part (a hand over the mouth) is not to decide
        misfits.append(min(9.0, float(away**2) + size**2))
    return -float(np.mean(misfits)) if len(misfits) >= 4 else 0.0


def has_other_order(shape: Shape) -> bool:
    """Whether the ids look like the other widely used order (skin, l_brow, r_brow, l_eye, ...)."""
    ours, other = _fit(shape, range(NUM_CLASSES)), _fit(shape, FROM_OTHER_ORDER)
    return other > ours + 1.0


# --- a whole data set


@dataclass
class Audit:
    """What is wrong with a data set; stems are sorted. `pairs` counts images that have a mask."""

    pairs: int = 0
    missing_image: list[str] = field(default_factory=list)
    missing_mask: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    size_mismatch: list[str] = field(default_factory=list)
    unknown_ids: list[str] = field(default_factory=list)
    empty_masks: list[str] = field(default_factory=list)
    other_class_order: list[str] = field(default_factory=list)
    left_right_reversed: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)

    @property
    def untrainable(self) -> list[str]:
        """Stems of images and masks that cannot be trained on as they are, sorted."""
        return sorted(
            {
                *self.missing_image,
                *self.missing_mask,
                *self.unreadable,
                *self.size_mismatch,
                *self.unknown_ids,
                *self.empty_masks,
            }
        )

    @property
    def clean(self) -> bool:
        changed = self.other_class_order or self.left_right_reversed
        return not (self.untrainable or changed or self.duplicates)


@dataclass(frozen=True)
class _Look:
    """What one pair shows: the list of the audit that it belongs to, if any, and its sides."""

    trouble: str | None = None
    other_order: bool = False
    reversed: bool = False
    reason: str = ""


def audit(root: Path, tick: Tick | None = None) -> tuple[Audit, dict[str, str]]:
    """Look at every file of a data set; nothing is written.

    tick: called with pairs done and pairs in all. Returns the findings, and stem -> reason for
    files that cannot be used. Raises DataError where there is nothing to look at.
    """
    listing = list_folder(root)
    stems = listing.stems
    found = Audit(
        pairs=len(stems),
        missing_image=sorted(listing.masks.keys() - listing.images.keys()),
        missing_mask=sorted(listing.images.keys() - listing.masks.keys()),
    )
    reasons: dict[str, str] = {}
    if not stems:
        return found, reasons
    source = listing.source()
    looks = _over_pairs(lambda index: _look(source, index), len(stems), tick)
    for stem, look in zip(stems, looks, strict=True):
        if look.trouble is not None:
            getattr(found, look.trouble).append(stem)
            reasons[stem] = look.reason
        if look.other_order:
            found.other_class_order.append(stem)
        if look.reversed:
            found.left_right_reversed.append(stem)
    groups: dict[str, list[str]] = {}
    for stem in stems:
        # an unreadable file is no picture that could be there twice
        if stem not in found.unreadable:
            groups.setdefault(content_hash([listing.images[stem]]), []).append(stem)
    found.duplicates = [group for group in groups.values() if len(group) > 1]
    return found, reasons


def remembered_reversed(source: Source, fingerprint: str, folder: Path) -> int:
    """How many masks of a source have left and right reversed; looked at once per data set.

    fingerprint: of the contents. folder: where the answer is kept. Masks that cannot be read are
    passed over: loading them says so.
    """
    store = folder / f"sides-{VERSION}-{fingerprint}.json"
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if isinstance(known, int):
        return known

    def reversed_at(index: int) -> bool:
        try:
            return _order_and_sides(source, source.mask(index))[1]
        except DataError:
            return False

    count = sum(_over_pairs(reversed_at, len(source.stems), None))
    with contextlib.suppress(OSError):  # the answer holds; it would only be asked again
        atomic_write_text(store, json.dumps(count))
    return count


def _look(source: Source, index: int) -> _Look:
    try:
        mask = source.mask(index)
    except SizeMismatch as error:
        return _Look("size_mismatch", reason=str(error))
    except UnknownIds as error:
        return _Look("unknown_ids", reason=str(error))
    except DataError as error:
        return _Look("unreadable", reason=str(error))
    try:
        # the whole picture: a truncated one has a sound header
        source.image(index)
    except DataError as error:
        return _Look("unreadable", reason=str(error))
    if not mask.any():
        return _Look("empty_masks", reason="the mask is background only")
    other, swapped = _order_and_sides(source, mask)
    return _Look(other_order=other, reversed=swapped)


def _order_and_sides(source: Source, mask_HW: Bytes) -> tuple[bool, bool]:
    """Whether a mask has the other convention's class order, and whether its sides are reversed."""
    shape = shape_of(mask_HW)
    # the official part masks carry their class in their names: no order can be mixed up
    other = not isinstance(source, OfficialSource) and has_other_order(shape)
    if other:
        shape = shape_of(in_our_order(mask_HW))
    return other, is_reversed(shape)


def in_our_order(mask_HW: Bytes) -> Bytes:
    """The mask with the ids of the other order translated to ours."""
    return np.array(FROM_OTHER_ORDER, np.uint8)[mask_HW]


def sides_swapped(mask_HW: Bytes) -> Bytes:
    """The mask with left and right ids exchanged."""
    return np.array(SWAP, np.uint8)[mask_HW]


def _over_pairs(look: Callable[[int], Any], count: int, tick: Tick | None) -> list[Any]:
    results = []
    # Pillow lets go of the interpreter lock while it decodes
    with quiet_pillow, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done, result in enumerate(pool.map(look, range(count)), start=1):
            results.append(result)
            if tick is not None:
                tick(done, count)
    return results
