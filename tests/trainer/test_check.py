"""The audit, the corrected copy, and the command."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import class_orders, data_folders
from tests.support.data_folders import image_of, mask_of
from tests.support.marks import long
from tests.support.scripts import python
from tests.support.shells import LOCALES, command, locale_of, one_line, surroundings
from trainer.check import main, repair
from trainer.data.audit import audit
from trainer.data.class_order import OURS, order_of
from trainer.data.classes import IDS, PALETTE, SWAP
from trainer.data.dataset import describe, mask_warnings
from trainer.data.mask_files import read_ids
from trainer.data.mask_geometry import is_reversed, shape_of, sides_vote
from trainer.data.synthetic import SEED, face
from trainer.data.synthetic.person import Face
from trainer.errors import DataError

KEYS = [
    *("pairs", "missing_image", "missing_mask", "unreadable", "size_mismatch", "unknown_ids"),
    *("empty_masks", "class_order", "other_class_order", "no_class_order", "renumbered"),
    *("left_right_reversed", "duplicates", "notes"),
]
NOTHING: dict[str, Any] = {key: [] for key in KEYS} | {"class_order": "ours"}
TO_OTHER_ORDER = class_orders.SECOND
SWAPPED = np.array(SWAP, np.uint8)


def rewrite(path: Path, table: np.ndarray) -> None:
    """Put every id of a mask through a table."""
    data_folders.save_mask(table[read_ids(path)], path)


def with_every_fault(root: Path) -> Path:
    """A course folder with one of each; p00, p12 and p13 are sound."""
    data_folders.course(root, [f"p{number:02d}" for number in range(15)])
    image_of(root, "p01").unlink()
    mask_of(root, "p02").unlink()
    whole = image_of(root, "p03").read_bytes()
    image_of(root, "p03").write_bytes(whole[: len(whole) // 2])
    image_of(root, "p04").write_text("dear reader")
    data_folders.save_mask(np.ones((32, 32)), mask_of(root, "p05"))
    for stem, number in (("p06", 19), ("p07", 255)):
        ids = read_ids(mask_of(root, stem)).copy()
        ids[5, 5] = number
        data_folders.save_mask(ids, mask_of(root, stem))
    data_folders.save_mask(np.zeros((64, 64)), mask_of(root, "p08"))
    rewrite(mask_of(root, "p09"), TO_OTHER_ORDER)
    rewrite(mask_of(root, "p10"), SWAPPED)
    image_of(root, "p11").write_bytes(image_of(root, "p00").read_bytes())
    rewrite(mask_of(root, "p14"), SWAPPED)
    rewrite(mask_of(root, "p14"), TO_OTHER_ORDER)
    (root / "val.txt").write_text("p00\np03.jpg\np10\n")
    (root / "test.txt").write_text("p13\np14\np08\n")
    return root


EVERY_FAULT = {
    "pairs": 13,
    "missing_image": ["p01"],
    "missing_mask": ["p02"],
    "unreadable": ["p03", "p04"],
    "size_mismatch": ["p05"],
    "unknown_ids": ["p06", "p07"],
    "empty_masks": ["p08"],
    "class_order": "ours",
    "other_class_order": ["p09", "p14"],
    "no_class_order": [],
    "renumbered": [],
    # nobody asks for the sides of p14: the ids of its eyes are not known
    "left_right_reversed": ["p10"],
    "duplicates": [["p00", "p11"]],
    "notes": [
        "not used: 1 picture without a mask: p02",
        "not used: 1 mask without a picture: p01",
    ],
}
LEFT_OUT = ["p01", "p02", "p03", "p04", "p05", "p06", "p07", "p08"]
KEPT = ["p00", "p09", "p10", "p11", "p12", "p13", "p14"]


def part_of(root: Path, number: int, part: str) -> Path:
    return root / "CelebAMask-HQ-mask-anno" / "0" / f"{number:05d}_{part}.png"


def swap_files(root: Path, number: int) -> None:
    """Exchange the files of the left and right parts of one face."""
    for part in ("eye", "brow", "ear"):
        left, right = (part_of(root, number, f"{side}_{part}") for side in "lr")
        for path in (left, right):
            if path.exists():
                path.rename(path.with_suffix(".away"))
        for path, goal in ((left, right), (right, left)):
            if path.with_suffix(".away").exists():
                path.with_suffix(".away").rename(goal)


def official_with_faults(root: Path) -> Path:
    """The official layout with what can be wrong in it; 0 and 8 are sound."""
    data_folders.official(root, range(9))
    images = root / "CelebA-HQ-img"
    (images / "1.jpg").unlink()
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").glob("00002_*.png"):
        path.unlink()
    whole = (images / "3.jpg").read_bytes()
    (images / "3.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (128, 100)).save(images / "4.jpg")
    Image.new("L", (10, 10)).save(part_of(root, 5, "skin"))
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").glob("00006_*.png"):
        Image.new("L", (64, 64)).save(path)
    swap_files(root, 7)
    (images / "8.jpg").write_bytes((images / "0.jpg").read_bytes())
    return root


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What the command prints under --json; findings are no failure."""
    assert run(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


# --- the audit


def test_every_fault_is_found_and_named_in_the_official_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "--data", official_with_faults(tmp_path / "hq"))
    assert list(found) == KEYS
    assert found == {
        "pairs": 7,
        "missing_image": ["1"],
        "missing_mask": ["2"],
        "unreadable": ["3"],
        "size_mismatch": ["4", "5"],
        "unknown_ids": [],
        "empty_masks": ["6"],
        "class_order": "ours",
        "other_class_order": [],
        "no_class_order": [],
        "renumbered": [],
        "left_right_reversed": ["7"],
        "duplicates": [["0", "8"]],
        "notes": [
            "not used: 1 picture without a mask: 2",
            "not used: 1 mask without a picture: 1",
        ],
    }


