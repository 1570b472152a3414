"""Mistakes in a training step that would show on a GPU alone; what checks a step finds them all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from trainer import augment, step
from trainer.cuda_graph import CapturedSteps
from trainer.step import Stepper

_put_back = CapturedSteps._changed_by_a_step
_clip, _accumulate = Stepper._clip, Stepper._accumulate


def _all_but(left_out: Callable[[CapturedSteps, Tensor], bool]) -> Any:
    def changed(self: CapturedSteps) -> list[Tensor]:
        return [value for value in _put_back(self) if not left_out(self, value)]

    return mock.patch.object(CapturedSteps, "_changed_by_a_step", changed)


def _reading() -> Any:
    def clip(self: Stepper, gradient: Tensor) -> None:
        if gradient.norm().item() > 0:
            _clip(self, gradient)

    return mock.patch.object(Stepper, "_clip", clip)


def _sending() -> Any:
    def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
        return torch.tensor(values, device=device)

    # as functools' caches have it
    constant.cache_clear = lambda: None  # type: ignore[attr-defined]
    return mock.patch.object(augment, "_constant", constant)


def _counting() -> Any:
    calls = 0

    def accumulate(self: Stepper, *args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return _accumulate(self, *args) * calls

    return mock.patch.object(Stepper, "_accumulate", accumulate)


def _noisy() -> Any:
    def augmented(*args: Any) -> tuple[Tensor, Tensor]:
        images, masks = augment.augmented(*args)
        return images * (1 + args[-1].noise_seed % 7), masks

    return mock.patch.object(step, "augmented", augmented)


class Mistake(NamedTuple):
    """patch: makes it. in_digits: whether it changes numbers, and not only speed."""

    patch: Callable[[], Any]
    in_digits: bool

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Make it within the block."""
        augment._constant.cache_clear()
        with self.patch():
            yield


PLANTED = {
    "a number is read back": Mistake(_reading, in_digits=False),
    "a table is sent in every step": Mistake(_sending, in_digits=False),
    "a moment is not put back": Mistake(
        lambda: _all_but(lambda steps, value: value is steps.stepper.optimizer.mean), in_digits=True
    ),
    "counted batches are not put back": Mistake(
        lambda: _all_but(lambda steps, value: value.dtype == torch.int64 and value.dim() == 0),
        in_digits=True,
    ),
    "Python counts": Mistake(_counting, in_digits=True),
    "a seed of Python's": Mistake(_noisy, in_digits=True),
}
