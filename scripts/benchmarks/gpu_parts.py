"""What `scripts/bench gpu` measures, a function a part, each called in a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import numpy as np
import torch

from scripts.benchmarks.common import passing_on, record, tell
from scripts.benchmarks.kernel_trace import window_of
from scripts.benchmarks.roofline import measured_rates, priced, rates_of
from scripts.benchmarks.traffic import Traffic
from scripts.benchmarks.train import DICE_WEIGHT, DROPOUT, LABEL_SMOOTHING, Arrangement, Job
from scripts.benchmarks.train import measured as rival_measured
from trainer.cli import one_line
from trainer.config import Config, with_values
from trainer.data.dataset import FaceData, Part, load_faces
from trainer.fit import Progress, derived_seed, fit
from trainer.lmsa import channels_at
from trainer.presets import preset_values, steps_per_epoch
from trainer.probe import Parts
from trainer.runtime import applied, choose_runtime, usable_cores
from trainer.scoring import final_scores

if TYPE_CHECKING:
    from search.execution.launchers.capacity import Device

PARTS = ("val", "test")
RIVALS = ("plain", "tuned")
# of the data set that trials an hour are told for: as many as the published small set has
TRAIN, VAL = 1600, 200
# profiled steps, and kernels that are listed
_PROFILED, _LISTED = 30, 15
_MARK = "measured steps"
# a checkpoint's pictures that are scored at their masks' own size, to know how long one takes
_FULL_SIZE_SCORED = 40
# of a training that is compared: epochs, and steps of each
_EPOCHS, _STEPS = 3, 3
# of them as well: so high that other draws show
_DROPOUT = 0.5
# captured steps are to be the eager ones: what sums in no fixed order may differ by, relatively,
# where two eager trainings do not differ more. Other draws of dropout make it 5e-3
_SAME = {"float32": 2e-4, "bfloat16": 1e-3}

Result = dict[str, Any]


class TimeUp(Exception):
    """The time of this call is used up; a checkpoint is on disk."""


class Enough(Exception):
    """Measured for as long as was asked; ends a training."""


@dataclass(frozen=True)
class Setting:
    """What the parts share. device: cpu or cuda:i. faces: in the course layout. pictures: in the
    train part of a measured training, None for what fills a second or so. seconds: of a measurement
    of workers. steps: of the preset `full`. until_s: on the clock `time.monotonic`.
    """

    device: str
    faces: Path
    out: Path
    pictures: int | None
    seconds: float
    steps: int
    trials: int
    loader_workers: int
    until_s: float

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def pictures_at(self, size: int) -> int:
        """So many that an epoch takes long enough to be timed, and no host runs out of memory."""
        return self.pictures or min(6000, 1200 * max(1, 512 // size) ** 2)

    def config(self, size: int, **values: object) -> Config:
        """The preset `full` at this size, with the numbers that the rivals have; decided."""
        own = preset_values("full", root=str(self.faces)) | {
            "data.root": str(self.faces),
            "data.image_size": size,
            "model.dropout": DROPOUT,
            "loss.dice_weight": DICE_WEIGHT,
            "loss.label_smoothing": LABEL_SMOOTHING,
            "training.epochs": 2,
            "training.early_stopping_patience": None,
            "runtime.device": self.device,
        }
        return choose_runtime(with_values(Config(), {**own, **values}))

    def data(self, size: int, train: int, val: int) -> FaceData:
        """The faces again and again, until there are enough: in memory, on one grid."""
        faces = load_faces(str(self.faces), image_size=size)
        return cast("FaceData", Parts(_repeated(faces.train, train), _repeated(faces.val, val)))


def _repeated(part: Part, count: int) -> Part:
    chosen = np.arange(count) % len(part)
    return Part(
        tuple(f"{number}-{part.stems[index]}" for number, index in enumerate(chosen)),
        part.images[chosen],
        part.masks[chosen],
        part.source,
        tuple(part.indices[index] for index in chosen),
    )


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """No training captures its steps meanwhile."""
    with mock.patch("trainer.cuda_graph.can_be_captured", return_value=False):
        yield


@contextlib.contextmanager
def _other_draws() -> Iterator[None]:
    """Dropout draws other numbers meanwhile; all else stays."""

    def seed(seed: int, *purpose: int | str) -> int:
        return derived_seed(seed, *purpose) + (purpose[0] == "dropout")

    with mock.patch("trainer.fit.derived_seed", seed):
        yield


def _synchronise(device: str) -> float:
    """What the device was asked is done; the time."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


