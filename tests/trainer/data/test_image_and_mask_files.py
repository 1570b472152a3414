"""What a file's pixels are: pictures as a viewer shows them, masks as the ids that they hold."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.data_folders import save_mask, small_face
from tests.support.pngs import png_of
from trainer.data.image_files import (
    FORMATS,
    IMAGE_SUFFIXES,
    ORIENTATION,
    picture_size,
    read_image,
    unlike_stored,
)
from trainer.data.mask_files import UnknownIds, part_unlike_stored, read_ids, read_part
from trainer.errors import DataError
from trainer.solution import as_shown

IDS = np.array([[0, 1, 2], [13, 17, 18]], np.uint8)
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
# two rows of three colours, no two alike where a turn could hide it
COLOURS = np.array([[RED, GREEN, BLUE], [GREY, RED, GREY]], np.uint8)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png(path: Path, values: np.ndarray, depth: int, kind: int) -> Path:
    """A PNG of any depth and kind, see `png_of`."""
    height, width = values.shape[:2]
    rows = values.astype(">u2" if depth == 16 else np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(png_of(width, height, depth, kind, data))
    return path


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


# --- kinds of file


def test_pictures_are_read_and_documents_and_films_are_not() -> None:
    assert {".jpg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"} < {*IMAGE_SUFFIXES}
    assert not {".pdf", ".eps", ".mpg", ".h5", ".psd", ".wmf", ".txt"} & {*IMAGE_SUFFIXES}
    assert not {"EPS", "PDF", "HDF5", "WMF", "MPEG"} & {*FORMATS}


def test_a_document_that_is_called_a_picture_is_none(tmp_path: Path) -> None:
    # Pillow would hand it to another program
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "page.eps").rename(tmp_path / "page.png")
    with pytest.raises(DataError, match="not a picture"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jp2", "jpg", "png", "tif", "webp"])
def test_a_damaged_file_of_any_kind_is_named_in_one_line(tmp_path: Path, suffix: str) -> None:
    whole = saved(Image.fromarray(small_face(0)[0]), tmp_path / f"a.{suffix}").read_bytes()
    path, refused = tmp_path / f"b.{suffix}", []
    for at in range(0, 300, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        unlike_stored(path)
        part_unlike_stored(path)
        for read in (read_image, read_ids, read_part, picture_size):
            try:
                read(path)
            except DataError as error:
                refused.append(str(error))
    assert refused
    assert all(str(path) in line for line in refused)


# --- upright


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "avif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_a_viewer_shows_it(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    large = np.repeat(np.repeat(COLOURS, 16, axis=0), 16, axis=1)
    options = {"lossless": True} if suffix == "webp" else {"quality": 95, "subsampling": "4:4:4"}
    stored = Image.fromarray(large)
    path = saved(stored, tmp_path / f"a.{suffix}", exif=turned(orientation), **options)
    tagged = stored.copy()
    tagged.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    shown = read_image(path)
    assert shown.shape == expected.shape
    assert picture_size(path) == expected.shape[1::-1]
    assert np.abs(shown[8::16, 8::16].astype(int) - expected[8::16, 8::16]).max() <= 20
    # Pillow has always turned TIFFs
    assert unlike_stored(path) == ("" if orientation == 1 or suffix == "tif" else "turned")


def test_a_damaged_exif_block_is_passed_over_as_viewers_do(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (8, 4), RED), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff")
    assert read_image(path).shape == (4, 8, 3)
    assert picture_size(path) == (8, 4)


def test_an_orientation_that_stands_after_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (8, 4), RED), tmp_path / "a.png", exif=turned(6))
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    last = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert picture_size(path) == (4, 8)
    assert read_image(path).shape == (8, 4, 3)
    assert unlike_stored(path) == "turned"


# --- depth


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_by_its_depth(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    path = saved(Image.fromarray(grey), tmp_path / f"a.{suffix}")
    assert read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert unlike_stored(path) == "deep"


def test_colours_of_16_bits_are_scaled_by_their_depth(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.array([[[0, 257, 65535], [32896, 0, 257]]]), 16, 2)
    assert read_image(path).tolist() == [[[0, 1, 255], [128, 0, 1]]]
    assert unlike_stored(path) == ""


def test_values_of_8_bits_in_a_file_of_16_stay_as_they_are(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[0, 7, 250]], np.uint16)), tmp_path / "a.png")
    assert read_image(path)[0, :, 0].tolist() == [0, 7, 250]
    assert unlike_stored(path) == ""


@pytest.mark.parametrize(
    ("values", "read"), [([0, 0.5, 1], [0, 128, 255]), ([0, 7, 250], [0, 7, 250])]
)
def test_floating_point_pixels_are_light_from_0_to_1_or_to_255(
    tmp_path: Path, values: list[float], read: list[int]
) -> None:
    path = saved(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif")
    assert read_image(path)[0, :, 0].tolist() == read


@pytest.mark.parametrize("value", [-1.0, 300.0, float("nan")])
def test_floating_point_pixels_of_no_known_scale_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(Image.fromarray(np.array([[0, value]], np.float32)), tmp_path / "a.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(path)


# --- transparency, palettes, frames


def test_what_a_picture_hides_is_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    assert read_image(path).tolist() == [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]]
    assert unlike_stored(path) == "transparent"
    opaque = saved(Image.fromarray(pixels[:, :1]), tmp_path / "b.png")
    assert read_image(opaque).tolist() == [[[200, 100, 50]]]
    assert unlike_stored(opaque) == ""


def test_a_clear_colour_of_a_palette_is_black(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([*RED, *GREEN])
    path = saved(picture, tmp_path / "a.png", transparency=0)
    assert read_image(path).tolist() == [[[0, 0, 0], [*GREEN]]]
    path = saved(picture, tmp_path / "b.png")
    assert read_image(path).tolist() == [[[*RED], [*GREEN]]]


@pytest.mark.parametrize("suffix", ["gif", "tif", "png"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), GREEN)]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert (read_image(path) == RED).all()


def test_cmyk_shows_its_colours(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - RED).max() <= 4


# --- masks


GREY_IDS = Image.fromarray(IDS)


@pytest.mark.parametrize(
    ("picture", "suffix", "options"),
    [
        *((GREY_IDS.convert(mode), "png", {}) for mode in ("L", "RGB", "RGBA", "LA")),
        (Image.fromarray(IDS.astype(np.uint16)), "png", {}),
        *((Image.fromarray(IDS.astype(it)), "tif", {}) for it in (np.uint16, np.int32, np.float32)),
        *((GREY_IDS, suffix, {}) for suffix in ("bmp", "tga", "tif")),
        *((GREY_IDS, "tif", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate")),
        (GREY_IDS.convert("RGB"), "webp", {"lossless": True}),
    ],
)
def test_ids_are_read_from_every_kind_of_file_that_keeps_them(
    tmp_path: Path, picture: Image.Image, suffix: str, options: dict[str, object]
) -> None:
    ids = read_ids(saved(picture, tmp_path / f"a.{suffix}", **options))
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, IDS)


@pytest.mark.parametrize("value", [256, 300, 65535])
def test_an_id_that_8_bits_cannot_hold_is_named_and_not_wrapped(tmp_path: Path, value: int) -> None:
    path = saved(Image.fromarray(np.array([[0, value]], np.uint16)), tmp_path / "a.png")
    with pytest.raises(UnknownIds, match=f"id {value} is none of 0-18"):
        read_ids(path)


LOSSY: dict[str, Callable[[Image.Image, Path], None]] = {
    "jpg": lambda picture, path: picture.save(path, quality=100),
    "jfif": lambda picture, path: picture.save(path, format="JPEG", quality=100),
    "png": lambda picture, path: picture.save(path, format="JPEG", quality=100),
    "webp": lambda picture, path: picture.convert("RGB").save(path, quality=100),
    "gif": lambda picture, path: picture.save(path),
    "tif": lambda picture, path: picture.save(path, compression="jpeg"),
    "jp2": lambda picture, path: picture.save(path, quality_layers=[20]),
    "avif": lambda picture, path: picture.convert("RGB").save(path, quality=90),
}


@pytest.mark.parametrize("suffix", LOSSY)
def test_a_mask_from_a_file_that_may_have_lost_ids_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    # ids that survived, as far as one can see
    LOSSY[suffix](Image.new("L", (16, 16), 13), path)
    for read in (read_ids, read_part):
        with pytest.raises(
            DataError, match=r"(lossy|anew), .*save the mask anew as a PNG"
        ) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_lossy_webp_with_alpha_is_lossy(tmp_path: Path) -> None:
    path = saved(Image.new("RGBA", (16, 16), (3, 3, 3, 0)), tmp_path / "a.webp", quality=100)
    with pytest.raises(DataError, match="lossy"):
        read_ids(path)


def test_real_colours_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"in colours \(mode RGB\)"):
        read_ids(path)


def test_ids_in_colours_of_16_bits_are_not_read_as_background(tmp_path: Path) -> None:
    deep = np.repeat(IDS[..., None], 3, axis=2)
    for path in (
        png(tmp_path / "rgb.png", deep, 16, 2),
        png(tmp_path / "la.png", np.stack([IDS, np.full_like(IDS, 9)], axis=2), 16, 4),
    ):
        with pytest.raises(DataError, match="16 bits"):
            read_ids(path)


def test_clear_pixels_are_background_or_refused(tmp_path: Path) -> None:
    shape = np.where(IDS > 0, 255, 0).astype(np.uint8)
    clear = np.stack([IDS, IDS, IDS, shape], axis=2)
    assert np.array_equal(read_ids(saved(Image.fromarray(clear), tmp_path / "a.png")), IDS)
    clear[1, 1, 3] = 100
    clear[1, 2, 3] = 0
    with pytest.raises(DataError, match="2 pixels of the mask are transparent"):
        read_ids(saved(Image.fromarray(clear), tmp_path / "b.png"))


def test_a_mask_of_several_frames_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(IDS), Image.fromarray(IDS[::-1])]
    path = saved(frames[0], tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 pictures in one file"):
        read_ids(path)


def test_a_turned_mask_is_read_upright(tmp_path: Path) -> None:
    path = saved(Image.fromarray(IDS), tmp_path / "a.png", exif=turned(6))
    assert np.array_equal(read_ids(path), np.rot90(IDS, -1))


# --- part masks

ON = np.array([[True, True, False], [False, True, False]])
GREYS = np.where(ON, 255, 0).astype(np.uint8)


def palette(colours: list[tuple[int, int, int]], off: int = 0) -> Image.Image:
    """The part as palette numbers: `off` where it is not, 1 - off where it is."""
    picture = Image.fromarray(np.where(ON, 1 - off, off).astype(np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    return picture


PARTS: dict[str, Image.Image] = {
    "0 and 255": Image.fromarray(GREYS),
    "0 and 1": Image.fromarray(ON.astype(np.uint8)),
    "the class's id": Image.fromarray(ON * np.uint8(4)),
    "booleans": Image.fromarray(ON),
    "16 bits": Image.fromarray(ON * np.uint16(65535)),
    "0 and 1 in 16 bits": Image.fromarray(ON * np.uint16(1)),
    "32 bits": Image.fromarray(ON * np.int32(1)),
    "colours": Image.fromarray(GREYS).convert("RGB"),
    "opaque colours": Image.fromarray(GREYS).convert("RGBA"),
    "white on nothing": Image.fromarray(np.stack([GREYS] * 4, axis=2)),
    "white with an alpha": Image.fromarray(
        np.stack([np.full_like(GREYS, 255)] * 3 + [GREYS], axis=2)
    ),
    "a dark red of a palette": palette([(0, 0, 0), (120, 0, 0)]),
    "blue of a palette": palette([(0, 0, 0), (0, 0, 255)]),
    "a palette with white first": palette([(255, 255, 255), (0, 0, 0)], off=1),
    "a palette that is black all over": palette([(0, 0, 0), (0, 0, 0)]),
}


@pytest.mark.parametrize("how", PARTS)
def test_a_part_is_read_however_it_is_stored(tmp_path: Path, how: str) -> None:
    suffix = "tif" if how == "32 bits" else "png"
    assert np.array_equal(read_part(saved(PARTS[how], tmp_path / f"a.{suffix}")), ON)


def test_grey_edges_of_a_part_count_from_the_middle(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[0, 127, 128, 250]], np.uint8)), tmp_path / "a.png")
    assert read_part(path).tolist() == [[False, False, True, True]]
    path = saved(Image.fromarray(np.array([[0, 20, 60, 90]], np.uint8)), tmp_path / "b.png")
    assert read_part(path).tolist() == [[False, False, True, True]]


def test_only_a_part_of_zeros_is_empty(tmp_path: Path) -> None:
    for mode in ("L", "1", "RGB", "P", "I;16", "RGBA"):
        path = saved(Image.new(mode, (3, 2)), tmp_path / f"{mode[0]}.png")
        assert not read_part(path).any()
    drawn = np.stack([np.zeros_like(GREYS)] * 3 + [GREYS], axis=2)
    with pytest.raises(DataError, match="by its transparency"):
        read_part(saved(Image.fromarray(drawn), tmp_path / "alpha.png"))


def test_a_part_that_was_taken_for_empty_is_told_from_others(tmp_path: Path) -> None:
    told = {how for how in PARTS if part_unlike_stored(saved(PARTS[how], tmp_path / "a.tif"))}
    assert {"0 and 1", "the class's id", "a dark red of a palette"} <= told
    assert not {"0 and 255", "booleans", "16 bits", "colours"} & told


# --- the same reading in the leaderboard's package


def pictures(folder: Path) -> list[Path]:
    """One of every kind that is not simply what is stored."""
    face = Image.fromarray(small_face(3)[0]).resize((40, 64))
    clear = np.dstack([np.asarray(face), np.full((64, 40), 90, np.uint8)])
    grey = np.asarray(face.convert("L"))
    few = face.convert("P", palette=Image.Palette.ADAPTIVE, colors=9)
    return [
        saved(face, folder / "plain.png"),
        *(saved(face, folder / f"turned{it}.jpg", exif=turned(it)) for it in range(1, 9)),
        saved(Image.fromarray(grey.astype(np.uint16) * 200), folder / "deep.png"),
        saved(Image.fromarray(grey.astype(np.uint16)), folder / "shallow.png"),
        saved(Image.fromarray(grey.astype(np.int32) * 2**20), folder / "deeper.tif"),
        saved(Image.fromarray((grey / 255).astype(np.float32)), folder / "light.tif"),
        saved(Image.fromarray(grey.astype(np.float32)), folder / "float.tif"),
        saved(Image.fromarray(clear), folder / "clear.png"),
        saved(face.convert("LA"), folder / "grey.png"),
        saved(few, folder / "few.png", transparency=3),
        saved(face.convert("CMYK"), folder / "print.jpg"),
    ]


def test_the_packaged_solution_reads_pictures_as_training_does(tmp_path: Path) -> None:
    for path in pictures(tmp_path):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(as_shown(picture)), read_image(path)), path.name


def test_a_plain_picture_is_what_is_stored(tmp_path: Path) -> None:
    path = saved(Image.fromarray(small_face(1)[0]), tmp_path / "a.jpg")
    assert np.array_equal(read_image(path), np.asarray(Image.open(path)))
    assert unlike_stored(path) == ""
    save_mask(IDS, tmp_path / "a.png")
    assert np.array_equal(read_ids(tmp_path / "a.png"), IDS)
    assert unlike_stored(tmp_path / "nowhere.png") == ""
    shutil.copy(path, tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png"), read_image(path))
