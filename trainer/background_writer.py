"""Checkpoints written beside the training: it goes on while the disk is at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Writer:
    """One piece of writing at a time, on a thread of its own; what follows it waits for its end.

    Used through `with`: what is being written is finished before the block is left, however.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._then: Callable[[], None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def start(self, write: Callable[[], None], then: Callable[[], None]) -> None:
        """Begin to write; once all is safe, `poll` or `wait` call `then` on their own thread."""
        assert self._writing is None, "wait() before the next start()"
        self._then = then
        self._writing = self._pool.submit(write)

    def poll(self) -> None:
        """What follows, if the writing has ended. Raises what the writing or `then` raised."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the writing, then what follows. Raises what the writing or `then` raised."""
        if self._writing is None:
            return
        assert self._then is not None
        writing, then = self._writing, self._then
        self._writing = self._then = None
        writing.result()
        then()


class HostCopies:
    """Copies on the CPU of what the training changes meanwhile: all that a writer may see of it.

    A GPU makes them behind what it has been given, and nobody waits for it. Their memory is the
    same every time, so that the writing must have ended before the next are made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        # the thread that waits for it sleeps
        self._made = torch.cuda.Event(blocking=True) if device.type == "cuda" else None

    def of(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Begin to copy tensors of the device, of the same sizes every time.

        The copies hold nothing before `wait`.
        """
        if self._made is None:
            return [value.detach().clone() for value in values]
        if not self._pinned:
            # only to page-locked memory is copied while Python goes on
            self._pinned = [
                torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values
            ]
        for copy, value in zip(self._pinned, values, strict=True):
            copy.copy_(value.detach(), non_blocking=True)
        self._made.record()
        return self._pinned

    def wait(self) -> None:
        """Until the latest copies are made; from any thread."""
        if self._made is not None:
            # a thread begins on the first GPU, where waiting would take memory for a context
            with torch.cuda.device(self._device):
                self._made.synchronize()
