"""Worker processes of one machine, and how many of them it gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from search.execution.launchers.launcher import Launcher, Worker, ended_with, with_threads
from search.execution.options import worker_command, worker_place
from search.study.names import owner_name


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

    def take(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | None:
        """The process, which now has its arguments, log and further variables; None if it was taken
        or has ended.
        """
        if self._taken or self._process.poll() is not None:
            return None
        assert self._process.stdin is not None
        order = json.dumps(
            {
                "words": list(words),
                "log": str(log.absolute()),
                "environment": dict(environment),
            }
        )
        # one that ends at this moment is found by its exit code
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(order.encode() + b"\n")
        self._taken = True
        return self._process


@dataclass(kw_only=True)
class _Worker(Worker):
    process: subprocess.Popen[bytes]
    log: Path
    log_from: int


@dataclass
class LocalLauncher(Launcher[_Worker]):
    """Workers on this machine.

    words: arguments of search.worker that every worker gets. plans: one of each worker. prewarmed:
    a process that becomes the first worker. environment: variables of all workers besides ours.
    """

    words: Sequence[str]
    plans: Sequence[WorkerPlan]
    logs: Path
    prewarmed: PrewarmedWorker | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> LocalLauncher:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in range(1, len(self.plans) + 1):
            self._workers.append(self._start(number))
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(self, number: int) -> _Worker:
        plan, log = self.plans[number - 1], self.logs / f"{number}.log"
        words = [*self.words, *worker_place(plan.device, plan.threads)]
        words += ["--parent", str(os.getpid())]
        with log.open("ab") as output:
            log_from = output.tell()
            process = (
                None
                if self.prewarmed is None
                else self.prewarmed.take(words, log, self.environment)
            )
            if process is None:
                process = subprocess.Popen(
                    worker_command(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=with_threads(plan.threads) | dict(self.environment),
                    # Ctrl-C reaches the supervisor alone, which then asks the workers to end
                    start_new_session=True,
                )
        owner = owner_name(process.pid)
        return _Worker(number=number, owner=owner, process=process, log=log, log_from=log_from)

    def _hear(self) -> None:
        for worker in self._workers:
            code = worker.process.poll()
            if code is not None and worker.ended is None:
                worker.ended = ended_with(code, worker.log, worker.log_from)

    def ask_to_end(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
