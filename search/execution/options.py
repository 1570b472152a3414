"""What a run is asked for, and what its workers hear of that."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from storage.url import parse_url

# exit code of a worker that can no longer use its GPU; its trial waits for the next one
LOST_ITS_GPU = 3


@dataclass(frozen=True)
class RunOptions:
    """What one run is asked for.

    storage: URL. runs: folder. trials: finished ones that the study should reach. stop_after: end
    when so many trials brought nothing better. stop_when_settled: end when none may be expected to.
    timeout: seconds. workers: in all, per_device: on
    each device instead, "auto" is measured; both None: one per GPU, or per core. ray_address: of
    the cluster; None: what RAY_ADDRESS or the cluster that runs on this machine says.
    gpus_per_worker: with Ray: 0.5 puts two on one GPU, 0 computes on CPUs, None: 1 where the
    cluster has any or cuda is asked for. on_event: for `sh -c`. log, log_format: as in
    `search.commands.messages`.
    """

    storage: str
    runs: str
    trials: int = 0
    stop_after: int | None = None
    stop_when_settled: bool = False
    timeout: float | None = None
    launcher: str = "local"
    device: str = "auto"
    workers: int | None = None
    per_device: int | str | None = None
    ray_address: str | None = None
    gpus_per_worker: float | None = None
    on_event: str | None = None
    log: str | None = None
    log_format: str = "text"

    def worker_words(self, study: str) -> list[str]:
        """The arguments of search.worker that all workers of the run have in common."""
        words = ["--storage", self.storage, "--study", study, "--runs", self.runs]
        if self.stop_after is not None:
            words += ["--stop-after", str(self.stop_after)]
        if self.stop_when_settled:
            words += ["--stop-when-settled"]
        if self.log is not None:
            words += ["--log", self.log, "--log-format", self.log_format]
        return words

    def absolute(self) -> RunOptions:
        """The same for a process with another working folder."""
        log = None if self.log is None else os.path.abspath(self.log)
        url, runs = parse_url(self.storage).text, os.path.abspath(self.runs)
        return replace(self, storage=url, runs=runs, log=log)


def worker_command(words: Sequence[str]) -> list[str]:
    """A worker's whole command line."""
    return [sys.executable, "-m", "search.worker", *words]


def worker_place(device: str, threads: int) -> list[str]:
    """The arguments that say where a worker computes."""
    return ["--device", device, "--threads", str(threads)]
