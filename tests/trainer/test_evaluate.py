"""Scores of a checkpoint, against the definitions written out once more in NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.support import data_folders
from tests.support.faces import IMAGES, tiny_config
from tests.support.scores import image_score, pooled
from tests.support.shells import one_line
from trainer import checkpoint
from trainer.augment import normalise
from trainer.data.classes import NAMES, SWAP
from trainer.data.dataset import FaceData, Part, load_faces
from trainer.evaluate import main
from trainer.fit import fit
from trainer.scoring import load_model

KEYS = ["f_score", "f_score_full", "f_pooled", "f_per_class", "f_large", "f_small", "images"]
LARGE = [0, 1, 13]
SMALL = [2, 4, 5, 6, 7, 10, 11, 12]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, faces: FaceData) -> Path:
    """The folder of a network trained for a few seconds, long enough to see more than skin."""
    out = tmp_path_factory.mktemp("trained")
    fit(tiny_config({"epochs": 10, "learning_rate": 1e-2, "ema": 0.0}), faces, out=out)
    return out


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What the command prints under --json."""
    assert main([*map(str, arguments), "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    scores: dict[str, Any] = json.loads(out)
    return scores


def by_hand(weights: Path, part: Part, *, flip: bool = False) -> dict[str, Any]:
    """Every score of a checkpoint on a part, from its logits one image at a time."""
    model, _ = load_model(weights)

    def logits_of(image: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            made: torch.Tensor = model(normalise(torch.from_numpy(image.copy())[None]))
        return made

    predicted, full = [], []
    for index in range(len(part)):
        logits = logits_of(part.images[index])
        if flip:
            mirrored = logits_of(part.images[index][:, ::-1]).flip(-1)
            logits = (logits + mirrored[:, list(SWAP)]) / 2
        predicted.append(logits[0].argmax(0).numpy())
        mask = part.full_mask(index)
        raised = functional.interpolate(
            logits, size=mask.shape, mode="bilinear", align_corners=False
        )
        full.append(image_score(raised[0].argmax(0).numpy(), mask))
    per_class = pooled(np.stack(predicted), np.array(part.masks))
    there = set(np.unique(part.masks).tolist())

    def mean_of(classes: list[int]) -> float:
        scores = [per_class[NAMES[number]] for number in classes if number in there]
        return float(np.mean([score for score in scores if score is not None]))

    return {
        "f_score": float(
            np.mean([image_score(*pair) for pair in zip(predicted, part.masks, strict=True)])
        ),
        "f_score_full": float(np.mean(full)),
        "f_pooled": mean_of(list(range(19))),
        "f_per_class": per_class,
        "f_large": mean_of(LARGE),
        "f_small": mean_of(SMALL),
        "images": len(part),
    }


def assert_same(scores: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(scores) == KEYS
    assert list(scores["f_per_class"]) == list(NAMES)
    for name in NAMES:
        ours, theirs = scores["f_per_class"][name], expected["f_per_class"][name]
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-9)), name
    for key in KEYS:
        if key != "f_per_class":
            assert scores[key] == pytest.approx(expected[key], abs=1e-9), key


# --- the command


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_score_is_what_its_definition_says(
    trained: Path, faces: FaceData, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    given = () if split == "val" else ("--split", split)
    scores = evaluated(capsys, "--checkpoint", trained / "best.pt", *given)
    assert_same(scores, by_hand(trained / "best.pt", faces.part(split)))
    # a network that has learned something, or the numbers would agree by being 0
    assert scores["f_large"] > 0.5
    assert scores["f_score"] != scores["f_score_full"]


def test_each_split_has_its_own_pictures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--checkpoint", trained / "best.pt", "--split")
    train, both = (evaluated(capsys, *given, split) for split in ("train", "all"))
    # more than one batch of 32: the score is the mean over pictures, not over batches
    assert (train["images"], both["images"]) == (31, IMAGES)
    val, test = (evaluated(capsys, *given, split) for split in ("val", "test"))
    for key in ("f_score", "f_score_full"):
        total = sum(part[key] * part["images"] for part in (train, val, test))
        assert both[key] == pytest.approx(total / IMAGES, abs=1e-9)


def test_a_class_in_neither_is_null(
    trained: Path, faces: FaceData, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = evaluated(capsys, "--checkpoint", trained / "best.pt")
    missing = set(range(19)) - set(np.unique(faces.val.masks).tolist())
    assert missing
    assert {name for name, score in scores["f_per_class"].items() if score is None} <= {
        NAMES[number] for number in missing
    }
    assert None in scores["f_per_class"].values()


def test_the_mirrored_picture_is_averaged_in_with_left_and_right_exchanged(
    trained: Path, faces: FaceData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # so short a training never says eye or ear: a head of random weights says everything
    content = checkpoint.read(trained / "best.pt")
    head = content["state_dict"]["head.weight"]
    head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(1)))
    content["state_dict"]["head.bias"].zero_()
    weights = tmp_path / "random.pt"
    checkpoint.write(weights, content)
    scores = evaluated(capsys, "--checkpoint", weights, "--tta", "flip")
    assert_same(scores, by_hand(weights, faces.val, flip=True))
    assert all(scores["f_per_class"][name] is not None for name in ("l_eye", "r_ear"))
    assert scores["f_score"] != evaluated(capsys, "--checkpoint", weights)["f_score"]


def test_the_best_epochs_score_is_that_of_the_training(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((trained / "history.json").read_text())
    best = max(rows, key=lambda row: row["val_f"])
    scores = evaluated(capsys, "--checkpoint", trained / "best.pt")
    for key, column in (("f_score", "val_f"), ("f_large", "f_large"), ("f_small", "f_small")):
        assert scores[key] == pytest.approx(best[column], abs=1e-9)
    assert scores["f_per_class"] == pytest.approx(best["val_f_per_class"], abs=1e-9)
    # a last.pt is the last epoch's
    last = evaluated(capsys, "--checkpoint", trained / "last.pt")
    assert last["f_score"] == pytest.approx(rows[-1]["val_f"], abs=1e-9)


def test_other_data_may_be_scored(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.course(tmp_path / "own", [f"p{number:02d}" for number in range(12)])
    (root / "val.txt").write_text("p00\np01\np02\n")
    given = ("--checkpoint", trained / "best.pt", "--data", root)
    scores = evaluated(capsys, *given)
    assert scores["images"] == 3
    own = load_faces(str(root), image_size=24)
    assert_same(scores, by_hand(trained / "best.pt", own.val))
    (root / "test.txt").write_text("")
    assert "no picture in its test part" in one_line(main, capsys, *given, "--split", "test")


def test_what_is_not_used_of_a_folder_is_said_beside_the_scores(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data_folders.troubled(tmp_path / "own")
    given = ("--checkpoint", trained / "best.pt", "--data", tmp_path / "own", "--json")
    assert main([str(word) for word in given]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 4
    assert err.splitlines() == [f"note: {line}" for line in lines]


@pytest.mark.parametrize("kind", ["missing", "text", "folder", "another network's"])
def test_what_is_no_checkpoint_gives_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "best.pt"
    if kind == "text":
        path.write_text("dear reader")
    elif kind == "folder":
        path.mkdir()
    elif kind == "another network's":
        content = torch.load(trained / "best.pt", weights_only=True)
        content["config"]["model"]["width"] = 0.4
        torch.save(content, path)
    assert str(path) in one_line(main, capsys, "--checkpoint", path)


def test_too_little_memory_to_score_gives_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nFor debugging")

    monkeypatch.setattr("trainer.scoring.final_scores", full)
    assert one_line(main, capsys, "--checkpoint", trained / "best.pt", "--device", "cpu") == (
        "error: out of memory: CUDA out of memory. Tried to allocate 9 GiB; free some of it, or"
        " compute elsewhere, by --device\n"
    )


def test_the_table_shows_every_score_and_its_definition(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a name in brackets is no markup
    weights = tmp_path / "[b].pt"
    weights.write_bytes((trained / "best.pt").read_bytes())
    assert main(["--checkpoint", str(weights), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for name in (*KEYS, *NAMES):
        assert name in out or name == "f_per_class"
    assert "untouched mask" in out
    assert "[b].pt" in "".join(out.split())
