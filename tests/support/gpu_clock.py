"""A GPU as a clock: what is queued is done step by step, while Python waits and at no other time.

Nothing depends on how long anything takes: how late something comes is told in steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock


class GpuClock:
    """queued, done: steps so far. While Python sleeps the GPU does one step; where it blocks, all.

    at: what happens once so many steps are done.
    """

    def __init__(self) -> None:
        self.queued = self.done = 0
        self._at: list[tuple[int, Callable[[], None]]] = []

    def launch(self) -> None:
        """Queue a step."""
        self.queued += 1

    def at(self, done: int, act: Callable[[], None]) -> None:
        """Call `act` when `done` steps are done."""
        self._at.append((done, act))

    def block(self, *_: object) -> None:
        """Wait as a read-back does: until all is done that was queued."""
        while self.done < self.queued:
            self.sleep()

    def sleep(self, *_: object) -> None:
        """Wait for the time of a step."""
        self.done = min(self.done + 1, self.queued)
        due = [act for done, act in self._at if done <= self.done]
        self._at = [(done, act) for done, act in self._at if done > self.done]
        for act in due:
            act()

    @contextlib.contextmanager
    def running(self) -> Iterator[GpuClock]:
        """CUDA events and the pauses of who waits for them go by this clock."""
        clock = self

        class Event:
            def __init__(self, *_: object, **__: object) -> None:
                self._after = 0

            def record(self, stream: object = None) -> None:
                self._after = clock.queued

            def query(self) -> bool:
                return clock.done >= self._after

            def synchronize(self) -> None: ...

        with (
            mock.patch("torch.cuda.Event", Event),
            mock.patch("trainer.run_ahead.time", SimpleNamespace(sleep=self.sleep)),
        ):
            yield self
