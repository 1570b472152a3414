"""The audit, the corrected copy, and the command."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import data_folders
from tests.shells import LOCALES, command, locale_of, surroundings
from trainer.check import main, repair
from trainer.data.audit import audit, is_reversed, shape_of, sides_vote
from trainer.data.classes import FROM_OTHER_ORDER, IDS, SWAP
from trainer.data.dataset import describe
from trainer.data.sources import read_ids
from trainer.data.synthetic import SEED, _Face, face

ROOT = Path(__file__).resolve().parent.parent
KEYS = [
    *("pairs", "missing_image", "missing_mask", "unreadable", "size_mismatch", "unknown_ids"),
    *("empty_masks", "other_class_order", "left_right_reversed", "duplicates"),
]
TO_OTHER_ORDER = np.argsort(FROM_OTHER_ORDER).astype(np.uint8)
SWAPPED = np.array(SWAP, np.uint8)


def mask_of(root: Path, stem: str) -> Path:
    return root / "train" / "masks" / f"{stem}.png"


def image_of(root: Path, stem: str) -> Path:
    return root / "train" / "images" / f"{stem}.jpg"


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
    "other_class_order": ["p09", "p14"],
    "left_right_reversed": ["p10", "p14"],
    "duplicates": [["p00", "p11"]],
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


def test_every_fault_is_found_and_named_in_the_course_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "--data", with_every_fault(tmp_path / "faces"))
    assert list(found) == KEYS
    assert found == EVERY_FAULT


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
        "other_class_order": [],
        "left_right_reversed": ["7"],
        "duplicates": [["0", "8"]],
    }


def test_a_sound_folder_has_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data_folders.course(tmp_path / "faces", [f"p{number:02d}" for number in range(12)])
    assert as_json(capsys, "--data", root) == {key: [] for key in KEYS} | {"pairs": 12}
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
    assert "2" in line
    assert "p10, p14" in line
    assert "p04: " in out
    assert "not a picture" in out
    assert f"--data {root} --repair OUT" in out


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
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer.check", "--data", str(tmp_path / "nowhere"), *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["empty", "a file", "another layout", "no pictures"])
def test_a_folder_that_holds_no_faces_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    root = tmp_path / "faces"
    if kind == "a file":
        root.write_text("")
    else:
        root.mkdir()
    if kind == "another layout":
        (root / "photo.jpg").write_bytes(b"")
    elif kind == "no pictures":
        (root / "images").mkdir()
        (root / "masks").mkdir()
    assert run("--data", root) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_findings_are_no_failure(tmp_path: Path) -> None:
    root = with_every_fault(tmp_path / "faces")
    done = subprocess.run(
        [sys.executable, "-m", "trainer.check", "--data", str(root)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


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
            "changed": ["p09", "p10", "p14"],
            "left_out": LEFT_OUT,
        }
    }
    copied = tree(out)
    expected = {f"train/images/{stem}.jpg" for stem in KEPT}
    expected |= {f"train/masks/{stem}.png" for stem in KEPT}
    assert set(copied) == expected | {"val.txt", "test.txt", "notes/about.txt"}
    changed = {f"train/masks/{stem}.png" for stem in ("p09", "p10", "p14")}
    for name in expected - changed | {"notes/about.txt"}:
        assert copied[name] == before[name], name
    # p09, p10 and p14 were made from these faces
    for index in (9, 10, 14):
        path = mask_of(out, f"p{index:02d}")
        assert np.array_equal(read_ids(path), data_folders.small_face(index)[1])
        with Image.open(path) as repaired, Image.open(mask_of(root, path.stem)) as original:
            assert (repaired.mode, repaired.getpalette()) == ("P", original.getpalette())
    assert (out / "val.txt").read_text().split() == ["p00", "p10"]
    assert (out / "test.txt").read_text().split() == ["p13", "p14"]
    assert os.access(mask_of(out, "p12"), os.W_OK)
    again, _ = audit(out)
    assert (again.pairs, again.duplicates) == (7, [["p00", "p11"]])
    assert again.untrainable + again.other_class_order + again.left_right_reversed == []
    # the copy can be trained on as it is; p11 follows its twin into val
    summary = describe(str(out), 0, tmp_path / "cache")
    assert (summary.train, summary.val, summary.test) == (2, 3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "faces", "fixed"]


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
    describe(str(tmp_path / "fixed"), 0, tmp_path / "cache")


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
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "--data", root, "--repair", tmp_path / "fixed"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
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
    yaw = [abs(_Face.drawn_from(np.random.default_rng([SEED, i])).yaw) for i in range(200)]
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


def test_the_other_class_order_is_told_from_ours(masks: list[np.ndarray], tmp_path: Path) -> None:
    root = data_folders.course(tmp_path / "faces", [f"{number:03d}" for number in range(80)])
    for number in range(40):
        rewrite(mask_of(root, f"{number:03d}"), TO_OTHER_ORDER)
    named = set(audit(root)[0].other_class_order)
    other = {f"{number:03d}" for number in range(40)}
    assert len(named & other) >= 38
    assert len(named - other) <= 2


def test_the_command_for_a_copy_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.course(tmp_path / "my faces", ["a", "b"], 32)
    mask_of(root, "a").write_text("no picture")
    assert main(["--data", str(root)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (f"a corrected copy: python -m trainer.check --data '{root}' --repair OUT")


# ---------------------------------------------------------------------------------- any file name


@pytest.mark.parametrize("name", LOCALES)
def test_names_of_any_bytes_are_shown_and_kept_in_any_locale(tmp_path: Path, name: str) -> None:
    stems = [f"f{number:02d}" for number in range(10)]
    stems += [os.fsdecode(b"M\xfcller"), os.fsdecode(b"M\xc3\xbcller")]
    root = data_folders.course(tmp_path / os.fsdecode(b"f\xe4ces"), stems, 32)
    # a mask without a picture, to be named in the table
    (root / "train" / "images" / f"{stems[10]}.jpg").unlink()
    listed = [b"f00", *map(os.fsencode, stems[10:])]
    (root / "val.txt").write_bytes(b"\n".join(listed) + b"\n")
    env = surroundings(tmp_path, locale_of(name, tmp_path))

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
