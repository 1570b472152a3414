"""`trainer.fit` on a GPU that is not there: all of it runs, and no tensor holds a number.

    with fake_training() as seen:
        fit(tiny(), noise(32, 24), out=folder)

Scores are given, or .5; a checkpoint is a real file of zeros, of what the real one would hold.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.fake_cuda import Events, fake_cuda
from trainer import checkpoint
from trainer.config import Config, with_values
from trainer.data.classes import NAMES
from trainer.fit import _Training
from trainer.history import F_SCORE, TRAIN_F_SCORE
from trainer.metrics import ScoreKeeper, Scores
from trainer.runtime import choose_runtime


def tiny(**values: object) -> Config:
    """A config for cuda:0 of 32 pixels, in batches of 8."""
    own = {"data.image_size": 32, "data.batch_size": 8, "model.width": 0.2, "training.epochs": 2}
    own |= {"runtime.device": "cuda:0", "runtime.threads": 1}
    return choose_runtime(with_values(Config(), {**own, **values}))


@dataclass
class Seen:
    """What happened meanwhile.

    events: what was asked of torch.cuda. written: by checkpoint, its name and the devices of its
    tensors. threads: names of those that wrote.
    """

    events: Events
    written: list[tuple[str, set[str]]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)


@contextlib.contextmanager
def fake_training(
    *,
    read: Callable[[Tensor], float] = lambda tensor: 0.5,
    scores: Callable[[_Training], float] | None = None,
) -> Iterator[Seen]:
    """`fake_cuda` with what a whole training needs besides.

    read: gives the number that is read from a tensor. scores: gives an epoch's score, without
    scoring; None: it is scored, and the score is .5.
    """
    real_write, real_read = checkpoint.write, checkpoint.read
    with contextlib.ExitStack() as stack:
        seen = Seen(stack.enter_context(fake_cuda(read=read)))

        def write(path: Path, content: dict[str, Any]) -> None:
            tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
            seen.written.append((path.name, {_device(value) for value in tensors}))
            seen.threads.add(threading.current_thread().name)
            real_write(path, _zeros(content))

        def from_disk(path: Path) -> dict[str, Any]:
            with unset_fake_temporarily():
                return real_read(path)

        stubs: dict[str, object] = {
            # runs the model on a picture, whose result has no numbers
            "trainer.model._check": lambda *_: None,
            "trainer.checkpoint.write": write,
            "trainer.checkpoint.read": from_disk,
        }
        if scores is None:
            stubs |= {
                "torch.bincount": _bincount,
                "trainer.metrics.ScoreKeeper.scores": _scores,
            }
        else:
            stubs["trainer.fit._Training._score"] = lambda self: _row(scores(self))
        for name, stub in stubs.items():
            stack.enter_context(mock.patch(name, stub))
        yield seen


def _device(value: Tensor) -> str:
    # what a fake tensor says of itself depends on what the other thread is at
    return str((value.fake_device if isinstance(value, FakeTensor) else value.device).type)


def _row(score: float) -> dict[str, Any]:
    rest = {"val_ce": 1.0, "val_dice": 0.5, TRAIN_F_SCORE: score, F_SCORE: score}
    return rest | {"val_f_per_class": dict.fromkeys(NAMES, score), "f_large": score, "f_small": 0.5}


def _bincount(index: Tensor, minlength: int) -> Tensor:
    return torch.zeros(minlength, dtype=torch.int64, device=index.device)


def _scores(keeper: ScoreKeeper) -> Scores:
    return Scores(0.5, 0.5, dict.fromkeys(NAMES, 0.5), 0.5, 0.5, 1)


def _zeros(content: object) -> Any:
    """The content with real zeros in place of fake tensors: the same views of as many storages."""
    storages: dict[int, Tensor] = {}

    def real(leaf: object) -> object:
        if not isinstance(leaf, FakeTensor):
            return leaf
        storage = leaf.untyped_storage()
        bytes_ = torch.zeros(storage.nbytes(), dtype=torch.uint8)
        whole = storages.setdefault(storage._cdata, bytes_).view(leaf.dtype)
        return whole.as_strided(leaf.shape, leaf.stride(), leaf.storage_offset())

    return tree_map(real, content)
