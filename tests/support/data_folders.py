"""Small data folders on disk, made of built-in faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.paths import SHARED
from trainer.data.classes import NAMES, PALETTE
from trainer.data.image_files import ORIENTATION
from trainer.data.synthetic import face

REAL = SHARED / "celebamask-mini"
SIDE = 64


def save_mask(ids: np.ndarray, path: Path) -> None:
    """A palette PNG of the ids."""
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette(PALETTE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def small_face(index: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A built-in face, every fourth pixel of it."""
    image, mask = face(index)
    step = len(mask) // side
    return image[::step, ::step], mask[::step, ::step]


def course(root: Path, stems: Sequence[str], side: int = SIDE) -> Path:
    """train/images/STEM.jpg and train/masks/STEM.png."""
    (root / "train" / "images").mkdir(parents=True)
    for index, stem in enumerate(stems):
        image, mask = small_face(index, side)
        Image.fromarray(image).save(root / "train" / "images" / f"{stem}.jpg", quality=90)
        save_mask(mask, root / "train" / "masks" / f"{stem}.png")
    return root


def image_of(root: Path, stem: str) -> Path:
    """A picture of the course layout."""
    return root / "train" / "images" / f"{stem}.jpg"


def mask_of(root: Path, stem: str) -> Path:
    """A mask of the course layout."""
    return root / "train" / "masks" / f"{stem}.png"


def official(root: Path, numbers: Sequence[int], side: int = SIDE) -> Path:
    """CelebA-HQ-img/N.jpg at twice the side, CelebAMask-HQ-mask-anno/0/NNNNN_part.png."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    masks.mkdir(parents=True)
    for index, number in enumerate(numbers):
        image, mask = small_face(index, side)
        large = Image.fromarray(image).resize((2 * side, 2 * side))
        large.save(root / "CelebA-HQ-img" / f"{number}.jpg", quality=90)
        for part in np.unique(mask):
            if part:
                plane = np.where(mask == part, 255, 0).astype(np.uint8)
                Image.fromarray(plane).save(masks / f"{number:05d}_{NAMES[part]}.png")
    return root


def troubled(root: Path) -> list[str]:
    """A course folder with every kind of trouble that is told and stops nothing, 24 pairs used.

    Returns the lines that tell it.
    """
    course(root, [f"p{number:02d}" for number in range(30)])
    images, masks = root / "train" / "images", root / "train" / "masks"
    for number in range(4):
        (masks / f"p{number:02d}.png").unlink()
    for number in (4, 5):
        (images / f"p{number:02d}.jpg").rename(images / f"p{number:02d}.heic")
    (masks / ".ipynb_checkpoints").mkdir()
    (images / "._p06.jpg").write_bytes(b"of another system")
    (images / "x.jpg").mkdir()
    (root / "extra").mkdir()
    (root / "class_stats.json").write_text("{}")
    (root / "test" / "images").mkdir(parents=True)
    # read all the same: another kind of file, names in two forms, ids as colours
    for stem, suffix in (("p07", "webp"), ("p08", "bmp")):
        with Image.open(images / f"{stem}.jpg") as picture:
            picture.save(images / f"{stem}.{suffix}")
        (images / f"{stem}.jpg").unlink()
    (images / "p09.jpg").rename(images / "Zoe\u0308.jpg")
    (masks / "p09.png").rename(masks / "Zo\u00eb.png")
    Image.fromarray(small_face(10)[1]).convert("RGB").save(masks / "p10.png")
    # read otherwise than they are stored
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    picture = Image.fromarray(small_face(11)[0])
    picture.transpose(Image.Transpose.ROTATE_270).save(images / "p11.jpg", exif=exif)
    grey = np.asarray(Image.fromarray(small_face(12)[0]).convert("L"))
    (images / "p12.jpg").unlink()
    Image.fromarray(grey.astype(np.uint16) * 257).save(images / "p12.png")
    (images / "p13.jpg").unlink()
    clear = Image.fromarray(small_face(13)[0]).convert("RGBA")
    clear.putalpha(200)
    clear.save(images / "p13.png")
    # and parts that are given in an unusual way
    (root / "train" / "Val.txt").write_text("p14.jpg\np15\nZo\u00eb\n", encoding="utf-8")
    trained = [f"p{number:02d}" for number in range(6, 28) if number not in (9, 14, 15)]
    (root / "train.txt").write_text("\n".join(trained))
    (images / "p16.jpg").write_bytes((images / "p14.jpg").read_bytes())
    return [
        "not used: 4 pictures without a mask: p00, p01, p02 and 1 more",
        "not used: 2 masks without a picture: p04, p05",
        "not read: 2 files of no kind of picture (2 .heic): train/images/p04.heic,"
        " train/images/p05.heic; convert what is one",
        "not read: 2 hidden names: train/images/._p06.jpg, train/masks/.ipynb_checkpoints/",
        "not read: 1 name of a picture that is a folder or a link to nothing: train/images/x.jpg/",
        "not read: 1 other folder: extra/",
        "not read: 1 other file: class_stats.json",
        "not read: folder test/; as the test part it needs images/ and masks/",
        "the val part is what train/Val.txt names",
        "1 of 24 pictures stored turned (EXIF), read upright as viewers show them; so must the"
        " masks be",
        "1 of 24 pictures with more than 8 bits a pixel, scaled by their depth",
        "1 of 24 pictures transparent in parts, read over black",
        "not used: 2 of 24 pairs, in no part though train.txt says what is trained on: p28, p29",
        "counted with the other part that holds an exact copy: 1 of 24 pairs: p16",
    ]
