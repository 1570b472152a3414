"""Folders in both layouts, the cache, and everything that can be wrong with a file."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import data_folders
from tests.support.data_folders import image_of, mask_of
from tests.support.pngs import png_of
from trainer.data import cache, layouts
from trainer.data.cache import reduce_mask
from trainer.data.classes import IDS, NAMES
from trainer.data.dataset import FaceData, describe, load_faces, mask_warnings
from trainer.data.image_files import ORIENTATION
from trainer.errors import DataError

STEMS = tuple(f"p{number:02d}" for number in range(12))
Make = Callable[[Path], object]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_PARSING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_folders.course(tmp_path / "faces", STEMS)


def load(root: Path | str, size: int = 32, **options: object) -> FaceData:
    return load_faces(
        str(root),
        image_size=size,
        synthetic_images=20,
        **options,  # type: ignore[arg-type]
    )


def complaint(root: Path) -> str:
    """What loading every part says; one line."""
    with pytest.raises(DataError) as caught:
        load(root, parts=("all",))
    text = str(caught.value)
    assert "\n" not in text
    return text


def plain_png(pixels: bytes, side: int, kind: int) -> bytes:
    """A square PNG of colours (kind 2) or grey values (0), not compressed."""
    width = len(pixels) // side
    rows = b"".join(b"\0" + pixels[at : at + width] for at in range(0, len(pixels), width))
    data = b"\x78\x01\x01" + struct.pack("<HH", len(rows), 0xFFFF - len(rows)) + rows
    return png_of(side, side, 8, kind, data + struct.pack(">I", zlib.adler32(rows)))


# --- what is read


def test_course_layout_gives_parts_of_the_wanted_size(folder: Path):
    data = load(folder)
    assert data.name == "faces"
    assert data.train.images.shape == (len(data.train), 32, 32, 3)
    assert data.train.masks.shape == (len(data.train), 32, 32)
    assert len(data.train) + len(data.val) + len(data.plan.parts["test"]) == 12
    assert data.part("all").stems == STEMS


def test_masks_are_reduced_at_pixel_centres_and_full_ones_stay_untouched(folder: Path):
    part = load(folder).train
    original = np.asarray(Image.open(folder / "train" / "masks" / f"{part.stems[0]}.png"))
    assert np.array_equal(part.full_mask(0), original)
    assert np.array_equal(part.masks[0], original[1::2, 1::2])
    assert part.source.image(0).shape == (64, 64, 3)


def test_reduction_by_a_third_takes_the_middle_pixel():
    mask = np.arange(81, dtype=np.uint8).reshape(9, 9)
    assert np.array_equal(reduce_mask(mask, 3), mask[1::3, 1::3])


def test_official_layout_merges_part_masks_in_list_order(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 7])
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    everything = np.full((64, 64), 255, np.uint8)
    Image.fromarray(everything).save(masks / "00000_skin.png")  # under all other parts
    Image.fromarray(everything).convert("RGB").save(masks / "00007_cloth.png")  # over them
    data = load(root, parts=("all",))
    assert data.part("all").stems == ("0", "7")
    assert set(np.unique(data.part("all").full_mask(0))) > {1, 2, 12}
    assert set(np.unique(data.part("all").full_mask(1))) == {18}
    assert data.part("all").source.image(0).shape == (128, 128, 3)
    assert data.part("all").full_mask(0).shape == (64, 64)


def test_images_folder_at_the_root_is_read_too(folder: Path):
    assert describe(str(folder / "train"), 0).train > 0


def test_a_grey_mask_counts_like_a_palette_one(folder: Path):
    path = folder / "train" / "masks" / "p00.png"
    ids = np.asarray(Image.open(path))
    Image.fromarray(ids).save(path)
    data = load(folder, parts=("all",))
    assert np.array_equal(data.part("all").full_mask(0), ids)


def test_files_without_a_partner_are_passed_over_and_counted(folder: Path):
    (folder / "train" / "masks" / "p00.png").unlink()
    (folder / "train" / "images" / "p01.jpg").unlink()
    summary = describe(str(folder), 0)
    assert summary.train + summary.val + summary.test == 10
    assert summary.left_out == 2


def test_hidden_files_are_no_pictures(folder: Path):
    (folder / "train" / "images" / "._p00.jpg").write_text("of another system")
    assert describe(str(folder), 0).left_out == 0


@pytest.mark.parametrize(
    "suffix", ["webp", "bmp", "tif", "jfif", "jp2", "avif", "gif", "ppm", "PNG", "JPeG"]
)
def test_a_picture_of_any_kind_that_pillow_reads_is_used(folder: Path, suffix: str):
    path = image_of(folder, "p00")
    if suffix in ("jfif", "JPeG"):
        path.rename(path.with_suffix(f".{suffix}"))
    else:
        with Image.open(path) as picture:
            picture.save(path.with_suffix(f".{suffix}"))
        path.unlink()
    mask = mask_of(folder, "p00")
    with Image.open(mask) as picture:
        Image.fromarray(np.asarray(picture)).save(mask.with_suffix(".TIF"))
    mask.unlink()
    data = load(folder, parts=("all",))
    assert data.part("all").stems == STEMS
    assert data.plan.notes == ()
    assert np.array_equal(data.part("all").full_mask(0), data_folders.small_face(0)[1])


def test_names_in_two_forms_of_one_accent_are_one_pair(tmp_path: Path):
    stems = [f"Zo\u00eb{number}" for number in range(12)]  # as Linux and Windows write them
    root = data_folders.course(tmp_path / "faces", stems)
    as_listed = [stems[0], unicodedata.normalize("NFD", stems[1])]
    (root / "val.txt").write_text("\n".join(as_listed), encoding="utf-8")
    before = describe(str(root), 0)
    assert (before.val, before.left_out) == (2, 0)
    for path in list((root / "train" / "images").iterdir()):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))  # as macOS does
    after = describe(str(root), 0)
    assert (after.train + after.test, after.val, after.left_out) == (10, 2, 0)
    # whole pairs in the other form are the same names as ever
    for path in list((root / "train" / "masks").iterdir()):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    assert load(root).plan.source.stems[0] == unicodedata.normalize("NFD", stems[0])


def test_two_files_that_are_one_name_are_refused_by_their_names(folder: Path):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "Zo\u00eb.jpg")
        image_of(folder, "p00").with_name(name).write_bytes(image_of(folder, "p00").read_bytes())
    text = complaint(folder)
    # the two look alike, so they are spelt out
    assert r"'Zoe\u0308.jpg' and 'Zo\xeb.jpg'" in text


def test_names_that_are_no_text_are_used(folder: Path):
    for path in (image_of(folder, "p00"), mask_of(folder, "p00")):
        os.rename(path, os.fsencode(path.parent) + b"/caf\xe9" + os.fsencode(path.suffix))
    (folder / "val.txt").write_bytes(b"caf\xe9\np01\n")
    data = load(folder)
    assert data.val.stems == (os.fsdecode(b"caf\xe9"), "p01")


# --- what is not read is said


def notes(root: Path) -> tuple[str, ...]:
    return describe(str(root), 0).notes


def test_a_clean_folder_has_nothing_to_say(folder: Path, tmp_path: Path):
    (folder / "val.txt").write_text("p00\n")
    assert notes(folder) == ()
    assert notes(data_folders.official(tmp_path / "hq", range(12))) == ()
    assert describe("synthetic", 40).notes == ()


def test_everything_that_is_not_read_is_said_in_a_line_a_kind(folder: Path):
    images, masks = folder / "train" / "images", folder / "train" / "masks"
    for stem in ("p00", "p01", "p02", "p03"):
        image_of(folder, stem).rename(images / f"{stem}.heic")
    mask_of(folder, "p04").unlink()
    (images / "notes").write_text("")
    (images / "x.jpg").mkdir()
    (images / "y.jpg").symlink_to("nowhere.jpg")
    (masks / ".ipynb_checkpoints").mkdir()
    (masks / "._p05.png").write_text("of another system")
    (folder / "extra").mkdir()
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "val.csv").write_text("p06")
    (folder / "train" / "README.md").write_text("")
    assert notes(folder) == (
        "not used: 1 picture without a mask: p04",
        "not used: 4 masks without a picture: p00, p01, p02 and 1 more",
        "not read: 5 files of no kind of picture (4 .heic, 1 without a suffix): train/images/notes,"
        " train/images/p00.heic, train/images/p01.heic and 2 more; convert what is one",
        "not read: 2 hidden names: train/masks/._p05.png, train/masks/.ipynb_checkpoints/",
        "not read: 2 names of a picture that is a folder or a link to nothing: train/images/x.jpg/,"
        " train/images/y.jpg",
        "not read: 1 other folder: extra/",
        "not read: 2 other files: train/README.md, val.csv",
        "not read: folder test/; as the test part it needs images/ and masks/",
    )
    data = load(folder, parts=("all",))
    assert data.part("all").stems == STEMS[5:]


def test_the_lines_are_one_line_each_whatever_the_names_hold(folder: Path):
    (folder / "new\nline").mkdir()
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    (text,) = notes(folder)
    assert text == r"not read: 2 other folders: caf\udce9/, new\nline/"


def test_strays_among_part_masks_stop_nothing(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", range(12))
    before = load(root, parts=("all",))
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    for name in ("00000_nose (1).png", "00001_beard.png", "._00001_skin.png"):
        (masks / name).write_bytes((masks / "00000_nose.png").read_bytes())
    (masks / ".ipynb_checkpoints").mkdir()
    (masks / ".ipynb_checkpoints" / "00000_nose-checkpoint.png").write_bytes(b"")
    data = load(root, parts=("all",))
    assert data.fingerprint == before.fingerprint
    assert data.plan.notes == (
        "not read: 2 hidden names: CelebAMask-HQ-mask-anno/0/._00001_skin.png,"
        " CelebAMask-HQ-mask-anno/0/.ipynb_checkpoints/",
        "not read: 2 part masks of no class: CelebAMask-HQ-mask-anno/0/00000_nose (1).png,"
        " CelebAMask-HQ-mask-anno/0/00001_beard.png; rename it if it is of one",
    )


def test_part_masks_are_read_whatever_the_case_of_their_names(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", range(12))
    before = load(root, parts=("all",)).part("all").masks.copy()
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    for number, path in enumerate(sorted(masks.iterdir())):
        if number % 2:
            path.rename(path.with_name(path.stem.upper() + ".PNG"))
    data = load(root, parts=("all",))
    assert np.array_equal(data.part("all").masks, before)
    assert data.plan.notes == ()


@pytest.mark.parametrize("name", ["00003_SKIN.PNG", "3_skin.png", "more/00003_skin.png"])
def test_a_part_that_is_there_twice_is_refused(tmp_path: Path, name: str):
    root = data_folders.official(tmp_path / "hq", range(12))
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    (masks / name).parent.mkdir(exist_ok=True)
    (masks / name).write_bytes((masks / "00003_skin.png").read_bytes())
    text = complaint(root)
    assert "one part of one picture" in text
    assert f"{masks / '00003_skin.png'}" in text
    assert f"{masks / name}" in text


def test_two_official_pictures_of_one_number_are_refused(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", range(12))
    images = root / "CelebA-HQ-img"
    (images / "00007.jpg").write_bytes((images / "7.jpg").read_bytes())
    assert "00007.jpg and 7.jpg" in complaint(root)


# --- how official part masks are stored


@pytest.mark.parametrize("how", ["0 and 1", "the class's id"])
def test_part_masks_of_other_values_give_the_same_masks_and_another_data_set(
    tmp_path: Path, how: str
):
    root = data_folders.official(tmp_path / "hq", range(12))
    before = load(root, parts=("all",))
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").iterdir():
        on = np.asarray(Image.open(path)) > 0
        value = IDS[path.stem.partition("_")[2]] if how == "the class's id" else 1
        Image.fromarray(on * np.uint8(value)).save(path)
    data = load(root, parts=("all",))
    assert np.array_equal(data.part("all").masks, before.part("all").masks)
    assert data.plan.keys["all"] != before.plan.keys["all"]


def test_a_study_on_masks_that_were_read_as_empty_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = data_folders.official(tmp_path / "hq", range(12))
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    now = describe(str(root), 0).fingerprint
    # what an earlier version took it for: the files' contents and nothing else
    monkeypatch.setattr(layouts.official, "part_unlike_stored", lambda path: False)
    assert describe(str(root), 0).fingerprint != now


# --- masks that were merged before


def merged(root: Path, *names: str, parts: bool) -> Path:
    """Official pictures of twice the side, with folders of one mask each."""
    data_folders.official(root, range(12))
    for name in names:
        for number in range(12):
            data_folders.save_mask(
                data_folders.small_face(number)[1], root / name / f"{number:05d}.png"
            )
    if not parts:
        shutil.rmtree(root / "CelebAMask-HQ-mask-anno")
    return root


@pytest.mark.parametrize("name", ["CelebAMaskHQ-mask", "CelebA-HQ-mask", "mask", "g_mask"])
def test_merged_masks_beside_the_official_pictures_are_read(tmp_path: Path, name: str):
    expected = load(data_folders.official(tmp_path / "hq", range(12)), parts=("all",))
    root = merged(tmp_path / "merged", name, parts=False)
    (root / f"{name}-color").mkdir()
    Image.new("RGB", (64, 64), (9, 0, 0)).save(root / f"{name}-color" / "0.png")
    data = load(root, parts=("all",))
    assert data.part("all").stems == expected.part("all").stems
    assert np.array_equal(data.part("all").masks, expected.part("all").masks)
    assert data.part("all").full_mask(0).shape == (64, 64)
    assert data.part("all").source.image(0).shape == (128, 128, 3)
    assert data.plan.notes == (
        f"not read: 1 other folder: {name}-color/",
        f"masks are those of {name}/",
    )


def test_part_masks_go_before_merged_ones_and_it_is_said(tmp_path: Path):
    root = merged(tmp_path / "hq", "mask", parts=True)
    before = describe(str(data_folders.official(tmp_path / "parts", range(12))), 0)
    assert describe(str(root), 0).fingerprint == before.fingerprint
    assert notes(root) == (
        "not read: folder mask/ of merged masks; the part masks are, since their names tell the"
        " class",
    )


def test_several_folders_of_merged_masks_are_refused(tmp_path: Path):
    root = merged(tmp_path / "hq", "mask", "masks", parts=False)
    assert "mask and masks" in complaint(root)


def test_merged_masks_of_another_shape_are_refused(tmp_path: Path):
    root = merged(tmp_path / "hq", "mask", parts=False)
    data_folders.save_mask(np.ones((64, 50)), root / "mask" / "00003.png")
    assert "aspect ratio" in complaint(root)


# --- pictures that are stored otherwise than they are shown


def stored_turned(path: Path, size: tuple[int, int]) -> None:
    """The picture of this size, stored on its side with a tag that says so."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(path) as picture:
        picture.resize(size).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_a_turned_picture_has_the_size_that_is_shown(folder: Path):
    stored_turned(image_of(folder, "p03"), (48, 64))
    ids = data_folders.small_face(3)[1]
    data_folders.save_mask(ids[:, :48], mask_of(folder, "p03"))
    data = load(folder, parts=("all",))
    assert data.part("all").source.image(3).shape == (64, 48, 3)
    assert data.plan.notes == (
        "1 of 12 pictures stored turned (EXIF), read upright as viewers show them; so must the"
        " masks be",
    )
    data_folders.save_mask(ids[:48], mask_of(folder, "p03"))
    text = complaint(folder)
    assert "48 x 64 as viewers show it" in text
    assert "EXIF orientation" in text