def test_a_sound_folder_has_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data_folders.course(tmp_path / "faces", [f"p{number:02d}" for number in range(12)])
    assert as_json(capsys, "--data", root) == NOTHING | {"pairs": 12}
    assert run("--data", root) == 0
    assert "nothing found" in capsys.readouterr().out


def test_the_part_names_of_the_official_layout_are_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # parts that lie where the other order would have them: nothing there could be translated
    root = data_folders.official(tmp_path / "hq", [0])
    ids = TO_OTHER_ORDER[data_folders.small_face(0)[1]]
    names = {number: name for name, number in IDS.items()}
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").iterdir():
        path.unlink()
    for number in np.unique(ids)[1:]:
        plane = np.where(ids == number, 255, 0).astype(np.uint8)
        Image.fromarray(plane).save(part_of(root, 0, names[int(number)]))
    assert as_json(capsys, "--data", root)["other_class_order"] == []


def test_the_table_counts_and_names_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # wider than a terminal: a path that is broken there cannot be copied
    root = with_every_fault(tmp_path / f"{'far ' * 20}away" / "faces")
    assert run("--data", root) == 0
    out = capsys.readouterr().out
    assert f"{root}: 13 pairs" in out
    line = next(line for line in out.splitlines() if "left and right reversed" in line)
    assert "1" in line
    assert "p10" in line
    assert "p04: " in out
    assert "not a picture" in out
    assert f"--data '{root}' --repair OUT" in out


def test_a_name_in_brackets_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.course(tmp_path / "faces [old]", ["a [b]", "c", "d"])
    mask_of(root, "a [b]").unlink()
    assert run("--data", root) == 0
    out = capsys.readouterr().out.replace("\n", "")
    assert "a [b]" in out
    assert "faces [old]" in out


# --- the command


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_missing_folder_gives_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert "nowhere" in one_line(main, capsys, "--data", tmp_path / "nowhere", *more)


def test_what_is_not_read_is_shown_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.official(tmp_path / "hq", range(12))
    part_of(root, 0, "nose").with_name("00000_nose (1).png").write_bytes(b"")
    (part_of(root, 0, "nose").parent / ".ipynb_checkpoints").mkdir()
    (root / "val.txt").write_text("1\n")
    (root / "Val.txt").write_text("2\n")
    assert run("--data", root) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert lines == [
        "note: not read: 1 hidden name: CelebAMask-HQ-mask-anno/0/.ipynb_checkpoints/",
        "note: not read: 1 part mask of no class: CelebAMask-HQ-mask-anno/0/00000_nose (1).png;"
        " rename it if it is of one",
        f"note: {root} holds both Val.txt and val.txt, which mean the same; keep one",
    ]


# --- the corrected copy


