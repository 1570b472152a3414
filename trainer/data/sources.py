"""Where faces come from: the course layout or the official CelebAMask-HQ layout on a disk.

The built-in faces (`trainer.data.synthetic`) offer the same methods.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.classes import IDS
from trainer.data.pixels import (
    IMAGE_SUFFIXES,
    UnknownIds,
    check_ids,
    decode,
    palette_of,
    picture_size,
    quiet_pillow,
    read_ids,
    read_image,
    read_part,
    sizes,
)
from trainer.data.split import PART_NAMES, PARTS, composed, named_once, printable, some, stem_of
from trainer.errors import DataError

Bytes = NDArray[np.uint8]


class Source(Protocol):
    """Pairs of pictures and masks, decoded on demand."""

    @property
    def name(self) -> str:
        """Short name: `synthetic`, or the folder's."""
        ...

    @property
    def stems(self) -> tuple[str, ...]:
        """Names without suffix, sorted."""
        ...

    def image(self, index: int) -> Bytes:
        """Picture `index`: uint8 [H, W, 3]. Raises DataError."""
        ...

    def mask(self, index: int) -> Bytes:
        """Mask `index`: uint8 [H, W], ids 0-18. Raises DataError."""
        ...

    def files(self, index: int) -> tuple[Path, ...]:
        """The files of a pair, the picture first; empty for built-in faces."""
        ...


class SizeMismatch(DataError):
    """A mask whose size does not fit its picture."""


@dataclass(frozen=True)
class CourseSource:
    """Pictures and masks of ids, one a picture, of equal size.

    any_scale: masks beside `CelebA-HQ-img` are smaller than the pictures; one shape is enough.
    """

    root: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    any_scale: bool = False

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self.images)

    def image(self, index: int) -> Bytes:
        return read_image(self.images[index])

    def mask(self, index: int) -> Bytes:
        ids = check_ids(read_ids(self.masks[index]), self.masks[index])
        if self.any_scale:
            _same_shape(self.images[index], ids)
        else:
            _same_size(self.images[index], self.masks[index], ids)
        return ids

    def files(self, index: int) -> tuple[Path, ...]:
        return self.images[index], self.masks[index]


@dataclass(frozen=True)
class OfficialSource:
    """`CelebA-HQ-img/N.jpg` and `CelebAMask-HQ-mask-anno/*/NNNNN_part.png`."""

    root: Path
    images: tuple[Path, ...]
    part_files: tuple[tuple[Path, ...], ...]

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self.images)

    def image(self, index: int) -> Bytes:
        return read_image(self.images[index])

    def mask(self, index: int) -> Bytes:
        ids: Bytes | None = None
        # class order: a later part lies over an earlier one
        for path in self.part_files[index]:
            part = read_part(path)
            if ids is None:
                ids = np.zeros(part.shape, dtype=np.uint8)
            if part.shape != ids.shape:
                raise SizeMismatch(
                    f"{path}: {part.shape[1]} x {part.shape[0]} pixels, but the other parts have"
                    f" {ids.shape[1]} x {ids.shape[0]}; make them equal, or leave the pair out with"
                    " trainer.check --repair"
                )
            ids[part] = part_id(path)
        assert ids is not None, "a pair has at least one part"
        _same_shape(self.images[index], ids)
        return ids

    def files(self, index: int) -> tuple[Path, ...]:
        return self.images[index], *self.part_files[index]


def _same_size(image: Path, mask: Path, ids_HW: Bytes) -> None:
    """Raises SizeMismatch unless the mask has the size of the upright picture."""
    height, width = ids_HW.shape
    stored, upright = sizes(image)
    if (upright or stored) == (width, height):
        return
    if upright is not None and stored == (width, height):
        raise SizeMismatch(
            f"{mask}: {width} x {height} pixels, but its picture has {upright[0]} x {upright[1]} as"
            " viewers show it: the mask was drawn on the picture as it is stored, without its EXIF"
            " orientation; turn the mask, or take that tag out of the picture"
        )
    size = upright or stored
    raise SizeMismatch(
        f"{mask}: {width} x {height} pixels, but its picture has {size[0]} x {size[1]}; make them"
        " equal, or leave the pair out with trainer.check --repair"
    )


def _same_shape(image: Path, ids_HW: Bytes) -> None:
    """Raises SizeMismatch unless the mask has the aspect ratio of the upright picture."""
    height, width = ids_HW.shape
    across, down = picture_size(image)
    # a pixel of rounding is no other aspect ratio
    if abs(across * height - down * width) > 0.01 * down * width:
        raise SizeMismatch(
            f"{image}: {across} x {down} has another aspect ratio than its masks,"
            f" {width} x {height}; crop one of them"
        )