def test_a_picture_that_is_read_otherwise_than_before_is_another_data_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored_turned(image_of(folder, "p03"), (64, 64))
    grey = np.asarray(Image.open(image_of(folder, "p04")).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(image_of(folder, "p04").with_suffix(".png"))
    image_of(folder, "p04").unlink()
    now = describe(str(folder), 0)
    assert [note.partition(",")[0] for note in now.notes] == [
        "1 of 12 pictures stored turned (EXIF)",
        "1 of 12 pictures with more than 8 bits a pixel",
    ]
    # what an earlier version took it for: the files' contents and nothing else
    monkeypatch.setattr(cache, "unlike_stored", lambda path: "")
    monkeypatch.setenv("FACE_PARSING_CACHE", str(tmp_path / "other cache"))
    before = describe(str(folder), 0)
    assert before.fingerprint != now.fingerprint


def test_a_plain_data_set_is_the_one_that_studies_remember(tmp_path: Path):
    root = tmp_path / "faces"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(12):
        # no library's choice in a byte of them: a fingerprint is of contents
        ids = bytes((pixel + number) % 19 for pixel in range(16))
        colours = bytes(20 * number + pixel for pixel in range(12)) * 4
        (root / "images" / f"f{number}.png").write_bytes(plain_png(colours, 4, 2))
        (root / "masks" / f"f{number}.png").write_bytes(plain_png(ids, 4, 0))
    (root / "val.txt").write_text("f3\nf4\n")
    assert describe(str(root), 0).fingerprint == "c0f1dcc10c9e318d"


# --- parts that a data set gives itself


def moved(folder: Path, part: str, *stems: str) -> None:
    """Pairs of train/ into a folder of their own."""
    for kind, path in (("images", image_of), ("masks", mask_of)):
        place = folder / part / kind
        place.mkdir(parents=True, exist_ok=True)
        for stem in stems:
            path(folder, stem).rename(place / path(folder, stem).name)


def test_folders_beside_train_are_the_parts(folder: Path):
    moved(folder, "val", "p00", "p01")
    moved(folder, "test", "p02", "p03", "p04")
    data = load(folder)
    assert data.val.stems == ("p00", "p01")
    assert data.part("test").stems == ("p02", "p03", "p04")
    assert data.train.stems == STEMS[5:]
    assert data.plan.notes == (
        "the val part is what val/ holds",
        "the test part is what test/ holds",
    )
    assert np.array_equal(data.val.full_mask(1), data_folders.small_face(1)[1])


def test_a_folder_says_what_a_list_would(folder: Path):
    (folder / "val.txt").write_text("p00\np01\n")
    listed = describe(str(folder), 0)
    (folder / "val.txt").unlink()
    moved(folder, "Validation", "p00", "p01")
    found = describe(str(folder), 0)
    assert found.fingerprint == listed.fingerprint
    assert found.notes == (
        "the val part is what Validation/ holds",
        f"{found.test} pairs are drawn for the test part; an empty test.txt leaves them in"
        " training",
    )
    (folder / "test.txt").write_text("")
    assert describe(str(folder), 0).test == 0


@pytest.mark.parametrize("name", ["Val.txt", "VAL.TXT", "train/val.txt", "train/Valid.txt"])
def test_a_list_is_honoured_wherever_it_lies_and_however_it_is_written(folder: Path, name: str):
    (folder / name).write_text("p00.jpg\np01\n")
    data = load(folder)
    assert data.val.stems == ("p00", "p01")
    assert data.plan.notes == (f"the val part is what {name} names",)


def test_a_list_of_a_windows_shell_is_read(folder: Path):
    (folder / "val.txt").write_text("p00\np01\n", encoding="utf-16")
    assert load(folder).val.stems == ("p00", "p01")


def test_with_a_train_list_the_lists_say_all(folder: Path):
    (folder / "train.txt").write_text("\n".join(STEMS[:8]))
    (folder / "val.txt").write_text("p08\np09\n")
    data = load(folder, parts=("train", "val", "all"))
    assert data.train.stems == STEMS[:8]
    assert data.val.stems == ("p08", "p09")
    assert data.part("all").stems == STEMS[:10]
    assert data.plan.parts["test"] == ()
    assert data.plan.notes == (
        "not used: 2 of 12 pairs, in no part though train.txt says what is trained on: p10, p11",
    )


def both_lists(root: Path) -> None:
    (root / "val.txt").write_text("p00")
    (root / "Val.txt").write_text("p01")


def lists_in_two_places(root: Path) -> None:
    (root / "val.txt").write_text("p00")
    (root / "train" / "val.txt").write_text("p00")


def folder_and_list(root: Path) -> None:
    moved(root, "val", "p00")
    (root / "val.txt").write_text("p01")


def two_folders(root: Path) -> None:
    moved(root, "val", "p00")
    moved(root, "valid", "p01")


def one_stem_in_two_folders(root: Path) -> None:
    moved(root, "val", "p00")
    for kind in ("images", "masks"):
        (source,) = (root / "val" / kind).iterdir()
        (root / "train" / kind / source.name).write_bytes(source.read_bytes())


def one_name_in_two_lists(root: Path) -> None:
    (root / "val.txt").write_text("p00\np01.jpg")
    (root / "test.txt").write_text("p01")


def trained_on_and_validated_with(root: Path) -> None:
    (root / "train.txt").write_text("p00\np01\np02")
    (root / "val.txt").write_text("p02\np03")


def a_list_for_a_pair_of_a_folder(root: Path) -> None:
    moved(root, "test", "p00")
    (root / "val.txt").write_text("p00\np01")


def a_train_list_alone(root: Path) -> None:
    (root / "train.txt").write_text("\n".join(STEMS[:8]))


def a_folder_without_a_pair(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (both_lists, "holds both Val.txt and val.txt"),
        (lists_in_two_places, "train/val.txt are both the val list"),
        (folder_and_list, "holds both val.txt and the folder val/"),
        (two_folders, "holds both val and valid"),
        (one_stem_in_two_folders, "have one name in two parts"),
        (one_name_in_two_lists, "'p01' stands in val.txt and in test.txt"),
        (trained_on_and_validated_with, "'p02' stands in train.txt and in val.txt"),
        (a_list_for_a_pair_of_a_folder, "'p00' stands in test/ and in val.txt"),
        (a_train_list_alone, "train.txt names 8 of 12 pairs, and nothing says which are for"),
        (a_folder_without_a_pair, "val/ holds no pair"),
    ],
)
def test_parts_that_are_not_clear_are_refused(folder: Path, make: Make, said: str):
    make(folder)
    assert said in complaint(folder)


