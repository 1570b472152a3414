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
from trainer.data.classes import NAMES, NUM_CLASSES
from trainer.data.pixels import part_unlike_stored, unlike_stored
from trainer.data.sources import Listing, OfficialSource, Source, list_folder
from trainer.data.split import PARTS, Names, list_files, printable, read_names, some, split, stem_of
from trainer.errors import DataError
from trainer.streams import command_line

Bytes = NDArray[np.uint8]
SYNTHETIC = "synthetic"
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
    # what the person is to hear before anything is computed: files that are not used, say
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """Which pair of a source goes where."""

    source: Source
    parts: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, str]
    fingerprint: str
    lists: tuple[str, ...]
    left_out: int = 0
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
        *(plan.source.name, train, val, test),
        *(plan.fingerprint, plan.lists, plan.left_out, plan.notes),
    )


def mask_warnings(root: str, cache_dir: Path | None = None, tick: Tick | None = None) -> list[str]:
    """A line each if masks of a folder look as if they were in another class order, have left and
    right reversed, or are empty, with the command that says more or corrects them.

    The look at a data set is remembered by its fingerprint. Nothing for the built-in faces.
    """
    if root == SYNTHETIC:
        return []
    from trainer.data.audit import SECOND, ids_lines, remembered_ids

    folder = usable_folder(cache_dir)
    plan = _plan(root, 0, folder)
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


def _plan(root: str, synthetic_images: int, folder: Path) -> _Plan:
    notes: list[str] = []
    if root == SYNTHETIC:
        source: Source = synthetic.SyntheticSource(synthetic_images)
        stems = source.stems
        hashes = [f"{synthetic.VERSION} {stem}" for stem in stems]
        twins: dict[str, str] = {}
        given = Given({}, {})
        left_out = 0
    else:
        listing = list_folder(Path(root))
        source = listing.source()
        stems = source.stems  # made anew by each call
        left_out = len(listing.images.keys() ^ listing.masks.keys())
        given = given_parts(listing)
        hashes = content_hashes(source, Path(root), folder)
        twins = dict(_twins(stems, hashes))
        marks = ["".join(both.split(" ")[2:]) for both in hashes]
        if isinstance(source, OfficialSource) and part_unlike_stored(source.part_files[0][0]):
            # scores of masks that were read as empty are not to be gone on with
            hashes[0] += " faint"
        notes += [*listing.notes, *given.notes(), *_told_apart(marks)]
    chosen = split(stems, given.parts, twins)
    notes += _split_notes(chosen, given, stems)
    where = {stem: index for index, stem in enumerate(stems)}
    parts = {part: tuple(where[stem] for stem in names) for part, names in chosen.items()}
    for part, named in given.parts.items():
        if named and not parts[part]:
            raise DataError(
                f"{root}: {given.places[part]} names no pair that is there; mend the list"
            )
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
    parts["all"] = tuple(sorted(i for indices in parts.values() for i in indices))
    keys["all"] = _digest(f"{stems[i]} {hashes[i]}" for i in parts["all"])
    lists = tuple(sorted(given.parts))
    return _Plan(source, parts, keys, fingerprint, lists, left_out, tuple(notes))


@dataclass(frozen=True)
class Given:
    """The parts that a data set says itself: part -> stems, and part -> what says it."""

    parts: Mapping[str, tuple[str, ...]]
    places: Mapping[str, str]

    def notes(self) -> list[str]:
        """A line for each part that is given otherwise than by the usual list."""
        return [
            f"the {part} part is what {place} {'holds' if place.endswith('/') else 'names'}"
            for part, place in self.places.items()
            if place != f"{part}.txt"
        ]


