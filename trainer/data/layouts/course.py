"""The course layout: `train/images/*.jpg` and `train/masks/*.png`, `val/`, `test/` alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data.image_files import sizes
from trainer.data.layouts.folders import Unread, note_rest, pictures_in
from trainer.data.layouts.layout import Corrected, Layout, Listing, SizeMismatch, listed
from trainer.data.mask_files import check_ids, in_our_order, read_ids, sides_swapped
from trainer.data.source import Bytes
from trainer.data.split import PART_NAMES, composed, named_once, printable
from trainer.errors import DataError


@dataclass(frozen=True)
class Course(Layout):
    """`images/` and `masks/` of each part: masks of ids, one a picture, of equal size."""

    folders = "train/images and train/masks"

    def find(self, root: Path) -> Listing | None:
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
                    f"not read: folder {printable(folder.name)}/; as the {part} part it needs"
                    " images/ and masks/"
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
                            f"{printable(str(other))} and {printable(str(path))} have one name in"
                            " two parts; rename one pair, or take it out of a part"
                        )
                    files[key] = path
        lists = (root,) if base == root else (root, base)
        places = dict.fromkeys((*lists, *(pair[0].parent for pair in halves.values())))
        note_rest(places, lists, known, unread)
        as_files = {key: (path,) for key, path in masks.items()}
        listing = listed(root, self, images, as_files, unread, lists)
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
        return replace(listing, given=given, folders=folders)

    def read_mask(self, image: Path, files: tuple[Path, ...]) -> Bytes:
        ids = check_ids(read_ids(files[0]), files[0])
        self.check_size(image, files[0], ids)
        return ids

    def check_size(self, image: Path, mask: Path, ids_HW: Bytes) -> None:
        """Raises SizeMismatch unless the mask has the size of the upright picture."""
        height, width = ids_HW.shape
        stored, upright = sizes(image)
        if (upright or stored) == (width, height):
            return
        if upright is not None and stored == (width, height):
            raise SizeMismatch(
                f"{mask}: {width} x {height} pixels, but its picture has {upright[0]} x"
                f" {upright[1]} as viewers show it: the mask was drawn on the picture as it is"
                " stored, without its EXIF orientation; turn the mask, or take that tag out of the"
                " picture"
            )
        size = upright or stored
        raise SizeMismatch(
            f"{mask}: {width} x {height} pixels, but its picture has {size[0]} x {size[1]}; make"
            " them equal, or leave the pair out with trainer.check --repair"
        )

    def corrected(
        self, files: tuple[Path, ...], *, translated: bool, swapped: bool
    ) -> list[Corrected]:
        (mask,) = files
        if not (translated or swapped):
            return [Corrected(mask, mask.name)]
        ids = read_ids(mask)
        ids = in_our_order(ids) if translated else ids
        ids = sides_swapped(ids) if swapped else ids
        return [Corrected(mask, f"{mask.stem}.png", ids)]


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
