"""Worker processes of one machine: started, watched, started again when they die, asked to end."""

from __future__ import annotations

import json
import locale
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from search.execution.options import worker_command, worker_place
from search.study.names import owner_name
from trainer.errors import UserError

LOG = logging.getLogger(__name__)
# deaths of one worker in a row without a trained epoch, after which a run gives up
MAX_DEATHS = 5


@dataclass(frozen=True)
class WorkerPlan:
    """Where one worker computes: a device, and how many CPU threads."""

    device: str
    threads: int


def devices_of(device: str, gpus: int) -> list[str]:
    """What `auto`, `cpu`, `cuda` or `cuda:i` comes to; the CPU is one device."""
    if device == "cpu" or gpus == 0:
        return ["cpu"]
    return [device] if ":" in device else [f"cuda:{index}" for index in range(gpus)]


def plan_workers(
    workers: int | None,
    *,
    device: str,
    cores: int,
    gpus: int,
    threads: int | None = None,
    per_device: int | None = None,
    most: int | None = None,
) -> list[WorkerPlan]:
    """One slot per worker.

    workers: in all. per_device: on each device instead. Both None: one per GPU, or one per core on
    a CPU. device: auto, cpu, cuda or cuda:i. threads: of each worker; None shares the cores evenly.
    most: there is work for so many.
    """
    devices = devices_of(device, gpus)
    on_each = per_device or (cores if devices == ["cpu"] else 1)
    count = workers or on_each * len(devices)
    count = count if most is None else min(count, most)
    each = threads or max(1, cores // count)
    return [WorkerPlan(devices[i % len(devices)], each) for i in range(count)]


class PrewarmedWorker:
    """A worker that imports what it needs while a run is still being planned.

    Used through `with`: one that was not taken over does not outlive the block.
    """

    def __enter__(self) -> PrewarmedWorker:
        self._taken = False
        self._process = subprocess.Popen(
            worker_command(["--prewarmed"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # torch gets the number with the arguments; what else computes keeps one
            env=with_threads(1),
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if not self._taken:
            self._process.kill()
            self._process.communicate()

    def take(self, words: Sequence[str], log: Path) -> subprocess.Popen[bytes] | None:
        """The process, which now has its arguments and log; None if it was taken or has ended."""
        if self._taken or self._process.poll() is not None:
            return None
        assert self._process.stdin is not None
        order = json.dumps({"words": list(words), "log": str(log.absolute())})
        # one that ends at this moment is found by its exit code
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(order.encode() + b"\n")
        self._taken = True
        return self._process


@dataclass
class _Worker:
    plan: WorkerPlan
    number: int
    log: Path
    process: subprocess.Popen[bytes]
    started_at: int
    deaths: int = 0


@dataclass
class LocalLauncher:
    """The workers of a run. Used through `with`: no worker outlives the block.

    words: arguments of search.worker that every worker gets. prewarmed: a process that becomes the
    first worker. trained: owners, as claims name them, that have trained an epoch, for the caller
    to add. lost: those that ended and were replaced, for the caller to empty.
    """

    words: Sequence[str]
    plans: Sequence[WorkerPlan]
    logs: Path
    prewarmed: PrewarmedWorker | None = None
    trained: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> LocalLauncher:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number, plan in enumerate(self.plans, start=1):
            self._workers.append(self._start(plan, number))
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(self, plan: WorkerPlan, number: int) -> _Worker:
        log = self.logs / f"{number}.log"
        words = [*self.words, *worker_place(plan.device, plan.threads)]
        words += ["--parent", str(os.getpid())]
        with log.open("ab") as output:
            started_at = output.tell()
            process = None if self.prewarmed is None else self.prewarmed.take(words, log)
            if process is None:
                process = subprocess.Popen(
                    worker_command(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=with_threads(plan.threads),
                    # Ctrl-C reaches the supervisor alone, which then asks the workers to end
                    start_new_session=True,
                )
        return _Worker(plan, number, log, process, started_at)

    @property
    def owners(self) -> set[str]:
        """The present workers, as their claims name them."""
        return {owner_name(worker.process.pid) for worker in self._workers}

    def alive(self) -> int:
        """How many workers run."""
        return sum(worker.process.poll() is None for worker in self._workers)

    def look(self, done: Callable[[], bool]) -> bool:
        """Start workers that ended too early again; returns whether any is at work.

        done: whether nothing is left to do, asked only about a worker that left by itself: one
        that somebody else asked to leave must not end the search. Raises UserError with the
        worker's own line where the user has to fix something, and where workers die again and
        again.
        """
        for index, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is None or (code == 0 and done()):
                continue
            said = last_words(worker.log, worker.started_at)
            if code == 2:
                raise UserError(said.removeprefix("error: "))
            how = how_it_ended(code)
            owner = owner_name(worker.process.pid)
            said = f"{said}; the whole log is {worker.log}"
            deaths = in_a_row(worker.number, worker.deaths, owner in self.trained, how, said)
            self.lost.add(owner)
            LOG.info(
                f"worker {worker.number} {how}; it is started again (log: {worker.log})",
                extra={"worker": owner},
            )
            self._workers[index] = self._start(worker.plan, worker.number)
            self._workers[index].deaths = deaths
        return self.alive() > 0

    def ask_to_end(self) -> None:
        """Every worker finishes its epoch, puts its trial back and ends."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End every worker at once; their trials are found by the reaper."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait for all workers to end; False if one still runs after timeout_s."""
        until = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def in_a_row(number: int, before: int, trained: bool, how: str, said: str) -> int:
    """Deaths of a worker in a row, this one included; `before` of them earlier.

    trained: whether it had trained an epoch. Raises UserError where it is one too many.
    """
    deaths = 1 if trained else before + 1
    if deaths > MAX_DEATHS:
        raise UserError(
            f"worker {number} ended {deaths} times in a row without training an epoch; it {how} at"
            f" last: {said}"
        )
    return deaths


def how_it_ended(code: int) -> str:
    """A worker's exit code, 0 where nothing was done, in words that follow its name."""
    if code == 0:
        return "was asked to leave by somebody else"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def with_threads(threads: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads."""
    # libraries size their thread pools before the process can
    own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **own}


def last_words(log: Path, since: int) -> str:
    """The last line that says something in a process's log, from byte `since` on."""
    handle: BinaryIO
    with log.open("rb") as handle:
        handle.seek(since)
        lines = (
            handle.read().decode(locale.getpreferredencoding(False), "replace").strip().splitlines()
        )
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return re.sub(r"\s+", " ", errors[-1]).strip() if errors else "no output"