def part_of(path: Path) -> int | None:
    """The class that a part mask's name ends in: `00017_l_eye.png` -> 4; None if there is none."""
    return IDS.get(path.stem.partition("_")[2].lower())


def part_id(path: Path) -> int:
    """`00017_l_eye.png` -> 4. Raises DataError if the name holds no class."""
    found = part_of(path)
    if found is None:
        name = path.stem.partition("_")[2]
        raise DataError(f"{path}: {name!r} is no class of CelebAMask-HQ; rename or remove the file")
    return found


# --- what a folder holds


@dataclass
class Unread:
    """Files and folders that nothing is read from, by kind."""

    hidden: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)  # of a kind that is no picture here
    odd: list[Path] = field(default_factory=list)  # links to nowhere, folders called x.jpg
    folders: list[Path] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)  # files beside the folders of pictures
    nameless: list[Path] = field(default_factory=list)  # part masks of no class
    said: list[str] = field(default_factory=list)

    def lines(self, root: Path) -> list[str]:
        """One line a kind, for the person."""
        suffixes: dict[str, int] = {}
        for path in self.others:
            suffix = path.suffix.lower() or "without a suffix"
            suffixes[suffix] = suffixes.get(suffix, 0) + 1
        counts = ", ".join(
            f"{count} {printable(suffix)}" for suffix, count in sorted(suffixes.items())
        )
        kinds = (
            (self.others, "file", f" of no kind of picture ({counts})", "; convert what is one"),
            (self.hidden, "hidden name", "", ""),
            (self.odd, "name", " of a picture that is a folder or a link to nothing", ""),
            (self.folders, "other folder", "", ""),
            (self.beside, "other file", "", ""),
            (self.nameless, "part mask", " of no class", "; rename it if it is of one"),
        )
        lines = [
            f"not read: {_count(paths, what)}{more}: {some(_below(root, paths))}{do}"
            for paths, what, more, do in kinds
            if paths
        ]
        return [*lines, *self.said]


def _below(root: Path, paths: Iterable[Path]) -> list[str]:
    names = sorted(str(path.relative_to(root)) for path in paths)
    # only what will be shown: there may be thousands
    first = [f"{name}/" if (root / name).is_dir() else name for name in names[:3]]
    return first + names[3:]


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files, folders and links to nothing, each sorted; no stat for what is no link."""
    kinds: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = 0 if entry.is_file() else 1 if entry.is_dir() else 2
            kinds[kind].append(Path(entry.path))
    for paths in kinds:
        paths.sort()
    return kinds


def pictures_in(
    folder: Path, unread: Unread | None = None, key: Callable[[str], str] = composed
) -> dict[str, Path]:
    """Name without suffix, as `key` makes it -> file, in sorted order of the files.

    unread: takes what is passed over. Raises DataError if two files have one name.
    """
    unread = Unread() if unread is None else unread
    found: dict[str, Path] = {}
    files, folders, odd = _entries(folder)
    for path in files:
        if path.name.startswith("."):
            unread.hidden.append(path)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            unread.others.append(path)
        else:
            twin = found.setdefault(key(path.stem), path)
            if twin is not path:
                # two forms of one accent look alike
                alike = composed(twin.name) == composed(path.name)
                both = " and ".join(
                    ascii(p.name) if alike else printable(p.name) for p in (twin, path)
                )
                raise DataError(f"{folder} holds both {both}, which are one name; keep one")
    unread.odd += odd
    for path in folders:
        kind = unread.odd if path.suffix.lower() in IMAGE_SUFFIXES else unread.folders
        (unread.hidden if path.name.startswith(".") else kind).append(path)
    return found


def course_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and masks of the course layout, if `root` is there and has them."""
    if not root.is_dir():
        return None
    train = named_once(root, ("train",), Path.is_dir)
    for base in (train, root):
        found = None if base is None else _halves(base)
        if found is not None:
            return found
    return None


def _halves(base: Path) -> tuple[Path, Path] | None:
    images = named_once(base, ("images",), Path.is_dir)
    masks = named_once(base, ("masks",), Path.is_dir)
    return None if images is None or masks is None else (images, masks)


def _number(stem: str) -> str:
    # pictures are called 17.jpg, parts 00017_nose.png
    stem = composed(stem)
    return str(int(stem)) if stem.isdecimal() else stem


