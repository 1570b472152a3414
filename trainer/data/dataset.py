"""A data set as training sees it: three parts of reduced pairs, and the untouched masks behind.

N pair, S side of the training grid, H row, W column.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.audit import ids_lines, remembered_ids
from trainer.data.cache import Tick, cached_part, usable_folder
from trainer.data.class_order import SECOND
from trainer.data.classes import NAMES, NUM_CLASSES
from trainer.data.layouts.layout import FolderSource
from trainer.data.plan import Plan, plan_of
from trainer.data.source import Bytes, Source
from trainer.data.split import PARTS
from trainer.errors import DataError
from trainer.presets import SYNTHETIC
from trainer.streams import command_line

# at 64 pixels the widest class has 31 % of the 850 real masks and 32 % of 500 built-in ones, and at
# most 68 % and 60 % of a single one
MOST_OF_ONE_CLASS = 0.98


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    images: uint8 [N, S, S, 3]; masks: uint8 [N, S, S], ids 0-18, reduced by nearest at pixel
    centres. Both are read-only views of files that other processes share.
    """

    stems: tuple[str, ...]
    images: Bytes
    masks: Bytes
    source: Source
    indices: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # as file names, so that a worker process maps the same bytes instead of copying them
        paths = [getattr(array, "filename", None) for array in (self.images, self.masks)]
        if None in paths:
            return Part, (self.stems, self.images, self.masks, self.source, self.indices)
        return _mapped_part, (self.stems, *map(str, paths), self.source, self.indices)

    def __len__(self) -> int:
        return len(self.stems)

    def full_mask(self, index: int) -> Bytes:
        """The untouched mask of pair `index`: uint8 [H, W] at its own size."""
        return self.source.mask(self.indices[index])


def _mapped_part(
    stems: tuple[str, ...], images: str, masks: str, source: Source, indices: tuple[int, ...]
) -> Part:
    return Part(
        stems, np.load(images, mmap_mode="r"), np.load(masks, mmap_mode="r"), source, indices
    )


@dataclass(frozen=True)
class DataSummary:
    """A data set without its pixels: sizes of the parts, and what identifies data and split."""

    name: str
    train: int
    val: int
    test: int
    fingerprint: str
    lists: tuple[str, ...] = ()
    # pictures and masks without a partner: not used, listed by trainer.check
    left_out: int = 0
    # what the user is to hear before anything is computed: files that are not used, say
    notes: tuple[str, ...] = ()


# compared by identity: its parts are kept by it
@dataclass(frozen=True, eq=False)
class FaceData:
    """A data set on one grid; parts are decoded when first asked for.

    name: `synthetic` or the folder's name. size: S. fingerprint: of contents and split.
    """

    name: str
    size: int
    fingerprint: str
    plan: Plan = field(repr=False)
    folder: Path = field(repr=False)
    tick: Tick | None = field(default=None, repr=False, compare=False)

    def part(self, name: str) -> Part:
        """`train`, `val`, `test` or `all`: every pair, sorted by stem.

        Raises DataError if it is empty or a pair is unsound.
        """
        if name not in self.plan.parts:
            raise ValueError(f"part: {name!r} is none of {', '.join(PARTS)}, all")
        if not self.plan.parts[name]:
            raise DataError(
                f"{self.name} has no picture in its {name} part; name some in {name}.txt"
            )
        return _load_part(self, name)

    @property
    def train(self) -> Part:
        return self.part("train")

    @property
    def val(self) -> Part:
        return self.part("val")


# a training asks for its parts again and again; three parts of one data set are kept
@functools.lru_cache(maxsize=8)
def _load_part(data: FaceData, name: str) -> Part:
    plan = data.plan
    indices = plan.parts[name]
    images, masks = cached_part(
        plan.source,
        indices,
        key=plan.keys[name],
        image_size=data.size,
        folder=data.folder,
        tick=data.tick,
    )
    _refuse_one_class(plan.source, name, masks)
    stems = plan.source.stems
    return Part(tuple(stems[i] for i in indices), images, masks, plan.source, indices)


def _refuse_one_class(source: Source, part: str, masks_NSS: Bytes) -> None:
    """Raises DataError if nearly all pixels of a part's masks are of one class.

    Every network scores best on such masks, and the score says nothing. Of a large part some
    thousand masks are looked at, and of large masks some thousand pixels each.
    """
    step, stride = max(1, masks_NSS.shape[-1] // 64), max(1, len(masks_NSS) // 2000)
    counts = np.bincount(masks_NSS[::stride, ::step, ::step].ravel(), minlength=NUM_CLASSES)
    number, share = int(counts.argmax()), float(counts.max() / counts.sum())
    if share <= MOST_OF_ONE_CLASS:
        return
    where = getattr(source, "root", source.name)
    raise DataError(
        f"{where}: {share:.1%} of the pixels of its {part} masks are {NAMES[number]} (id {number}),"
        " so there is nothing to learn; masks come out like that when they are empty, or when ids"
        " are saved as 0 and 1, scaled, or as another kind of number: python -m trainer.check"
        " --data looks at each"
    )


def load_faces(
    root: str,
    *,
    image_size: int,
    synthetic_images: int = 500,
    parts: Sequence[str] = ("train", "val"),
    tick: Tick | None = None,
) -> FaceData:
    """Open a data set and decode the parts that are wanted, unless an earlier call did.

    root: a folder in the course or the official layout, or `synthetic`. image_size: S in pixels.
    parts: decoded now; another part is decoded when it is asked for. tick: called with pairs done
    and pairs in all while decoding.
    Raises DataError with one line.
    """
    folder = usable_folder()
    plan = plan_of(root, synthetic_images, folder)
    data = FaceData(plan.source.name, image_size, plan.fingerprint, plan, folder, tick)
    for name in parts:
        data.part(name)
    return data


def describe(root: str, synthetic_images: int = 500) -> DataSummary:
    """Sizes and fingerprint of a data set; nothing is decoded. Raises DataError."""
    plan = plan_of(root, synthetic_images, usable_folder())
    train, val, test = (len(plan.parts[part]) for part in PARTS)
    return DataSummary(
        *(plan.source.name, train, val, test),
        *(plan.fingerprint, plan.lists, plan.left_out, plan.notes),
    )


def mask_warnings(root: str, tick: Tick | None = None) -> list[str]:
    """A line each if masks of a folder look as if they were in another class order, have left and
    right reversed, or are empty, with the command that says more or corrects them.

    The look at a data set is remembered by its fingerprint. Nothing for the built-in faces.
    """
    if root == SYNTHETIC:
        return []
    folder = usable_folder()
    plan = plan_of(root, 0, folder)
    assert isinstance(plan.source, FolderSource)
    found = remembered_ids(plan.source, plan.fingerprint, folder, tick)
    masks = len(plan.source.stems)
    words = ["python", "-m", "trainer.check", "--data", root]
    check = command_line(words)
    copy = "a corrected copy: " + command_line([*words, "--repair", f"{root.rstrip('/')}-repaired"])
    lines = [
        f"{line}; {copy if found['order'] == SECOND else 'which: ' + check}"
        for line in ids_lines(found["order"], found["doubtful"], masks)
    ]
    if found["reversed"]:
        lines.append(f"{found['reversed']} of {masks} masks have left and right reversed; {copy}")
    if found["empty"]:
        lines.append(f"{found['empty']} of {masks} masks are background only; {copy}")
    return lines