def test_a_copy_of_a_validation_picture_is_not_trained_on_and_it_is_said(folder: Path):
    moved(folder, "val", "p00")
    moved(folder, "test", "p01")
    copy = (folder / "val" / "images" / "p00.jpg").read_bytes()
    image_of(folder, "p05").write_bytes(copy)
    data = load(folder)
    assert data.val.stems == ("p00", "p05")
    assert data.plan.notes[2:] == (
        "counted with the other part that holds an exact copy: 1 of 12 pairs: p05",
    )


# --- masks of one class


@pytest.mark.parametrize("number", [0, 1, 13])
def test_a_part_whose_masks_are_nearly_all_one_class_is_refused(folder: Path, number: int):
    ids = np.full((64, 64), number)
    ids[:8, :8] = 2  # 1.6 %
    (folder / "val.txt").write_text("p00\np01\n")
    for stem in STEMS[:2]:
        data_folders.save_mask(ids, mask_of(folder, stem))
    with pytest.raises(DataError) as caught:
        load(folder)
    text = str(caught.value)
    assert f"98.4% of the pixels of its val masks are {NAMES[number]} (id {number})" in text
    assert "trainer.check" in text


def test_masks_of_small_faces_are_not_refused(folder: Path):
    for stem in STEMS:
        ids = np.zeros((64, 64))
        ids[:16, :16] = data_folders.small_face(0)[1][::4, ::4]  # 94 % background at least
        data_folders.save_mask(ids, mask_of(folder, stem))
    assert len(load(folder).train) > 0