# ----------------------------------------------------------------------------------------- machine


def machine(setting: Setting) -> Result:
    """Hardware and versions, and what a GPU says of itself."""
    found: Result = record("scripts/bench gpu", [])
    if setting.cuda:
        it = torch.cuda.get_device_properties(setting.device)
        free, whole = torch.cuda.mem_get_info(setting.device)
        found |= {
            "gpu": it.name,
            "compute_capability": f"{it.major}.{it.minor}",
            "multiprocessors": it.multi_processor_count,
            "memory_mb": whole / 1e6,
            "free_mb": free / 1e6,
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi": _nvidia_smi("name", "driver_version", "power.limit", "clocks.max.sm"),
        }
    return found


def _nvidia_smi(*what: str) -> list[str] | None:
    """A line for each GPU; None where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(what)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip().splitlines()


# --------------------------------------------------------------------------------- captured steps


@dataclass
class _Phases:
    """A `lap` that knows the epoch and phase, and what waited for the device in it."""

    phases: set[str] = field(default_factory=set)
    epochs: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    caught: list[warnings.WarningMessage] | None = None

    def lap(self, phase: str) -> None:
        if self.epochs:
            self.phases.add(phase)
            self._sort(phase)
        if phase == "checkpoint":
            self.epochs += 1
            if self.caught is not None and self.epochs == 1:
                # not before: a capture uses the mode itself
                torch.cuda.set_sync_debug_mode("warn")
                self.caught.clear()

    def _sort(self, phase: str) -> None:
        for one in self.caught or ():
            if "synchronizing CUDA operation" in str(one.message):
                self.waits[f"{phase}: {Path(one.filename).name}:{one.lineno}"] += 1
        if self.caught is not None:
            self.caught.clear()


def capture(setting: Setting) -> Result:
    """Whether captured steps are the eager ones on this device, and what they wait for.

    Trainings of a few steps from one seed: two eager ones, whose difference is what sums without an
    order cost, a captured one, and with dropout one of other draws, which must differ by more.
    """
    found: Result = {"cases": []}
    chosen = setting.config(64).runtime.precision
    cases = [("float32", 0.0), ("float32", _DROPOUT)]
    cases += [(chosen, _DROPOUT)] if chosen != "float32" else []
    for precision, dropout in cases:
        case = _captured_case(setting, str(precision), dropout)
        found["cases"].append(case)
        tell(json.dumps(case))
    found["waits_per_epoch"] = found["cases"][-1].pop("waits_per_epoch")
    wrong = [one for one in found["cases"] if not (one["captured"] and one["same"])]
    if wrong:
        what = "differ from eager ones" if wrong[0]["captured"] else "could not be captured"
        found["failed"] = f"steps in {wrong[0]['precision']} {what}: see the log"
    return found


def _captured_case(setting: Setting, precision: str, dropout: float) -> Result:
    config = setting.config(
        64,
        **{
            "data.batch_size": 6,
            "model.dropout": dropout,
            "training.epochs": _EPOCHS,
            "runtime.precision": precision,
        },
    )
    data = setting.data(64, train=6 * _STEPS, val=6)

    def trained(phases: _Phases) -> list[float]:
        with tempfile.TemporaryDirectory() as out:
            rows = fit(config, data, out=Path(out), lap=phases.lap).history
        return [float(row[name]) for row in rows for name in ("train_loss", "val_ce")]

    own = _Phases()
    with eager():
        first, second = trained(own), trained(_Phases())
        with _other_draws():
            other = trained(_Phases()) if dropout else None
    _check_eager(own.phases)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        phases = _Phases(caught=caught)
        try:
            replayed = trained(phases)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    noise, apart = largest_difference(first, second), largest_difference(first, replayed)
    told_apart = math.inf if other is None else largest_difference(first, other)
    bound = max(4 * noise, _SAME[precision])
    return {
        "precision": precision,
        "dropout": dropout,
        # a replay tells no phases apart
        "captured": "forward" not in phases.phases,
        "eager_to_eager": noise if math.isfinite(noise) else None,
        # None: one is no number
        "captured_to_eager": apart if math.isfinite(apart) else None,
        "other_draws": told_apart if math.isfinite(told_apart) else None,
        "same": math.isfinite(noise) and apart <= bound and 2 * apart < told_apart,
        "waits_per_epoch": {
            where: count / (phases.epochs - 1) for where, count in sorted(phases.waits.items())
        },
    }


def _check_eager(phases: Collection[str]) -> None:
    """A replay tells no phases apart, and would be compared with itself."""
    if "forward" not in phases:
        raise RuntimeError("steps that were to be eager were replayed from a graph")


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest relative difference of two rows of numbers above 0; infinite where one is none.

    >>> largest_difference([2.0, 4.0], [2.0, 5.0])
    0.25
    """
    apart = [abs(one - two) / abs(one) for one, two in zip(first, second, strict=True)]
    return math.inf if any(math.isnan(one) for one in apart) else max(apart)


