"""A data set as training sees it: three parts of reduced pairs, and the untouched masks behind.

N pair, S side of the training grid, H row, W column.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import synthetic
from trainer.data.cache import Tick, cached_part, content_hashes, usable_folder
from trainer.data.sources import Listing, Source, list_folder
from trainer.data.split import PARTS, Names, read_lists, split
from trainer.errors import DataError
from trainer.streams import command_line

Bytes = NDArray[np.uint8]
SYNTHETIC = "synthetic"


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

    def full_image(self, index: int) -> Bytes:
        """The untouched picture of pair `index`: uint8 [H, W, 3]."""
        return self.source.image(self.indices[index])


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


@dataclass(frozen=True)
class _Plan:
    """Which pair of a source goes where."""

    source: Source
    parts: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, str]
    fingerprint: str
    lists: tuple[str, ...]
    left_out: int = 0


# compared by identity: its parts are kept by it
@dataclass(frozen=True, eq=False)
class FaceData:
    """A data set on one grid; parts are decoded when first asked for.

    name: `synthetic` or the folder's name. size: S. fingerprint: of contents and split.
    """

    name: str
    size: int
    fingerprint: str
    plan: _Plan = field(repr=False)
    folder: Path = field(repr=False)
    tick: Tick | None = field(default=None, repr=False, compare=False)

    def part(self, name: str) -> Part:
        """`train`, `val`, `test` or `all`. Raises DataError if a pair is unsound."""
        return _load_part(self, name)

    @property
    def train(self) -> Part:
        return self.part("train")

    @property
    def val(self) -> Part:
        return self.part("val")

    @property
    def test(self) -> Part:
        return self.part("test")

    @property
    def all(self) -> Part:
        """Every pair, sorted by stem."""
        return self.part("all")


# a training asks for its parts again and again; three parts of one data set are kept
@functools.lru_cache(maxsize=8)
def _load_part_cached(data: FaceData, name: str) -> Part:
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
    stems = plan.source.stems
    return Part(tuple(stems[i] for i in indices), images, masks, plan.source, indices)


def _load_part(data: FaceData, name: str) -> Part:
    if name not in data.plan.parts:
        raise ValueError(f"part: {name!r} is none of {', '.join(PARTS)}, all")
    if not data.plan.parts[name]:
        raise DataError(f"{data.name} has no picture in its {name} part; name some in {name}.txt")
    return _load_part_cached(data, name)


def load_faces(
    root: str,
    *,
    image_size: int,
    synthetic_images: int = 500,
    cache_dir: Path | None = None,
    parts: Sequence[str] = ("train", "val"),
    tick: Tick | None = None,
) -> FaceData:
    """Open a data set and decode the parts that are wanted, unless an earlier call did.

    root: a folder in the course or the official layout, or `synthetic`. image_size: S in pixels.
    parts: decoded now; another part is decoded when it is asked for. tick: called with pairs done
    and pairs in all while decoding.
    Raises DataError with one line.
    """
    folder = usable_folder(cache_dir)
    plan = _plan(root, synthetic_images, folder)
    data = FaceData(plan.source.name, image_size, plan.fingerprint, plan, folder, tick)
    for name in parts:
        data.part(name)
    return data


def describe(root: str, synthetic_images: int = 500, cache_dir: Path | None = None) -> DataSummary:
    """Sizes and fingerprint of a data set; nothing is decoded. Raises DataError."""
    plan = _plan(root, synthetic_images, usable_folder(cache_dir))
    train, val, test = (len(plan.parts[part]) for part in PARTS)
    return DataSummary(
        plan.source.name, train, val, test, plan.fingerprint, plan.lists, plan.left_out
    )


def reversed_warning(root: str, cache_dir: Path | None = None) -> str | None:
    """One line if masks of a folder have left and right reversed, and the command that mends it.

    The audit of a data set is remembered by its fingerprint. None for the built-in faces.
    """
    if root == SYNTHETIC:
        return None
    from trainer.data.audit import remembered_reversed

    folder = usable_folder(cache_dir)
    plan = _plan(root, 0, folder)
    count = remembered_reversed(plan.source, plan.fingerprint, folder)
    if not count:
        return None
    words = ["python", "-m", "trainer.check", "--data", root]
    words += ["--repair", f"{root.rstrip('/')}-repaired"]
    return (
        f"{count} of {len(plan.source.stems)} masks have left and right reversed; a corrected copy:"
        f" {command_line(words)}"
    )


def _plan(root: str, synthetic_images: int, folder: Path) -> _Plan:
    if root == SYNTHETIC:
        source: Source = synthetic.SyntheticSource(synthetic_images)
        stems = source.stems
        hashes = [f"{synthetic.VERSION} {stem}" for stem in stems]
        twins: dict[str, str] = {}
        lists: dict[str, tuple[str, ...]] = {}
        left_out = 0
    else:
        listing = list_folder(Path(root))
        source = listing.source()
        stems = source.stems  # made anew by each call
        left_out = len(listing.images.keys() ^ listing.masks.keys())
        hashes = content_hashes(source, Path(root), folder)
        twins = dict(_twins(stems, hashes))
        lists = _known(read_lists(Path(root)), listing, root)
    chosen = split(stems, lists, twins)
    where = {stem: index for index, stem in enumerate(stems)}
    parts = {part: tuple(where[stem] for stem in names) for part, names in chosen.items()}
    for part, named in lists.items():
        if named and not parts[part]:
            raise DataError(f"{root}: {part}.txt names no pair that is there; mend the list")
    for part in ("train", "val"):
        if not parts[part]:
            raise DataError(
                f"{root}: {len(stems)} pairs leave none for the {part} part; add pairs, or"
                " a val.txt with one name a line"
            )
    keys = {
        part: _digest(f"{stems[i]} {hashes[i]}" for i in indices) for part, indices in parts.items()
    }
    fingerprint = _digest(f"{part} {key}" for part, key in sorted(keys.items()))[:16]
    # everything together, for --all-data; no part of the identity, since it holds nothing new
    parts["all"] = tuple(range(len(stems)))
    keys["all"] = _digest(f"{stems[i]} {hashes[i]}" for i in parts["all"])
    return _Plan(source, parts, keys, fingerprint, tuple(sorted(lists)), left_out)


def _known(
    lists: Mapping[str, Sequence[str]], listing: Listing, root: str
) -> dict[str, tuple[str, ...]]:
    """The lists by the stems of the files. Raises DataError for a name that no file has.

    A name whose image or mask is missing is passed over with its pair.
    """
    names = Names(listing.images.keys() | listing.masks.keys())
    known: dict[str, tuple[str, ...]] = {}
    for part, lines in lists.items():
        found = {line: names.find(line) for line in lines}
        strangers = [line for line, stem in found.items() if stem is None]
        if strangers:
            raise DataError(
                f"{root}: {len(strangers)} of {len(lines)} names in {part}.txt have no picture"
                f" (first: {strangers[0]}); take them out of the list"
            )
        known[part] = tuple(stem for stem in found.values() if stem is not None)
    return known


def _twins(stems: Sequence[str], hashes: Sequence[str]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for stem, both in zip(stems, hashes, strict=True):
        yield stem, first.setdefault(both.partition(" ")[0], stem)


def _digest(lines: Iterator[str]) -> str:
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
