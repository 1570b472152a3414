"""Checkpoints written beside the training: it goes on while the disk is at work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


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
