"""Which pair is for training, validation or test: by list, else by hash of the stem.

A hash keeps each pair in its part when files are added, and needs no seed. A part that has a list
(`val.txt`, `test.txt`: one stem a line) is that list; a part without one is drawn, 10 %, from the
pairs that stand in no list. Exact duplicates share a part: a copy of a training picture would
make a score too good.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath

from trainer.errors import DataError

PARTS: tuple[str, ...] = ("train", "val", "test")
LISTS: dict[str, str] = {"val": "val.txt", "test": "test.txt"}
SHARE = 0.1


def draw(stem: str) -> float:
    """An even number in [0, 1) that depends on the stem alone."""
    # the bytes of the name, whatever the locale makes of them
    digest = hashlib.sha256(os.fsencode(stem)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def read_lists(root: Path) -> dict[str, tuple[str, ...]]:
    """part -> stems of its list file, for the lists that `root` holds; a suffix is taken off.

    Raises DataError if a stem stands in both lists.
    """
    lists: dict[str, tuple[str, ...]] = {}
    for part, name in LISTS.items():
        path = root / name
        if path.is_file():
            lists[part] = tuple(stem_of(line) for line in read_names(path))
    both = set(lists.get("val", ())) & set(lists.get("test", ()))
    if both:
        raise DataError(
            f"{root}: {min(both)!r} stands in val.txt and in test.txt; take it out of one"
        )
    return lists


def read_names(path: Path) -> list[str]:
    """The lines of a list file that name something. Raises DataError if it is no text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; a list of names, one a line, is needed"
        ) from None
    if b"\0" in content:
        raise DataError(f"{path} cannot be read as a list of names, one a line; write it in UTF-8")
    # names as the file system has them, with any byte; a byte-order mark is no part of the first
    lines = (line.strip() for line in content.removeprefix(codecs.BOM_UTF8).splitlines())
    return [os.fsdecode(line) for line in lines if line]


class Names:
    """Finds stems by the names that a person writes: `17`, `17.jpg`, and `00017` for 17."""

    def __init__(self, stems: Collection[str]) -> None:
        self._stems = frozenset(stems)
        self._by_number = {int(stem): stem for stem in stems if stem.isdecimal()}

    def find(self, name: str) -> str | None:
        """The stem that `name` means; None if there is none."""
        for stem in (name, stem_of(name)):
            if stem in self._stems:
                return stem
            if stem.isdecimal() and int(stem) in self._by_number:
                return self._by_number[int(stem)]
        return None


def stem_of(name: str) -> str:
    """`00017.jpg` -> `00017`; a stem stays as it is, dots included."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".png") else name


def split(
    stems: Sequence[str],
    lists: Mapping[str, Sequence[str]],
    twins: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """part -> its stems, in sorted order; every stem is in exactly one part.

    lists: part -> stems of its list file. twins: stem -> stem of the group of exact duplicates
    that it belongs to. A group with a member in a list follows it, test before validation.
    Of very few pairs one is given to validation though none drew it.
    """
    twins = twins or {}
    listed = {stem: part for part, names in lists.items() for stem in names}
    group_part: dict[str, str] = {}
    for stem in sorted(stems):
        part = listed.get(stem)
        group = twins.get(stem, stem)
        if part is not None and group_part.get(group) != "test":
            group_part[group] = part
    chosen: dict[str, list[str]] = {part: [] for part in PARTS}
    for stem in sorted(stems):
        group = twins.get(stem, stem)
        chosen[group_part.get(group) or _drawn(group, lists)].append(stem)
    if not chosen["val"] and "val" not in lists:
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


def _drawn(stem: str, lists: Mapping[str, Sequence[str]]) -> str:
    at = draw(stem)
    # each part has its own interval, so that a list for one leaves the other's draw as it was
    if at < SHARE and "test" not in lists:
        return "test"
    if SHARE <= at < 2 * SHARE and "val" not in lists:
        return "val"
    return "train"
