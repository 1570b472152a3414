"""Masks for pictures, packed, and a solution that runs on its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.data_folders import small_face
from tests.support.faces import tiny_config, tiny_faces
from tests.support.shells import one_line
from trainer import predict
from trainer.data.mask_files import read_ids
from trainer.fit import fit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for a second."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config({"training.epochs": 2})
    fit(config, tiny_faces(), out=folder / "out")
    return folder / "out" / "best.pt"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of different sizes, two of them no square."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, (name, size) in enumerate(
        [("a.jpg", (64, 64)), ("b b.png", (90, 50)), ("c.jpeg", (33, 70))]
    ):
        Image.fromarray(small_face(index)[0]).resize(size).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: object) -> int:
    return predict.main([str(argument) for argument in arguments])


def test_every_picture_gets_a_palette_mask_of_its_own_size(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out, packed = tmp_path / "masks", tmp_path / "masks.zip"
    assert run("--checkpoint", checkpoint, "--images", pictures, "--out", out, "--zip", packed) == 0
    sizes = {"a.png": (64, 64), "b b.png": (90, 50), "c.png": (33, 70)}
    for name, size in sizes.items():
        with Image.open(out / name) as mask:
            assert (mask.mode, mask.size) == ("P", size)
            assert np.asarray(mask).max() < 19
    assert sorted(path.name for path in out.iterdir()) == sorted(sizes)
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == [f"masks/{name}" for name in sorted(sizes)]
        for name in sizes:
            assert archive.read(f"masks/{name}") == (out / name).read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("tta", [(), ("--tta", "flip")])
def test_the_packed_run_py_gives_our_masks_without_this_project(
    checkpoint: Path, pictures: Path, tmp_path: Path, tta: tuple[str, ...]
) -> None:
    out, packed = tmp_path / "masks", tmp_path / "solution.zip"
    given = ("--checkpoint", checkpoint, "--images", pictures, "--out", out, *tta)
    assert run(*given, "--package", packed) == 0
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    solution = tmp_path / "there" / "solution"
    assert {path.name for path in solution.iterdir()} == {
        *("ckpt.pth", "run.py", "requirements.txt", "lmsa.py")
    }
    assert "state_dict" in torch.load(solution / "ckpt.pth", weights_only=True)
    # a picture other than the one that the proof used
    done = subprocess.run(
        [
            *(sys.executable, "-I", str(solution / "run.py")),
            *("--input", str(pictures / "c.jpeg"), "--output", str(tmp_path / "c.png")),
            *("--weights", str(solution / "ckpt.pth")),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert np.mean(read_ids(tmp_path / "c.png") != read_ids(out / "c.png")) < 1e-3


def test_tta_changes_masks(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("--checkpoint", checkpoint, "--images", pictures)
    assert run(*given, "--out", tmp_path / "plain") == 0
    assert run(*given, "--out", tmp_path / "flip", "--tta", "flip") == 0
    assert any(
        (tmp_path / "plain" / name).read_bytes() != (tmp_path / "flip" / name).read_bytes()
        for name in ("a.png", "b b.png", "c.png")
    )


@pytest.mark.long
def test_a_package_whose_run_py_differs_is_not_kept(
    checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = predict._solution

    def broken(*arguments: object) -> dict[str, bytes]:
        files = honest(*arguments)  # type: ignore[arg-type]
        content = torch.load(io.BytesIO(files["ckpt.pth"]), weights_only=True)
        content["mean_rgb"] = [5.0, 5.0, 5.0]
        changed = io.BytesIO()
        torch.save(content, changed)
        return {**files, "ckpt.pth": changed.getvalue()}

    monkeypatch.setattr(predict, "_solution", broken)
    packed = tmp_path / "solution.zip"
    given = ("--checkpoint", checkpoint, "--images", pictures, "--out", tmp_path / "masks")
    assert run(*given, "--package", packed) == 2
    assert "otherwise" in capsys.readouterr().err
    assert not packed.exists()


@pytest.mark.long
def test_a_very_large_picture_is_labelled_at_its_own_size(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "LARGEST_SIDE", 40)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(small_face(0)[0]).resize((200, 100)).save(folder / "wide.png")
    packed = tmp_path / "solution.zip"
    given = ("--checkpoint", checkpoint, "--images", folder, "--out", tmp_path / "masks")
    assert run(*given, "--package", packed) == 0
    assert read_ids(tmp_path / "masks" / "wide.png").shape == (100, 200)


def test_bad_input_is_one_line_and_leaves_nothing(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "z.jpg").write_text("text")
    out = tmp_path / "masks"
    weights = ("--checkpoint", checkpoint)
    cases = {
        "can be read: z.jpg (not a picture)": (*weights, "--images", broken, "--out", out),
        "no picture": (*weights, "--images", empty, "--out", out),
        "no folder": (*weights, "--images", tmp_path / "absent", "--out", out),
        "folder of the pictures": (*weights, "--images", pictures, "--out", pictures),
        "does not exist": ("--checkpoint", tmp_path / "no.pt", "--images", pictures, "--out", out),
    }
    for words, given in cases.items():
        assert words in one_line(predict.main, capsys, *given)
        assert not out.exists()


def test_what_nobody_means_is_passed_over(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # what macOS leaves beside each picture, a folder, and other kinds of file
    (pictures / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (pictures / ".hidden.heic").write_bytes(b"x")
    (pictures / "x.jpg").mkdir()
    (pictures / "Thumbs.db").write_bytes(b"x")
    (pictures / "report.pdf").write_bytes(b"x")
    out = tmp_path / "masks"
    assert run("--checkpoint", checkpoint, "--images", pictures, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b b.png", "c.png"]
    assert capsys.readouterr().err == ""


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_labelled(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the first by name, which the package's proof must not choose
    (pictures / "0; 1.jpg").write_text("text")
    (pictures / "phone.HEIC").write_bytes(b"x")
    (pictures / "gone.png").symlink_to(tmp_path / "nowhere.png")
    out, packed, package = tmp_path / "masks", tmp_path / "masks.zip", tmp_path / "package.zip"
    given = ("--checkpoint", checkpoint, "--images", pictures, "--out", out)
    assert run(*given, "--zip", packed, "--package", package) == 1
    told = capsys.readouterr()
    assert told.err == (
        "note: left out: 0; 1.jpg (not a picture); gone.png (not a file);"
        " phone.HEIC (.heic is not read)\n"
    )
    assert "gave the same mask for a.jpg on its own" in told.out
    masks = ["a.png", "b b.png", "c.png"]
    assert sorted(path.name for path in out.iterdir()) == masks
    for archive in (packed, package):
        with zipfile.ZipFile(archive) as content:
            names = [name for name in content.namelist() if name.startswith("masks/")]
            assert sorted(names) == [f"masks/{name}" for name in masks]


def test_a_zip_holds_the_bytes_of_the_names(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    for number, name in enumerate((b"M\xc3\xbcller.jpg", b"M\xfcller.jpg")):
        Image.fromarray(small_face(number)[0]).save(pictures / os.fsdecode(name))
    out, packed = tmp_path / "masks", tmp_path / "masks.zip"
    assert run("--checkpoint", checkpoint, "--images", pictures, "--out", out, "--zip", packed) == 0
    assert (out / os.fsdecode(b"M\xfcller.png")).is_file()
    with zipfile.ZipFile(packed) as archive:
        # a zip marks the names that are UTF-8; of others it is not told what they are in
        names = {
            entry.filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
            for entry in archive.infolist()
        }
        assert archive.testzip() is None
    assert names == {
        *(b"masks/a.png", b"masks/b b.png", b"masks/c.png"),
        *(b"masks/M\xc3\xbcller.png", b"masks/M\xfcller.png"),
    }


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A folder with one picture that viewers show 30 wide and 60 high, stored on its side."""
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(small_face(0)[0]).resize((60, 30)).save(folder / "phone.jpg", exif=exif)
    return folder