@dataclass(frozen=True)
class Listing:
    """The files of a data folder by stem, paired or not. Course masks are tuples of one file.

    given: part -> stems of its own folder; folders: part -> that folder's name (`val`, `Test`).
    lists: where lists of names may lie. notes: what is not read, a line a kind.
    """

    root: Path
    layout: str  # "course", "official", or "merged": the official pictures with one mask each
    images: dict[str, Path]
    masks: dict[str, tuple[Path, ...]]
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stems(self) -> tuple[str, ...]:
        """The pairs' stems, sorted."""
        return tuple(stem for stem in sorted(self.images) if stem in self.masks)

    def source(self) -> CourseSource | OfficialSource:
        """The pairs. Raises DataError if there is none."""
        stems = self.stems
        if not stems:
            raise DataError(
                f"data folder {str(self.root)!r} holds no pair: {len(self.images)} pictures without"
                f" a mask, {len(self.masks)} masks without a picture; a pair has one name"
            )
        images = tuple(self.images[stem] for stem in stems)
        if self.layout == "official":
            return OfficialSource(self.root, images, tuple(self.masks[stem] for stem in stems))
        masks = tuple(self.masks[stem][0] for stem in stems)
        return CourseSource(self.root, images, masks, any_scale=self.layout == "merged")


