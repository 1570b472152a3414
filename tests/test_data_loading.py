"""Folders in both layouts, the cache, and everything that can be wrong with a file."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import data_folders
from trainer.data import dataset, sources
from trainer.data.cache import reduce_mask
from trainer.data.dataset import FaceData, describe, load_faces, reversed_warning
from trainer.errors import DataError

STEMS = tuple(f"p{number:02d}" for number in range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_folders.course(tmp_path / "faces", STEMS)


def load(root: Path | str, tmp_path: Path, size: int = 32, **options: object) -> FaceData:
    return load_faces(
        str(root),
        image_size=size,
        synthetic_images=20,
        cache_dir=tmp_path / "cache",
        **options,  # type: ignore[arg-type]
    )


def complaint(root: Path, tmp_path: Path) -> str:
    """What loading every part says; one line."""
    with pytest.raises(DataError) as caught:
        load(root, tmp_path, parts=("all",))
    text = str(caught.value)
    assert "\n" not in text
    return text


def break_image(folder: Path, content: bytes, stem: str = "p03") -> str:
    path = folder / "train" / "images" / f"{stem}.jpg"
    path.write_bytes(content)
    return path.name


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# --- what is read


def test_course_layout_gives_parts_of_the_wanted_size(folder: Path, tmp_path: Path):
    data = load(folder, tmp_path)
    assert data.name == "faces"
    assert data.train.images.shape == (len(data.train), 32, 32, 3)
    assert data.train.masks.shape == (len(data.train), 32, 32)
    assert len(data.train) + len(data.val) + len(data.plan.parts["test"]) == 12
    assert data.all.stems == STEMS


def test_masks_are_reduced_at_pixel_centres_and_full_ones_stay_untouched(
    folder: Path, tmp_path: Path
):
    part = load(folder, tmp_path).train
    original = np.asarray(Image.open(folder / "train" / "masks" / f"{part.stems[0]}.png"))
    assert np.array_equal(part.full_mask(0), original)
    assert np.array_equal(part.masks[0], original[1::2, 1::2])
    assert part.full_image(0).shape == (64, 64, 3)


def test_reduction_by_a_third_takes_the_middle_pixel():
    mask = np.arange(81, dtype=np.uint8).reshape(9, 9)
    assert np.array_equal(reduce_mask(mask, 3), mask[1::3, 1::3])


def test_official_layout_merges_part_masks_in_list_order(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 7])
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    everything = np.full((64, 64), 255, np.uint8)
    Image.fromarray(everything).save(masks / "00000_skin.png")  # under all other parts
    Image.fromarray(everything).convert("RGB").save(masks / "00007_cloth.png")  # over them
    data = load(root, tmp_path, parts=("all",))
    assert data.all.stems == ("0", "7")
    assert set(np.unique(data.all.full_mask(0))) > {1, 2, 12}
    assert set(np.unique(data.all.full_mask(1))) == {18}
    assert data.all.full_image(0).shape == (128, 128, 3)
    assert data.all.full_mask(0).shape == (64, 64)


def test_images_folder_at_the_root_is_read_too(folder: Path, tmp_path: Path):
    assert describe(str(folder / "train"), 0, tmp_path / "cache").train > 0


def test_a_grey_mask_counts_like_a_palette_one(folder: Path, tmp_path: Path):
    path = folder / "train" / "masks" / "p00.png"
    ids = np.asarray(Image.open(path))
    Image.fromarray(ids).save(path)
    data = load(folder, tmp_path, parts=("all",))
    assert np.array_equal(data.all.full_mask(0), ids)


def test_files_without_a_partner_are_passed_over_and_counted(folder: Path, tmp_path: Path):
    (folder / "train" / "masks" / "p00.png").unlink()
    (folder / "train" / "images" / "p01.jpg").unlink()
    summary = describe(str(folder), 0, tmp_path / "cache")
    assert summary.train + summary.val + summary.test == 10
    assert summary.left_out == 2


def test_hidden_files_are_no_pictures(folder: Path, tmp_path: Path):
    (folder / "train" / "images" / "._p00.jpg").write_text("of another system")
    assert describe(str(folder), 0, tmp_path / "cache").left_out == 0


# --- identity


def test_the_fingerprint_knows_content_and_split_but_not_size_or_time(folder: Path, tmp_path: Path):
    cache = tmp_path / "cache"

    def now() -> str:
        return describe(str(folder), 0, cache).fingerprint

    first = now()
    assert load(folder, tmp_path, 16).fingerprint == load(folder, tmp_path, 32).fingerprint == first
    os.utime(folder / "train" / "images" / "p00.jpg", (1, 1))
    assert now() == first
    (folder / "val.txt").write_text("p00\np01\n")
    listed = now()
    assert listed != first
    data_folders.save_mask(np.ones((64, 64)), folder / "train" / "masks" / "p05.png")
    assert now() not in (first, listed)


def test_changed_pictures_are_decoded_again(folder: Path, tmp_path: Path):
    (folder / "val.txt").write_text("p00\n")
    before = load(folder, tmp_path).val.masks[0].copy()
    data_folders.save_mask(np.full((64, 64), 13), folder / "train" / "masks" / "p00.png")
    after = load(folder, tmp_path).val.masks[0]
    assert not np.array_equal(before, after)
    assert set(np.unique(after)) == {13}


def test_a_copy_with_other_names_of_folders_has_the_same_fingerprint(tmp_path: Path):
    one = data_folders.course(tmp_path / "one", STEMS)
    two = data_folders.course(tmp_path / "two", STEMS)
    cache = tmp_path / "cache"
    assert describe(str(one), 0, cache).fingerprint == describe(str(two), 0, cache).fingerprint


def test_duplicates_lie_in_one_part(folder: Path, tmp_path: Path):
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        content = (folder / "train" / kind / f"p00.{suffix}").read_bytes()
        (folder / "train" / kind / f"p01.{suffix}").write_bytes(content)
    (folder / "val.txt").write_text("p00\n")
    assert load(folder, tmp_path).val.stems == ("p00", "p01")


# --- cache


def test_decoded_once_then_mapped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = load(folder, tmp_path).train
    monkeypatch.setattr(sources, "read_image", lambda path: pytest.fail("decoded again"))
    again = load(folder, tmp_path).train
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    assert np.array_equal(first.images, again.images)


def test_a_part_travels_to_another_process_by_file_name(folder: Path, tmp_path: Path):
    part = load(folder, tmp_path, 48).train
    packed = pickle.dumps(part)
    assert len(packed) < part.images.nbytes / 4
    copy = pickle.loads(packed)
    assert np.array_equal(copy.images, part.images)
    assert np.array_equal(copy.full_mask(0), part.full_mask(0))
    whole = pickle.loads(pickle.dumps(load(folder, tmp_path, 48)))
    assert np.array_equal(whole.val.masks, load(folder, tmp_path, 48).val.masks)


def test_a_damaged_cache_file_is_made_again(folder: Path, tmp_path: Path):
    before = load(folder, tmp_path).train.images.copy()
    for file in (tmp_path / "cache").glob("*.npy"):
        file.write_bytes(b"not an array")
    assert np.array_equal(load(folder, tmp_path).train.images, before)


def test_processes_that_start_together_share_one_decoding(folder: Path, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path\n"
        "from trainer.data.dataset import load_faces\n"
        "data = load_faces(sys.argv[1], image_size=32, synthetic_images=0,"
        " cache_dir=Path(sys.argv[2]))\n"
        "print(int(data.train.images.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {process.communicate(timeout=60)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(sums) == 1
    assert len(list((tmp_path / "cache").glob("*-images.npy"))) == 2  # train and val


def test_progress_is_told(folder: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    load(folder, tmp_path, parts=("all",), tick=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 12)
    assert seen[-1] == (12, 12)


# --- bad inputs


def test_missing_folder(tmp_path: Path):
    assert "does not exist" in complaint(tmp_path / "nowhere", tmp_path)


def test_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "is empty" in complaint(tmp_path / "empty", tmp_path)


def test_folder_of_another_layout(tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    assert "train/images" in complaint(tmp_path / "other", tmp_path)


def test_layout_without_pictures(tmp_path: Path):
    for name in ("images", "masks"):
        (tmp_path / "bare" / name).mkdir(parents=True)
    assert "holds no pictures" in complaint(tmp_path / "bare", tmp_path)


def test_no_pair_at_all(folder: Path, tmp_path: Path):
    for mask in (folder / "train" / "masks").iterdir():
        mask.rename(mask.with_name(f"other-{mask.name}"))
    assert "12 pictures without a mask" in complaint(folder, tmp_path)


def test_image_that_is_a_text_file(folder: Path, tmp_path: Path):
    name = break_image(folder, b"dear reader")
    text = complaint(folder, tmp_path)
    assert name in text
    assert "not a picture" in text


def test_empty_image_file(folder: Path, tmp_path: Path):
    assert break_image(folder, b"") in complaint(folder, tmp_path)


def test_truncated_jpeg(folder: Path, tmp_path: Path):
    whole = (folder / "train" / "images" / "p03.jpg").read_bytes()
    name = break_image(folder, whole[: len(whole) // 2])
    text = complaint(folder, tmp_path)
    assert name in text
    assert "cannot be decoded" in text


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_truncated_mask(folder: Path, tmp_path: Path, cut: float):
    path = folder / "train" / "masks" / "p03.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    assert "p03.png" in complaint(folder, tmp_path)


@pytest.mark.parametrize("number", [19, 255])
def test_mask_with_an_unknown_id(folder: Path, tmp_path: Path, number: int):
    ids = np.zeros((64, 64))
    ids[5, 5] = number
    data_folders.save_mask(ids, folder / "train" / "masks" / "p03.png")
    text = complaint(folder, tmp_path)
    assert "p03.png" in text
    assert f"id {number}" in text


def test_mask_in_colours(folder: Path, tmp_path: Path):
    Image.new("RGB", (64, 64)).save(folder / "train" / "masks" / "p03.png")
    assert "mode RGB" in complaint(folder, tmp_path)


def test_course_mask_of_another_size(folder: Path, tmp_path: Path):
    data_folders.save_mask(np.ones((32, 32)), folder / "train" / "masks" / "p03.png")
    text = complaint(folder, tmp_path)
    assert "32 x 32" in text
    assert "64 x 64" in text


def test_official_mask_of_another_aspect_ratio(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 1])
    Image.new("RGB", (128, 100)).save(root / "CelebA-HQ-img" / "1.jpg")
    assert "aspect ratio" in complaint(root, tmp_path)


def test_official_parts_of_different_sizes(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 1])
    Image.new("L", (10, 10)).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00001_skin.png")
    assert "00001" in complaint(root, tmp_path)


def test_official_part_of_an_unknown_name(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 1])
    Image.new("L", (64, 64)).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00001_beard.png")
    assert "'beard'" in complaint(root, tmp_path)


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])
def test_huge_picture_is_refused_by_its_header(folder: Path, tmp_path: Path, side: int):
    name = break_image(folder, png_header(side, side))
    text = complaint(folder, tmp_path)
    assert name in text
    assert "make the picture smaller" in text


def test_two_pictures_of_one_name(folder: Path, tmp_path: Path):
    Image.new("RGB", (64, 64)).save(folder / "train" / "images" / "p03.png")
    assert "both" in complaint(folder, tmp_path)


def test_list_with_a_name_that_no_file_has(folder: Path, tmp_path: Path):
    (folder / "val.txt").write_text("p00\nstranger\n")
    assert "stranger" in complaint(folder, tmp_path)


def test_list_that_leaves_nothing_to_train_on(folder: Path, tmp_path: Path):
    (folder / "val.txt").write_text("\n".join(STEMS))
    assert "train" in complaint(folder, tmp_path)


def test_missing_test_part_is_named(folder: Path, tmp_path: Path):
    (folder / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"no picture in its test part"):
        _ = load(folder, tmp_path).test


def test_cache_folder_that_is_a_file_names_the_variable(folder: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match="FACE_PARSING_CACHE"):
        load(folder, tmp_path)


# --- built-in faces


def test_built_in_faces_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data = load("synthetic", tmp_path)
    assert data.name == "synthetic"
    assert len(data.all) == 20
    assert data.val.full_mask(0).shape == (256, 256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_more_built_in_faces_leave_the_first_ones_as_they_are(tmp_path: Path):
    few = load("synthetic", tmp_path).all
    options = {"image_size": 32, "cache_dir": tmp_path / "cache", "parts": ("all",)}
    many = load_faces("synthetic", synthetic_images=24, **options).all  # type: ignore[arg-type]
    assert np.array_equal(many.images[:20], few.images)


# --- reversed sides


def test_reversed_masks_are_told_in_one_line_that_names_the_mend(tmp_path: Path):
    root = data_folders.course(tmp_path / "my faces", STEMS)
    cache = tmp_path / "cache"
    assert reversed_warning(str(root), cache) is None
    path = root / "train" / "masks" / "p00.png"
    from trainer.data.audit import sides_swapped

    data_folders.save_mask(sides_swapped(np.asarray(Image.open(path))), path)
    text = reversed_warning(str(root), cache)
    assert text is not None
    assert "\n" not in text
    assert "1 of 12" in text
    # as a shell takes it
    assert text.endswith(f"python -m trainer.check --data '{root}' --repair '{root}-repaired'")
    assert reversed_warning(str(root), cache) == text


def test_built_in_faces_are_not_warned_of():
    assert reversed_warning(dataset.SYNTHETIC) is None


@pytest.mark.skipif(not data_folders.REAL.is_dir(), reason="the real faces are not on this machine")
def test_real_faces_split_as_the_design_says(tmp_path: Path):
    summary = describe(str(data_folders.REAL), 0, tmp_path / "cache")
    assert (summary.train + summary.val + summary.test, summary.val) == (850, 100)
    assert 55 <= summary.test <= 95
