"""Where faces come from: the course layout or the official CelebAMask-HQ layout on a disk.

The built-in faces (`trainer.data.synthetic`) offer the same methods.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


# what Pillow's decoders raise on damaged files, besides OSError
_DAMAGE = (
    *(SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError),
)


class SizeMismatch(DataError):
    """A mask whose size does not fit its picture."""


class UnknownIds(DataError):
    """A mask with ids outside 0-18."""


class _QuietPillow:
    """A block in which Pillow's warnings (odd EXIF, large pictures) do not reach the person.

    Python's warning filters belong to the process, so the first thread in sets them and the last
    one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._caught is not None:
                self._caught.__exit__(None, None, None)
                self._caught = None


quiet_pillow = _QuietPillow()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture with only its header read. Raises DataError that names the file, also for damage
    that shows while the block decodes."""
    try:
        with quiet_pillow, Image.open(path) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(_too_large(path, f"{width} x {height}"))
            yield picture
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        # Pillow refuses before it tells width and height
        count = re.search(r"\d+", str(error))
        raise DataError(_too_large(path, f"{int(count[0]):,}" if count else "its")) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: not a picture; replace it, or leave it out with trainer.check --repair"
        ) from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (OSError, *_DAMAGE) as error:
        raise DataError(
            f"{path}: cannot be decoded ({error}); replace it, or leave it out with"
            " trainer.check --repair"
        ) from None


def decode(path: Path) -> Image.Image:
    """An open, fully decoded picture in its own mode. Raises DataError that names the file."""
    with _opened(path) as picture:
        picture.load()
        return picture


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header. Raises DataError."""
    with _opened(path) as picture:
        return picture.size


def _too_large(path: Path, size: str) -> str:
    return f"{path}: {size} pixels is more than {MAX_PIXELS:,} in all; make the picture smaller"


def read_image(path: Path) -> Bytes:
    """uint8 [H, W, 3]. Raises DataError."""
    with _opened(path) as picture:
        return np.asarray(picture.convert("RGB"))


def read_ids(path: Path) -> Bytes:
    """A mask's ids as they are, uint8 [H, W], palette or grey. Raises DataError on colours."""
    with _opened(path) as picture:
        if picture.mode == "1":
            return np.asarray(picture.convert("L"))
        if picture.mode not in ("P", "L"):
            raise DataError(
                f"{path}: a mask of mode {picture.mode}; palette or grey ids 0-18 are needed"
            )
        return np.asarray(picture)


def palette_of(path: Path) -> Bytes | None:
    """The colours of a palette picture from its header: uint8 [K, 3]; None for any other picture.

    Raises DataError.
    """
    with _opened(path) as picture:
        colours = picture.getpalette("RGB") if picture.mode == "P" else None
        return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)


def check_ids(ids_HW: Bytes, where: object) -> Bytes:
    """The same mask. Raises DataError if an id is above 18."""
    highest = int(ids_HW.max(initial=0))
    if highest >= NUM_CLASSES:
        raise UnknownIds(
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
        size = picture_size(self.images[index])
        if size != ids.shape[::-1]:
            raise SizeMismatch(
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
            with _opened(path) as picture:
                part = np.asarray(picture.convert("L"))
            if ids is None:
                ids = np.zeros(part.shape, dtype=np.uint8)
            if part.shape != ids.shape:
                raise SizeMismatch(
                    f"{path}: {part.shape[1]} x {part.shape[0]} pixels, but the other parts have"
                    f" {ids.shape[1]} x {ids.shape[0]}; make them equal, or leave the pair out with"
                    " trainer.check --repair"
                )
            ids[part > 127] = part_id(path)
        assert ids is not None, "a pair has at least one part"
        width, height = picture_size(self.images[index])
        # a pixel of rounding is no other aspect ratio
        if abs(width * ids.shape[0] - height * ids.shape[1]) > 0.01 * height * ids.shape[1]:
            raise SizeMismatch(
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
    """stem -> file, in sorted order; other files and hidden ones are passed over.

    Raises DataError if two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"{folder} holds both {found[path.stem].name} and {path.name}; keep one"
            )
        found[path.stem] = path
    return found


def official_parts(folder: Path) -> dict[str, tuple[Path, ...]]:
    """stem of the picture -> its part masks, in class order."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*_*.png")):
        if not path.name.startswith("."):
            parts.setdefault(_number(path.stem.partition("_")[0]), []).append(path)
    return {stem: tuple(sorted(files, key=part_id)) for stem, files in parts.items()}


def _number(stem: str) -> str:
    # pictures are called 17.jpg, parts 00017_nose.png
    return str(int(stem)) if stem.isdecimal() else stem


@dataclass(frozen=True)
class Listing:
    """The files of a data folder by stem, paired or not. Course masks are tuples of one file."""

    root: Path
    layout: str  # "course" or "official"
    images: dict[str, Path]
    masks: dict[str, tuple[Path, ...]]

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
        if self.layout == "course":
            return CourseSource(self.root, images, tuple(self.masks[stem][0] for stem in stems))
        return OfficialSource(self.root, images, tuple(self.masks[stem] for stem in stems))


def list_folder(root: Path) -> Listing:
    """The files of a folder in either layout. Raises DataError if it is missing, empty or other."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {str(root)!r} {what}; give --data DIR, or synthetic")
    course, official = course_folders(root), official_folders(root)
    if course is not None:
        masks: dict[str, tuple[Path, ...]] = {
            stem: (path,) for stem, path in pictures_in(course[1]).items()
        }
        listing = Listing(root, "course", pictures_in(course[0]), masks)
    elif official is not None:
        images = pictures_in(official[0])
        stem_of_number = {_number(stem): stem for stem in images}
        parts = official_parts(official[1])
        listing = Listing(
            root,
            "official",
            images,
            {stem_of_number.get(number, number): files for number, files in parts.items()},
        )
    elif any(root.iterdir()):
        raise DataError(
            f"data folder {str(root)!r} has neither train/images and train/masks nor CelebA-HQ-img"
            " and CelebAMask-HQ-mask-anno; see README.md, 'Your own data'"
        )
    else:
        raise DataError(f"data folder {str(root)!r} is empty; give --data DIR, or synthetic")
    if not listing.images and not listing.masks:
        raise DataError(
            f"data folder {str(root)!r} holds no pictures; give --data DIR, or synthetic"
        )
    return listing


def open_folder(root: Path) -> CourseSource | OfficialSource:
    """The pairs of a folder; a file without its partner is passed over (trainer.check lists it).

    Raises DataError if the folder is missing, of neither layout, or without a single pair.
    """
    return list_folder(root).source()


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
    "official_folders",
    "official_parts",
    "open_folder",
    "palette_of",
    "picture_size",
    "pictures_in",
    "quiet_pillow",
    "read_ids",
    "read_image",
    "stem_of",
]
