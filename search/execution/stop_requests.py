"""Being asked to end: SIGINT and SIGTERM, remembered instead of raised.

An exception in the middle of a transaction would leave it open, and with it the lock that every
other call waits for.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from storage import LeasedStorage


class AtOnce(BaseException):
    """A worker's second Ctrl-C: leave without finishing the epoch."""


class Signals:
    """Remembers SIGINT and SIGTERM while the block runs. asked: set by the first, whose name is
    `name`. times: how many.

    SIGINT is taken even where it was ignored, as a shell does for what it runs in the background.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.times = 0
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # only there may handlers be set
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _heard(self, number: int, _: FrameType | None) -> None:
        self.times += 1
        self.name = self.name or signal.Signals(number).name
        self.asked.set()


class SupervisorSignals(Signals):
    """After a second signal a store that is away is not waited for any longer."""

    def __init__(self, storage: LeasedStorage) -> None:
        super().__init__()
        self._storage = storage

    def _heard(self, number: int, frame: FrameType | None) -> None:
        super()._heard(number, frame)
        if self.times > 1:
            self._storage.patience_s = 0.0


class WorkerSignals(Signals):
    """A second SIGINT raises AtOnce.

    A terminal sends Ctrl-C to the whole group and a supervisor may pass it on, so a second one
    counts from a second later. busy: whether nothing may be raised just now, in a transaction; such
    a second one is not heard, and the user tries again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.busy: Callable[[], bool] = lambda: False
        self._first_s: float | None = None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        super()._heard(number, frame)
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now
        elif now - self._first_s > 1.0 and not self.busy():
            raise AtOnce
