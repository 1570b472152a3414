"""How fast one configuration trains here, and in how much memory: `python -m trainer.probe`.

    python -m trainer.probe --config trial.yaml --device cuda:0

Trains and scores for a few seconds on pictures of noise, since speed does not ask what they show,
and prints one line of JSON: images_per_s and peak_memory_mb (of the device on a GPU, of the
process on a CPU), scoring included. `search.run --workers-per-device auto` starts several side by
side; an exit code of 3 says that the memory did not suffice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
# pictures: scoring takes no more at once, or as many as a micro-batch where that is more
_SCORED = 32


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m trainer.probe", description=__doc__)
    it.add_argument("--config", type=Path, metavar="FILE", help="YAML to train")
    it.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:i")
    it.add_argument("--threads", type=int, metavar="N", help="CPU threads to use")
    it.add_argument(
        "--pictures", type=int, default=256, metavar="N", help="in the train part (default: 256)"
    )
    it.add_argument(
        "--val", type=int, default=_SCORED, metavar="N", help="in the val part (default: 32)"
    )
    it.add_argument(
        "--free",
        action="store_true",
        help="train nothing; print free_memory_mb of the device as JSON",
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
    it = parser()
    args = it.parse_args(argv)
    if args.config is None and not args.free:
        it.error("--config is needed to train something; or give --free")
    return guarded(lambda: _main(args), printed=True)


def _main(args: argparse.Namespace) -> int:
    # after the arguments: --help need not wait for torch
    from trainer.config import read_config, with_values
    from trainer.runtime import choose_runtime, chosen_device, is_out_of_memory

    if args.free:
        free_mb = _free_memory_mb(chosen_device(args.device or "auto"))
        print(json.dumps({"free_memory_mb": round(free_mb, 1)}), flush=True)
        return 0
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
    from trainer.runtime import release

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
    device, batch_size = config.runtime.device, config.data.batch_size
    watch = _Watch(batch_size, device.startswith("cuda"), args.warmup_s, args.seconds, args.wait)
    pictures = max(args.pictures, batch_size)
    size, val = config.data.image_size, max(args.val, 1)
    with tempfile.TemporaryDirectory() as out:
        # first an epoch of two steps, so that scoring has its part in the peak of the memory
        scored = max(_SCORED, config.runtime.micro_batch or batch_size)
        brief = noise(size, pictures, val, train_seen=2 * batch_size, val_seen=scored)
        fit(config, brief, out=Path(out), last_epoch=1)
        release(device)
        with contextlib.suppress(_Enough):
            fit(config, noise(size, pictures, val), out=Path(out), lap=watch.lap)
    return {
        "images_per_s": round(watch.images_per_s, 2),
        "peak_memory_mb": round(_peak_memory_mb(device), 1),
    }


def _peak_memory_mb(device: str) -> float:
    """The most that this process has had so far."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device) / 1e6 + CUDA_CONTEXT_MB
    # not getrusage: its figure begins with the memory of the process that started this one
    return _kilobytes(Path("/proc/self/status"), "VmHWM") * 1024 / 1e6


def _free_memory_mb(device: str) -> float:
    """What nobody has of a device's memory, or of this machine's or container's."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] / 1e6
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text))
    return free / 1e6


def _kilobytes(file: Path, name: str) -> int:
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines[name].split()[0])


@dataclass(frozen=True)
class Parts:
    """The parts of a data set that training asks for."""

    train: Part
    val: Part

    def part(self, name: str) -> Part:
        return self.train if name == "train" else self.val


def noise(
    size: int,
    pictures: int,
    val: int = _SCORED,
    *,
    train_seen: int | None = None,
    val_seen: int | None = None,
) -> FaceData:
    """A data set of one picture of noise, `pictures` times to train on and `val` times to score;
    nothing is decoded or stored.

    train_seen, val_seen: an epoch uses the first of them alone; the others lie in memory as well.
    """
    import numpy as np

    from trainer.data.dataset import Part
    from trainer.data.synthetic import SyntheticSource

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = random.integers(0, 19, (size, size), dtype=np.uint8)

    def part(count: int, seen: int | None) -> Part:
        used = count if seen is None else min(seen, count)
        names = tuple(str(number) for number in range(used))
        images = np.broadcast_to(image, (count, *image.shape))
        masks = np.broadcast_to(mask, (count, *mask.shape))
        return Part(names, images, masks, SyntheticSource(used), tuple(range(used)))

    # only the parts of it are used
    return cast("FaceData", Parts(part(pictures, train_seen), part(val, val_seen)))


if __name__ == "__main__":
    sys.exit(main())
