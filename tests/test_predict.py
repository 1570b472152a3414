"""Masks for pictures, packed, and a solution that runs on its own."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data_folders import small_face
from tests.faces import tiny_config, tiny_faces
from trainer import predict
from trainer.data.sources import read_ids
from trainer.fit import fit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for a second."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config({"training.epochs": 2})
    fit(config, tiny_faces(folder / "cache"), out=folder / "out")
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
    (pictures / "z.jpg").write_text("text")
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "masks"
    weights = ("--checkpoint", checkpoint)
    cases = {
        "z.jpg": (*weights, "--images", pictures, "--out", out),
        "no picture": (*weights, "--images", empty, "--out", out),
        "no folder": (*weights, "--images", tmp_path / "absent", "--out", out),
        "folder of the pictures": (*weights, "--images", pictures, "--out", pictures),
        "does not exist": ("--checkpoint", tmp_path / "no.pt", "--images", pictures, "--out", out),
    }
    for words, given in cases.items():
        assert run(*given) == 2, words
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_two_pictures_of_one_name_are_refused(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(pictures / "a.png")
    assert run("--checkpoint", checkpoint, "--images", pictures, "--out", tmp_path / "masks") == 2
    assert "both become a.png" in capsys.readouterr().err
