"""The benches: fair rivals, whole figures, and trainings that are not done twice."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from scripts.benchmarks import common, rivals
from scripts.benchmarks import quality as bench_quality
from scripts.benchmarks import train as bench_train
from tests.support.data_folders import course, save_mask
from tests.support.scripts import SCRIPTS, loaded_by_help
from tests.support.shells import one_line
from trainer.config import Config, with_values
from trainer.data.classes import IDS, SWAP
from trainer.data.layouts import list_folder
from trainer.data.mask_files import read_ids, sides_swapped
from trainer.losses import segmentation_loss

BENCHES = [
    *("train", "quality", "gpu", "store", "pruners", "truth", "ask", "paired", "samplers"),
    *("repeats", "claims", "report", "command"),
]
PROGRAMS = [
    *(f"scripts.benchmarks.{name}" for name in (*BENCHES, "record_bank")),
    *("scripts.reliability.soak", "scripts.reliability.torture"),
]


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    """Signals and random numbers as they were."""
    before = signal.getsignal(signal.SIGTERM)
    with torch.random.fork_rng():
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """24 pairs of 64 pixels: 17 to train on."""
    return course(tmp_path / "faces", [f"f{index:02d}" for index in range(24)])


# ---------------------------------------------------------------------------------- scripts/bench


@pytest.mark.parametrize("words", [[], ["speed"]])
def test_an_unknown_bench_is_one_line_that_lists_the_names(words: list[str]) -> None:
    done = subprocess.run([SCRIPTS / "bench", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in BENCHES)


def test_the_help_tells_what_each_bench_is_for() -> None:
    done = subprocess.run([SCRIPTS / "bench", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    told = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert told == BENCHES


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_waits_for_no_library(program: str) -> None:
    said, loaded = loaded_by_help(program)
    assert loaded == set()
    assert said.startswith("usage: scripts/")


# ------------------------------------------------------------------------------------------ rivals


def test_the_rivals_exchange_sides_when_they_mirror_a_picture() -> None:
    ids = np.full((4, 4), IDS["skin"], np.uint8)
    ids[1, 3], ids[1, 0], ids[3, 2] = IDS["l_eye"], IDS["r_eye"], IDS["l_lip"]
    mirrored = np.array(rivals.flipped(Image.new("RGB", (4, 4)), Image.fromarray(ids))[1])
    # the eye on the right of the picture stays the person's left one
    assert (mirrored[1, 3], mirrored[1, 0]) == (IDS["l_eye"], IDS["r_eye"])
    assert mirrored[3, 1] == IDS["l_lip"]
    assert tuple(rivals.SWAP) == SWAP


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [3, 19, 8, 8] and truth [3, 8, 8] with absent classes."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 19, 8, 8, generator=generator)
    return logits, torch.randint(11, (3, 8, 8), generator=generator)


def test_both_rivals_minimise_what_ours_does() -> None:
    logits, truth = batch()
    ours = segmentation_loss(
        logits, truth, dice_weight=bench_train.DICE_WEIGHT, label_smoothing=rivals.LABEL_SMOOTHING
    ).total
    torch.testing.assert_close(rivals.Plain(0.2).loss(logits, truth), ours)
    torch.testing.assert_close(rivals.Tuned(0.2).loss(logits, truth), ours)
    assert bench_train.LABEL_SMOOTHING == rivals.LABEL_SMOOTHING
    assert (bench_train.DROPOUT, bench_train.DICE_WEIGHT) == (rivals.DROPOUT, rivals.DICE_WEIGHT)


def test_the_rivals_take_the_same_steps() -> None:
    torch.manual_seed(0)
    images, truth = torch.randn(4, 3, 16, 16), torch.randint(19, (4, 16, 16))
    losses, weights = [], []
    for kind in (rivals.Plain, rivals.Tuned):
        torch.manual_seed(0)
        training = kind(0.2)
        losses.append([training.step(images, truth) for _ in range(3)])
        weights.append(next(iter(training.average.parameters())))
    assert losses[0][2] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-3, rtol=0)


def test_the_rivals_augment_as_the_config_does_by_default() -> None:
    settings = Config().augmentation
    jitter = settings.color_jitter
    assert (settings.horizontal_flip, settings.rotation) == (rivals.FLIP, rivals.ROTATION)
    assert list(rivals.SCALE) == settings.scale_range
    assert (jitter.brightness, jitter.contrast) == (rivals.BRIGHTNESS, rivals.CONTRAST)
    assert jitter.saturation == rivals.SATURATION


def test_a_turned_picture_keeps_its_mask_under_it() -> None:
    random.seed(0)
    ids = np.zeros((32, 32), np.uint8)
    ids[4:14, 6:16] = 1
    image = Image.fromarray(np.repeat(ids[..., None] * 255, 3, axis=2))
    moved = [np.array(one) for one in rivals.moved(image, Image.fromarray(ids))]
    assert (moved[1] != ids).any()
    # they may differ where the picture is interpolated
    assert ((moved[0][..., 0] > 127) != (moved[1] == 1)).mean() < 0.03


# ------------------------------------------------------------------------------------- bench train


def test_a_competitor_is_tried_with_all_threads_and_with_a_process_per_core() -> None:
    tried = [str(how) for how in bench_train.arrangements("plain", 2)]
    assert tried == ["1 x 2", *_loading(1, 2), "2 x 1"]
    assert "1 x 8, 8 loading" in [str(how) for how in bench_train.arrangements("tuned", 8)]
    assert [str(how) for how in bench_train.arrangements("ours", 2)] == ["1 x 2", "2 x 1"]


def test_the_fastest_arrangement_of_the_trial_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slower_with_more_loaders(kind: str, job: Any, how: Any, **_: Any) -> dict[str, float]:
        return {"images_per_s": 100.0 * how.processes - how.loader_workers}

    monkeypatch.setattr(bench_train, "measured", slower_with_more_loaders)
    job = bench_train.Job(Path("faces"), 16, 0.2, 4, steps=60, train_images=17)
    tried = bench_train.best_arrangements(job, 2)
    assert [str(how) for how in tried["tuned"]] == ["2 x 1", "1 x 2", *_loading(1, 2)]
    assert next(iter(tried["ours"].values())) == 200.0
    # one core leaves ours no choice, so that there is no trial
    assert [str(how) for how in bench_train.best_arrangements(job, 1)["ours"]] == ["1 x 1"]


def _loading(*workers: int) -> list[str]:
    return [f"1 x 2, {number} loading" for number in workers]


def one_way(kind: str, cores: int) -> list[Any]:
    """No trial: each further process is seconds of starting torch."""
    return [bench_train.Arrangement(2 if kind == "ours" else 1, 1)]


def positive(node: Any) -> Iterator[bool]:
    """Whether each number below a node is positive and finite."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from positive(value)
    elif isinstance(node, list):
        for value in node:
            yield from positive(value)
    elif isinstance(node, float):
        yield 0 < node < math.inf


