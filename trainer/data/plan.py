"""Which pair of a data set is in which part, and what identifies data and split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data import synthetic
from trainer.data.cache import content_hashes
from trainer.data.image_files import unlike_stored
from trainer.data.layouts import list_folder
from trainer.data.layouts.layout import Listing
from trainer.data.source import Source
from trainer.data.split import Names, list_files, printable, read_names, some, split, stem_of
from trainer.errors import DataError
from trainer.presets import SYNTHETIC


@dataclass(frozen=True)
class Plan:
    """Which pair of a source goes where."""

    source: Source
    parts: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, str]
    fingerprint: str
    lists: tuple[str, ...]
    left_out: int = 0
    notes: tuple[str, ...] = ()


def plan_of(root: str, synthetic_images: int, folder: Path) -> Plan:
    """The plan of a data set; nothing is decoded. folder: of the cache. Raises DataError."""
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
        pairs = source = listing.source()
        stems = source.stems  # made anew by each call
        left_out = len(listing.images.keys() ^ listing.masks.keys())
        given = given_parts(listing)
        hashes = content_hashes(source, Path(root), folder)
        first: dict[str, str] = {}
        pictures = (both.partition(" ")[0] for both in hashes)
        twins = {
            stem: first.setdefault(picture, stem)
            for stem, picture in zip(stems, pictures, strict=True)
        }
        marks = ["".join(both.split(" ")[2:]) for both in hashes]
        hashes[0] += pairs.layout.mark(pairs.masks[0])
        notes += [*listing.notes, *given.notes(), *_unlike_stored_notes(marks)]
    chosen = split(stems, given.parts, twins)
    notes += _split_notes(chosen, given, stems)
    where = {stem: index for index, stem in enumerate(stems)}
    parts = {part: tuple(where[stem] for stem in names) for part, names in chosen.items()}
    for part, named in given.parts.items():
        if named and not parts[part]:
            raise DataError(
                f"{root}: {given.places[part]} names no pair that is there; fix the list"
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
    return Plan(source, parts, keys, fingerprint, lists, left_out, tuple(notes))


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
    return [*listing.notes, *given, *_unlike_stored_notes(marks)]


def _unlike_stored_notes(marks: Sequence[str]) -> list[str]:
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


def _digest(lines: Iterator[str]) -> str:
    # names of files need not be text: their bytes, whatever the locale makes of them
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
