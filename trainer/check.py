"""Audit a data set, and write a corrected copy of it.

python -m trainer.check --data DIR [--repair OUT] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import Parser, guarded, progress_bar
from trainer.errors import DataError
from trainer.files import umask
from trainer.streams import command_line, shown

if TYPE_CHECKING:
    from trainer.data.audit import Audit
    from trainer.data.cache import Tick
    from trainer.data.layouts.layout import Listing

# the lists of an audit in the order of its table: key, what it says, what --repair does
_ROWS = (
    ("missing_image", "masks without an image", "left out"),
    ("missing_mask", "images without a mask", "left out"),
    ("unreadable", "files that cannot be decoded", "left out"),
    ("size_mismatch", "image and mask differ in size", "left out"),
    ("unknown_ids", "masks with ids outside 0-18", "left out"),
    ("empty_masks", "masks of background only", "left out"),
    ("other_class_order", "ids in the second class order", "translated"),
    ("no_class_order", "ids in no known class order", "unchanged"),
    ("renumbered", "colours under other ids than elsewhere", "unchanged"),
    ("left_right_reversed", "left and right reversed", "exchanged"),
)


@dataclass(frozen=True)
class Repaired:
    """What a corrected copy holds. Lists of stems, sorted."""

    out: Path
    pairs: int
    changed: list[str]
    left_out: list[str]


def repair(root: Path, out: Path, found: Audit, tick: Tick | None = None) -> Repaired:
    """Write a corrected, complete copy of a data set; the original is only read.

    Images are copied byte for byte, masks too unless they change; names stay. Pairs that cannot
    be trained on are left out, of lists as well. `out` appears whole or not at all.
    Raises DataError if `out` is in use, overlaps the original, or nothing would be left.
    """
    from trainer.data.layouts import list_folder

    check_target(root, out)
    listing = list_folder(root)
    left_out = set(found.untrainable)
    kept = [stem for stem in listing.stems if stem not in left_out]
    if not kept:
        raise DataError(f"{root}: no pair can be trained on, so there is nothing to copy")
    changed = sorted({*found.translated, *found.left_right_reversed} - left_out)
    with _whole_folder(out) as folder:
        for done, stem in enumerate(kept, start=1):
            _copy_pair(listing, stem, folder, found)
            if tick is not None:
                tick(done, len(kept))
        _copy_rest(listing, folder, kept)
        _check_result(listing, list_folder(folder), changed, found)
    return Repaired(out, len(kept), changed, sorted(left_out))


def _check_result(before: Listing, after: Listing, changed: Sequence[str], found: Audit) -> None:
    """Judge the changed masks by the measures that found them. Raises DataError if a mask, or the
    class order of all of them, fits no better than before."""
    from trainer.data.class_order import OURS, misfit, order_of
    from trainer.data.classes import NUM_CLASSES
    from trainer.data.mask_geometry import shape_of, sides_vote

    if not changed:
        return
    old, new = ({stem: n for n, stem in enumerate(listing.stems)} for listing in (before, after))
    sources = before.source(), after.source()
    shapes = [
        tuple(
            shape_of(source.mask(place[stem]))
            for source, place in zip(sources, (old, new), strict=True)
        )
        for stem in changed
    ]
    refusal = "nothing was written; please report it with the findings of --json"
    if found.translated:
        ours = range(NUM_CLASSES)
        were, are = (misfit(side, ours) for side in zip(*shapes, strict=True))
        fits = order_of([shape for _, shape in shapes]) == OURS
        if not fits or were is None or are is None or are >= were:
            raise DataError(
                f"{before.root}: the translated masks fit the class order no better than before;"
                f" {refusal}"
            )
    for stem, (_, now) in zip(changed, shapes, strict=True):
        if stem in found.left_right_reversed and sides_vote(now) <= 0:
            raise DataError(
                f"{before.root}: left and right of mask {stem} are no better after the exchange;"
                f" {refusal}"
            )


def check_target(root: Path, out: Path) -> None:
    """Raises DataError unless `out` is free for a copy of `root`: absent or empty, and apart."""
    source, target = root.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise DataError(f"--repair {out} lies inside {root}; name a folder outside it")
    if out.exists() and not out.is_dir():
        raise DataError(f"--repair {out} is a file; name a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"--repair {out} is not empty; name a new folder")


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends without an error."""
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}-"))
    try:
        yield folder
        # mkdtemp makes private folders; a copy is as readable as any other folder of the user's
        folder.chmod(0o777 & ~umask())
        folder.rename(out.resolve())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _copy_pair(listing: Listing, stem: str, folder: Path, found: Audit) -> None:
    _copy(listing.images[stem], listing.root, folder)
    for path, name, ids in listing.layout.corrected(
        listing.masks[stem],
        translated=stem in found.translated,
        swapped=stem in found.left_right_reversed,
    ):
        if ids is None:
            _copy(path, listing.root, folder, name)
        else:
            _write_mask(ids, path, folder / path.relative_to(listing.root).with_name(name))


