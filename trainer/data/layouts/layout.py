"""The interface of a data layout, and what it finds in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from trainer.data.image_files import picture_size, read_image
from trainer.data.layouts.folders import Unread, counted
from trainer.data.source import Bytes
from trainer.data.split import some
from trainer.errors import DataError


class SizeMismatch(DataError):
    """A mask whose size does not fit its picture."""


class Layout(ABC):
    """How pictures and masks lie in a folder. Instances have no state; masks are tuples of files.

    folders: those it is known by, for messages. names_classes: whether the masks' files name their
    classes, so that no order can be mixed up.
    """

    folders: ClassVar[str]
    names_classes: ClassVar[bool] = False

    @abstractmethod
    def find(self, root: Path) -> Listing | None:
        """The files of a folder; None if it is in another layout.

        Raises DataError if it says two things at once.
        """

    @abstractmethod
    def read_mask(self, image: Path, files: tuple[Path, ...]) -> Bytes:
        """A mask uint8 [H, W], ids 0-18, that fits its picture. Raises DataError."""

    @abstractmethod
    def corrected(
        self, files: tuple[Path, ...], *, translated: bool, swapped: bool
    ) -> list[Corrected]:
        """What becomes of a mask's files where its ids are translated from the second class order,
        or its left and right exchanged, or neither. Raises DataError."""

    def mark(self, files: tuple[Path, ...]) -> str:
        """What a mask adds to the fingerprint because earlier versions read it otherwise."""
        return ""


class Corrected(NamedTuple):
    """A file of a corrected mask: the original, its copy's name, and its ids if they change."""

    path: Path
    name: str
    ids: Bytes | None = None


@dataclass(frozen=True)
class FolderSource:
    """The pairs of a folder."""

    root: Path
    layout: Layout
    images: tuple[Path, ...]
    masks: tuple[tuple[Path, ...], ...]

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self.images)

    def image(self, index: int) -> Bytes:
        return read_image(self.images[index])

    def mask(self, index: int) -> Bytes:
        return self.layout.read_mask(self.images[index], self.masks[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return self.images[index], *self.masks[index]


@dataclass(frozen=True)
class Listing:
    """The files of a data folder by stem, paired or not.

    given: part -> stems of its own folder; folders: part -> that folder's name (`val`, `Test`).
    lists: where lists of names may lie. notes: what is not read, a line a kind.
    """

    root: Path
    layout: Layout
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

    def source(self) -> FolderSource:
        """The pairs. Raises DataError if there is none."""
        stems = self.stems
        if not stems:
            raise DataError(
                f"data folder {str(self.root)!r} holds no pair: {len(self.images)} pictures without"
                f" a mask, {len(self.masks)} masks without a picture; a pair has one name"
            )
        images = tuple(self.images[stem] for stem in stems)
        return FolderSource(self.root, self.layout, images, tuple(self.masks[s] for s in stems))


def listed(
    root: Path,
    layout: Layout,
    images: Mapping[str, Path],
    masks: Mapping[str, tuple[Path, ...]],
    unread: Unread,
    lists: tuple[Path, ...],
) -> Listing:
    """A listing by stems as they stand on the disk: the picture's, where there is one.

    images, masks: by the key that pairs them. unread: what the listing's notes say.
    """
    by_stem = {images[key].stem if key in images else key: files for key, files in masks.items()}
    pictures = {path.stem: path for path in images.values()}
    notes = unread.lines(root)
    for mine, others, what, lacking in (
        (by_stem, pictures, "mask", "picture"),
        (pictures, by_stem, "picture", "mask"),
    ):
        alone = sorted(mine.keys() - others.keys())
        if alone:
            notes.insert(0, f"not used: {counted(alone, what)} without a {lacking}: {some(alone)}")
    return Listing(root, layout, pictures, by_stem, lists=lists, notes=tuple(notes))


def check_shape(image: Path, ids_HW: Bytes) -> None:
    """Raises SizeMismatch unless the mask has the aspect ratio of the upright picture."""
    height, width = ids_HW.shape
    across, down = picture_size(image)
    # a pixel of rounding is no other aspect ratio
    if abs(across * height - down * width) > 0.01 * down * width:
        raise SizeMismatch(
            f"{image}: {across} x {down} has another aspect ratio than its masks,"
            f" {width} x {height}; crop one of them"
        )
