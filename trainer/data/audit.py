"""What is wrong with a data set: files, sizes, ids, class order, duplicates, reversed sides."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.cache import Tick
from trainer.data.class_order import NEITHER, OURS, SECOND, Order, Palette, order_of_set
from trainer.data.classes import FROM_OTHER_ORDER, NAMES, OTHER_NAMES
from trainer.data.image_files import quiet_pillow
from trainer.data.layouts import list_folder
from trainer.data.layouts.layout import FolderSource, SizeMismatch
from trainer.data.mask_files import UnknownIds, palette_of
from trainer.data.mask_geometry import Shape, is_reversed, relabelled, shape_of
from trainer.data.source import content_hash
from trainer.errors import DataError
from trainer.files import atomic_write_text

# raise it when the geometry of masks or their class order is judged otherwise: remembered answers
# are then asked again
VERSION = 2


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


def _ids_meaning(source: FolderSource, masks: Mapping[str, _Look]) -> _Ids:
    shapes = {stem: look.shape for stem, look in masks.items() if look.shape is not None}
    # no order can be mixed up in files that name their classes
    order = (
        Order(OURS)
        if source.layout.names_classes
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
    source: FolderSource, fingerprint: str, folder: Path, tick: Tick | None = None
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


def _look(source: FolderSource, index: int) -> _Look:
    look = _look_at_mask(source, index)
    if look.trouble in ("size_mismatch", "unknown_ids", "unreadable"):
        return look
    try:
        # the whole picture: a truncated one has a sound header
        source.image(index)
    except DataError as error:
        return _Look("unreadable", str(error))
    return look


def _look_at_mask(source: FolderSource, index: int) -> _Look:
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


def _over_pairs(look: Callable[[int], Any], count: int, tick: Tick | None) -> list[Any]:
    results = []
    # Pillow lets go of the interpreter lock while it decodes
    with quiet_pillow, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done, result in enumerate(pool.map(look, range(count)), start=1):
            results.append(result)
            if tick is not None:
                tick(done, count)
    return results
