"""What stands in a folder: its pictures by name, and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.image_files import IMAGE_SUFFIXES
from trainer.data.split import PART_NAMES, PARTS, composed, printable, some
from trainer.errors import DataError


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

    def note(self, path: Path, kind: list[Path]) -> None:
        """One more of a kind, or a hidden one."""
        (self.hidden if path.name.startswith(".") else kind).append(path)

    def lines(self, root: Path) -> list[str]:
        """One line a kind, for the user."""
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
            f"not read: {counted(paths, what)}{more}: {some(_below(root, paths))}{do}"
            for paths, what, more, do in kinds
            if paths
        ]
        return [*lines, *self.said]


def _below(root: Path, paths: Iterable[Path]) -> list[str]:
    names = sorted(str(path.relative_to(root)) for path in paths)
    # only what will be shown: there may be thousands
    first = [f"{name}/" if (root / name).is_dir() else name for name in names[:3]]
    return first + names[3:]


def entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files, folders and links to nothing, each sorted; no stat for what is no link."""
    kinds: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    with os.scandir(folder) as found:
        for entry in found:
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
    files, folders, odd = entries(folder)
    for path in files:
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            unread.note(path, unread.others)
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
        picture = path.suffix.lower() in IMAGE_SUFFIXES
        unread.note(path, unread.odd if picture else unread.folders)
    return found


def note_rest(
    places: Iterable[Path], with_lists: Collection[Path], known: set[Path], unread: Unread
) -> None:
    """Note in `unread` what lies beside the folders that are read.

    with_lists: the places whose lists are read.
    """
    lists = {f"{name}.txt" for part in PARTS for name in PART_NAMES[part]}
    for place in places:
        files, folders, odd = entries(place)
        unread.odd += odd
        for path in files:
            if place not in with_lists or path.name.lower() not in lists:
                unread.note(path, unread.beside)
        for path in folders:
            if path not in known:
                unread.note(path, unread.folders)


def counted(names: Sequence[object], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"