def _write_mask(ids: Any, original: Path, path: Path) -> None:
    """A palette PNG of the ids, in the original's own colours where it has some."""
    from PIL import Image

    from trainer.data.classes import PALETTE
    from trainer.data.image_files import decode

    picture = Image.fromarray(ids)
    picture.putpalette(decode(original).getpalette() or PALETTE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def _copy(path: Path, root: Path, folder: Path, name: str | None = None) -> None:
    target = folder / path.relative_to(root)
    if name is not None:
        target = target.with_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    # a copy of a read-only file is for the user to work with
    target.chmod(target.stat().st_mode | 0o200)


def _copy_rest(listing: Listing, folder: Path, kept: Sequence[str]) -> None:
    """The other files (lists, notes, pictures without masks elsewhere), and the corrected lists."""
    from trainer.data.split import Names, list_files, read_names

    root, names_kept = listing.root, Names(kept)
    lists = set(list_files(*listing.lists).values())
    pair_files = {*listing.images.values(), *itertools.chain(*listing.masks.values())}
    for place, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(place) / name
            if path in pair_files or not path.is_file():
                continue
            if path in lists:
                lines = read_names(path)
                wanted = [line for line in lines if names_kept.find(line) is not None]
                if wanted != lines:
                    # an empty list would name no pair; without one the part is drawn by hash
                    if wanted:
                        text = "".join(f"{line}\n" for line in wanted)
                        corrected = folder / path.relative_to(root)
                        corrected.parent.mkdir(parents=True, exist_ok=True)
                        corrected.write_bytes(os.fsencode(text))
                    continue
            _copy(path, root, folder)


# --- what a user sees


def _show(found: Audit, reasons: dict[str, str], root: Path, notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from trainer.data.audit import ids_lines

    # plain, and no title: a path is not to be broken where the terminal ends
    print(f"{root}: {found.pairs} pairs")
    table = Table("finding", Column("count", justify="right"), "--repair", "first names")
    for key, text, repair_does in _ROWS:
        stems: list[str] = getattr(found, key)
        if key == "other_class_order" and not found.translated:
            repair_does = "unchanged"
        # Text: a plain string would be read as markup
        table.add_row(text, str(len(stems)), repair_does if stems else "", Text(_first(stems)))
    copies = [" = ".join(group[:2]) for group in found.duplicates]
    table.add_row(
        "the same image under several names",
        str(len(found.duplicates)),
        "kept, in one part" if copies else "",
        Text(_first(copies, 1)),
    )
    Console().print(table)
    # plain lines: a name may hold what rich would read as markup
    for stem in sorted(reasons)[:10]:
        print(f"{stem}: {reasons[stem]}")
    if len(reasons) > 10:
        print(f"... and {len(reasons) - 10} more (--json lists all)")
    for line in ids_lines(found.class_order, len(found.doubtful), found.pairs):
        print(line)
    for note in notes:
        print(f"note: {note}")
    if found.clean:
        print("nothing found")


def _first(names: Sequence[str], count: int = 2) -> str:
    names = [name if len(name) <= 12 else f"{name[:10]}…" for name in map(shown, names)]
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m trainer.check",
        description="Audit a data set of faces, and write a corrected copy of it.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder to audit")
    parser.add_argument(
        "--repair",
        type=Path,
        metavar="OUT",
        help="write a corrected, complete copy into this new folder; DIR is only read",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the findings as JSON; in names, a byte that is not UTF-8 is \\udcNN",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 whatever was found, 2 where the audit or the copy could not be made."""
    given = _parser().parse_args(argv)

    def body() -> int:
        # numpy and Pillow only now: --help and mistakes answer at once
        from trainer.data.audit import audit
        from trainer.data.plan import notes_on

        if given.repair is not None:
            check_target(given.data, given.repair)
        with progress_bar("looking", quiet=given.json) as tick:
            found, reasons = audit(given.data, tick)
        notes = notes_on(given.data)
        if not given.json:
            _show(found, reasons, given.data, notes)
        done: Repaired | None = None
        if given.repair is not None:
            with progress_bar("copying", quiet=given.json) as tick:
                done = repair(given.data, given.repair, found, tick)
        if given.json:
            result: dict[str, Any] = asdict(found) | {"notes": notes}
            if done is not None:
                result["repair"] = {**asdict(done), "out": str(done.out)}
            print(json.dumps(result, indent=1))
        elif done is not None:
            print(
                f"{done.out}: {done.pairs} pairs, {len(done.changed)} masks corrected,"
                f" {len(done.left_out)} names left out"
                + (f" ({', '.join(done.left_out)})" if done.left_out else "")
            )
        elif found.untrainable or found.translated or found.left_right_reversed:
            words = ["python", "-m", "trainer.check", "--data", str(given.data), "--repair"]
            print(f"a corrected copy: {command_line(words)} OUT")
        return 0

    return guarded(body, printed=given.repair is None)


if __name__ == "__main__":
    raise SystemExit(main())