# ---------------------------------------------------------------------------------------- training


@dataclass
class _Watch:
    """Times the last epoch of a training of `steps` steps an epoch, and sees its memory."""

    device: str
    steps: int
    began_s: float
    start_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    allocated_mb: dict[str, float] = field(default_factory=dict)
    reserved_mb: dict[str, float] = field(default_factory=dict)
    _step: int = 0
    _since_s: float = 0.0

    def lap(self, phase: str) -> None:
        if phase == "optimiser":
            self._step += 1
            if not self.start_s:
                self.start_s = _synchronise(self.device) - self.began_s
            if self._step % self.steps == 0:
                self._end("training")
        elif phase in ("scoring", "checkpoint"):
            self._end(phase)

    def _end(self, phase: str) -> None:
        now_s = _synchronise(self.device)
        # the last epoch's stay
        self.seconds[phase] = now_s - self._since_s
        self._since_s = now_s
        if self.device.startswith("cuda"):
            self.allocated_mb[phase] = torch.cuda.max_memory_allocated(self.device) / 1e6
            self.reserved_mb[phase] = torch.cuda.max_memory_reserved(self.device) / 1e6


def training(
    setting: Setting, size: int, precision: str = "auto", *, compiled: bool = False
) -> Result:
    """Two epochs of `fit`: speed and memory of training, scoring and checkpoints.

    start_s: from opening the data to the end of the first step. precision: "auto" takes what a
    training takes here. compiled: whether the network is, by torch.compile.
    """
    own = {"runtime.precision": precision, "runtime.compile": compiled}
    config = setting.config(size, **own)
    train = setting.pictures_at(size)
    data = setting.data(size, train, val=max(1, train // 10))
    batch, scored = config.data.batch_size, len(data.val)
    if setting.cuda:
        torch.cuda.init()
    opened_s = _open_s(setting, size)
    watch = _Watch(setting.device, steps_per_epoch(train, batch), time.perf_counter())
    with tempfile.TemporaryDirectory() as out:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = fit(config, data, out=Path(out), lap=watch.lap)
        began_s = _synchronise(setting.device)
        few = _repeated(data.val, min(scored, _FULL_SIZE_SCORED))
        final_scores(result.best_checkpoint, few, device=config.runtime.device)
        full_size_s = (_synchronise(setting.device) - began_s) / len(few)
    found: Result = {
        "size": size,
        "precision": config.runtime.precision,
        "compiled": compiled,
        "batch": batch,
        "train": train,
        "scored": 2 * scored,
        "images_per_s": watch.steps * batch / watch.seconds["training"],
        "training_s": watch.seconds["training"],
        "scoring_s": watch.seconds["scoring"],
        "checkpoint_s": watch.seconds["checkpoint"],
        "start_s": opened_s + watch.start_s,
        "full_size_scoring_s": full_size_s,
        "final_loss": result.history[-1]["train_loss"],
        # what a training does without: graphs, kernels
        "warnings": list(dict.fromkeys(one_line(str(one.message)) for one in caught)),
    }
    if setting.cuda:
        free, whole = torch.cuda.mem_get_info(setting.device)
        found |= {
            "pictures_mb": sum(
                array.nbytes
                for part in (data.train, data.val)
                for array in (part.images, part.masks)
            )
            / 1e6,
            "allocated_mb": watch.allocated_mb,
            "reserved_mb": watch.reserved_mb,
            # with the context, and whoever else is on it
            "used_on_device_mb": (whole - free) / 1e6,
            **_tf32(config),
        }
    return found


def _open_s(setting: Setting, size: int) -> float:
    """Seconds to open the data once they are decoded."""
    began_s = time.perf_counter()
    load_faces(str(setting.faces), image_size=size)
    return time.perf_counter() - began_s


def _tf32(config: Config) -> Result:
    """Whether float32 is rounded to TF32, in trainings of ours and as torch does by itself."""

    def now() -> bool:
        return bool(torch.backends.cudnn.allow_tf32)

    theirs = now()
    with applied(config.runtime):
        return {"tf32": now(), "tf32_by_itself": theirs}


def trial_s(
    part: Result, *, steps: int, train: int = TRAIN, val: int = VAL, slower: float = 1.0
) -> float:
    """Seconds of an unpruned trial: start, training, scoring of both parts after each epoch,
    checkpoints, and the final score at the masks' own size.

    part: what `training` found. steps: of the trial, on `train` pictures. slower: how many times
    as long all but the start takes.
    """
    batch = part["batch"]
    epochs = math.ceil(steps / steps_per_epoch(train, batch))
    epoch_s = (
        steps_per_epoch(train, batch) * batch / part["images_per_s"]
        + 2 * val * part["scoring_s"] / part["scored"]
        + part["checkpoint_s"]
    )
    rest_s = epochs * epoch_s + val * part["full_size_scoring_s"]
    return float(part["start_s"] + slower * rest_s)


# ---------------------------------------------------------------------------------- profile, price


def profile(setting: Setting, size: int) -> Result:
    """Some steps as a search takes them, kernel by kernel; the trace stays in the folder."""
    # a CUDA graph does not survive that CUPTI is taken down and set up again
    os.environ |= {"DISABLE_CUPTI_LAZY_REINIT": "1", "TEARDOWN_CUPTI": "0"}
    config = setting.config(size)
    batch = config.data.batch_size
    # all of the first epoch is warm-up, and so are two steps of the second
    per_epoch = _PROFILED + 3
    data = setting.data(size, train=per_epoch * batch, val=batch)
    mark = torch.profiler.record_function(_MARK)
    steps = 0

    def lap(phase: str) -> None:
        nonlocal steps
        steps += phase == "optimiser"
        if phase != "optimiser":
            return
        if steps == per_epoch + 2:
            _synchronise(setting.device)
            mark.__enter__()
        elif steps == per_epoch + 2 + _PROFILED:
            _synchronise(setting.device)
            mark.__exit__(None, None, None)
            raise Enough

    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if setting.cuda else []
    file = setting.out / f"trace-{size}.json"
    # from the start: kernels of a graph are told apart only if it was captured under the profiler
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        with tempfile.TemporaryDirectory() as out, contextlib.suppress(Enough):
            fit(config, data, out=Path(out), lap=lap)
        _synchronise(setting.device)
    setting.out.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))
    seen = window_of(json.loads(file.read_text(encoding="utf-8")), _MARK)
    kernels = sum(kernel.runs for kernel in seen.kernels)
    found: Result = {
        "size": size,
        "steps": _PROFILED,
        "precision": config.runtime.precision,
        "step_ms": 1e3 * seen.seconds / _PROFILED,
        "busy_ms": 1e3 * seen.busy_s / _PROFILED,
        "kernels_per_step": kernels / _PROFILED,
        "between_kernels": 1 - seen.busy_s / seen.seconds,
        "groups": {name: taken / seen.busy_s for name, taken in seen.groups.items()},
        "kernels": [
            {
                "name": kernel.name,
                "runs_per_step": kernel.runs / _PROFILED,
                "ms_per_step": 1e3 * kernel.seconds / _PROFILED,
                "share": kernel.seconds / seen.busy_s,
            }
            for kernel in seen.kernels[:_LISTED]
        ],
        "trace": file.name,
    }
    if setting.cuda and kernels < _PROFILED:
        found["failed"] = f"the trace holds {kernels} kernels of {_PROFILED} steps: {file}"
    return found


