"""The command that trains one configuration, in processes of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import data_folders
from tests.support.faces import ROW, timeless
from tests.support.paths import ROOT
from tests.support.scripts import loaded_by_help
from tests.support.shells import one_line
from trainer import checkpoint
from trainer.config import read_config, to_dict
from trainer.errors import DeviceLost
from trainer.train import _composed, main, parser

VALUES = {
    "width": 0.2,
    "image_size": 16,
    "batch_size": 8,
    "synthetic_images": 40,
    "epochs": 3,
    "threads": 1,
    "T_0": 1.5,
}
TINY = ["--device", "cpu", *(f"--set={key}={value}" for key, value in VALUES.items())]


def start(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    """trainer.train as a process; `before`: Python lines that are run first in it."""
    body = f"{before}\nimport sys\nfrom trainer.train import main\nsys.exit(main(sys.argv[1:]))"
    command = ["-c", body] if before else ["-m", "trainer.train"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def history(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "history.json").read_text())
    return rows


def curve(out: Path) -> list[dict[str, Any]]:
    """A history without what a clock wrote."""
    return timeless(history(out))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished training, in a process of its own: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("trained") / "whole"
    process = start(*TINY, "--seed", 5, "--out", out)
    said, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return out, said


def test_t_0_is_held_against_the_epochs_of_the_preset(tmp_path: Path) -> None:
    faces = data_folders.course(tmp_path / "faces", [f"f{index:02d}" for index in range(24)])
    words = ["--data", str(faces), "--preset", "small", "--set=T_0=40", "--device=cpu"]
    # 2,000 steps of 2 an epoch
    training = _composed(parser().parse_args(words))[0].training
    assert (training.epochs, training.scheduler_params.T_0) == (1000, 40)


def test_a_training_leaves_its_results_in_the_folder(whole: tuple[Path, str]) -> None:
    out, said = whole
    assert {path.name for path in out.iterdir()} == {
        *("best.pt", "last.pt", "history.json", "config.yaml", "curves.png", "contact_sheet.png")
    }
    rows = history(out)
    assert [list(row) for row in rows] == [ROW] * 3
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: row["val_f"])
    content = checkpoint.read(out / "best.pt")
    assert content["epoch"] == best["epoch"]
    assert checkpoint.read(out / "last.pt")["epoch"] == 3
    for name in ("curves.png", "contact_sheet.png"):
        with Image.open(out / name) as picture:
            picture.load()
    config, notes = read_config(out / "config.yaml")
    assert notes == []
    assert to_dict(config) == content["config"]
    assert (config.training.seed, config.data.image_size) == (5, 16)
    # a decided runtime, so that a repetition computes alike
    assert (config.runtime.device, config.runtime.threads) == ("cpu", 1)
    assert config.runtime.precision == "float32"
    lines = said.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 3
    (result,) = [line for line in lines if line.startswith("best epoch ")]
    assert f"best epoch {best['epoch']}: f_score {best['val_f']:.6f}" in result
    assert "f_score_full" in result
    assert "the same score to 1e-6" in lines[-1]


def test_the_written_config_trains_to_the_same_history(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out, _ = whole
    assert main(["--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert curve(tmp_path / "again") == curve(out)


def test_a_killed_training_goes_on_to_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [*TINY, "--set", "epochs=8", "--seed", "5"]
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert main([*values, "--out", str(unbroken)]) == 0
    process = start(*values, "--out", killed)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.kill()
    process.communicate()
    broken = history(killed)
    assert 2 <= len(broken) < 8
    # what a kill in the middle of a write leaves behind is in nobody's way
    (killed / ".last-abc.pt").write_bytes(b"half of it")
    capsys.readouterr()
    assert main([*values, "--out", str(killed), "--resume"]) == 0
    said = capsys.readouterr().out
    # the epochs that were there were not trained again
    assert history(killed)[: len(broken)] == broken
    assert f"epoch {len(broken) + 1}/8" in said
    assert "epoch 1/8" not in said
    assert curve(killed) == curve(unbroken)
    for name in ("best.pt", "last.pt"):
        ours, theirs = (checkpoint.read(out / name) for out in (killed, unbroken))
        assert ours["epoch"] == theirs["epoch"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value)


def test_resuming_a_finished_training_changes_nothing(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    assert main([*TINY, "--seed", "5", "--out", str(out), "--resume"]) == 0
    assert history(out) == history(whole[0])


def test_resuming_where_nothing_is_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = one_line(main, capsys, *TINY, "--out", tmp_path / "new", "--resume")
    assert "last.pt does not exist" in err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_a_training_is_not_written_over(
    whole: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = whole
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "--resume" in one_line(main, capsys, *TINY, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert "a file stands where a folder is needed" in one_line(
        main, capsys, *TINY, "--out", tmp_path / "out"
    )
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--set", "width=0.3"), "model.width 0.2, not 0.3"),
        (("--set", "dice_weight=2"), "loss.dice_weight 1.5, not 2"),
        (("--seed", "6"), "training.seed 5, not 6"),
        (("--all-data",), "--all-data"),
    ],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_with(
    whole: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, ...],
    says: str,
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    given = [*TINY, "--seed", "5", "--out", out, "--resume", *change]
    assert says in one_line(main, capsys, *given)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("spoiled", ["text", "torn", "weights of another network"])
def test_a_last_pt_that_is_none_gives_one_line(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], spoiled: str
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    last = out / "last.pt"
    if spoiled == "text":
        last.write_text("dear reader")
    elif spoiled == "torn":
        last.write_bytes(last.read_bytes()[:5000])
    else:
        content = checkpoint.read(last)
        content["raw"] = {f"body.{name}": value for name, value in content["raw"].items()}
        checkpoint.write(last, content)
    err = one_line(main, capsys, *TINY, "--seed", "5", "--out", out, "--resume")
    assert "last.pt" in err


def test_all_data_trains_on_every_part_for_the_found_number_of_epochs(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (whole[0] / "config.yaml").read_text()
    exported = tmp_path / "best.yaml"
    exported.write_text(text + "search:\n  epoch: 2\n  epochs: 3\n")
    out = tmp_path / "final"
    assert main(["--config", str(exported), "--out", str(out), "--all-data"]) == 0
    said = capsys.readouterr().out
    assert "40 train (all data)" in said
    assert f"trained on all data; weights in {out / 'best.pt'}" in said
    rows = history(out)
    # nothing is left to score on; 5 whole batches of all 40
    assert [list(row) for row in rows] == [[*ROW[:7], "seconds"]] * 2
    assert [row["step"] for row in rows] == [5, 10]
    # the schedules are those of the whole budget: 15 steps, a cycle of 7.5 ends at 8
    assert rows[1]["lr"] > rows[0]["lr"]
    assert checkpoint.read(out / "best.pt")["epoch"] == 2
    for name in ("curves.png", "contact_sheet.png"):
        with Image.open(out / name) as picture:
            picture.load()
    again = ["--config", str(exported), "--out", str(out), "--resume"]
    assert "--all-data" in one_line(main, capsys, *again)
    assert main([*again, "--all-data"]) == 0


FULL_DISK = """
import resource, signal, trainer.checkpoint as checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write = checkpoint.write
def limited(path, content):
    # the second epoch finds the disk full
    if content["epoch"] == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    write(path, content)
