"""What a probe sees of a training: its scoring and all its pictures as well."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.support.fake_cuda import fake_cuda
from tests.support.shells import one_line
from trainer import probe
from trainer.config import Config, to_yaml, with_values
from trainer.pixels import Pixels

TINY = {"image_size": 16, "batch_size": 4, "width": 0.1, "runtime.device": "cpu"}
BRIEF = ["--warmup-s", "0.01", "--seconds", "0.05", "--threads", "1"]


class Hungry(nn.Module):
    """A network that has room for so many pictures at once."""

    room, most = 0, 0

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(dropout)
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        Hungry.most = max(Hungry.most, len(images))
        if len(images) > Hungry.room:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
        out: torch.Tensor = self.layer(self.drop(images))
        return out


def probed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, room: int, flags: tuple[str, ...] = ()
) -> int:
    """The exit code of a probe of a network with so much room."""
    module = ModuleType("hungry_to_score")
    module.Hungry = Hungry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hungry_to_score", module)
    monkeypatch.setattr(Hungry, "room", room)
    monkeypatch.setattr(Hungry, "most", 0)
    config = with_values(Config(), {**TINY, "model.name": "hungry_to_score:Hungry"})
    (folder / "trial.yaml").write_text(to_yaml(config))
    return probe.main(["--config", str(folder / "trial.yaml"), *BRIEF, *flags])


def test_a_probe_scores_as_many_pictures_at_once_as_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed(tmp_path, monkeypatch, room=32, flags=("--val", "500")) == 0
    assert Hungry.most == 32
    assert set(json.loads(capsys.readouterr().out)) == {"images_per_s", "peak_memory_mb"}


def test_what_fits_to_train_and_not_to_score_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed(tmp_path, monkeypatch, room=16) == probe.OUT_OF_MEMORY
    assert "out of memory: CUDA error: CUBLAS_STATUS_ALLOC_FAILED" in capsys.readouterr().err


def test_a_val_part_smaller_than_a_batch_is_scored_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probed(tmp_path, monkeypatch, room=8, flags=("--val", "8")) == 0
    assert Hungry.most == 8


def test_pictures_that_a_brief_epoch_does_not_use_lie_in_memory_all_the_same() -> None:
    brief = probe.noise(16, 100, 60, train_seen=8, val_seen=32)
    assert (len(brief.train), len(brief.val)) == (8, 32)
    with fake_cuda():
        held = [Pixels(part, torch.device("cuda:0")).resident for part in (brief.train, brief.val)]
    assert [None if one is None else len(one[0]) for one in held] == [100, 60]


def test_free_memory_is_asked_of_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_cuda():
        assert probe.main(["--free", "--device", "cuda:0"]) == 0
    # of the 24 GB that there are
    assert json.loads(capsys.readouterr().out) == {"free_memory_mb": 22000.0}
    assert probe.main(["--free", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["free_memory_mb"] > 50


@pytest.mark.parametrize("name", ["cuda:foo", "cuda:-1", "gpu"])
def test_what_is_no_device_is_refused_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = one_line(probe.main, capsys, "--free", "--device", name)
    assert f"auto, cpu, cuda or cuda:0 is needed, got {name!r}" in said


def test_something_to_train_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        probe.main([])
    assert refused.value.code == 2
    assert "--config is needed" in capsys.readouterr().err
