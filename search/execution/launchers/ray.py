"""Worker processes on a Ray cluster: placed, and started again elsewhere when a node dies.

Ray places and guards an actor for each worker; the actor starts `python -m search.worker` on its
node, the same command that runs everywhere else. Nothing of a trial goes through Ray. Every node
needs the same installation of this project, and sees the runs folder and the store under the same
path and URL. Ray itself is imported when a launcher begins: importing it would change signal
handlers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.execution.launchers.launcher import (
    Launcher,
    Worker,
    WorkerEnd,
    ended_with,
    with_threads,
)
from search.execution.options import RunOptions, worker_command, worker_place
from search.study.names import owner_name
from search.study.wording import counted
from storage.url import parse_url
from trainer.cli import one_line
from trainer.errors import UserError

LOG = logging.getLogger(__name__)
# a node starts an actor in a few seconds if it has room
_ROOM_S = 20.0
_KILL_S = 5.0
_KNOCK_S = 5.0
_ROOT = str(Path(__file__).resolve().parents[3])


@dataclass(frozen=True)
class _Started:
    owner: str
    host: str
    node: str
    log: Path


class RayWorker:
    """The actor: one worker process on the node where Ray has put it.

    words: arguments of search.worker. logs: folder on the shared file system. folder: where the
    search was started; relative paths in the study's config and a model of one's own count from
    there, so a node that has it works in it.
    """

    def __init__(
        self, number: int, words: Sequence[str], logs: Path, folder: Path, threads: int
    ) -> None:
        self._number, self._words, self._logs = number, words, logs
        self._folder, self._threads = folder, threads
        self._started: _Started | None = None

    def start(self) -> _Started:
        """Start the process. Raises UserError where the node does not share the runs folder."""
        if self._started is not None:
            # an earlier call whose answer was lost
            return self._started
        host, own = socket.gethostname(), os.getpid()
        self._log = self._logs / f"{self._number}-{host}-{own}.log"
        environment = with_threads(self._threads)
        paths = (_ROOT, environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        try:
            with self._log.open("ab") as output:
                # in the actor's process group, so that Ray can clean up after it
                self._process = subprocess.Popen(
                    worker_command([*self._words, "--parent", str(own)]),
                    cwd=self._folder if self._folder.is_dir() else None,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        except OSError as error:
            raise UserError(
                f"{self._logs} on node {host}: {error.strerror}; share --runs with every node of"
                " the cluster, under the same path"
            ) from None
        import ray

        node = ray.get_runtime_context().get_node_id()
        self._started = _Started(owner_name(self._process.pid), host, node, self._log)
        return self._started

    def poll(self) -> WorkerEnd | None:
        """How the process ended; None while it runs."""
        code = self._process.poll()
        return None if code is None else ended_with(code, self._log)

    def end(self) -> None:
        """Ask the worker to put its trial back and to leave."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()


@dataclass(kw_only=True)
class _Worker(Worker):
    ray_worker: Any
    # what the actor was asked last
    answer: Any
    asked_s: float
    waiting_reported: bool = False
    started: _Started | None = None