def test_a_repair_writes_a_complete_sound_copy_and_reads_the_original_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = with_every_fault(tmp_path / "faces"), tmp_path / "fixed"
    (root / "notes").mkdir()
    (root / "notes" / "about.txt").write_text("of last summer")
    mask_of(root, "p12").chmod(0o444)
    before = tree(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    found = as_json(capsys, "--data", root, "--repair", out)
    assert tree(root) == before
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    assert found == EVERY_FAULT | {
        "repair": {
            "out": str(out),
            "pairs": 7,
            "changed": ["p10"],
            "left_out": LEFT_OUT,
        },
        "notes": [*EVERY_FAULT["notes"], "not read: 1 other folder: notes/"],
    }
    copied = tree(out)
    expected = {f"train/images/{stem}.jpg" for stem in KEPT}
    expected |= {f"train/masks/{stem}.png" for stem in KEPT}
    assert set(copied) == expected | {"val.txt", "test.txt", "notes/about.txt"}
    changed = {"train/masks/p10.png"}
    for name in expected - changed | {"notes/about.txt"}:
        assert copied[name] == before[name], name
    path = mask_of(out, "p10")
    assert np.array_equal(read_ids(path), data_folders.small_face(10)[1])
    with Image.open(path) as repaired, Image.open(mask_of(root, "p10")) as original:
        assert (repaired.mode, repaired.getpalette()) == ("P", original.getpalette())
    assert (out / "val.txt").read_text().split() == ["p00", "p10"]
    assert (out / "test.txt").read_text().split() == ["p13", "p14"]
    assert os.access(mask_of(out, "p12"), os.W_OK)
    again, _ = audit(out)
    assert (again.pairs, again.duplicates) == (7, [["p00", "p11"]])
    assert again.untrainable + again.left_right_reversed == []
    assert again.doubtful == ["p09", "p14"]
    # the copy can be trained on as it is; p11 follows its twin into val
    summary = describe(str(out), 0)
    assert (summary.train, summary.val, summary.test) == (2, 3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "fixed"]


def test_sound_lists_are_copied_byte_for_byte(tmp_path: Path) -> None:
    root = data_folders.course(tmp_path / "faces", ["a", "b", "c"])
    (root / "val.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\r\n")
    repair(root, tmp_path / "fixed", audit(root)[0])
    assert tree(tmp_path / "fixed") == tree(root)


def test_a_list_of_which_nothing_is_left_is_left_out(tmp_path: Path) -> None:
    root = with_every_fault(tmp_path / "faces")
    (root / "test.txt").write_text("p03\n")
    repair(root, tmp_path / "fixed", audit(root)[0])
    assert not (tmp_path / "fixed" / "test.txt").exists()
    describe(str(tmp_path / "fixed"), 0)


def test_a_repair_of_the_official_layout_exchanges_the_part_files(tmp_path: Path) -> None:
    root, out = official_with_faults(tmp_path / "hq"), tmp_path / "fixed"
    (root / "val.txt").write_text("00007.jpg\n3\n")
    before = tree(root)
    done = repair(root, out, audit(root)[0])
    assert tree(root) == before
    assert (done.pairs, done.changed) == (3, ["7"])
    assert done.left_out == ["1", "2", "3", "4", "5", "6"]
    swap_files(root, 7)
    sound = {name: value for name, value in tree(root).items() if name != "val.txt"}
    kept = {name: value for name, value in tree(out).items() if name != "val.txt"}
    assert kept == {
        name: value
        for name, value in sound.items()
        if Path(name).name.startswith(("0.", "7.", "8.", "00000", "00007", "00008"))
    }
    assert (out / "val.txt").read_text().split() == ["00007.jpg"]
    assert audit(out)[0].left_right_reversed == []


def test_a_repair_keeps_the_parts_of_folders_and_of_lists_in_train(tmp_path: Path) -> None:
    root = data_folders.course(tmp_path / "faces", [f"p{number:02d}" for number in range(12)])
    for kind, path in (("images", image_of), ("masks", mask_of)):
        (root / "test" / kind).mkdir(parents=True)
        for stem in ("p00", "p01"):
            path(root, stem).rename(root / "test" / kind / path(root, stem).name)
    rewrite(root / "test" / "masks" / "p01.png", SWAPPED)
    mask_of(root, "p03").write_bytes(b"")
    (root / "train" / "Val.txt").write_text("p02\np03\np04\n")
    (root / "val").mkdir()
    (root / "val" / "val.txt").write_text("a list of something else\n")
    out = tmp_path / "fixed"
    done = repair(root, out, audit(root)[0])
    assert (done.pairs, done.changed, done.left_out) == (11, ["p01"], ["p03"])
    assert (out / "train" / "Val.txt").read_text() == "p02\np04\n"
    gone = {"train/images/p03.jpg", "train/masks/p03.png"}
    assert set(tree(out)) == set(tree(root)) - gone
    summary = describe(str(out), 0)
    assert (summary.train, summary.val, summary.test) == (7, 2, 2)


def test_a_repair_exchanges_part_files_whatever_the_case_of_their_names(tmp_path: Path) -> None:
    root, out = data_folders.official(tmp_path / "hq", range(9)), tmp_path / "fixed"
    sound = describe(str(root), 0).fingerprint
    swap_files(root, 7)
    for side in "lr":
        path = part_of(root, 7, f"{side}_eye")
        path.rename(path.with_name(path.name.upper()))
    assert repair(root, out, audit(root)[0]).changed == ["7"]
    assert describe(str(out), 0).fingerprint == sound


@pytest.mark.parametrize("where", ["faces", "faces/train/fixed", "used", "file"])
def test_a_target_that_is_not_free_is_refused_and_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    root = data_folders.course(tmp_path / "faces", ["a", "b", "c"])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    assert run("--data", root, "--repair", tmp_path / where) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: --repair ")
    assert str(tmp_path / where) in err
    assert err.count("\n") == 1
    # refused before the long look at every file
    assert out == ""
    assert tree(tmp_path) == before


def test_an_empty_folder_will_do_as_a_target(tmp_path: Path) -> None:
    root = data_folders.course(tmp_path / "faces", ["a", "b", "c"])
    (tmp_path / "fixed").mkdir()
    assert run("--data", root, "--repair", tmp_path / "fixed") == 0
    assert tree(tmp_path / "fixed") == tree(root)


def test_a_folder_without_a_pair_to_train_on_is_not_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.course(tmp_path / "faces", ["a"])
    image_of(root, "a").write_text("dear reader")
    assert run("--data", root, "--repair", tmp_path / "fixed") == 2
    assert "nothing to copy" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


FULL_DISK = """
import resource, signal, sys
from trainer.check import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_disk_that_is_full_in_the_middle_leaves_nothing_half_written(tmp_path: Path) -> None:
    root = data_folders.course(tmp_path / "faces", ["a", "b", "c"])
    # copied after the pairs, so that these are there by then
    (root / "film.bin").write_bytes(bytes(60_000))
    done = python("-c", FULL_DISK, "--data", root, "--repair", tmp_path / "fixed")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "film.bin" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


# --- which masks are reversed


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    """200 built-in masks at 128 pixels."""
    return [face(index)[1][::2, ::2] for index in range(200)]


def tilted(mask: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).rotate(degrees, Image.Resampling.NEAREST))


def without(*names: str) -> Callable[[np.ndarray], np.ndarray]:
    """The parts are hidden: their pixels are skin."""
    table = np.arange(19, dtype=np.uint8)
    table[[IDS[name] for name in names]] = IDS["skin"]
    return lambda mask: table[mask]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as drawn": lambda mask: mask,
    "tilted by 35 degrees": lambda mask: tilted(mask, 35),
    "tilted by -35 degrees": lambda mask: tilted(mask, -35),
    "on the side": lambda mask: tilted(mask, 90),
    "eyes hidden": without("l_eye", "r_eye"),
    "eyes and brows hidden": without("l_eye", "r_eye", "l_brow", "r_brow"),
    "ears hidden": without("l_ear", "r_ear"),
    "only the person's left seen": without("r_eye", "r_brow", "r_ear"),
    "only the person's right seen": without("l_eye", "l_brow", "l_ear"),
    "mouth hidden": without("mouth", "u_lip", "l_lip"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_reversed_masks_are_found_and_sound_ones_are_not_named(
    masks: list[np.ndarray], change: str
) -> None:
    changed = [CHANGES[change](mask) for mask in masks]
    # nothing sided may be left: then no one could tell
    told = [mask for mask in changed if np.isin(mask, (4, 5, 6, 7, 8, 9)).any()]
    named = sum(is_reversed(shape_of(mask)) for mask in told)
    found = sum(is_reversed(shape_of(SWAPPED[mask])) for mask in told)
    assert len(told) >= 40
    assert named <= 0.05 * len(told), f"{named} of {len(told)} sound masks named"
    assert found >= 0.95 * len(told), f"{found} of {len(told)} reversed masks found"


def test_reversed_masks_of_heads_turned_far_are_found(masks: list[np.ndarray]) -> None:
    yaw = [abs(Face.drawn_from(np.random.default_rng([SEED, i])).yaw) for i in range(200)]
    turned = [masks[index] for index in np.argsort(yaw)[-40:]]
    assert np.degrees(sorted(yaw)[-40]) > 15
    assert sum(is_reversed(shape_of(mask)) for mask in turned) <= 2
    assert sum(is_reversed(shape_of(SWAPPED[mask])) for mask in turned) >= 38


def test_the_vote_changes_its_sign_with_the_sides(masks: list[np.ndarray]) -> None:
    for mask in masks[:50]:
        vote = sides_vote(shape_of(mask))
        assert sides_vote(shape_of(SWAPPED[mask])) == pytest.approx(-vote)


def test_a_mask_without_a_sided_part_is_not_named() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:50, 20:44] = IDS["skin"]
    assert sides_vote(shape_of(mask)) == 0
    assert not is_reversed(shape_of(mask))


# --- the class order


def numbered(root: Path, tables: Sequence[np.ndarray], count: int = 30) -> Path:
    """A course folder whose masks went through the tables in turn."""
    data_folders.course(root, [f"p{number:02d}" for number in range(count)])
    for number in range(count):
        rewrite(mask_of(root, f"p{number:02d}"), tables[number % len(tables)])
    return root


@pytest.mark.parametrize(
    "made_up",
    [*list(class_orders.MADE_UP)[:4], *map(long, list(class_orders.MADE_UP)[4:])],
)
def test_a_set_in_an_unknown_class_order_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made_up: str
) -> None:
    root = numbered(tmp_path / "faces", class_orders.MADE_UP[made_up])
    assert run("--data", root, "--repair", tmp_path / "copy") == 0
    out = capsys.readouterr().out
    assert "the class order looks wrong: the ids fit neither" in out
    assert "0 masks corrected" in out
    assert "nothing found" not in out
    assert tree(tmp_path / "copy") == tree(root)
    assert as_json(capsys, "--data", root)["class_order"] == "neither"
    (line,) = mask_warnings(str(root))
    assert "fit neither" in line
    assert f"python -m trainer.check --data {root}" in line


def test_a_set_in_the_second_order_is_translated_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = numbered(tmp_path / "faces", [class_orders.SECOND])
    rewrite(mask_of(root, "p03"), TO_OTHER_ORDER[SWAPPED[np.argsort(TO_OTHER_ORDER)]])
    # a hand over the face: alone, nobody could tell its order
    hidden = np.where(np.arange(64)[:, None] < 40, 1, 0).astype(np.uint8).repeat(64, axis=1)
    data_folders.save_mask(hidden, mask_of(root, "p04"))
    (line,) = [it for it in mask_warnings(str(root)) if it.startswith("the class")]
    assert "the ids fit the second known order" in line
    assert f"--data {root} --repair {root}-repaired" in line
    found = as_json(capsys, "--data", root, "--repair", tmp_path / "copy")
    assert found["class_order"] == "second"
    assert len(found["other_class_order"]) == len(found["repair"]["changed"]) == 30
    for number in range(30):
        mask = read_ids(mask_of(tmp_path / "copy", f"p{number:02d}"))
        expected = hidden if number == 4 else data_folders.small_face(number)[1]
        assert np.array_equal(mask, expected), number
    assert audit(tmp_path / "copy")[0].clean
    assert mask_warnings(str(tmp_path / "copy")) == []


def test_single_masks_of_another_order_are_named_and_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = numbered(tmp_path / "faces", [np.arange(19, dtype=np.uint8)])
    rewrite(mask_of(root, "p02"), TO_OTHER_ORDER)
    rewrite(mask_of(root, "p05"), class_orders.MADE_UP["a permutation"][0])
    found = as_json(capsys, "--data", root)
    assert found["class_order"] == "ours"
    assert (found["other_class_order"], found["no_class_order"]) == (["p02"], ["p05"])
    (line,) = mask_warnings(str(root))
    assert line.startswith("2 of 30 masks have other ids than the rest")
    assert run("--data", root, "--repair", tmp_path / "copy") == 0
    assert "unchanged" in capsys.readouterr().out
    assert tree(tmp_path / "copy") == tree(root)


def test_colours_under_other_ids_than_in_the_other_files_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = numbered(tmp_path / "faces", [np.arange(19, dtype=np.uint8)])
    colours = np.array(PALETTE, np.uint8).reshape(-1, 3)
    for stem, (one, other) in {"p02": (11, 12), "p07": (1, 13)}.items():
        # as a program does that sorts the palette of each file it writes
        table = np.arange(256, dtype=np.uint8)
        table[[one, other]] = other, one
        picture = Image.fromarray(table[read_ids(mask_of(root, stem))])
        picture.putpalette(colours[table].ravel().tolist())
        picture.save(mask_of(root, stem))
    # the same ids in colours of one's own are no fault
    picture = Image.fromarray(read_ids(mask_of(root, "p09")))
    picture.putpalette([number % 251 for number in range(100, 868)])
    picture.save(mask_of(root, "p09"))
    assert as_json(capsys, "--data", root)["renumbered"] == ["p02", "p07"]
    (line,) = mask_warnings(str(root))
    assert "2 of 30 masks" in line


def test_a_translation_that_fits_no_better_is_refused_and_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = numbered(tmp_path / "faces", [class_orders.SECOND], count=9)
    found = audit(root)[0]
    before = tree(tmp_path)
    # masks that changed between the look and the copy
    for path in (root / "train" / "masks").iterdir():
        rewrite(path, class_orders.MADE_UP["a permutation"][0])
    with pytest.raises(DataError, match="fit the class order no better"):
        repair(root, tmp_path / "copy", found)
    assert tree(tmp_path).keys() == before.keys()


def test_faces_that_are_framed_otherwise_are_still_in_our_order() -> None:
    rng = np.random.default_rng(5)
    shapes = []
    for index in range(40):
        ids = data_folders.small_face(index)[1]
        large = np.zeros((256, 256), np.uint8)
        top, left = rng.integers(0, 192, size=2)
        large[top : top + 64, left : left + 64] = ids
        shapes.append(shape_of(large))
    assert order_of(shapes) == OURS
    assert {order_of([shape]) for shape in shapes} == {OURS}


def test_too_few_ids_tell_no_order() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:50, 20:44] = IDS["skin"]
    assert order_of([shape_of(mask)]) is None


# --- any file name


@pytest.mark.parametrize("name", [LOCALES[0], *map(long, LOCALES[1:-1]), LOCALES[-1]])
def test_names_of_any_bytes_are_shown_and_kept_in_any_locale(tmp_path: Path, name: str) -> None:
    stems = [f"f{number:02d}" for number in range(10)]
    stems += [os.fsdecode(b"M\xfcller"), os.fsdecode(b"M\xc3\xbcller")]
    root = data_folders.course(tmp_path / os.fsdecode(b"f\xe4ces"), stems, 32)
    # a mask without a picture, to be named in the table
    (root / "train" / "images" / f"{stems[10]}.jpg").unlink()
    listed = [b"f00", *map(os.fsencode, stems[10:])]
    (root / "val.txt").write_bytes(b"\n".join(listed) + b"\n")
    env = surroundings(locale_of(name, tmp_path))

    def run(*words: object) -> bytes:
        done = subprocess.run(
            command("trainer.check", "--data", root, *words), env=env, capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    shown = b"M\xfcller" if name == "latin-1" else b"M\\xfcller"
    assert shown in run()
    found = json.loads(run("--json"))
    # read in that locale, a name has the same bytes in every other
    encoding = "latin-1" if name == "latin-1" else "utf-8"
    missing = [stem.encode(encoding, "surrogateescape") for stem in found["missing_image"]]
    assert missing == [b"M\xfcller"]
    run("--repair", tmp_path / os.fsdecode(b"c\xf6py"))
    copy = tmp_path / os.fsdecode(b"c\xf6py")
    assert (copy / "train" / "images" / f"{stems[11]}.jpg").is_file()
    assert (copy / "val.txt").read_bytes() == b"f00\n" + os.fsencode(stems[11]) + b"\n"
