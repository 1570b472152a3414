"""How fast one configuration trains here, and in how much memory: `python -m trainer.probe`.

    python -m trainer.probe --config trial.yaml --device cuda:0

Trains for a few seconds on pictures of noise, since speed does not ask what they show, and prints
one line of JSON: images_per_s, peak_memory_mb (of the device on a GPU, of the process on a CPU)
and device_memory_mb (what there is). `search.run --workers-per-device auto` starts several side by
side; an exit code of 3 says that the memory did not suffice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trainer.cli import Parser, guarded, one_line

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.data.dataset import FaceData, Part

OUT_OF_MEMORY = 3
READY = "ready"
# libraries, kernels and the driver's own: in no statistics of PyTorch's allocator
CUDA_CONTEXT_MB = 600.0
# enough to score something; how long scoring takes is not the question
_SCORED = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m trainer.probe", description=__doc__)
    it.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML to train")
    it.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:i")
    it.add_argument("--threads", type=int, metavar="N", help="CPU threads to use")
    it.add_argument(
        "--pictures", type=int, default=256, metavar="N", help="in the train part (default: 256)"
    )
    it.add_argument(
        "--warmup-s", type=float, default=2.0, metavar="S", help="not measured (default: 2)"
    )
    it.add_argument("--seconds", type=float, default=4.0, metavar="S", help="(default: 4)")
    it.add_argument(
        "--wait",
        action="store_true",
        help=f'after the warm-up print "{READY}" and wait for a line on standard input, so that'
        " several start together",
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _main(args), printed=True)


def _main(args: argparse.Namespace) -> int:
    # after the arguments: --help need not wait for torch
    from trainer.config import read_config, with_values
    from trainer.runtime import choose_runtime, is_out_of_memory

    own = {"runtime.device": args.device, "runtime.threads": args.threads}
    config = read_config(args.config)[0]
    config = with_values(config, {name: value for name, value in own.items() if value is not None})
    try:
        reading = measured(choose_runtime(config), args)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: out of memory: {one_line(error)}", file=sys.stderr, flush=True)
        return OUT_OF_MEMORY
    print(json.dumps(reading), flush=True)
    return 0


class _Enough(Exception):
    """Measured for as long as was asked."""


@dataclass
class _Watch:
    """Sees every optimiser step; the clock runs from the first after the warm-up on."""

    batch_size: int
    cuda: bool
    warmup_s: float
    seconds: float
    wait: bool
    began_s: float | None = None
    measuring: bool = False
    steps: int = 0
    images_per_s: float = 0.0

    def lap(self, phase: str) -> None:
        """What `fit` calls at the end of each phase. Raises _Enough."""
        if phase != "optimiser":
            return
        self.steps += 1
        if self.began_s is None:
            # the first step compiles, chooses kernels and fills the allocator
            self._restart()
            return
        elapsed_s = time.perf_counter() - self.began_s
        if not self.measuring and elapsed_s >= self.warmup_s:
            if self.wait:
                print(READY, flush=True)
                if not sys.stdin.readline():
                    raise _Enough
            self.measuring = True
            self._restart()
        elif self.measuring and elapsed_s >= self.seconds:
            self._synchronise()
            elapsed_s = time.perf_counter() - self.began_s
            self.images_per_s = self.steps * self.batch_size / elapsed_s
            raise _Enough

    def _restart(self) -> None:
        self._synchronise()
        self.began_s, self.steps = time.perf_counter(), 0

    def _synchronise(self) -> None:
        # a GPU is behind what Python has asked of it
        if self.cuda:
            import torch

            torch.cuda.synchronize()


def measured(config: Config, args: argparse.Namespace) -> dict[str, float]:
    """Train `config`, whose runtime is decided, as `args` ask; what the probe prints."""
    from trainer.config import with_values
    from trainer.fit import fit

    # a budget that is not used up and steps too small to diverge; the work of a step stays
    config = with_values(
        config,
        {
            "training.epochs": 1_000_000,
            "training.early_stopping_patience": None,
            "training.learning_rate": 1e-6,
            "training.scheduler_params.T_0": None,
            "training.scheduler_params.eta_min": 0.0,
        },
    )
    cuda = config.runtime.device.startswith("cuda")
    watch = _Watch(config.data.batch_size, cuda, args.warmup_s, args.seconds, args.wait)
    pictures = max(args.pictures, config.data.batch_size)
    with tempfile.TemporaryDirectory() as out, contextlib.suppress(_Enough):
        fit(config, noise(config.data.image_size, pictures), out=Path(out), lap=watch.lap)
    peak_mb, device_mb = _memory_mb(config.runtime.device)
    return {
        "images_per_s": round(watch.images_per_s, 2),
        "peak_memory_mb": round(peak_mb, 1),
        "device_memory_mb": round(device_mb, 1),
    }


def _memory_mb(device: str) -> tuple[float, float]:
    """Peak used by this process, and what the device has, in MB."""
    import torch

    if device.startswith("cuda"):
        reserved = torch.cuda.max_memory_reserved(device) / 1e6
        return reserved + CUDA_CONTEXT_MB, torch.cuda.mem_get_info(device)[1] / 1e6
    # not getrusage: its figure begins with the memory of the process that started this one
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6, _machine_mb()


def _machine_mb() -> float:
    """Memory that this machine, or the container, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    return total / 1e6


@dataclass(frozen=True)
class _Noise:
    """The parts of a data set that training asks for."""

    train: Part
    val: Part

    def part(self, name: str) -> Part:
        return self.train if name == "train" else self.val


def noise(size: int, pictures: int) -> FaceData:
    """A data set of one picture of noise, seen `pictures` times; nothing is decoded or stored."""
    import numpy as np

    from trainer.data.dataset import Part
    from trainer.data.synthetic import SyntheticSource

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = random.integers(0, 19, (size, size), dtype=np.uint8)

    def part(count: int) -> Part:
        names = tuple(str(number) for number in range(count))
        images = np.broadcast_to(image, (count, *image.shape))
        masks = np.broadcast_to(mask, (count, *mask.shape))
        return Part(names, images, masks, SyntheticSource(count), tuple(range(count)))

    # only the parts of it are used
    return cast("FaceData", _Noise(part(pictures), part(_SCORED)))


if __name__ == "__main__":
    sys.exit(main())
