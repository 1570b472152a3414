"""What every launcher does: start workers that ended too early again, and wait for the last one."""

from __future__ import annotations

import locale
import logging
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from search.execution.options import LOST_ITS_GPU
from trainer.cli import one_line
from trainer.errors import UserError

LOG = logging.getLogger(__name__)
# deaths of one worker in a row without a trained epoch, after which a run gives up. One that lost
# its GPU is not among them: its trial knows whether it got any further
MAX_DEATHS = 5


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended. code: its exit code; None where nobody is left to say it. how: in words
    that follow its name. said: the last line of its log.
    """

    code: int | None
    how: str
    said: str = "no output"


@dataclass(kw_only=True)
class Worker:
    """owner, log: None until it has started. deaths: in a row, before it."""

    number: int
    owner: str | None = None
    log: Path | None = None
    ended: WorkerEnd | None = None
    deaths: int = 0

    @property
    def at_work(self) -> bool:
        return self.owner is not None and self.ended is None


W = TypeVar("W", bound=Worker)


@dataclass(kw_only=True)
class Launcher(ABC, Generic[W]):
    """The workers of a run. Used through `with`: no worker outlives the block.

    trained: owners, as claims name them, that have trained an epoch, for the caller to add. lost:
    those that ended and were replaced, for the caller to empty.
    """

    trained: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    _workers: list[W] = field(default_factory=list, init=False)

    @abstractmethod
    def _start(self, number: int) -> W: ...

    @abstractmethod
    def _hear(self) -> None:
        """Take in which workers have started, and which ended, since the last time."""

    @abstractmethod
    def ask_to_end(self) -> None:
        """Every worker finishes its epoch, puts its trial back and ends."""

    @abstractmethod
    def kill(self) -> None:
        """End every worker at once; their trials are found by the reaper."""

    @property
    def owners(self) -> set[str]:
        """The present workers, as their claims name them."""
        return {worker.owner for worker in self._workers if worker.owner}

    def alive(self) -> int:
        """How many workers run."""
        self._hear()
        return sum(worker.at_work for worker in self._workers)

    def look(self, done: Callable[[], bool]) -> bool:
        """Start workers that ended too early again; returns whether any is at work.

        done: whether nothing is left to do, asked only about a worker that left by itself: one
        that somebody else asked to leave must not end the search. Raises UserError with the
        worker's own line where the user has to fix something, and where workers die again and
        again.
        """
        self._hear()
        for index, worker in enumerate(self._workers):
            ended = worker.ended
            if ended is None or (ended.code == 0 and done()):
                continue
            if ended.code == 2:
                raise UserError(ended.said.removeprefix("error: "))
            before = 0 if worker.owner in self.trained else worker.deaths
            deaths = before + (ended.code != LOST_ITS_GPU)
            if deaths > MAX_DEATHS:
                whole = "" if worker.log is None else f"; the whole log is {worker.log}"
                raise UserError(
                    f"worker {worker.number} ended {deaths} times in a row without training an"
                    f" epoch; it {ended.how} at last: {ended.said}{whole}"
                )
            if worker.owner is not None:
                self.lost.add(worker.owner)
            log = "" if worker.log is None else f" (log: {worker.log})"
            LOG.info(
                f"worker {worker.number} {ended.how}; it is started again{log}",
                extra={"worker": worker.owner},
            )
            self._workers[index] = self._start(worker.number)
            self._workers[index].deaths = deaths
        # as heard above: one that has ended since is looked at the next time
        return any(worker.at_work for worker in self._workers)

    def wait(self, timeout_s: float) -> bool:
        """Wait for all workers to end; False if one still runs after timeout_s."""
        until = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def ended_with(code: int, log: Path, since: int = 0) -> WorkerEnd:
    """The end of a worker that still says how: its exit code, 0 where there was work left."""
    how, said = f"ended with exit code {code}", last_words(log, since)
    if code == 0:
        how = "was asked to leave by somebody else"
    elif code == LOST_ITS_GPU:
        how = f"lost its GPU ({said})"
    elif code < 0:
        how = f"ended by {signal.Signals(-code).name}"
    return WorkerEnd(code, how, said)


def with_threads(threads: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads."""
    # libraries size their thread pools before the process can
    own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    # numpy's part is the sampler's: on small matrices several threads do little but wait
    return {**os.environ, **own, "OPENBLAS_NUM_THREADS": "1"}


def last_words(log: Path, since: int = 0) -> str:
    """The last line that says something in a process's log, from byte `since` on."""
    try:
        text = log.read_bytes()[since:].decode(locale.getpreferredencoding(False), "replace")
    except OSError:
        # removed meanwhile
        text = ""
    lines = text.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return one_line(errors[-1]) if errors else "no output"
