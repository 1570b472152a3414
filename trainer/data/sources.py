"""Where faces come from: the course layout or the official CelebAMask-HQ layout on a disk.

The built-in faces (`trainer.data.synthetic`) offer the same methods.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.data.classes import IDS, NUM_CLASSES
from trainer.data.split import stem_of
from trainer.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# a picture of 30,000 x 30,000 would take 2.7 GB once decoded
MAX_PIXELS = 64_000_000

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


def decode(path: Path) -> Image.Image:
    """An open, fully decoded picture in its own mode. Raises DataError that names the file."""
    try:
        with warnings.catch_warnings():
            # our own limit below is stricter than the one that Pillow warns of
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise DataError(_too_large(path, f"{width} x {height}"))
                picture.load()
                return picture
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, "a huge size")) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: not a picture; replace it, or leave it out with trainer.check --repair"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise DataError(f"{path}: {error.strerror}") from None
        raise DataError(
            f"{path}: cannot be decoded ({error}); replace it, or leave it out with"
            " trainer.check --repair"
        ) from None


def _too_large(path: Path, size: str) -> str:
    return f"{path}: {size} pixels is more than {MAX_PIXELS:,} in all; make the picture smaller"


def read_image(path: Path) -> Bytes:
    """uint8 [H, W, 3]. Raises DataError."""
    return np.asarray(decode(path).convert("RGB"))


def read_ids(path: Path) -> Bytes:
    """A mask's ids as they are, uint8 [H, W], palette or grey. Raises DataError on colours."""
    picture = decode(path)
    if picture.mode not in ("P", "L", "1"):
        raise DataError(
            f"{path}: a mask of mode {picture.mode}; palette or grey ids 0-18 are needed"
        )
    return np.asarray(picture if picture.mode != "1" else picture.convert("L"))


def check_ids(ids_HW: Bytes, where: object) -> Bytes:
    """The same mask. Raises DataError if an id is above 18."""
    highest = int(ids_HW.max(initial=0))
    if highest >= NUM_CLASSES:
        raise DataError(
            f"{where}: id {highest} is none of 0-18 (background, skin, nose, ... cloth, in the"
            " order of CelebAMask-HQ's own list); mend the mask, or leave it out with"
            " trainer.check --repair"
        )
    return ids_HW


@dataclass(frozen=True)
class CourseSource:
    """`images/*.jpg` and `masks/*.png` of equal size, below the root or below its `train`."""

    root: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

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
        with Image.open(self.images[index]) as picture:
            size = picture.size
        if size != ids.shape[::-1]:
            raise DataError(
                f"{self.masks[index]}: {ids.shape[1]} x {ids.shape[0]} pixels, but its picture has"
                f" {size[0]} x {size[1]}; make them equal, or leave the pair out with"
                " trainer.check --repair"
            )
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
            part = np.asarray(decode(path).convert("L"))
            if ids is None:
                ids = np.zeros(part.shape, dtype=np.uint8)
            if part.shape != ids.shape:
                raise DataError(f"{path}: {part.shape} differs from the other parts' {ids.shape}")
            ids[part > 127] = part_id(path)
        assert ids is not None, "a pair has at least one part"
        with Image.open(self.images[index]) as picture:
            width, height = picture.size
        if width * ids.shape[0] != height * ids.shape[1]:
            raise DataError(
                f"{self.images[index]}: {width} x {height} has another aspect ratio than its masks,"
                f" {ids.shape[1]} x {ids.shape[0]}; crop one of them"
            )
        return ids

    def files(self, index: int) -> tuple[Path, ...]:
        return self.images[index], *self.part_files[index]


def part_id(path: Path) -> int:
    """`00017_l_eye.png` -> 4. Raises DataError if the name holds no class."""
    name = path.stem.partition("_")[2]
    if name not in IDS:
        raise DataError(f"{path}: {name!r} is no class of CelebAMask-HQ; rename or remove the file")
    return IDS[name]


def course_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and masks of the course layout, if `root` has them."""
    for base in (root / "train", root):
        if (base / "images").is_dir() and (base / "masks").is_dir():
            return base / "images", base / "masks"
    return None


def official_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and part masks of the official layout, if `root` has them."""
    images, annotations = root / "CelebA-HQ-img", root / "CelebAMask-HQ-mask-anno"
    return (images, annotations) if images.is_dir() and annotations.is_dir() else None


def pictures_in(folder: Path) -> dict[str, Path]:
    """stem -> file, in sorted order; other files and hidden ones are passed over."""
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    }


def official_parts(folder: Path) -> dict[str, tuple[Path, ...]]:
    """stem of the picture -> its part masks, in class order."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*_*.png")):
        number = path.stem.partition("_")[0]
        # pictures are called 17.jpg, parts 00017_nose.png
        parts.setdefault(str(int(number)) if number.isdecimal() else number, []).append(path)
    return {stem: tuple(sorted(files, key=part_id)) for stem, files in parts.items()}


def open_folder(root: Path) -> CourseSource | OfficialSource:
    """The pairs of a folder; a file without its partner is passed over (trainer.check lists it).

    Raises DataError if the folder is missing, of neither layout, or without a single pair.
    """
    if not root.is_dir():
        raise DataError(f"data folder {str(root)!r} does not exist; give --data DIR, or synthetic")
    course = course_folders(root)
    if course is not None:
        images, masks = pictures_in(course[0]), pictures_in(course[1])
        both = [stem for stem in images if stem in masks]
        if not both:
            raise DataError(
                f"data folder {str(root)!r} holds no pair of equal names in images/ and masks/"
            )
        return CourseSource(
            root, tuple(images[stem] for stem in both), tuple(masks[stem] for stem in both)
        )
    official = official_folders(root)
    if official is not None:
        images, parts = pictures_in(official[0]), official_parts(official[1])
        both = [stem for stem in images if stem in parts]
        if not both:
            raise DataError(
                f"data folder {str(root)!r} holds no picture with masks in CelebAMask-HQ-mask-anno"
            )
        return OfficialSource(
            root, tuple(images[stem] for stem in both), tuple(parts[stem] for stem in both)
        )
    raise DataError(
        f"data folder {str(root)!r} has neither train/images and train/masks nor CelebA-HQ-img and"
        " CelebAMask-HQ-mask-anno; see README.md, 'Your own data'"
    )


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
    "CourseSource",
    "OfficialSource",
    "Source",
    "check_ids",
    "content_hash",
    "course_folders",
    "decode",
    "official_folders",
    "official_parts",
    "open_folder",
    "pictures_in",
    "read_ids",
    "read_image",
    "stem_of",
]
