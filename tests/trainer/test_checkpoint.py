"""Checkpoints: whole or not at all, and refused where they do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.scripts import python
from trainer import checkpoint
from trainer.config import Config, to_dict
from trainer.errors import CheckpointError


def content(model: nn.Module) -> dict:
    return {"state_dict": model.state_dict(), "config": to_dict(Config()), "epoch": 1}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    checkpoint.write(tmp_path / "c.pt", content(model))
    read = checkpoint.read(tmp_path / "c.pt")
    assert torch.equal(read["state_dict"]["weight"], model.weight)
    assert checkpoint.config_of(read, tmp_path / "c.pt") == Config()
    assert len(read["classes"]) == 19
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pt"]


def test_another_models_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another model: 'bias'"):
        checkpoint.load_weights(nn.Linear(2, 3), nn.Linear(2, 3, bias=False).state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match="another model: 'weight'"):
        checkpoint.load_weights(nn.Linear(2, 3), nn.Linear(4, 3).state_dict(), tmp_path)


@pytest.mark.parametrize("spoiled", ["missing", "torn", "text", "foreign", "code", "format"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, spoiled: str) -> None:
    path = tmp_path / "c.pt"
    if spoiled == "torn":
        checkpoint.write(path, content(nn.Linear(50, 50)))
        path.write_bytes(path.read_bytes()[:700])
    elif spoiled == "text":
        path.write_text("not a checkpoint")
    elif spoiled == "foreign":
        torch.save({"model": {}}, path)
    elif spoiled == "code":
        path.write_bytes(pickle.dumps(print))
    elif spoiled == "format":
        checkpoint.write(path, content(nn.Linear(2, 3)) | {"format": 99})
    with pytest.raises(CheckpointError, match="c.pt") as told:
        checkpoint.read(path)
    assert "\n" not in str(told.value)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from torch import nn
from tests.trainer.test_checkpoint import content
from trainer import checkpoint
from trainer.cli import guarded

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

def body():
    checkpoint.write(Path(sys.argv[1]), content(nn.Linear(300, 300)))
    return 0

raise SystemExit(guarded(body))
"""


def test_a_full_disk_leaves_the_earlier_checkpoint_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.write(path, content(nn.Linear(2, 3)))
    before = path.read_bytes()
    done = python("-c", FULL_DISK, path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
