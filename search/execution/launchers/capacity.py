"""How many trials at a time a device carries: measured once, by trainings side by side."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from search.execution.launchers.launcher import last_words, with_threads
from search.study.wording import counted
from trainer.cli import one_line
from trainer.config import Config, to_dict, to_yaml
from trainer.data.cache import usable_folder
from trainer.errors import UserError
from trainer.files import atomic_write_text
from trainer.probe import OUT_OF_MEMORY, READY

LOG = logging.getLogger(__name__)
ON_A_GPU = (1, 2, 4, 8)
# a sum that grows by less is not worth twice the processes
GROWTH = 1.05
MARGIN = 1.1
# seconds that a probe may take besides warming up and measuring
_START_S = 180.0
# and to end where it is asked to
_ENDING_S = 10.0
_DEVICE_KEYS = ("device", "threads")


@dataclass(frozen=True)
class Reading:
    """Probes side by side. images_per_s: of all together; peak_mb: of the largest one."""

    images_per_s: float
    peak_mb: float

    def fits(self, workers: int, free_mb: float) -> bool:
        """Whether so many would have room, with something to spare."""
        return workers * self.peak_mb * MARGIN <= free_mb


@dataclass(frozen=True)
class Device:
    """What is measured. name: cpu or cuda:i. threads: of each worker, None shares the cores."""

    name: str
    cores: int
    threads: int | None = None

    def threads_of(self, workers: int) -> int:
        return self.threads or max(1, self.cores // workers)

    @property
    def hardware(self) -> str:
        if self.name.startswith("cuda"):
            return str(torch.cuda.get_device_name(self.name))
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        return platform.machine()


# by number of workers, in the order of measuring; None: did not fit
Readings = Mapping[int, Reading | None]


def candidates(device: Device) -> list[int]:
    """Numbers of workers to try, rising."""
    if device.name != "cpu":
        return list(ON_A_GPU)
    doubled = [2**power for power in range(device.cores.bit_length())]
    return sorted({*doubled, device.cores})


def climb(
    tries: Sequence[int], measure: Callable[[int], Reading | None], free_mb: float
) -> dict[int, Reading | None]:
    """Readings for rising numbers of workers, until more bring nothing.

    measure: None says that the memory did not suffice, which also ends the climb. free_mb: of the
    device before any worker was there.
    """
    readings: dict[int, Reading | None] = {}
    last: Reading | None = None
    for workers in tries:
        fits = last is None or last.fits(workers, free_mb)
        reading = readings[workers] = measure(workers) if fits else None
        if reading is None:
            break
        if last is not None and reading.images_per_s < GROWTH * last.images_per_s:
            break
        last = reading
    return readings


def chosen(readings: Readings, free_mb: float) -> int:
    """The fewest workers that fit whose sum is within 5 % of the best; 1 where nothing fits.

    free_mb: now; others may use the device as well since it was measured.

    >>> chosen({1: Reading(240, 900), 2: Reading(410, 900), 4: Reading(415, 900)}, 8000)
    2
    >>> chosen({1: Reading(240, 900), 2: Reading(410, 900), 4: Reading(415, 900)}, 1500)
    1
    """
    fitting = {
        workers: reading.images_per_s
        for workers, reading in readings.items()
        if reading is not None and reading.fits(workers, free_mb)
    }
    best = max(fitting.values(), default=0.0)
    return min((workers for workers, total in fitting.items() if total * GROWTH >= best), default=1)


def result_line(readings: Readings, free_mb: float, *, remembered: bool) -> str:
    """The measurement in one line."""
    shown = ", ".join(
        f"{workers}: {'does not fit' if one is None else f'{one.images_per_s:.0f} images/s'}"
        for workers, one in readings.items()
    )
    peaks = [one.peak_mb for one in readings.values() if one is not None]
    each = f"{max(peaks) / 1e3:.1f} GB each at most, " if peaks else ""
    how = "measured earlier" if remembered else "measured"
    return (
        f"{counted(chosen(readings, free_mb), 'worker')} per device: {shown};"
        f" {each}{free_mb / 1e3:.1f} GB free ({how})"
    )


def workers_per_device(
    config: Config,
    device: Device,
    *,
    pictures: int,
    val: int,
    seconds: tuple[float, float] = (2.0, 4.0),
    environment: Mapping[str, str] | None = None,
    by_mps: bool = False,
) -> int:
    """How many trainings of `config` side by side are fastest on one device.

    pictures, val: of the two parts, which lie in a GPU's memory.
    seconds: warm-up and measuring of each step. environment: variables that the workers will have
    besides. by_mps: whether they compute at the same time on a GPU. Remembered in the cache folder
    by device, versions and what decides on speed and memory. Raises UserError if the config cannot
    be trained.
    """
    key = _key(config, device, (pictures, val), by_mps)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    file = usable_folder() / f"{digest}-packing.json"
    # before any of ours is there
    free_mb = free_memory_mb(device)
    readings = _remembered(file, free_mb)
    remembered = readings is not None
    if readings is None:
        LOG.info(f"measuring how many workers {device.hardware} carries: about a minute, once")
        readings = climb(
            candidates(device),
            lambda workers: side_by_side(
                config,
                device,
                workers,
                pictures=pictures,
                val=val,
                seconds=seconds,
                environment=environment,
            ),
            free_mb,
        )
        kept = {n: None if one is None else vars(one) for n, one in readings.items()}
        content = {"key": key, "free_mb": free_mb, "readings": kept}
        atomic_write_text(file, json.dumps(content, indent=1))
    LOG.info(result_line(readings, free_mb, remembered=remembered))
    return chosen(readings, free_mb)


def free_memory_mb(device: Device) -> float:
    """What nobody has of a device's memory. Raises UserError where it does not say."""
    # a process of its own: one that has used a GPU holds some of its memory to its end
    command = [sys.executable, "-m", "trainer.probe", "--free", "--device", device.name]
    said = subprocess.run(command, capture_output=True, text=True, env=with_threads(1))
    try:
        return float(json.loads(said.stdout)["free_memory_mb"])
    except (ValueError, LookupError):
        why = one_line(said.stderr).removeprefix("error: ") or f"exit code {said.returncode}"
        raise UserError(f"--workers-per-device auto: {why}; give a number") from None