def test_what_other_work_costs_is_measured_both_ways_within_a_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, Any, int]] = []
    # other tests of this process may have left a server of theirs
    others = set(psutil.Process().children())

    def slower_beside_others(kind: str, job: Any, how: Any, **options: Any) -> dict[str, float]:
        loops = len(set(psutil.Process().children()) - others)
        spins = (options["waiting"] or {}).get("GOMP_SPINCOUNT")
        asked.append((options["seed"], spins, loops))
        # 1 s alone, 5 beside busy loops with long spins, 2 with brief ones
        seconds = 1.0 if not loops else 5.0 if spins else 2.0
        return {"seconds": seconds, "cpu_s": 2 * seconds}

    monkeypatch.setattr(bench_train, "measured", slower_beside_others)
    job = bench_train.Job(Path("faces"), 16, 0.2, 4, steps=60, train_images=17)
    found = bench_train.loaded(job, 2, 3)
    # the second round the other way round, three loops each time that there are any
    first = [(0, "300000", 0), (0, "300000", 3), (0, None, 0), (0, None, 3)]
    assert asked == [*first, *((1, *one[1:]) for one in reversed(first))]
    assert set(psutil.Process().children()) <= others
    assert found["beside_to_alone"] == {"torch": [5.0, 5.0], "ours": [2.0, 2.0]}
    assert found["ours_to_torch"] == {"alone": [1.0, 1.0], "beside": [0.4, 0.4]}
    assert found["cpu_s"]["torch"] == {"alone": [2.0, 2.0], "beside": [10.0, 10.0]}
    capsys.readouterr()
    bench_train.show_loaded(16, found)
    said = capsys.readouterr().out
    assert "alone 1.00 (1.00..1.00), beside 3 busy loops 0.40 (0.40..0.40)" in said


def test_rivals_wait_as_torch_does_by_itself_and_ours_as_every_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # how often its threads spin, in place of the seconds of a training
    code = (
        "import json, os; print('ready'); input();"
        "print(json.dumps({'seconds': int(os.environ['GOMP_SPINCOUNT']), 'steps': 1,"
        " 'peak_memory_mb': 1}))"
    )
    words = [sys.executable, "-uc", code]
    monkeypatch.setattr(bench_train, "command", lambda *_, **__: words)
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    job = bench_train.Job(Path("faces"), 16, 0.2, 4, steps=60, train_images=17)
    said = {
        kind: bench_train.measured(kind, job, bench_train.Arrangement(1, 1), steps=1, seed=0)
        for kind in bench_train.KINDS
    }
    spins = {kind: one["seconds"] for kind, one in said.items()}
    assert spins == {"plain": 300_000, "tuned": 300_000, "ours": 20_000}