# --- identity


def test_the_fingerprint_knows_content_and_split_but_not_size_or_time(folder: Path):
    def now() -> str:
        return describe(str(folder), 0).fingerprint

    first = now()
    assert load(folder, 16).fingerprint == load(folder, 32).fingerprint == first
    os.utime(folder / "train" / "images" / "p00.jpg", (1, 1))
    assert now() == first
    (folder / "val.txt").write_text("p00\np01\n")
    listed = now()
    assert listed != first
    data_folders.save_mask(np.ones((64, 64)), folder / "train" / "masks" / "p05.png")
    assert now() not in (first, listed)


def test_changed_pictures_are_decoded_again(folder: Path):
    (folder / "val.txt").write_text("p00\n")
    before = load(folder).val.masks[0].copy()
    halves = np.repeat([[13], [1]], 32, axis=0) * np.ones((1, 64))
    data_folders.save_mask(halves, folder / "train" / "masks" / "p00.png")
    after = load(folder).val.masks[0]
    assert not np.array_equal(before, after)
    assert set(np.unique(after)) == {1, 13}


def test_a_copy_with_other_names_of_folders_has_the_same_fingerprint(tmp_path: Path):
    one = data_folders.course(tmp_path / "one", STEMS)
    two = data_folders.course(tmp_path / "two", STEMS)
    assert describe(str(one), 0).fingerprint == describe(str(two), 0).fingerprint


