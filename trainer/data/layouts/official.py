"""The official layout: `CelebA-HQ-img/N.jpg` and `CelebAMask-HQ-mask-anno/*/NNNNN_part.png`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.classes import IDS, NAMES, SWAP
from trainer.data.image_files import IMAGE_SUFFIXES
from trainer.data.layouts.course import Course
from trainer.data.layouts.folders import Unread, entries, note_rest, pictures_in
from trainer.data.layouts.layout import (
    Corrected,
    Layout,
    Listing,
    SizeMismatch,
    check_shape,
    listed,
)
from trainer.data.mask_files import part_unlike_stored, read_part
from trainer.data.source import Bytes
from trainer.data.split import composed, named_once, printable
from trainer.errors import DataError


@dataclass(frozen=True)
class Official(Layout):
    """Part masks, or a folder of masks that were merged before: then the layout is `Merged`."""

    folders = "CelebA-HQ-img and CelebAMask-HQ-mask-anno"
    names_classes = True

    def find(self, root: Path) -> Listing | None:
        images_folder = named_once(root, ("celeba-hq-img",), Path.is_dir)
        if images_folder is None:
            return None
        unread = Unread()
        images = pictures_in(images_folder, unread, _number)
        known = {images_folder}
        masks: dict[str, tuple[Path, ...]] = {}
        layout: Layout = self
        merged = _merged_folders(root, images)
        annotations = named_once(root, ("celebamask-hq-mask-anno",), Path.is_dir)
        if annotations is not None:
            known.add(annotations)
            masks = _part_masks(annotations, unread)
        if masks:
            known.update(merged)
            unread.said += [
                f"not read: folder {printable(folder.name)}/ of merged masks; the part masks are,"
                " since their names tell the class"
                for folder in merged
            ]
        elif len(merged) > 1:
            names = " and ".join(printable(folder.name) for folder in merged)
            raise DataError(
                f"{root} holds several folders of masks, {names}; leave one beside CelebA-HQ-img"
            )
        elif merged:
            layout = Merged()
            known.add(merged[0])
            unread.said.append(f"masks are those of {printable(merged[0].name)}/")
            masks = {key: (path,) for key, path in pictures_in(merged[0], unread, _number).items()}
        elif annotations is None:
            return None
        note_rest((root,), (root,), known, unread)
        return listed(root, layout, images, masks, unread, (root,))

    def read_mask(self, image: Path, files: tuple[Path, ...]) -> Bytes:
        ids: Bytes | None = None
        # class order: a later part lies over an earlier one
        for path in files:
            part = read_part(path)
            if ids is None:
                ids = np.zeros(part.shape, dtype=np.uint8)
            if part.shape != ids.shape:
                raise SizeMismatch(
                    f"{path}: {part.shape[1]} x {part.shape[0]} pixels, but the other parts have"
                    f" {ids.shape[1]} x {ids.shape[0]}; make them equal, or leave the pair out with"
                    " trainer.check --repair"
                )
            ids[part] = IDS[_part_name(path)]
        assert ids is not None, "a pair has at least one part"
        check_shape(image, ids)
        return ids

    def corrected(
        self, files: tuple[Path, ...], *, translated: bool, swapped: bool
    ) -> list[Corrected]:
        # the part masks change sides by their names
        return [Corrected(path, _swapped_name(path) if swapped else path.name) for path in files]

    def mark(self, files: tuple[Path, ...]) -> str:
        # scores of masks that were read as empty are not to be gone on with
        return " faint" if part_unlike_stored(files[0]) else ""


@dataclass(frozen=True)
class Merged(Course):
    """The official pictures with one mask of ids each, which may be smaller."""

    def check_size(self, image: Path, mask: Path, ids_HW: Bytes) -> None:
        check_shape(image, ids_HW)


def _number(stem: str) -> str:
    # pictures are called 17.jpg, parts 00017_nose.png
    stem = composed(stem)
    return str(int(stem)) if stem.isdecimal() else stem


def _merged_folders(root: Path, images: Mapping[str, Path]) -> list[Path]:
    """Folders of masks, one a picture, as preprocessing scripts leave them beside the pictures:
    CelebAMaskHQ-mask, CelebA-HQ-mask, mask, g_mask, ..., but for the coloured ones."""
    return [
        folder
        for folder in entries(root)[1]
        if "mask" in folder.name.lower()
        and not any(word in folder.name.lower() for word in ("color", "colour"))
        and not folder.name.startswith(".")
        and any(
            _number(path.stem) in images and path.suffix.lower() in IMAGE_SUFFIXES
            for path in entries(folder)[0]
        )
    ]


def _part_masks(folder: Path, unread: Unread) -> dict[str, tuple[Path, ...]]:
    """Number of the picture -> its part masks, in class order.

    unread: takes what is passed over. Raises DataError if a picture has a part twice.
    """
    parts: dict[str, dict[int, Path]] = {}
    waiting = [folder]
    while waiting:
        files, folders, odd = entries(waiting.pop())
        unread.odd += odd
        for path in folders:
            if path.name.startswith(".") or path.is_symlink():
                # a link may lead round in a circle
                unread.note(path, unread.folders)
            else:
                waiting.append(path)
        for path in files:
            if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                unread.note(path, unread.others)
            elif (number := IDS.get(_part_name(path))) is None:
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


def _part_name(path: Path) -> str:
    """What a part mask's name ends in: `00017_l_eye.png` -> l_eye."""
    return path.stem.partition("_")[2].lower()


def _swapped_name(path: Path) -> str:
    """`00017_l_eye.png` -> `00017_r_eye.png`."""
    part = _part_name(path)
    partner = NAMES[SWAP[IDS[part]]]
    number = path.stem.partition("_")[0]
    return path.name if partner == part else f"{number}_{partner}{path.suffix}"