@pytest.mark.proof
def test_train_measures_all_three_and_writes_every_figure(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_train, "arrangements", one_way)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    file = tmp_path / "result.json"
    words = ["--data", str(faces), "--size", "16", "--rounds", "1", "--steps", "3"]
    words += ["--batch-size", "4", "--width", "0.2", "--json", str(file)]
    assert bench_train.main(words) == 0
    result = json.loads(file.read_text())
    first = result["sizes"]["16"]
    assert set(first) >= {
        *("plain_images_per_s", "tuned_images_per_s", "ours_images_per_s", "ratio", "ratio_tuned"),
        *("breakdown", "peak_memory_mb", "ceiling_share", "limit_ratio"),
    }
    assert {key: result[key] for key in first} == first
    assert set(result) >= {"hardware", "versions", "command", "commit", "date"}
    assert list(first["breakdown"]) == list(bench_train.PHASES)
    assert sum(first["breakdown"].values()) == pytest.approx(1)
    assert all(positive(first))
    assert first["ratio"] == pytest.approx(first["ours_images_per_s"] / first["plain_images_per_s"])
    assert first["limit_ratio"] > first["ratio"]
    assert first["arrangement"] == {"plain": "1 x 1", "tuned": "1 x 1", "ours": "2 x 1"}
    # 17 pictures in batches of 4: a whole epoch of ours, and as many steps for the others
    assert first["steps"] == 4
    # the other processes' time is the machine's, so that nothing can be said of its amount
    assert {way: list(at) for way, at in first["loaded"]["seconds"].items()} == {
        way: ["alone", "beside"] for way in ("torch", "ours")
    }
    said = capfd.readouterr()
    assert "ratio" in said.out
    assert "round 1 of 1" in said.err
    # what torch compiles is its own cache
    left = [path.name for path in (tmp_path / "scratch").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--data", "nowhere"], "nowhere"), (["--cores", "100000"], "100000")],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in one_line(bench_train.main, capsys, *words)


def test_built_in_faces_are_drawn_once_as_large_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE_PARSING_CACHE", str(tmp_path))
    root = common.builtin_faces(2)
    listing = list_folder(root)
    assert listing.stems == ("face-00000", "face-00001")
    image, mask = listing.images["face-00000"], listing.masks["face-00000"][0]
    with Image.open(image) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))
    with Image.open(mask) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
    assert read_ids(mask).max() < 19
    image.write_bytes(b"kept")
    assert common.builtin_faces(2) == root
    assert image.read_bytes() == b"kept"


# ----------------------------------------------------------------------------------- bench quality


def quality(faces: Path, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scripts.benchmarks.quality", "--data", faces, "--size", "16"]
    command += ["--out", tmp_path / "out", "--json", tmp_path / "quality.json", *words]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str], tmp_path: Path) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "f_score_full" in out
    return dict(json.loads((tmp_path / "quality.json").read_text()))


@pytest.mark.proof
def test_quality_goes_on_where_it_was_interrupted_and_trains_nothing_twice(
    faces: Path, tmp_path: Path
) -> None:
    words = ("--steps", "60", "--seeds", "1", "--only", "flip-TTA", "--workers", "1")
    torn = quality(faces, tmp_path, *words)
    until = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*/last.pt")) and time.monotonic() < until:
        time.sleep(0.05)
    torn.send_signal(signal.SIGINT)
    _, err = torn.communicate(timeout=120)
    assert torn.returncode == 130
    assert err.endswith("interrupted\n")
    (history,) = (tmp_path / "out").glob("*/history.json")
    before = json.loads(history.read_text())
    assert 0 < len(before) < 30
    assert not list((tmp_path / "out").glob("*/scores.json"))

    whole = finished(quality(faces, tmp_path, *words), tmp_path)
    assert whole["trained"] == 2
    after = json.loads(history.read_text())
    assert len(after) == 30
    # seconds are a clock's: these epochs were not trained again
    assert after[: len(before)] == before

    again = finished(quality(faces, tmp_path, *words), tmp_path)
    assert again["trained"] == 0
    assert again["rows"] == whole["rows"]
    base, tta = whole["rows"]["base"]["val"], whole["rows"]["with flip-TTA"]["val"]
    assert base["images"] == 3
    best = max(row["val_f"] for row in after)
    assert base["f_score"]["mean"] == pytest.approx(best, abs=1e-9)
    assert tta["f_score"]["mean"] != base["f_score"]["mean"]
    for score in ("f_score", "f_score_full"):
        low, high = base[score]["interval"]
        assert low <= base[score]["mean"] <= high
    assert "difference" in whole["ablation"][1]