def test_a_mask_fits_a_turned_picture_as_viewers_show_it(
    checkpoint: Path, turned: Path, tmp_path: Path
) -> None:
    given = ("--checkpoint", checkpoint, "--images", turned, "--out", tmp_path / "masks")
    assert run(*given, "--package", tmp_path / "package.zip") == 0
    assert read_ids(tmp_path / "masks" / "phone.png").shape == (60, 30)


@pytest.mark.long
def test_the_packed_run_py_turns_a_picture_as_viewers_do(
    checkpoint: Path, pictures: Path, turned: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "package.zip"
    given = ("--checkpoint", checkpoint, "--images", pictures, "--out", tmp_path / "masks")
    assert run(*given, "--package", packed) == 0
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    words = ("--input", turned / "phone.jpg", "--output", tmp_path / "phone.png")
    subprocess.run(
        [sys.executable, "-I", "run.py", *words, "--weights", "ckpt.pth"],
        cwd=tmp_path / "there" / "solution",
        check=True,
    )
    assert read_ids(tmp_path / "phone.png").shape == (60, 30)


def test_two_pictures_of_one_name_are_refused(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(pictures / "a.png")
    given = ("--checkpoint", checkpoint, "--images", pictures, "--out", tmp_path / "masks")
    assert "both become a.png" in one_line(predict.main, capsys, *given)