def step_of(config: Config, data: FaceData) -> Traffic:
    """What one eager step of a training does: the third."""
    traffic = Traffic(config.runtime.device.partition(":")[0])
    phases: set[str] = set()
    steps, entered = 0, False

    def lap(phase: str) -> None:
        nonlocal steps, entered
        if entered:
            phases.add(phase)
        steps += phase == "optimiser"
        if phase != "optimiser":
            return
        if steps == 2:
            traffic.__enter__()
            entered = True
        elif steps == 3:
            traffic.__exit__(None, None, None)
            entered = False
            raise Enough

    try:
        with eager(), tempfile.TemporaryDirectory() as out, contextlib.suppress(Enough):
            fit(config, data, out=Path(out), lap=lap)
    finally:
        if entered:
            traffic.__exit__(None, None, None)
    _check_eager(phases)
    return traffic


def roofline(setting: Setting, sizes: Sequence[int]) -> Result:
    """What the device reaches, and what a step of ours takes at best by that."""
    config = setting.config(max(sizes))
    batch = config.data.batch_size
    with applied(config.runtime) as device:
        rates = measured_rates(
            device,
            kinds=list(dict.fromkeys(("float32", str(config.runtime.precision)))),
            size=max(sizes),
            batch=batch,
            channels=channels_at(config.model.width),
        )
    found: Result = {"rates": rates, "sizes": {}}
    for size in sizes:
        config = setting.config(size)
        precision = str(config.runtime.precision)
        seen = step_of(config, setting.data(size, train=4 * batch, val=batch))
        price = priced(seen.ops, rates_of(rates, precision))
        found["sizes"][str(size)] = {
            "precision": precision,
            "ops": price.ops,
            "moved_gb": price.moved / 1e9,
            "gflop_per_image": price.flops / 1e9 / batch,
            "step_peak_mb": seen.peak / 1e6,
            "limit_images_per_s": batch / price.seconds,
            "bound": price.bound,
            "memory_ms": 1e3 * price.memory_s,
            "arithmetic_ms": 1e3 * price.arithmetic_s,
            "launch_ms": 1e3 * price.launch_s,
            "by_place_gb": {
                place: moved / 1e9 for place, moved in list(seen.moved_by_place().items())[:_LISTED]
            },
        }
    return found