def test_the_interval_holds_the_mean_and_narrows_with_more_images() -> None:
    scores = np.random.default_rng(0).uniform(0.5, 0.9, 400).tolist()
    low, high = bench_quality.bootstrap_interval(scores)
    assert low < sum(scores) / 400 < high
    # 1.96 standard errors to each side
    assert high - low == pytest.approx(2 * 1.96 * np.std(scores) / 20, rel=0.1)
    few_low, few_high = bench_quality.bootstrap_interval(scores[:40])
    assert few_high - few_low > 2 * (high - low)
    assert bench_quality.bootstrap_interval(scores) == (low, high)


def test_an_ablation_leaves_out_what_the_base_has_and_adds_what_it_lacks() -> None:
    rows = bench_quality.rows_of(Config(), ablate=True, only=[])
    assert next(iter(rows)) == "base"
    assert {"without flip", "without EMA", "without Dice", "with Lovasz", "with crop"} <= set(rows)
    assert rows["without flip"] == {"horizontal_flip": 0.0}
    for changes in rows.values():
        assert changes is None or with_values(Config(), changes)
    other = with_values(Config(), {"horizontal_flip": 0.0, "lovasz_weight": 1.0, "T_0": 8})
    names = set(bench_quality.rows_of(other, ablate=True, only=[]))
    assert {"with flip", "without Lovasz", "without warm restarts T_0 = E/3"} <= names
    assert list(bench_quality.rows_of(Config(), ablate=False, only=["flip"])) == [
        "base",
        "without flip",
    ]


def test_a_training_has_a_folder_by_what_is_trained_on_what(tmp_path: Path) -> None:
    def folders(base: Config, fingerprint: str = "a") -> list[Path]:
        jobs = bench_quality.jobs_of(base, {"base": {}, "tta": None}, 2, fingerprint, tmp_path)
        return [job.folder for job in jobs]

    one = folders(Config())
    # flip-TTA looks at the weights of the base, after they are there
    assert one[:2] == one[2:]
    assert one[0] != one[1]
    assert folders(with_values(Config(), {"data.root": "elsewhere"})) == one
    assert set(folders(Config(), "b")).isdisjoint(one)
    assert set(folders(with_values(Config(), {"dice_weight": 2.0}))).isdisjoint(one)


def row(by_seed: list[float]) -> dict[str, Any]:
    scores = {"mean": sum(by_seed) / len(by_seed), "by_seed": by_seed}
    part = {"f_score": scores, "f_score_full": scores}
    return {"diverged": 0, "val": part, "test": part}


def test_a_difference_is_clear_beyond_two_standard_errors() -> None:
    rows = {
        "base": row([0.70, 0.72]),
        "better": row([0.80, 0.82]),
        "same": row([0.71, 0.73]),
        "with flip-TTA": row([0.71, 0.731]),
    }
    base, better, same, tta = bench_quality.compared(rows)
    # two values .02 apart: variance .0002 in each row
    assert base["sd"] == pytest.approx(math.sqrt(0.0002))
    assert better["difference"] == pytest.approx(0.10)
    assert better["standard_error"] == pytest.approx(math.sqrt(0.0002))
    assert (better["clear"], same["clear"]) == (True, False)
    # the same trainings seen twice: .010 and .011
    assert tta["clear"] is True
    assert bench_quality.compared({"base": row([0.7]), "one": row([0.9])})[1]["clear"] is None
    text = bench_quality.table_text(bench_quality.compared(rows), 2)
    assert "| better | 0.8100 | 0.8100 | +0.1000 | yes | 0.8100 | 0.8100 |" in text


def test_reversed_masks_are_repaired_in_a_copy(tmp_path: Path) -> None:
    faces = course(tmp_path / "faces", [f"f{index:02d}" for index in range(6)], side=128)
    assert bench_quality.repaired(faces, tmp_path / "out") == faces
    path = faces / "train" / "masks" / "f03.png"
    sound = read_ids(path)
    save_mask(sides_swapped(sound), path)
    copy = bench_quality.repaired(faces, tmp_path / "out")
    assert copy.parent == tmp_path / "out"
    assert (read_ids(copy / "train" / "masks" / "f03.png") == sound).all()
    assert bench_quality.repaired(faces, tmp_path / "out") == copy
