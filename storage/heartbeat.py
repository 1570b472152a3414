"""A thread that beats for the trial being trained."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from storage.background import BackgroundThread
from storage.claims import Beat
from storage.errors import LeaseLost, StorageError

if TYPE_CHECKING:
    from storage.rdb import LeasedStorage


class Heartbeat(BackgroundThread):
    """Beats every `every_s` seconds while the block runs.

    A failed beat (a server restart, say) is tried again: through the grace period and as long as
    the storage is patient. The token fences every write, so beating late does no harm.

    lost: set when the claim is gone or the store stays away; the owner should drop its trial.
    failure: why, where the store stayed away; None where the claim is gone.
    last: the answer to the latest beat.
    """

    def __init__(
        self,
        storage: LeasedStorage,
        token: int,
        every_s: float,
        grace_s: float,
    ) -> None:
        if not 0 < every_s < grace_s:
            raise ValueError(f"beats need 0 < every_s < grace_s, got {every_s=} {grace_s=}")
        super().__init__(f"heart-{token}")
        self.lost = threading.Event()
        self.failure: Exception | None = None
        self._storage = storage
        self._token = token
        self._every_s = every_s
        self._patience_s = max(grace_s, storage.patience_s)
        self.last = Beat()

    def _work(self) -> None:
        well = time.monotonic()
        while not self._stop.is_set():
            try:
                self.last = self._storage.beat(self._token)
                well = time.monotonic()
            except LeaseLost:
                self.lost.set()
                return
            except StorageError as error:
                # the file is gone: no later beat can help
                self._give_up(error)
                return
            except Exception as error:
                if time.monotonic() - well >= self._patience_s:
                    line = self._storage.explain(error)
                    self._give_up(error if line is None else StorageError(line))
                    return
            self._stop.wait(self._every_s)

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        self.lost.set()