checkpoint.write = limited
"""


@pytest.mark.long
def test_a_full_disk_keeps_the_earlier_checkpoint_and_gives_one_line(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(*TINY, "--seed", 5, "--out", out, before=FULL_DISK)
    said, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "epoch 1/3" in said
    assert "epoch 2/3" not in said
    for name in ("best.pt", "last.pt"):
        assert checkpoint.read(out / name)["epoch"] == 1
    assert len(history(out)) == 1
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    # with space again it goes on as if nothing had been
    assert main([*TINY, "--seed", "5", "--out", str(out), "--resume"]) == 0
    assert curve(out) == curve(whole[0])


def test_divergence_gives_one_line_and_keeps_the_epochs_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # a rate that rises slowly, so that the first epoch is a sound one
    wild = ["learning_rate=1e6", "warmup_epochs=29", "epochs=30"]
    err = one_line(main, capsys, *TINY, *(f"--set={text}" for text in wild), "--out", out)
    assert err.startswith("error: training diverged: the loss is nan in epoch ")
    assert "lower learning_rate" in err
    assert 1 <= len(history(out)) < 30


def test_too_little_memory_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr("trainer.fit.fit", full)
    err = one_line(main, capsys, *TINY, "--out", tmp_path / "out")
    assert err.startswith("error: out of memory: CUDA error: out of memory Compile with")
    assert "lower micro_batch (here 8), batch_size or image_size" in err


@pytest.mark.parametrize("kind", [torch.AcceleratorError, DeviceLost])
def test_a_lost_gpu_gives_one_line(
    kind: type[Exception],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise kind("CUDA error: an illegal memory access was encountered\nFor debugging consider")

    monkeypatch.setattr("trainer.fit.fit", lost)
    assert one_line(main, capsys, *TINY, "--out", tmp_path / "out") == (
        "error: the GPU was lost: CUDA error: an illegal memory access was encountered; see with"
        " nvidia-smi whether it is well, then run the same again, a training with --resume\n"
    )


def test_another_error_of_torch_stays_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr("trainer.fit.fit", broken)
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        main([*TINY, "--out", str(tmp_path / "out")])


def test_weights_broken_by_the_very_last_step_are_a_divergence_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # one step in all: its own loss is that of the sound weights before it
    wild = ["batch_size=40", "epochs=1", "T_0=1", "learning_rate=1e38", "max_grad_norm=0"]
    sets = [f"--set={text}" for text in (*wild, "warmup_epochs=0")]
    assert "diverged" in one_line(main, capsys, *TINY, *sets, "--out", out)
    assert not (out / "best.pt").exists()


def test_ctrl_c_ends_quietly_and_what_was_trained_can_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*TINY, "--set", "epochs=200", "--seed", 5, "--out", out)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert checkpoint.read(out / "last.pt")["epoch"] >= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "dice_wieght=1"], "did you mean 'loss.dice_weight'"),
        (["--set", "learning_rate=-1"], "training.learning_rate"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data", "nowhere"], "nowhere"),
        (["--preset", "fulll"], "'fulll' is none of demo, small, full"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--set", "model.name=nowhere:net"], "no module 'nowhere'"),
    ],
)
def test_a_mistake_gives_one_line_and_leaves_no_folder_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    out = tmp_path / "out"
    assert says in one_line(main, capsys, *TINY, "--out", out, *arguments)
    assert not (out / "last.pt").exists()


def test_the_folder_is_named_after_the_config_and_the_seed(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my best.yaml").write_text((whole[0] / "config.yaml").read_text())
    assert main(["--config", "my best.yaml", "--set", "epochs=1", "--set", "T_0=1"]) == 0
    assert (tmp_path / "runs" / "train" / "my-best-seed5" / "best.pt").exists()


def test_other_data_than_the_searchs_are_named(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (whole[0] / "config.yaml").read_text()
    record = "search:\n  data: {name: holiday, fingerprint: 0123456789abcdef}\n"
    (tmp_path / "best.yaml").write_text(text + record)
    given = ["--config", str(tmp_path / "best.yaml"), "--set", "epochs=1", "--set", "T_0=1"]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    assert "other data than the search's (holiday)" in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    said, loaded = loaded_by_help("trainer.train")
    assert loaded == set()
    assert "--all-data" in said


def test_what_is_not_used_of_a_folder_is_said_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data_folders.troubled(tmp_path / "faces")
    assert main([*TINY, "--data", str(tmp_path / "faces"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out.splitlines()
    told = [line.removeprefix("note: ") for line in out if line.startswith("note: ")]
    assert [line for line in told if line in lines] == lines
    assert any(line.startswith("faces: 18 train, 4 val, ") for line in out)


def test_masks_of_one_class_are_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_folders.course(tmp_path / "faces", [f"p{number:02d}" for number in range(12)])
    for path in (root / "train" / "masks").iterdir():
        data_folders.save_mask(np.full((64, 64), 13), path)
    line = one_line(main, capsys, *TINY, "--data", root, "--out", tmp_path / "out")
    assert "100.0% of the pixels of its train masks are hair (id 13)" in line
    assert not (tmp_path / "out").exists()
