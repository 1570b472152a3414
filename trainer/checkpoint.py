"""Checkpoints: plain tensors, numbers and text, written whole or not at all."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import Config, base_identity, config_from_dict
from trainer.config.keys import dig, leaf_paths
from trainer.data.classes import NAMES
from trainer.errors import CheckpointError
from trainer.files import atomic_path
from trainer.history import F_SCORE

FORMAT = 1


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; on an OSError (a full disk, say) the old one is kept."""
    # through memory: torch turns a full disk into an error without a number
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "classes": list(NAMES), **content}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, without running code that it might hold.

    Raises CheckpointError if it is missing, torn, or no checkpoint of ours.
    """
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist; name a best.pt or last.pt")
    # torch reads what is no zip as a bare pickle, whose errors are of every kind
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"checkpoint {path} cannot be read; it is torn or no checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({type(error).__name__});"
            " it is torn or no checkpoint"
        ) from None
    if not isinstance(content, dict) or not {"state_dict", "config", "epoch"} <= content.keys():
        raise CheckpointError(f"checkpoint {path} was not written by trainer.train")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {content.get('format')}, this program reads {FORMAT};"
            " use the version that wrote it"
        )
    if content.get("classes") != list(NAMES):
        raise CheckpointError(f"checkpoint {path} has other classes than the 19 of CelebAMask-HQ")
    return content


def read_last(path: Path, config: Config, *, scored: bool) -> dict[str, Any]:
    """A last.pt that the training of `config` may go on from; scored: whether its epochs are.

    Raises CheckpointError if it is another training's, or as `read` does.
    """
    content = read(path)
    if "adamw" not in content:
        raise CheckpointError(f"checkpoint {path} holds weights only; resume from a last.pt")
    # where the data lie may change; what they are is the study's concern
    without = ("data.root", "training.early_stopping_patience")
    old, new = (base_identity(one, without) for one in (config_of(content, path), config))
    for key in leaf_paths():
        before, value = dig(old, key), dig(new, key)
        if before != value:
            raise CheckpointError(
                f"checkpoint {path} was trained with {'.'.join(key)} {before!r}, not {value!r};"
                " give the same config, or another --out to start anew"
            )
    # no key of the config says on which parts it was trained
    if all(F_SCORE in row for row in content["history"]) != scored:
        was, fix = (
            ("all data", "give --all-data")
            if scored
            else ("the train part alone", "leave --all-data out")
        )
        raise CheckpointError(f"checkpoint {path} was trained on {was}; {fix}")
    return content


def config_of(content: Mapping[str, Any], path: Path) -> Config:
    """The config that a checkpoint was trained with. Raises ConfigError."""
    return config_from_dict(content["config"], str(path))


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Put weights into a model. Raises CheckpointError if they are another model's."""
    own = model.state_dict()
    strange = sorted(set(own) ^ set(state)) or sorted(
        name for name, value in own.items() if value.shape != state[name].shape
    )
    if strange:
        raise CheckpointError(
            f"checkpoint {path} is of another model: {strange[0]!r} does not fit; use the config"
            " that it was trained with"
        )
    model.load_state_dict(dict(state))
