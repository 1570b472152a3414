"""CUDA streams as queues: what is asked of a GPU is done later, in any order that they allow."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.fake_cuda import unpinned


class QueuedEvent:
    """Counts how often it was recorded, and how many of these the queues have come by."""

    def __init__(self, machine: QueuedStreams) -> None:
        self.machine = machine
        self.recorded = self.reached = 0

    def record(self, stream: Queue) -> None:
        """Reached once all that the stream was asked is done."""
        self.recorded += 1
        stream.ask(self._reach)

    def _reach(self) -> None:
        self.reached += 1

    def synchronize(self) -> None:
        """Let the queues go on until it is reached."""
        if "synchronize" in self.machine.forgotten:
            return
        while self.reached < self.recorded:
            self.machine.go_on()


class Queue:
    """A stream."""

    def __init__(self, machine: QueuedStreams, name: str) -> None:
        self.machine, self.name = machine, name
        # what is to be done, each with a condition that holds it back
        self.asked: deque[tuple[Callable[[], bool], Callable[[], None]]] = deque()

    def ask(self, work: Callable[[], None], after: Callable[[], bool] = lambda: True) -> None:
        """Have `work` done in its turn."""
        self.asked.append((after, work))
        self.machine.maybe_go_on()

    def wait_event(self, event: QueuedEvent) -> None:
        """Of the latest record by now, as CUDA's."""
        if f"{self.name}.wait_event" not in self.machine.forgotten:
            wanted = event.recorded
            self.ask(lambda: None, after=lambda: event.reached >= wanted)

    def wait_stream(self, other: Queue) -> None:
        """All that the other was asked by now."""
        if f"{self.name}.wait_stream" not in self.machine.forgotten:
            event = QueuedEvent(self.machine)
            event.record(other)
            self.wait_event(event)


class QueuedStreams(TorchDispatchMode):
    """A main and a side stream, while it is entered; a tensor's copy_ is asked of the current one.

    seed: of the order in which the queues go on. forgotten: waits that are left out: "synchronize",
    or a stream's, as "side.wait_event".
    """

    def __init__(self, seed: int, forgotten: Sequence[str] = ()) -> None:
        super().__init__()
        self.random, self.forgotten = random.Random(seed), forgotten
        self.main, self.side = Queue(self, "main"), Queue(self, "side")
        self.current = self.main
        # a GPU that keeps up, or one that is far behind
        self.eagerness = self.random.choice([0.0, 0.2, 0.9])
        # of the main stream, before the side stream's
        self.weight = self.random.choice([0.1, 1.0, 10.0])
        self._doing = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """torch.cuda is this."""
        stubs = {
            "torch.cuda.Stream": lambda device=None: self.side,
            "torch.cuda.Event": lambda **_: QueuedEvent(self),
            "torch.cuda.current_stream": lambda device=None: self.current,
            "torch.cuda.stream": self._on,
            "trainer.pixels._pinned": unpinned,
        }
        with contextlib.ExitStack() as stack:
            for name, stub in stubs.items():
                stack.enter_context(mock.patch(name, stub))
            stack.enter_context(self)
            yield
            while self.main.asked or self.side.asked:
                self.go_on()

    @contextlib.contextmanager
    def _on(self, stream: Queue) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def maybe_go_on(self) -> None:
        """Do some of what was asked, or nothing yet."""
        while not self._doing and self.random.random() < self.eagerness:
            if not self._able():
                return
            self.go_on()

    def _able(self) -> list[Queue]:
        return [one for one in (self.main, self.side) if one.asked and one.asked[0][0]()]

    def go_on(self) -> None:
        """Do the next of what was asked of one of the streams."""
        able = self._able()
        weights = [self.weight if one is self.main else 1.0 for one in able]
        _, work = self.random.choices(able, weights)[0].asked.popleft()
        self._doing = True
        work()
        self._doing = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._doing or str(func) != "aten.copy_.default":
            return func(*args, **kwargs)
        self.current.ask(lambda: func(*args, **kwargs))
        changed: Tensor = args[0]
        return changed