def _key(config: Config, device: Device, pictures: tuple[int, int], by_mps: bool) -> dict[str, Any]:
    whole = to_dict(config)
    return {
        "device": device.hardware,
        "kind": device.name.partition(":")[0],
        "torch": torch.__version__,
        "cores": device.cores,
        "threads": device.threads,
        "pictures": list(pictures),
        "mps": by_mps,
        "model": whole["model"],
        "image_size": config.data.image_size,
        "batch_size": config.data.batch_size,
        "augmentation": whole["augmentation"],
        "loss": whole["loss"],
        "runtime": {k: v for k, v in whole["runtime"].items() if k not in _DEVICE_KEYS},
    }


def _remembered(file: Path, free_mb: float) -> dict[int, Reading | None] | None:
    """What was measured earlier, where it holds now that so much memory is free."""
    # a file that is not whole is measured anew
    with suppress(OSError, ValueError, LookupError, AttributeError, TypeError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        readings = {
            int(n): None if one is None else Reading(**one) for n, one in stored["readings"].items()
        }
        # what did not fit beside others may fit now that they are gone
        if None not in readings.values() or free_mb <= MARGIN * float(stored["free_mb"]):
            return readings
    return None


# --------------------------------------------------------------------------------- side by side


def side_by_side(
    config: Config,
    device: Device,
    workers: int,
    *,
    pictures: int,
    val: int = 32,
    seconds: tuple[float, float] = (2.0, 4.0),
    environment: Mapping[str, str] | None = None,
) -> Reading | None:
    """Train `workers` times at once for a few seconds; None if the memory does not suffice.

    pictures, val: of the two parts. seconds: warm-up and measuring. environment: variables
    besides those of this process. Raises UserError with a probe's own last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        threads = device.threads_of(workers)
        command = [sys.executable, "-m", "trainer.probe", "--config", str(file), "--wait"]
        command += ["--device", device.name, "--threads", str(threads)]
        command += ["--pictures", str(pictures), "--val", str(val)]
        command += ["--warmup-s", str(seconds[0]), "--seconds", str(seconds[1])]
        patience_s = _START_S + sum(seconds)
        variables = with_threads(threads) | dict(environment or {})
        with _probes(command, workers, variables, Path(folder), patience_s) as probes:
            if _answers(probes) is None:
                return None
            # all are warm by now: they are to measure over the same seconds
            for probe in probes:
                with suppress(BrokenPipeError):
                    print("go", file=probe.process.stdin, flush=True)
            answers = _answers(probes)
    if answers is None:
        return None
    readings = [json.loads(answer) for answer in answers]
    return Reading(
        sum(one["images_per_s"] for one in readings),
        max(one["peak_memory_mb"] for one in readings),
    )


class _Probe(NamedTuple):
    process: subprocess.Popen[str]
    log: Path
    # set once all have been silent for too long
    late: threading.Event


@contextmanager
def _probes(
    command: Sequence[str],
    count: int,
    environment: Mapping[str, str],
    folder: Path,
    patience_s: float,
) -> Iterator[list[_Probe]]:
    """Processes of `command`, none of which outlives the block or its patience."""
    probes: list[_Probe] = []
    late = threading.Event()

    def give_up() -> None:
        late.set()
        for probe in probes:
            probe.process.kill()

    clock = threading.Timer(patience_s, give_up)
    clock.start()
    try:
        for number in range(count):
            log = folder / f"{number}.log"
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                )
            probes.append(_Probe(process, log, late))
        yield probes
    finally:
        clock.cancel()
        # not at once: of NVIDIA's MPS a client that is killed at work may take its server along
        for probe in probes:
            probe.process.terminate()
        until_s = time.monotonic() + (0 if late.is_set() else _ENDING_S)
        for probe in probes:
            # closes the pipes as well; what is still in them is of no use
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                probe.process.communicate(timeout=max(0, until_s - time.monotonic()))
        for probe in probes:
            probe.process.kill()
            with suppress(BrokenPipeError):
                probe.process.communicate()


def _answers(probes: Sequence[_Probe]) -> list[str] | None:
    """The next line of every probe; None if one ran out of memory. Raises UserError."""
    lines = []
    for probe in probes:
        assert probe.process.stdout is not None
        # a user's own network may print as well
        said_lines = (line.strip() for line in probe.process.stdout)
        line = next((one for one in said_lines if one == READY or one.startswith("{")), "")
        if probe.late.is_set():
            raise UserError(
                "--workers-per-device auto: a training of a few seconds did not end; give a number"
            )
        if not line:
            # the system's own answer to too little memory is SIGKILL
            if probe.process.wait() in (OUT_OF_MEMORY, -signal.SIGKILL):
                return None
            said = last_words(probe.log).removeprefix("error: ")
            raise UserError(f"--workers-per-device auto: {said}")
        lines.append(line)
    return lines
