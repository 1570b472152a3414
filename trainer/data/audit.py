"""What is wrong with a data set: files, sizes, ids, class order, duplicates, reversed sides.

# H row, W column, C class
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.cache import Tick
from trainer.data.classes import FROM_OTHER_ORDER, IDS, NAMES, NUM_CLASSES, OTHER_NAMES, SWAP
from trainer.data.sources import (
    OfficialSource,
    SizeMismatch,
    Source,
    UnknownIds,
    content_hash,
    list_folder,
    palette_of,
    quiet_pillow,
)
from trainer.errors import DataError
from trainer.files import atomic_write_text

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
# uint8 [K, 3], the colour of id k in row k
Palette = NDArray[np.uint8]

# raise it when the geometry below changes: remembered answers are then asked again
VERSION = 2

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


# --- the class order of a set of masks

# where parts usually lie on published masks, whatever their side: middle height, its spread, share
# of the pixels, share of the masks that show them
_USUAL = {
    "background": (0.41, 0.12, 0.29, 1.0),
    "skin": (0.556, 0.045, 0.255, 1.0),
    "nose": (0.578, 0.02, 0.0206, 1.0),
    "eye_g": (0.457, 0.12, 0.053, 0.06),
    "l_eye": (0.478, 0.02, 0.0023, 0.97),
    "r_eye": (0.478, 0.02, 0.0023, 0.97),
    "l_brow": (0.415, 0.02, 0.0041, 0.97),
    "r_brow": (0.415, 0.02, 0.0041, 0.97),
    "l_ear": (0.562, 0.055, 0.0075, 0.5),
    "r_ear": (0.562, 0.055, 0.0075, 0.5),
    "mouth": (0.745, 0.02, 0.0046, 0.56),
    "u_lip": (0.726, 0.02, 0.0040, 1.0),
    "l_lip": (0.768, 0.02, 0.0067, 1.0),
    "hair": (0.362, 0.14, 0.31, 0.97),
    "hat": (0.226, 0.10, 0.21, 0.06),
    "ear_r": (0.708, 0.08, 0.0047, 0.23),
    "neck_l": (0.924, 0.06, 0.0005, 0.05),
    "neck": (0.918, 0.04, 0.042, 0.97),
    "cloth": (0.925, 0.055, 0.040, 0.6),
}
_USUAL_C4 = np.array([_USUAL[name] for name in NAMES])
# one part that lies far off counts as much as one that lies farther
_WORST = 9.0
OURS, SECOND, NEITHER = "ours", "second", "neither"


def misfit(shapes: Sequence[Shape], meaning: Sequence[int]) -> float | None:
    """How far the parts of a set of masks lie from where they usually do, in [0, 9]; 0 is perfect.

    meaning: class of each id. Of each mask the height and size of its face are taken out first, so
    that another framing is no misfit; then the medians over the set are looked at. None where fewer
    than three ids besides the background are in the set: too few to tell.
    """
    # how much background there is, and where, is a matter of framing
    ids = [number for number in _ids_of(shapes) if meaning[number] != 0]
    if len(ids) < 3:
        return None
    area_NK = np.stack([shape.area_C for shape in shapes])[:, ids]
    y_NK = np.stack([shape.y_C for shape in shapes])[:, ids]
    there_NK = area_NK > 0
    height_K, spread_K, usual_K, share_K = _USUAL_C4[np.asarray(meaning)[ids]].T
    # the straight line from usual to present heights, by the parts that lie most firmly
    weight_NK = there_NK / spread_K**2
    weight_NK /= np.maximum(weight_NK.sum(axis=1, keepdims=True), 1e-9)
    y_NK = np.where(there_NK, y_NK, 0.0)
    above_NK = height_K - (weight_NK @ height_K)[:, None]
    over_NK = y_NK - (weight_NK * y_NK).sum(axis=1, keepdims=True)
    slope_N = (weight_NK * above_NK * over_NK).sum(axis=1)
    slope_N /= np.maximum((weight_NK * above_NK**2).sum(axis=1), 1e-9)
    slope_N1 = np.clip(slope_N, 0.1, 2.5)[:, None]
    away_NK = (over_NK - slope_N1 * above_NK) / (spread_K * np.maximum(slope_N1, 0.25))
    size_NK = np.log(np.where(there_NK, area_NK / usual_K, np.nan))
    with warnings.catch_warnings():
        # a mask without any of these ids has no median
        warnings.simplefilter("ignore", RuntimeWarning)
        size_NK -= np.nanmedian(size_NK, axis=1, keepdims=True)
    away_K = np.nanmedian(np.where(there_NK, away_NK, np.nan), axis=0)
    # an area within a factor of three of the usual one says nothing
    beyond_K = np.maximum(0.0, np.abs(np.nanmedian(size_NK, axis=0)) - 1.1)
    misfit_K = np.minimum(away_K**2 + beyond_K**2, _WORST)
    # what few faces have cannot be on most of them
    misfit_K[(share_K < 0.3) & (there_NK.mean(axis=0) > 0.6)] = _WORST
    return float(np.mean(misfit_K))


def order_of(shapes: Sequence[Shape]) -> str | None:
    """The class order that the ids of some masks are in, all together: OURS, SECOND or NEITHER.

    None where too few ids are there to tell. Of published masks, eight taken at random fit their
    own order to 1.5 at worst and a random one to 5.3 at best (400 draws); one alone to 3.3 and 4.6.
    """
    ours, second = (misfit(shapes, meaning) for meaning in (range(NUM_CLASSES), FROM_OTHER_ORDER))
    if ours is None or second is None:
        return None
    # the fewer masks, the farther off are their medians
    limit = 1.5 + 3.0 / len(shapes)
    if ours <= min(second, limit):
        return OURS
    return SECOND if second <= limit else NEITHER


def _ids_of(shapes: Sequence[Shape]) -> NDArray[np.intp]:
    """The ids in a set of masks; a stray pixel in one mask of fifty says nothing of an id."""
    masks_C = np.sum([shape.area_C > 0 for shape in shapes], axis=0)
    return np.flatnonzero(masks_C >= max(1.0, 0.02 * len(shapes)))


@dataclass(frozen=True)
class Order:
    """What the ids of a set of masks mean.

    whole: OURS, SECOND or NEITHER; None where nothing tells. second, neither: stems of the masks
    whose ids fit that order, each taken alone. renumbered: stems of the masks whose palette has the
    colours of the others under other ids.
    """

    whole: str | None
    second: tuple[str, ...] = ()
    neither: tuple[str, ...] = ()
    renumbered: tuple[str, ...] = ()

    @property
    def doubtful(self) -> frozenset[str]:
        """Stems of the masks that have other ids than the rest of the set."""
        second = () if self.whole == SECOND else self.second
        return frozenset((*second, *self.neither, *self.renumbered))


def order_of_set(
    shapes: Mapping[str, Shape], palettes: Mapping[str, Palette | None] | None = None
) -> Order:
    """The class order of a data set, decided for the whole of it at once.

    shapes, palettes: by stem. A set with single masks in our order is never SECOND: a translation
    would spoil those.
    """
    if not shapes:
        return Order(None)
    whole = order_of(list(shapes.values()))
    alone = {stem: order_of([shape]) for stem, shape in shapes.items()}
    renumbered = _renumbered(shapes, palettes or {})
    # a handful of ids may fit by chance, and a translation is not undone
    few = len(_ids_of(list(shapes.values()))) < 8
    if whole == SECOND and (few or renumbered or OURS in alone.values()):
        whole = NEITHER
    return Order(
        whole,
        second=tuple(stem for stem, order in alone.items() if order == SECOND),
        neither=tuple(stem for stem, order in alone.items() if order == NEITHER),
        renumbered=renumbered,
    )


def _renumbered(
    shapes: Mapping[str, Shape], palettes: Mapping[str, Palette | None]
) -> tuple[str, ...]:
    """Stems of masks whose palette has the colours of most masks under other ids."""
    colours = {
        stem: {
            int(number): tuple(palette[number].tolist())
            for number in np.flatnonzero(shapes[stem].area_C)
            if number < len(palette)
        }
        for stem, palette in palettes.items()
        if palette is not None and stem in shapes
    }
    counts: dict[int, Counter[tuple[int, ...]]] = {}
    for own in colours.values():
        for number, colour in own.items():
            counts.setdefault(number, Counter())[colour] += 1
    usual = {number: count.most_common(1)[0][0] for number, count in counts.items()}
    known = set(usual.values())
    return tuple(
        stem
        for stem, own in colours.items()
        # a palette of other colours is another taste, not another numbering
        if known >= set(own.values()) and any(usual[n] != colour for n, colour in own.items())
    )


def relabelled(shape: Shape, table: Sequence[int]) -> Shape:
    """The shape of the mask after every id went through a table that merges none."""
    back = np.argsort(np.asarray(table))
    return Shape(shape.area_C[back], shape.x_C[back], shape.y_C[back])


# --- a whole data set


@dataclass
class Audit:
    """What is wrong with a data set; stems are sorted. `pairs` counts images that have a mask.

    class_order: of the set as a whole, "ours", "second" or "neither"; None where nothing tells.
    other_class_order: masks in the second order; of a set that is in it as a whole, all that are
    not doubtful. no_class_order: whose ids fit neither. renumbered: whose palette has the colours
    of the others under other ids.
    """

    pairs: int = 0
    missing_image: list[str] = field(default_factory=list)
    missing_mask: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    size_mismatch: list[str] = field(default_factory=list)
    unknown_ids: list[str] = field(default_factory=list)
    empty_masks: list[str] = field(default_factory=list)
    class_order: str | None = None
    other_class_order: list[str] = field(default_factory=list)
    no_class_order: list[str] = field(default_factory=list)
    renumbered: list[str] = field(default_factory=list)
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
    def translated(self) -> list[str]:
        """Stems of the masks that a repair translates: none unless the whole set needs it."""
        return self.other_class_order if self.class_order == SECOND else []

    @property
    def doubtful(self) -> list[str]:
        """Stems of the masks that have other ids than the rest; no repair changes them. Sorted."""
        second = [] if self.class_order == SECOND else self.other_class_order
        return sorted({*second, *self.no_class_order, *self.renumbered})

    @property
    def clean(self) -> bool:
        ids = self.class_order != OURS or self.doubtful
        return not (self.untrainable or ids or self.left_right_reversed or self.duplicates)


@dataclass(frozen=True)
class _Look:
    """What one pair shows: the list of the audit that it belongs to, or the shape of its mask."""

    trouble: str | None = None
    reason: str = ""
    shape: Shape | None = None
    palette: Palette | None = None


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
    masks = {stem: look for stem, look in zip(stems, looks, strict=True) if look.shape is not None}
    ids = _ids_meaning(source, masks)
    found.class_order = ids.order.whole
    found.other_class_order = sorted(
        masks.keys() - ids.order.doubtful if ids.order.whole == SECOND else ids.order.second
    )
    found.no_class_order, found.renumbered = sorted(ids.order.neither), sorted(ids.order.renumbered)
    found.left_right_reversed = sorted(ids.reversed)
    groups: dict[str, list[str]] = {}
    for stem in stems:
        # an unreadable file is no picture that could be there twice
        if stem not in found.unreadable:
            groups.setdefault(content_hash([listing.images[stem]]), []).append(stem)
    found.duplicates = [group for group in groups.values() if len(group) > 1]
    return found, reasons


@dataclass(frozen=True)
class _Ids:
    """What the ids of a set mean, and the stems whose left and right are reversed."""

    order: Order
    reversed: tuple[str, ...]


def _ids_meaning(source: Source, masks: Mapping[str, _Look]) -> _Ids:
    shapes = {stem: look.shape for stem, look in masks.items() if look.shape is not None}
    # the official part masks carry their class in their names: no order can be mixed up
    order = (
        Order(OURS)
        if isinstance(source, OfficialSource)
        else order_of_set(shapes, {stem: look.palette for stem, look in masks.items()})
    )
    if order.whole == NEITHER:
        # sides are known by the ids of eyes, brows and ears
        return _Ids(order, ())
    if order.whole == SECOND:
        shapes = {stem: relabelled(shape, FROM_OTHER_ORDER) for stem, shape in shapes.items()}
    known = shapes.keys() - (set() if order.whole == SECOND else order.doubtful)
    return _Ids(
        order, tuple(stem for stem in shapes if stem in known and is_reversed(shapes[stem]))
    )


def remembered_ids(
    source: Source, fingerprint: str, folder: Path, tick: Tick | None = None
) -> dict[str, Any]:
    """What the ids of a source mean, in numbers; looked at once per data set.

    fingerprint: of the contents. folder: where the answer is kept. Returns `order` as
    `Audit.class_order`, and how many masks are `doubtful`, `reversed`, `empty`. Masks that cannot
    be read are passed over: loading them says so.
    """
    store = folder / f"ids-{VERSION}-{fingerprint}.json"
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and known.keys() == {"order", "doubtful", "reversed", "empty"}:
        return known
    looks = _over_pairs(lambda index: _look_at_mask(source, index), len(source.stems), tick)
    masks = {
        stem: look for stem, look in zip(source.stems, looks, strict=True) if look.shape is not None
    }
    ids = _ids_meaning(source, masks)
    found = {
        "order": ids.order.whole,
        "doubtful": len(ids.order.doubtful),
        "reversed": len(ids.reversed),
        "empty": sum(look.trouble == "empty_masks" for look in looks),
    }
    with contextlib.suppress(OSError):  # the answer holds; it would only be asked again
        atomic_write_text(store, json.dumps(found))
    return found


def _look(source: Source, index: int) -> _Look:
    look = _look_at_mask(source, index)
    if look.trouble in ("size_mismatch", "unknown_ids", "unreadable"):
        return look
    try:
        # the whole picture: a truncated one has a sound header
        source.image(index)
    except DataError as error:
        return _Look("unreadable", str(error))
    return look


def _look_at_mask(source: Source, index: int) -> _Look:
    try:
        mask = source.mask(index)
        files = source.files(index)[1:]
        palette = palette_of(files[0]) if len(files) == 1 else None
    except SizeMismatch as error:
        return _Look("size_mismatch", str(error))
    except UnknownIds as error:
        return _Look("unknown_ids", str(error))
    except DataError as error:
        return _Look("unreadable", str(error))
    if not mask.any():
        return _Look("empty_masks", "the mask is background only")
    return _Look(shape=shape_of(mask), palette=palette)


def ids_lines(order: str | None, doubtful: int, masks: int) -> list[str]:
    """What to say of a set's class order, none where it is as it should be.

    order: of the whole set. doubtful: how many of its masks have other ids than the rest.
    """
    ours, second = (", ".join(names[:5]) for names in (NAMES, OTHER_NAMES))
    if order == SECOND:
        return [f"the class order looks wrong: the ids fit the second known order ({second}, ...)"]
    if order == NEITHER:
        return [
            f"the class order looks wrong: the ids fit neither CelebAMask-HQ's own order ({ours},"
            f" ...) nor the second known one ({second}, ...), so no mask can be corrected; put the"
            " ids of all masks in the first order"
        ]
    if order is None:
        return [
            "the class order cannot be told: the masks hold fewer than three ids besides the"
            " background"
        ]
    if doubtful:
        return [
            f"{doubtful} of {masks} masks have other ids than the rest (another class order, or"
            " colours under other ids), and no repair changes them; correct them or take them out"
        ]
    return []


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