def given_parts(listing: Listing) -> Given:
    """The parts that lists and folders give.

    Raises DataError where they contradict each other, or name what is not there; a name whose
    image or mask is missing is passed over with its pair.
    """
    root = listing.root
    parts = dict(listing.given)
    places = {part: f"{place}/" for part, place in listing.folders.items()}
    names = Names(listing.images.keys() | listing.masks.keys())
    for part, path in list_files(*listing.lists).items():
        place = printable(str(path.relative_to(root)))
        if part in places:
            raise DataError(
                f"{root} holds both {place} and the folder {places[part]}, which both say what the"
                f" {part} part is; keep one"
            )
        places[part] = place
        lines = [stem_of(line) for line in read_names(path)]
        found = {line: names.find(line) for line in lines}
        strangers = [line for line, stem in found.items() if stem is None]
        if strangers:
            raise DataError(
                f"{root}: {len(strangers)} of {len(lines)} names in {place} have no picture"
                f" (first: {printable(strangers[0])}); take them out of the list"
            )
        parts[part] = tuple(stem for stem in found.values() if stem is not None)
    first: dict[str, str] = {}
    for part, stems in parts.items():
        for stem in stems:
            if first.setdefault(stem, part) != part:
                raise DataError(
                    f"{root}: {printable(stem)!r} stands in {places[first[stem]]} and in"
                    f" {places[part]}; take it out of one"
                )
    if "train" in parts and "val" not in parts:
        raise DataError(
            f"{root}: {places['train']} names {len(parts['train'])} of {len(listing.stems)} pairs,"
            " and nothing says which are for validation: add a val.txt, or rename"
            f" {places['train']} to have them drawn from all pairs"
        )
    return Given(parts, places)


def notes_on(root: Path) -> list[str]:
    """What a start on this folder says of it, a line a kind; a contradiction is one of them.

    Raises DataError where there is nothing to look at.
    """
    listing = list_folder(root)
    try:
        given = given_parts(listing).notes()
    except DataError as error:
        given = [str(error)]
    marks = [unlike_stored(listing.images[stem]) for stem in listing.stems]
    return [*listing.notes, *given, *_told_apart(marks)]


def _told_apart(marks: Sequence[str]) -> list[str]:
    """Lines on pictures whose pixels are not simply the stored ones."""
    kinds = (
        ("turned", "stored turned (EXIF), read upright as viewers show them; so must the masks be"),
        ("deep", "with more than 8 bits a pixel, scaled by their depth"),
        ("transparent", "transparent in parts, read over black"),
    )
    return [
        f"{count} of {len(marks)} pictures {what}"
        for mark, what in kinds
        if (count := marks.count(mark))
    ]


def _split_notes(
    chosen: Mapping[str, Sequence[str]], given: Given, stems: Sequence[str]
) -> list[str]:
    """Lines on pairs that are in another part than one would think, or in none."""
    notes = []
    standing = {stem: part for part, names in given.parts.items() for stem in names}
    part_of = {stem: part for part, names in chosen.items() for stem in names}
    unlisted = sorted(set(stems) - part_of.keys())
    if unlisted:
        notes.append(
            f"not used: {len(unlisted)} of {len(stems)} pairs, in no part though"
            f" {given.places['train']} says what is trained on: {some(unlisted)}"
        )
    # nothing is drawn into a part that is given
    moved = sorted(
        stem
        for stem, part in part_of.items()
        if standing.get(stem, part) != part or (part in given.parts and stem not in standing)
    )
    if moved:
        notes.append(
            f"counted with the other part that holds an exact copy: {len(moved)} of {len(stems)}"
            f" pairs: {some(moved)}"
        )
    if given.places.get("val", "").endswith("/") and "test" not in given.parts and chosen["test"]:
        notes.append(
            f"{len(chosen['test'])} pairs are drawn for the test part; an empty test.txt leaves"
            " them in training"
        )
    return notes


def _twins(stems: Sequence[str], hashes: Sequence[str]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for stem, both in zip(stems, hashes, strict=True):
        yield stem, first.setdefault(both.partition(" ")[0], stem)


def _digest(lines: Iterator[str]) -> str:
    # names of files need not be text: their bytes, whatever the locale makes of them
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
