"""A data layout is one class: another one, made up here, is read, audited and repaired."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.data_folders import save_mask, small_face
from tests.support.paths import ROOT
from trainer.check import repair
from trainer.data import layouts
from trainer.data.audit import audit
from trainer.data.classes import SWAP
from trainer.data.dataset import describe, load_faces
from trainer.data.layouts.course import Course
from trainer.data.layouts.folders import Unread, pictures_in
from trainer.data.layouts.layout import Listing, listed
from trainer.data.source import Bytes
from trainer.errors import DataError


@dataclass(frozen=True)
class Mirrored(Course):
    """A made-up layout: `photos/` and `labels/`, whose masks are stored mirrored."""

    folders = "photos and labels"

    def find(self, root: Path) -> Listing | None:
        if not (root / "photos").is_dir():
            return None
        unread = Unread()
        images, masks = (pictures_in(root / name, unread) for name in ("photos", "labels"))
        files = {key: (path,) for key, path in masks.items()}
        return listed(root, self, images, files, unread, (root,))

    def read_mask(self, image: Path, files: tuple[Path, ...]) -> Bytes:
        return super().read_mask(image, files)[:, ::-1]


def test_another_layout_is_one_class_and_its_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [*layouts.LAYOUTS, Mirrored()])
    root = tmp_path / "faces"
    for folder in ("photos", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        image, mask = small_face(number)
        Image.fromarray(image).save(root / "photos" / f"p{number:02d}.png")
        ids = np.array(SWAP, np.uint8)[mask] if number == 3 else mask
        save_mask(ids[:, ::-1], root / "labels" / f"p{number:02d}.png")
    summary = describe(str(root), 0)
    assert summary.train + summary.val + summary.test == 12
    data = load_faces(str(root), image_size=64, parts=("all",))
    assert np.array_equal(data.part("all").full_mask(1), small_face(1)[1])
    found, _ = audit(root)
    assert found.left_right_reversed == ["p03"]
    assert repair(root, tmp_path / "fixed", found).changed == ["p03"]
    assert audit(tmp_path / "fixed")[0].clean


def test_a_folder_in_no_layout_is_refused_by_the_names_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [*layouts.LAYOUTS, Mirrored()])
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="CelebAMask-HQ-mask-anno nor photos and labels;"):
        layouts.list_folder(tmp_path)


def test_nothing_outside_the_layouts_asks_which_one_a_data_set_is_in() -> None:
    asks = re.compile(r"layout\s*[=!]=|isinstance\([^)]*\b(Course|Official|Merged)")
    outside = [
        path
        for folder in ("trainer", "search", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if "layouts" not in path.parts
    ]
    asking = [str(path) for path in outside if asks.search(path.read_text(encoding="utf-8"))]
    assert asking == []