def test_duplicates_lie_in_one_part(folder: Path):
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        content = (folder / "train" / kind / f"p00.{suffix}").read_bytes()
        (folder / "train" / kind / f"p01.{suffix}").write_bytes(content)
    (folder / "val.txt").write_text("p00\n")
    assert load(folder).val.stems == ("p00", "p01")


# --- cache


def test_decoded_once_then_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = load(folder).train
    monkeypatch.setattr(layouts.layout, "read_image", lambda path: pytest.fail("decoded again"))
    again = load(folder).train
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    assert np.array_equal(first.images, again.images)


def test_a_part_travels_to_another_process_by_file_name(folder: Path):
    part = load(folder, 48).train
    packed = pickle.dumps(part)
    assert len(packed) < part.images.nbytes / 4
    copy = pickle.loads(packed)
    assert np.array_equal(copy.images, part.images)
    assert np.array_equal(copy.full_mask(0), part.full_mask(0))
    whole = pickle.loads(pickle.dumps(load(folder, 48)))
    assert np.array_equal(whole.val.masks, load(folder, 48).val.masks)


def test_a_damaged_cache_file_is_made_again(folder: Path, tmp_path: Path):
    before = load(folder).train.images.copy()
    for file in (tmp_path / "cache").glob("*.npy"):
        file.write_bytes(b"not an array")
    assert np.array_equal(load(folder).train.images, before)


