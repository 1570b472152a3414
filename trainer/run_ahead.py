"""How far Python may be ahead of a GPU: it queues steps far faster than they are computed.

A verdict on an epoch arrives while the next one is trained. Python could have queued all of that
by then, and would come to hear of it only where it waits for the GPU, at the epoch's end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch

# steps of which the GPU has always one to begin with when another is done
STEPS = 4
# a small part of the shortest step
_PAUSE_S = 2e-4


class RunAhead:
    """Lets at most `STEPS` steps be queued on `device`; on a CPU none ever is.

    meanwhile: called after every step, and again and again while a GPU is waited for; what it
    raises ends the waiting, and with it the training.
    """

    def __init__(self, device: torch.device, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        on_gpu = device.type == "cuda"
        self._idle = deque(torch.cuda.Event() for _ in range(STEPS if on_gpu else 0))
        self._queued: deque[torch.cuda.Event] = deque()

    def queued(self) -> None:
        """A step has been queued: wait until there is room for the next one."""
        if self._idle:
            event = self._idle.popleft()
            event.record()
            self._queued.append(event)
        self._wait(STEPS - 1)

    def wait(self) -> None:
        """Until all is done that was queued."""
        self._wait(0)

    def _wait(self, most: int) -> None:
        self._meanwhile()
        while len(self._queued) > most:
            if self._queued[0].query():
                self._idle.append(self._queued.popleft())
            else:
                time.sleep(_PAUSE_S)
                self._meanwhile()
