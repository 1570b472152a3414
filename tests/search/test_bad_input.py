"""Every mistake in what a person gives: one line, exit code 2, and what stood before stays."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from search import export, queue, report, run
from tests.support.data_folders import course
from tests.support.shells import one_line
from tests.support.studies import TINY
from trainer import evaluate, train
from trainer.config import Config, to_yaml, with_values

SECRET = "sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study `ok` on a small data set, for all tests of this file."""
    folder = tmp_path_factory.mktemp("finished")
    course(folder / "faces", [f"face-{number}" for number in range(24)])
    config = with_values(Config(), {**TINY, "epochs": 1, "warmup_epochs": 0.0})
    (folder / "base.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert run.main([*flags(folder), "--study", "ok"]) == 0
    return folder


def flags(folder: Path, data: Path | str | None = None) -> list[str]:
    return [
        *("--trials", "1", "--workers", "1", "--no-priors", "--plain", "--device", "cpu"),
        *("--storage", f"sqlite:///{folder}/search.db", "--runs", str(folder / "runs")),
        *("--config", str(folder / "base.yaml"), "--data", str(data or folder / "faces")),
    ]


def standing(folder: Path) -> tuple[str, list[tuple[str, str]]]:
    """What stands in the store, and every file of the runs folder with its content's hash."""
    with sqlite3.connect(folder / "search.db") as store:
        rows = "\n".join(store.iterdump())
    files = sorted(path for path in (folder / "runs").rglob("*") if path.is_file())
    return rows, [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def refused(
    command: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """The one line that a command ends with."""
    err = one_line(command, capsys, *words)
    assert SECRET not in err
    return err


def nothing_changes(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: list[str]
) -> None:
    """A search is refused in one line that holds all of `says`, and nothing is stored."""
    before = standing(folder)
    line = refused(run.main, [*flags(folder), *words], capsys)
    assert [word for word in says if word not in line] == []
    assert standing(folder) == before


def without(folder: Path, break_it: Callable[[Path], None], to: Path) -> Path:
    """A copy of the data set with something broken in it."""
    data = to / "faces"
    shutil.copytree(folder / "faces", data)
    break_it(data)
    return data


def first(data: Path, kind: str) -> Path:
    return sorted((data / "train" / kind).iterdir())[0]


def as_text(data: Path) -> None:
    first(data, "images").write_text("no picture")


def truncated(data: Path) -> None:
    path = first(data, "images")
    path.write_bytes(path.read_bytes()[:300])


def with_id(number: int) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = first(data, "masks")
        with Image.open(path) as mask:
            changed, palette = mask.copy(), mask.getpalette()
        changed.putpixel((0, 0), number)
        changed.putpalette((palette or []) + [0] * (768 - len(palette or [])))
        changed.save(path)

    return change


def narrower(data: Path) -> None:
    path = first(data, "masks")
    with Image.open(path) as mask:
        mask.resize((mask.width // 2, mask.height)).save(path)


def huge(data: Path) -> None:
    path = first(data, "images")
    path.unlink()
    # one bit a pixel: 110 MB while it is written, 100 kB on disk
    Image.new("1", (30_000, 30_000)).save(path.with_suffix(".png"))


def emptied(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (shutil.rmtree, "does not exist"),
        (emptied, "is empty"),
        (as_text, "not a picture"),
        (truncated, "cannot be decoded"),
        (with_id(19), "id 19 is none of 0-18"),
        (with_id(255), "id 255 is none of 0-18"),
        (narrower, "make them equal"),
        (huge, "make the picture smaller"),
    ],
)
def test_data_that_cannot_be_trained_on_start_no_study(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None],
    says: str,
) -> None:
    data = without(folder, break_it, tmp_path)
    before = standing(folder)
    line = refused(run.main, [*flags(folder, data), "--study", "new"], capsys)
    assert says in line
    assert str(data) in line
    assert standing(folder) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--epochs", "2"], ["training.epochs 1, this run has 2"]),
        (["--data", "synthetic"], ["data faces", "synthetic"]),
        (["--image-size", "24"], ["data.image_size 16, this run has 24"]),
        (["--batch-size", "4"], ["data.batch_size", "this run has 4"]),
        (["--fix", "ce_weight=2"], ["loss.ce_weight 1, this run has 2"]),
        (["--range", "learning_rate=1e-4:1e-3:log"], ["learning_rate not searched"]),
        (["--seed", "7"], ["seed 0, this run has 7"]),
    ],
)
def test_a_study_is_not_opened_as_something_else(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: list[str]
) -> None:
    nothing_changes(folder, capsys, ["--study", "ok", *words], [*says, "--study NAME", "--from ok"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fix", "dropuot=0.1"], ["dropuot", "did you mean dropout"]),
        (["--fix", "dropout=3"], ["dropout=3: outside 0..0.4", "--range"]),
        (["--fix", "dropout=nan"], ["nan", "finite"]),
        (["--fix", "dropout"], ["dropout", "name=value"]),
        (["--fix", "T_0=9"], ["T_0=9", "not one of"]),
        (["--range", "T_0=1:99"], ["T_0", "99", "longer than the budget of 1"]),
        (["--range", "dropout=0.3:0.1"], ["dropout=0.3:0.1", "low must be below high"]),
        (["--range", "dropout=0:2"], ["dropout", "2"]),
        (["--range", "weight_decay=0:1"], ["weight_decay=0:1", "low > 0"]),
        (["--range", "dice_schedule=1:2"], ["dice_schedule", "--fix"]),
        (["--range", "epochs=1:2"], ["epochs", "same in every trial"]),
        (["--trials", "0"], ["--trials", "0"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--seed", str(2**63)], ["--seed", str(2**63)]),
        (["--device", "gpu"], ["gpu", "cuda"]),
        (["--device", "cuda:0"], ["no CUDA device is to be had here; use --device cpu"]),
        (["--device", "cuda:x"], ["runtime.device"]),
        (["--runs", "/dev/null"], ["--runs /dev/null: not a folder"]),
        (["--image-size", "5"], ["image_size", "5", "16"]),
        (["--preset", "huge"], ["huge", "none of demo, small, full"]),
        (["--pruner", "asha"], ["--pruner asha: not one of restart-aware"]),
        (["--sampler", "cmaes"], ["--sampler cmaes: not one of tpe, gp, random"]),
        (["--from", "ko"], ['no study "ko" in the store', "ok"]),
        (["--enqueue", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--storage", "search.db"], ["sqlite:///search.db"]),
        (["--storage", "sqlite:////proc/nowhere/s.db"], ["/proc/nowhere/s.db"]),
        (
            ["--storage", f"postgresql://ann:{SECRET}@127.0.0.1:1/faces"],
            ["127.0.0.1:1", "check that the server runs"],
        ),
        (["--storage", f"mysql://ann:{SECRET}@127.0.0.1:1/faces"], ["mysql"]),
    ],
)
def test_a_flag_that_cannot_be_meant_starts_no_study(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: list[str]
) -> None:
    nothing_changes(folder, capsys, ["--study", "new", *words], says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- params: {dice_wieght: 1.5}", ["entry 1", "dice_wieght", "dice_weight"]),
        ("- params: {dice_weight: 99}", ["entry 1", "dice_weight=99", "0.5..4"]),
        ("- params: {dice_weight: .nan}", ["entry 1", "dice_weight"]),
        ("- params: {}\n- parms: {}", ["entry 2", "parms", "params"]),
        ("- params: {T_0: 99}", ["entry 1", "T_0=99"]),
        ("- expect: [0.9, 0.1]", ["entry 1", "expect"]),
        ("params: {}", ["a list is needed"]),
    ],
)
def test_an_enqueued_trial_that_cannot_be_meant_starts_no_study(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    says: list[str],
) -> None:
    file = tmp_path / "queue.yaml"
    file.write_text(text)
    nothing_changes(folder, capsys, ["--study", "new", "--enqueue", str(file)], says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss: {dice_wieght: 1}", ["loss.dice_wieght", "loss.dice_weight"]),
        ("loss: {dice_weight: high}", ["loss.dice_weight", "high"]),
        ("loss: {dice_weight: .nan}", ["loss.dice_weight", "nan"]),
        ("training: {weight_decay: -1}", ["training.weight_decay", "-1"]),
        ("training: {epochs: 4, scheduler_params: {T_0: 9}}", ["T_0", "9", "4 epochs"]),
        ("model: {width: 3}", ["parameters", "1,821,085", "model.width"]),
        ("model: {name: nowhere:net}", ["nowhere"]),
    ],
)
@pytest.mark.parametrize("command", [run.main, train.main], ids=["search.run", "trainer.train"])
def test_a_config_that_cannot_be_meant_starts_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[list[str]], int],
    text: str,
    says: list[str],
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    before = standing(folder)
    words = ["--config", str(file), "--data", str(folder / "faces"), "--device", "cpu"]
    if command is run.main:
        words = [*flags(folder), *words, "--study", "new"]
    else:
        words += ["--out", str(tmp_path / "out")]
    line = refused(command, words, capsys)
    for word in says:
        assert word in line
    assert standing(folder) == before
    assert not (tmp_path / "out").exists()


def test_a_store_of_a_newer_schema_is_left_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    shutil.copy(folder / "base.yaml", tmp_path)
    with (
        sqlite3.connect(folder / "search.db") as old,
        sqlite3.connect(tmp_path / "search.db") as new,
    ):
        old.backup(new)
        new.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    before = standing(tmp_path)
    words = [*flags(tmp_path, folder / "faces"), "--study", "ok"]
    line = refused(run.main, words, capsys)
    assert "newer Optuna" in line
    assert standing(tmp_path) == before


def test_checkpoints_of_something_else_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (best,) = (folder / "runs").glob("ok/*/*/best.pt")
    torn = tmp_path / "torn.pt"
    torn.write_bytes(best.read_bytes()[:1000])
    for path, says in [
        (torn, "torn.pt"),
        (folder / "base.yaml", "base.yaml"),
        (tmp_path / "nowhere.pt", "does not exist"),
    ]:
        line = refused(evaluate.main, ["--checkpoint", str(path), "--device", "cpu"], capsys)
        assert says in line
    out = tmp_path / "out"
    shutil.copytree(best.parent, out)
    words = ["--config", str(folder / "base.yaml"), "--data", str(folder / "faces")]
    words += ["--set", "width=0.2", "--out", str(out), "--resume", "--device", "cpu"]
    line = refused(train.main, words, capsys)
    assert re.search(r"model\.width", line)


def test_a_study_name_that_no_store_can_hold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"M\xfcller")
    err = refused(run.main, [*flags(tmp_path, folder / "faces")[:-4], "--study", name], capsys)
    assert "--study M\\xfcller: a study's name is text in UTF-8" in err
    assert not (tmp_path / "search.db").exists()
    before = standing(folder)
    store = ["--storage", f"sqlite:///{folder}/search.db"]
    for command in (export.main, report.main, queue.main):
        words = ["list"] if command is queue.main else []
        err = refused(command, [*words, "--study", name, *store], capsys)
        assert "'M\\udcfcller' is no text in UTF-8" in err
    assert standing(folder) == before
