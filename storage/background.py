"""A thread that works beside a block."""

from __future__ import annotations

import threading
from typing import Self


class BackgroundThread:
    """Runs `_work` on a thread of its own while the block runs; `_stop` is set when it ends.

    The thread is a daemon and may be left behind: it may be waiting for a lost server.
    """

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _work(self) -> None:
        raise NotImplementedError
