"""The pictures that a training leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.faces import tiny_config
from trainer.data.classes import COLOURS
from trainer.data.dataset import FaceData
from trainer.fit import FitResult, fit
from trainer.pictures import coloured, contact_sheet, curves_picture
from trainer.scoring import scored_images


@pytest.fixture(scope="module")
def trained(faces: FaceData, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    config = tiny_config({"epochs": 6, "T_0": 2, "learning_rate": 1e-2, "ema": 0.0})
    return fit(config, faces, out=tmp_path_factory.mktemp("trained"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """A tile of the contact sheet, 128 pixels a side."""
    top, left = 4 + 132 * row, 76 + 132 * column
    return sheet[top : top + 128, left : left + 128]


def test_a_mask_is_shown_in_the_colours_of_its_classes() -> None:
    ids = np.array([[0, 1], [13, 18]], np.uint8)
    assert coloured(ids).tolist() == [
        [list(COLOURS[0]), list(COLOURS[1])],
        [list(COLOURS[13]), list(COLOURS[18])],
    ]
    # a colour for each class, or two of them could not be told apart
    assert len(set(COLOURS)) == 19


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (6, 4)])
def test_the_contact_sheet_shows_the_best_and_the_worst_predictions(
    faces: FaceData, trained: FitResult, tmp_path: Path, count: int, shown: int
) -> None:
    # four pairs are all that the part has
    part = faces.val
    assert len(part) == 4
    contact_sheet(trained.best_checkpoint, part, tmp_path / "sheet.png", count=count)
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape == (3 * 132 + 4 + 16, shown * 132 + 76, 3)
    scores = scored_images(trained.best_checkpoint, part).reduced.image_scores()
    ranked = sorted(range(4), key=lambda i: -scores[i])
    assert scores[ranked[0]] > scores[ranked[-1]]
    wanted = {1: ranked[:1], 3: [*ranked[:2], ranked[3]], 4: ranked}[shown]
    for column, index in enumerate(wanted):
        # 24 pixels enlarged to 128: the middle of each is its own colour
        middle = ((np.arange(24) + 0.5) * 128 / 24).astype(int)
        assert np.array_equal(tile(sheet, 0, column)[np.ix_(middle, middle)], part.images[index])
        truth = coloured(part.masks[index])
        assert np.array_equal(tile(sheet, 1, column)[np.ix_(middle, middle)], truth)
        predicted = tile(sheet, 2, column).reshape(-1, 3)
        assert {tuple(colour) for colour in np.unique(predicted, axis=0).tolist()} <= set(COLOURS)
        # not the truth again
        assert not np.array_equal(tile(sheet, 1, column), tile(sheet, 2, column))
        # its score is written below
        assert sheet[400:, 76 + 132 * column : 76 + 132 * column + 60].min() < 64


def test_a_contact_sheet_may_be_a_jpeg(faces: FaceData, trained: FitResult, tmp_path: Path) -> None:
    contact_sheet(trained.best_checkpoint, faces.val, tmp_path / "sheet.jpg", count=2)
    with Image.open(tmp_path / "sheet.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (2 * 132 + 76, 416))
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.jpg"]


def test_the_curves_open_at_their_size_and_show_the_restarts(
    trained: FitResult, tmp_path: Path
) -> None:
    plain, restarted = tmp_path / "plain.png", tmp_path / "restarted.png"
    curves_picture(trained.history, plain)
    curves_picture(trained.history, restarted, restarts=[2, 4])
    one, two = pixels(plain), pixels(restarted)
    assert one.shape == two.shape == (770, 990, 3)
    # the two pictures differ in upright lines, the same in all three panels
    columns = np.flatnonzero((one != two).any(axis=2).sum(axis=0) > 60)
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
    assert len(groups) == 2
    assert all(len(group) <= 3 for group in groups)
    rows = np.flatnonzero((one != two).any(axis=2).any(axis=1))
    assert rows[0] < 100
    assert rows[-1] > 600


@pytest.mark.parametrize("title", ["a run", "2$_$ a run", "[a] \\frac"])
def test_the_curves_name_the_training(trained: FitResult, tmp_path: Path, title: str) -> None:
    curves_picture(trained.history, tmp_path / "plain.png")
    curves_picture(trained.history, tmp_path / "named.png", title=title)
    assert not np.array_equal(pixels(tmp_path / "plain.png"), pixels(tmp_path / "named.png"))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_short_training_has_curves_too(trained: FitResult, tmp_path: Path, rows: int) -> None:
    curves_picture(trained.history[:rows], tmp_path / "short.png")
    assert pixels(tmp_path / "short.png").shape == (770, 990, 3)


def test_a_training_on_all_data_has_curves_without_scores(
    trained: FitResult, tmp_path: Path
) -> None:
    unscored: list[dict[str, Any]] = [
        {key: value for key, value in row.items() if not key.startswith(("val", "f_"))}
        for row in trained.history
    ]
    curves_picture(unscored, tmp_path / "all.png")
    assert pixels(tmp_path / "all.png").shape == (770, 990, 3)


def test_a_picture_that_cannot_be_written_leaves_the_older_one(
    faces: FaceData, trained: FitResult, tmp_path: Path
) -> None:
    path = tmp_path / "sheet.unknown"
    path.write_text("an older one")
    with pytest.raises(ValueError, match="unknown file extension"):
        contact_sheet(trained.best_checkpoint, faces.val, path)
    assert path.read_text() == "an older one"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