def list_folder(root: Path) -> Listing:
    """The files of a folder in either layout. Raises DataError if it is missing, empty or other,
    or says two things at once."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {str(root)!r} {what}; give --data DIR, or synthetic")
    listing = _course(root) or _official(root)
    if listing is None and any(root.iterdir()):
        raise DataError(
            f"data folder {str(root)!r} has neither train/images and train/masks nor CelebA-HQ-img"
            " and CelebAMask-HQ-mask-anno; see README.md, 'Your own data'"
        )
    if listing is None:
        raise DataError(f"data folder {str(root)!r} is empty; give --data DIR, or synthetic")
    if not listing.images and not listing.masks:
        raise DataError(
            f"data folder {str(root)!r} holds no pictures; give --data DIR, or synthetic"
        )
    return listing


def _course(root: Path) -> Listing | None:
    """`images/` and `masks/` of each part. Raises DataError if a name is in two parts."""
    found = course_folders(root)
    if found is None:
        return None
    base = found[0].parent
    halves, folders = {"train": found}, {}
    known = {base, *found}
    unread = Unread()
    for part in ("val", "test"):
        folder = named_once(root, PART_NAMES[part], Path.is_dir)
        if folder is None or folder in known:
            continue
        known.add(folder)
        both = _halves(folder)
        if both is None:
            unread.said.append(
                f"not read: folder {printable(folder.name)}/; as the {part} part it needs images/"
                " and masks/"
            )
        else:
            halves[part], folders[part] = both, folder.name
            known.update(both)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    part_of_key: dict[str, str] = {}
    for part, (image_folder, mask_folder) in halves.items():
        for files, folder in ((images, image_folder), (masks, mask_folder)):
            for key, path in pictures_in(folder, unread).items():
                if part_of_key.setdefault(key, part) != part:
                    other = images.get(key) or masks[key]
                    raise DataError(
                        f"{printable(str(other))} and {printable(str(path))} have one name in two"
                        " parts; rename one pair, or take it out of a part"
                    )
                files[key] = path
    lists = (root,) if base == root else (root, base)
    places = dict.fromkeys((*lists, *(pair[0].parent for pair in halves.values())))
    _rest(places, lists, known, unread)
    listing = _paired(root, "course", images, {key: (path,) for key, path in masks.items()})
    given = {
        part: tuple(stem for stem in listing.stems if part_of_key[composed(stem)] == part)
        for part in folders
    }
    for part, stems in given.items():
        if not stems:
            raise DataError(
                f"{root}: {printable(folders[part])}/ holds no pair; a pair has one name, in"
                " images/ and in masks/"
            )
    notes = _notes(listing, unread)
    return replace(listing, given=given, folders=folders, lists=lists, notes=notes)


def _official(root: Path) -> Listing | None:
    """`CelebA-HQ-img` with part masks, or with a folder of masks that were merged before."""
    images_folder = named_once(root, ("celeba-hq-img",), Path.is_dir)
    if images_folder is None:
        return None
    unread = Unread()
    images = pictures_in(images_folder, unread, _number)
    known = {images_folder}
    masks: dict[str, tuple[Path, ...]] = {}
    layout = "official"
    merged = _merged_folders(root, images)
    annotations = named_once(root, ("celebamask-hq-mask-anno",), Path.is_dir)
    if annotations is not None:
        known.add(annotations)
        masks = official_parts(annotations, unread)
    if masks:
        known.update(merged)
        unread.said += [
            f"not read: folder {printable(folder.name)}/ of merged masks; the part masks are, since"
            " their names tell the class"
            for folder in merged
        ]
    elif len(merged) > 1:
        names = " and ".join(printable(folder.name) for folder in merged)
        raise DataError(
            f"{root} holds several folders of masks, {names}; leave one beside CelebA-HQ-img"
        )
    elif merged:
        layout = "merged"
        known.add(merged[0])
        unread.said.append(f"masks are those of {printable(merged[0].name)}/")
        masks = {key: (path,) for key, path in pictures_in(merged[0], unread, _number).items()}
    elif annotations is None:
        return None
    _rest((root,), (root,), known, unread)
    listing = _paired(root, layout, images, masks)
    return replace(listing, lists=(root,), notes=_notes(listing, unread))


def _merged_folders(root: Path, images: Mapping[str, Path]) -> list[Path]:
    """Folders of masks, one a picture, as preprocessing scripts leave them beside the pictures:
    CelebAMaskHQ-mask, CelebA-HQ-mask, mask, g_mask, ..., but for the coloured ones."""
    return [
        folder
        for folder in _entries(root)[1]
        if "mask" in folder.name.lower()
        and not any(word in folder.name.lower() for word in ("color", "colour"))
        and not folder.name.startswith(".")
        and any(
            _number(path.stem) in images and path.suffix.lower() in IMAGE_SUFFIXES
            for path in _entries(folder)[0]
        )
    ]


def official_parts(folder: Path, unread: Unread) -> dict[str, tuple[Path, ...]]:
    """Number of the picture -> its part masks, in class order.

    unread: takes what is passed over. Raises DataError if a picture has a part twice.
    """
    parts: dict[str, dict[int, Path]] = {}
    waiting = [folder]
    while waiting:
        files, folders, odd = _entries(waiting.pop())
        unread.odd += odd
        for path in folders:
            if path.name.startswith("."):
                unread.hidden.append(path)
            elif path.is_symlink():
                # it may lead round in a circle
                unread.folders.append(path)
            else:
                waiting.append(path)
        for path in files:
            if path.name.startswith("."):
                unread.hidden.append(path)
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                unread.others.append(path)
            elif (number := part_of(path)) is None:
                unread.nameless.append(path)
            else:
                of_picture = parts.setdefault(_number(path.stem.partition("_")[0]), {})
                twin = of_picture.setdefault(number, path)
                if twin is not path:
                    raise DataError(
                        f"{printable(str(twin))} and {printable(str(path))} are one part of one"
                        " picture; keep one"
                    )
    return {
        stem: tuple(of_picture[number] for number in sorted(of_picture))
        for stem, of_picture in parts.items()
    }


def _rest(
    places: Iterable[Path], with_lists: Collection[Path], known: set[Path], unread: Unread
) -> None:
    """Notes what lies beside the folders that are read.

    with_lists: the places whose lists are read.
    """
    lists = {f"{name}.txt" for part in PARTS for name in PART_NAMES[part]}
    for place in places:
        files, folders, odd = _entries(place)
        unread.odd += odd
        for path in files:
            if place not in with_lists or path.name.lower() not in lists:
                (unread.hidden if path.name.startswith(".") else unread.beside).append(path)
        for path in folders:
            if path not in known:
                (unread.hidden if path.name.startswith(".") else unread.folders).append(path)


def _paired(
    root: Path, layout: str, images: Mapping[str, Path], masks: Mapping[str, tuple[Path, ...]]
) -> Listing:
    """A listing by stems as they stand on the disk: the picture's, where there is one."""
    return Listing(
        root,
        layout,
        {path.stem: path for path in images.values()},
        {images[key].stem if key in images else key: files for key, files in masks.items()},
    )


def _notes(listing: Listing, unread: Unread) -> tuple[str, ...]:
    no_mask = sorted(listing.images.keys() - listing.masks.keys())
    no_picture = sorted(listing.masks.keys() - listing.images.keys())
    lines = unread.lines(listing.root)
    if no_picture:
        lines.insert(
            0, f"not used: {_count(no_picture, 'mask')} without a picture: {some(no_picture)}"
        )
    if no_mask:
        lines.insert(0, f"not used: {_count(no_mask, 'picture')} without a mask: {some(no_mask)}")
    return tuple(lines)


def _count(names: Sequence[object], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def content_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, hexadecimal. Raises DataError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()


__all__ = [
    "IMAGE_SUFFIXES",
    "CourseSource",
    "Listing",
    "OfficialSource",
    "SizeMismatch",
    "Source",
    "UnknownIds",
    "check_ids",
    "content_hash",
    "course_folders",
    "decode",
    "list_folder",
    "palette_of",
    "picture_size",
    "pictures_in",
    "quiet_pillow",
    "read_ids",
    "read_image",
    "stem_of",
]