# ------------------------------------------------------------------------------------ rivals, many


def rival(setting: Setting, name: str, size: int) -> Result:
    """One rival's figures, as `scripts/bench train` measures them: float32, as it came."""
    config = setting.config(size)
    batch = config.data.batch_size
    steps = 60 if setting.pictures is None else max(2, setting.pictures // batch)
    job = Job(setting.faces, size, config.model.width, batch, steps, steps * batch)
    threads = config.runtime.threads
    assert threads is not None, "decided"
    how = Arrangement(1, threads, setting.loader_workers)
    found = rival_measured(name, job, how, steps=steps, seed=0, device=setting.device)
    return {**found, "size": size, "precision": "float32", "how": str(how)}


def workers(setting: Setting, count: int, size: int, *, mps: bool = False) -> Result:
    """Trainings at the same time: pictures a second together. mps: under NVIDIA's MPS."""
    from search.execution.launchers import mps as launcher
    from search.execution.launchers.capacity import Device, side_by_side

    device: Device = Device(setting.device, usable_cores())
    config = setting.config(size, **{"runtime.threads": device.threads_of(count)})
    found: Result = {"workers": count, "size": size, "mps": mps, "batch": config.data.batch_size}
    with launcher.SharedGpus() as shared:
        # a server that runs here anyway is kept out
        environment = {"CUDA_MPS_PIPE_DIRECTORY": os.devnull} if setting.cuda else {}
        if mps:
            with _heard(launcher.LOG) as said:
                shared.start([setting.device])
            tell("; ".join(said))
            if not shared.served:
                return {**found, "images_per_s": None, "note": said[-1]}
            environment = shared.environment
        reading = side_by_side(
            config,
            device,
            count,
            pictures=min(TRAIN, setting.pictures_at(size)),
            seconds=(setting.seconds / 2, setting.seconds),
            environment=environment,
        )
    if reading is None:
        return {**found, "images_per_s": None, "note": "does not fit into the memory"}
    return {**found, "images_per_s": reading.images_per_s, "peak_memory_mb": reading.peak_mb}


@contextlib.contextmanager
def _heard(logger: logging.Logger) -> Iterator[list[str]]:
    """The messages of a logger meanwhile."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


class _Utilisation:
    """Samples how busy the GPUs are, and how much of their memory is taken, while it is entered."""

    def __init__(self, every_s: float = 1.0) -> None:
        self.every_s = every_s
        self.busy: list[float] = []
        self.memory_mb: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _sample(self) -> None:
        while not self._ended.wait(self.every_s):
            lines = _nvidia_smi("utilization.gpu", "memory.used")
            if lines is None:
                return
            with contextlib.suppress(ValueError):
                rows = [[float(cell) for cell in line.split(",")] for line in lines]
                # of the busiest one: how nvidia-smi counts them is not how CUDA does
                self.busy.append(max(row[0] for row in rows))
                self.memory_mb.append(max(row[1] for row in rows))

    @property
    def figures(self) -> Result:
        if not self.busy:
            return {"gpu_busy": None}
        return {
            "gpu_busy": statistics.mean(self.busy) / 100,
            "gpu_memory_mb": max(self.memory_mb) * 2**20 / 1e6,
        }


def search(setting: Setting, size: int) -> Result:
    """A search from end to end: its trials, pruned ones, epochs and seconds."""
    import optuna

    from scripts.benchmarks.paired import outcome
    from search.study.lookup import load_setup
    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = setting.out / "search"
    # a search that was cut short would be timed from its middle
    shutil.rmtree(folder, ignore_errors=True)
    name = "restart-aware"
    (folder / name).mkdir(parents=True)
    command = [sys.executable, "-m", "search.run", "--trials", str(setting.trials), "--plain"]
    command += ["--study", name, "--storage", f"sqlite:///{folder / name / 'search.db'}"]
    command += ["--runs", str(folder / "runs"), "--data", str(setting.faces), "--preset", "small"]
    command += ["--image-size", str(size), "--device", setting.device, "--spend-saved", "0"]
    if setting.pictures is not None:
        command += ["--epochs", "3"]
    began_s = time.perf_counter()
    with _Utilisation() as seen:
        code = passing_on(command, stdout=sys.stderr)
    wall_s = time.perf_counter() - began_s
    found = outcome(folder, name)
    storage = open_storage(f"sqlite:///{folder / name / 'search.db'}")
    setup = load_setup(optuna.load_study(study_name=name, storage=storage))
    result: Result = {
        **{key: found[key] for key in ("answer", "finished", "pruned", "revived", "epochs")},
        "budget_epochs": setup.epochs * found["finished"],
        "wall_s": wall_s,
        "trials_per_hour": 3600 * found["finished"] / wall_s,
        "size": size,
        **seen.figures,
    }
    if code != 0 or found["finished"] < setting.trials:
        result["failed"] = (
            f"search.run ended with {code} after {found['finished']} of {setting.trials} trials"
        )
    return result


# -------------------------------------------------------------------------------------------- full


def full(setting: Setting, size: int | None) -> Result:
    """Train the preset `full` until its budget or the time is used up. Raises TimeUp."""
    config = full_config(setting, size)
    out = setting.out / "full"
    data = load_faces(
        config.data.root, image_size=config.data.image_size, parts=("train", "val", "test")
    )

    def report(progress: Progress) -> None:
        tell(f"epoch {progress.epoch}/{progress.epochs}: val F {progress.f_score:.4f}")
        if time.monotonic() > setting.until_s and progress.epoch < progress.epochs:
            raise TimeUp(f"{progress.epoch} of {progress.epochs} epochs trained")

    last = out / "last.pt"
    result = fit(config, data, out=out, report=report, resume_from=last if last.exists() else None)
    device = config.runtime.device
    scores = {
        part: final_scores(result.best_checkpoint, data.part(part), device=device) for part in PARTS
    }
    return {
        "best_epoch": result.best_epoch,
        "parameters": result.parameters,
        "seconds": round(sum(row["seconds"] for row in result.history), 1),
        **{f"f_score_full_{part}": scores[part]["f_score_full"] for part in PARTS},
        "f_score_val": scores["val"]["f_score"],
    }


def full_config(setting: Setting, size: int | None) -> Config:
    """The preset `full` on the faces, for the steps that were asked for, whatever its scores."""
    from trainer.config import compose
    from trainer.data.dataset import describe

    train = describe(str(setting.faces)).train
    flags = {"data.root": str(setting.faces), "data.image_size": size}
    config = compose(
        preset="full", train_images=train, flags={**flags, "runtime.device": setting.device}
    ).config
    epochs = math.ceil(setting.steps / steps_per_epoch(train, config.data.batch_size))
    own = {"training.epochs": epochs, "training.early_stopping_patience": None}
    return choose_runtime(with_values(config, own))
