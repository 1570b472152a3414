"""Which pair is for training, validation or test: by list or folder, else by hash of the stem.

A hash keeps each pair in its part when files are added, and needs no seed. A part that is given, by
a list (`val.txt`, `test.txt`: one stem a line) or by a folder of its own (`val/`, `test/`), is
that; one that is not is drawn, 10 %, from the pairs that are in none. With a `train.txt` nothing
is drawn: pairs that no list names are left out. Exact duplicates share a part: a copy of a training
picture would make a score too good.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePath

from trainer.data.image_files import IMAGE_SUFFIXES
from trainer.errors import DataError

PARTS: tuple[str, ...] = ("train", "val", "test")
PART_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""What a part's list (with .txt) and folder may be called, in upper or lower case."""
SHARE = 0.1


def draw(stem: str) -> float:
    """An even number in [0, 1) that depends on the stem alone."""
    # the bytes of the name, whatever the locale makes of them
    digest = hashlib.sha256(os.fsencode(stem)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def named_once(folder: Path, names: Collection[str], kind: Callable[[Path], bool]) -> Path | None:
    """The entry of a folder that has one of the names, in any case; None if there is none.

    kind: what it must be, for example `Path.is_dir`. Raises DataError if there are several.
    """
    found = sorted(
        path for name in os.listdir(folder) if name.lower() in names and kind(path := folder / name)
    )
    if len(found) > 1:
        raise DataError(
            f"{folder} holds both {found[0].name} and {found[1].name}, which mean the same; keep"
            " one"
        )
    return found[0] if found else None


def list_files(*folders: Path) -> dict[str, Path]:
    """part -> its list file in one of the folders. Raises DataError if a part has several."""
    files: dict[str, Path] = {}
    for part, names in PART_NAMES.items():
        for folder in folders:
            found = named_once(folder, [f"{name}.txt" for name in names], Path.is_file)
            if found is not None and files.setdefault(part, found) != found:
                raise DataError(f"{files[part]} and {found} are both the {part} list; keep one")
    return files


def read_names(path: Path) -> list[str]:
    """The lines of a list file that name something. Raises DataError if it is no text."""
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            # of a Windows shell's >
            lines = content.decode("utf-16").splitlines()
        else:
            # names as the file system has them, with any byte; a byte-order mark is no part of one
            lines = [
                os.fsdecode(line) for line in content.removeprefix(codecs.BOM_UTF8).splitlines()
            ]
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; a list of names, one a line, is needed"
        ) from None
    except UnicodeDecodeError:
        lines = ["\0"]
    if any("\0" in line for line in lines):
        raise DataError(f"{path} cannot be read as a list of names, one a line; write it in UTF-8")
    return [line.strip() for line in lines if line.strip()]


def composed(stem: str) -> str:
    """A name in the one form (NFC) in which names are compared: an accent is part of its letter."""
    return unicodedata.normalize("NFC", stem)


def printable(name: str) -> str:
    """A name on one line and in letters that any terminal has a way to show."""
    return name if name.isprintable() else ascii(name)[1:-1]


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {more} more" if more > 0 else "")


class Names:
    """Finds stems by the names that a user writes: `17`, `17.jpg`, and `00017` for 17."""

    def __init__(self, stems: Collection[str]) -> None:
        self._stems = {composed(stem): stem for stem in stems}
        self._by_number: dict[int, str | None] = {}
        for stem in stems:
            if stem.isdecimal():
                # of 17 and 00017 neither is meant by 017
                number = int(stem)
                self._by_number[number] = None if number in self._by_number else stem

    def find(self, name: str) -> str | None:
        """The stem that `name` means; None if there is none."""
        for stem in (composed(name), composed(stem_of(name))):
            if stem in self._stems:
                return self._stems[stem]
            if stem.isdecimal() and self._by_number.get(int(stem)) is not None:
                return self._by_number[int(stem)]
        return None


def stem_of(name: str) -> str:
    """`00017.jpg` -> `00017`; a stem stays as it is, dots included."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def split(
    stems: Sequence[str], given: Mapping[str, Sequence[str]], twins: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """part -> its stems, in sorted order; every stem is in one part at most.

    given: part -> stems of its list or folder. twins: stem -> stem of the group of exact duplicates
    that it belongs to. A group with a member in a given part follows it, test before validation
    before training. With training pairs given, those in no part are left out; else every stem is in
    a part. Of very few pairs one is given to validation though none drew it.
    """
    twins = twins or {}
    standing = {stem: part for part, names in given.items() for stem in names}
    group_part: dict[str, str] = {}
    for stem in sorted(stems):
        part = standing.get(stem)
        group = twins.get(stem, stem)
        if part is not None:
            group_part[group] = max(part, group_part.get(group, part), key=PARTS.index)
    chosen: dict[str, list[str]] = {part: [] for part in PARTS}
    for stem in sorted(stems):
        group = twins.get(stem, stem)
        if "train" not in given:
            chosen[group_part.get(group) or _drawn(group, given)].append(stem)
        elif stem in standing:
            chosen[group_part[group]].append(stem)
    if not chosen["val"] and "val" not in given:
        _one_for_val(chosen["train"], chosen["val"], twins)
    return {part: tuple(names) for part, names in chosen.items()}


def _one_for_val(train: list[str], val: list[str], twins: Mapping[str, str]) -> None:
    """A handful of pairs may draw none for validation: the one nearest to its interval goes."""
    groups = {twins.get(stem, stem) for stem in train}
    if len(groups) < 2:
        return
    nearest = min(groups, key=lambda group: (draw(group) - SHARE) % 1.0)
    val.extend(stem for stem in train if twins.get(stem, stem) == nearest)
    train[:] = [stem for stem in train if twins.get(stem, stem) != nearest]


def _drawn(stem: str, given: Mapping[str, Sequence[str]]) -> str:
    at = draw(stem)
    # each part has its own interval, so that a given one leaves the other's draw as it was
    if at < SHARE and "test" not in given:
        return "test"
    if SHARE <= at < 2 * SHARE and "val" not in given:
        return "val"
    return "train"