def test_processes_that_start_together_share_one_decoding(folder: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "from trainer.data.dataset import load_faces\n"
        "data = load_faces(sys.argv[1], image_size=32, synthetic_images=0)\n"
        "print(int(data.train.images.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {process.communicate(timeout=120)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(sums) == 1
    assert len(list((tmp_path / "cache").glob("*-images.npy"))) == 2  # train and val


def test_progress_is_reported(folder: Path):
    seen: list[tuple[int, int]] = []
    load(folder, parts=("all",), tick=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 12)
    assert seen[-1] == (12, 12)


# --- bad inputs


def with_id(number: int) -> Make:
    """A mask with a pixel of that id."""
    ids = np.zeros((64, 64))
    ids[5, 5] = number
    return lambda root: data_folders.save_mask(ids, mask_of(root, "p03"))


def cut(path_of: Callable[[Path, str], Path], share: float) -> Make:
    """A file of which only the first part is there."""

    def make(root: Path) -> None:
        path = path_of(root, "p03")
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return make


def with_image(content: bytes) -> Make:
    return lambda root: image_of(root, "p03").write_bytes(content)


def with_list(text: str) -> Make:
    return lambda root: (root / "val.txt").write_text(text)


def without_anything(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def of_another_layout(root: Path) -> None:
    without_anything(root)
    (root / "photo.jpg").write_bytes(b"")


def without_pictures(root: Path) -> None:
    without_anything(root)
    (root / "images").mkdir()
    (root / "masks").mkdir()


def without_pairs(root: Path) -> None:
    for mask in (root / "train" / "masks").iterdir():
        mask.rename(mask.with_name(f"other-{mask.name}"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (shutil.rmtree, ["does not exist"]),
        (without_anything, ["is empty"]),
        (of_another_layout, ["train/images"]),
        (without_pictures, ["holds no pictures"]),
        (without_pairs, ["12 pictures without a mask"]),
        (with_image(b"dear reader"), ["p03.jpg", "not a picture"]),
        (with_image(b""), ["p03.jpg"]),
        (cut(image_of, 0.5), ["p03.jpg", "cannot be decoded"]),
        *((cut(mask_of, share), ["p03.png"]) for share in (0.3, 0.6, 0.9)),
        *((with_id(number), ["p03.png", f"id {number}"]) for number in (19, 255)),
        (
            lambda root: Image.new("RGB", (64, 64), (9, 0, 0)).save(mask_of(root, "p03")),
            ["mode RGB"],
        ),
        (
            lambda root: data_folders.save_mask(np.ones((32, 32)), mask_of(root, "p03")),
            ["32 x 32", "64 x 64"],
        ),
        *(
            (with_image(png_of(side, side, 8, 2, b"")), ["p03.jpg", "make the picture smaller"])
            for side in (9_000, 12_000, 30_000)
        ),
        (
            lambda root: Image.new("RGB", (64, 64)).save(root / "train" / "images" / "p03.png"),
            ["both"],
        ),
        (with_list("p00\nstranger\n"), ["stranger"]),
        (with_list("\n".join(STEMS)), ["train"]),
    ],
)
def test_what_cannot_be_trained_on_is_one_line_that_says_why(
    folder: Path, make: Make, words: list[str]
):
    make(folder)
    text = complaint(folder)
    assert [word for word in words if word not in text] == []


def test_a_file_is_no_folder_of_faces(tmp_path: Path):
    (tmp_path / "faces").write_text("")
    assert "is not a folder" in complaint(tmp_path / "faces")


def test_official_mask_of_another_aspect_ratio(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 1])
    Image.new("RGB", (128, 100)).save(root / "CelebA-HQ-img" / "1.jpg")
    assert "aspect ratio" in complaint(root)


def test_official_parts_of_different_sizes(tmp_path: Path):
    root = data_folders.official(tmp_path / "hq", [0, 1])
    Image.new("L", (10, 10)).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00001_skin.png")
    assert "00001" in complaint(root)


def test_missing_test_part_is_named(folder: Path):
    (folder / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"no picture in its test part"):
        _ = load(folder).part("test")


def test_cache_folder_that_is_a_file_names_the_variable(folder: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match="FACE_PARSING_CACHE"):
        load(folder)


# --- built-in faces


def test_built_in_faces_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data = load("synthetic")
    assert data.name == "synthetic"
    assert len(data.part("all")) == 20
    assert data.val.full_mask(0).shape == (256, 256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


# --- reversed sides


def test_reversed_masks_are_reported_in_one_line_that_names_the_fix(tmp_path: Path):
    root = data_folders.course(tmp_path / "my faces", STEMS)
    assert mask_warnings(str(root)) == []
    path = root / "train" / "masks" / "p00.png"
    from trainer.data.mask_files import sides_swapped

    data_folders.save_mask(sides_swapped(np.asarray(Image.open(path))), path)
    (text,) = mask_warnings(str(root))
    assert "\n" not in text
    assert "1 of 12" in text
    # as a shell takes it
    assert text.endswith(f"python -m trainer.check --data '{root}' --repair '{root}-repaired'")
    assert mask_warnings(str(root)) == [text]


def test_empty_masks_are_told_before_they_are_trained_on(tmp_path: Path):
    root = data_folders.course(tmp_path / "faces", STEMS)
    data_folders.save_mask(np.zeros((64, 64)), root / "train" / "masks" / "p03.png")
    (text,) = mask_warnings(str(root))
    assert "1 of 12 masks are background only" in text


def test_built_in_faces_are_not_warned_of():
    assert mask_warnings("synthetic") == []


@pytest.mark.skipif(not data_folders.REAL.is_dir(), reason="the real faces are not on this machine")
def test_real_faces_split_as_the_design_says():
    summary = describe(str(data_folders.REAL), 0)
    assert (summary.train + summary.val + summary.test, summary.val) == (850, 100)
    assert 55 <= summary.test <= 95