@dataclass
class RayLauncher(Launcher[_Worker]):
    """Workers on a Ray cluster.

    options: workers None: as many as the cluster has GPUs, or CPUs, for. logs: folder below the
    runs folder. threads: CPUs of each worker, default 1. most: there is work for so many.

    Entering raises UserError where Ray is not installed or no cluster answers; none is started.
    """

    options: RunOptions
    study: str
    logs: Path
    threads: int | None = None
    most: int | None = None

    def __enter__(self) -> RayLauncher:
        self._ray = _connected(self.options.ray_address)
        try:
            self._plan()
            self.logs = self.logs.absolute()
            self.logs.mkdir(parents=True, exist_ok=True)
            self._workers = [self._start(number) for number in range(1, self._count + 1)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._ray.shutdown()

    def _plan(self) -> None:
        """Decide what a worker is and how many there are, from what the cluster has."""
        has, options = self._ray.cluster_resources(), self.options.absolute()
        self._cpus = self.threads or 1
        gpus = 0.0 if options.device == "cpu" else options.gpus_per_worker
        wanted = options.device == "cuda" or has.get("GPU", 0) > 0
        self._gpus = float(wanted) if gpus is None else gpus
        if self._gpus > 1 and self._gpus % 1:
            raise UserError(f"--gpus-per-worker {gpus:g}: above 1, Ray shares out whole GPUs only")
        room = has.get("GPU", 0) / self._gpus if self._gpus else has.get("CPU", 0) / self._cpus
        count = options.workers or max(1, int(room))
        self._count = count if self.most is None else min(count, self.most)
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self._needs = counted(self._cpus, "CPU")
        if self._gpus:
            self._needs += f" and {counted(self._gpus, 'GPU')}"
        LOG.info(
            f"{counted(self._count, 'worker')} on a Ray cluster of {counted(len(nodes), 'node')},"
            f" {self._needs} each; logs in {self.logs}"
        )
        self._words = options.worker_words(self.study)
        self._words += worker_place("cuda" if self._gpus else "cpu", self._cpus)
        if (
            parse_url(options.storage).path is not None
            and len({node["NodeManagerAddress"] for node in nodes}) > 1
        ):
            LOG.info(
                "note: a SQLite store on several machines depends on the locks of a network file"
                " system; PostgreSQL is the store that machines share"
            )

    def _start(self, number: int) -> _Worker:
        actor = self._ray.remote(RayWorker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            # a new one is started here instead, and the user hears of it
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        ray_worker = actor.remote(number, self._words, self.logs, Path.cwd(), self._cpus)
        return _Worker(
            number=number,
            ray_worker=ray_worker,
            answer=ray_worker.start.remote(),
            asked_s=time.monotonic(),
        )

    def look(self, done: Callable[[], bool]) -> bool:
        """A worker for which the cluster has no room counts as at work while something is."""
        at_work = super().look(done)
        waiting = [worker for worker in self._workers if not worker.started]
        for worker in waiting:
            if not worker.waiting_reported and time.monotonic() - worker.asked_s > _ROOM_S:
                worker.waiting_reported = True
                LOG.info(
                    f"worker {worker.number} waits for room in the cluster: it needs {self._needs}"
                )
        return at_work or (bool(waiting) and not done())

    def _hear(self) -> None:
        # never waits
        asked = {worker.answer: worker for worker in self._workers if not worker.ended}
        if not asked:
            return
        answers, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for answer in answers:
            worker = asked[answer]
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, UserError):
                    raise
                worker.ended = WorkerEnd(2, "could not start", str(error.cause))
            except self._ray.exceptions.ActorUnavailableError:
                # it comes back, or Ray gives it up
                pass
            except self._ray.exceptions.RayError as error:
                worker.ended = self._fate(worker, error)
            else:
                if isinstance(said, _Started):
                    worker.started, worker.owner, worker.log = said, said.owner, said.log
                else:
                    worker.ended = said
            if worker.ended is None:
                ask = worker.ray_worker.poll if worker.started else worker.ray_worker.start
                worker.answer = ask.remote()
            else:
                # its place in the cluster is free for the next
                self._dismiss(worker)

    def _fate(self, worker: _Worker, error: Exception) -> WorkerEnd:
        """What became of a worker whose actor answers with an error."""
        kind = type(error).__name__
        if "failed to import" in str(error):
            fix = "install this project on every node, in the Python that runs Ray"
            said = f"--launcher ray: a node of the cluster cannot import {__name__}; {fix}"
            return WorkerEnd(2, f"could not start ({kind})", said)
        if worker.started is None:
            return WorkerEnd(None, f"could not start ({kind})")
        living = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        what = "Ray actor" if worker.started.node in living else "node"
        return WorkerEnd(None, f"ended with its {what} on {worker.started.host} ({kind})")

    def _dismiss(self, worker: _Worker) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.ray_worker)

    def ask_to_end(self) -> None:
        self._hear()
        for worker in self._workers:
            if worker.started and not worker.ended:
                worker.ray_worker.end.remote()
            elif not worker.started:
                worker.ended = WorkerEnd(0, "was not started")
                # if it starts at this moment, it finds its parent gone before it takes a trial
                self._dismiss(worker)

    def kill(self) -> None:
        left = [worker for worker in self._workers if not worker.ended]
        killed = [worker.ray_worker.kill.remote() for worker in left if worker.started]
        if killed:
            self._ray.wait(killed, num_returns=len(killed), timeout=_KILL_S)
        for worker in left:
            worker.ended = WorkerEnd(None, "was killed")
            self._dismiss(worker)


def _connected(address: str | None) -> Any:
    """Ray, connected to a cluster that runs already. Raises UserError."""
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    # importing Ray and connecting both take over SIGTERM
    before = signal.getsignal(signal.SIGTERM)
    # pages about a lost node, on standard output and whatever the level of logging; a launcher
    # says it in a line. Read while Ray is imported
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray

        if wanted != "auto":
            _knock(wanted)
        ray.init(wanted, log_to_driver=False, logging_level=logging.CRITICAL)
    except ImportError:
        raise UserError(
            "--launcher ray: Ray is not installed; pip install 'face-parsing-search[ray]'"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        said = one_line(error).partition(". ")[0]
        where = "on this machine" if wanted == "auto" else f"at {wanted}"
        raise UserError(
            f"--launcher ray: cannot join a Ray cluster {where} ({said}); start one with"
            " `ray start --head`, or give --ray-address HOST:PORT"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return ray


def _knock(address: str) -> None:
    """Raise OSError or ValueError where nothing listens: Ray itself would try for four minutes.

    "local" is refused as well: to Ray that means a cluster of this process's own.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator:
        raise ValueError("HOST:PORT is needed")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
