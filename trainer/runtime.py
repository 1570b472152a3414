"""How training is computed here: device, threads, precision. Decided once, recorded, repeated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.config import Config, RuntimeConfig, with_values
from trainer.errors import ConfigError


def usable_cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def choose_runtime(
    config: Config, *, device: str | None = None, threads: int | None = None
) -> Config:
    """The config with every open runtime value decided; given ones stay.

    device, threads: stand in where the config leaves them open.
    Raises ConfigError if the device is not there.
    """
    runtime = config.runtime
    wanted = runtime.device if runtime.device != "auto" else (device or "auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(wanted)
    on_gpu = wanted.startswith("cuda")
    precision = runtime.precision
    if precision == "auto":
        # bfloat16 on a CPU was slower than float32 on these small networks
        precision = "bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"
    return with_values(
        config,
        {
            "runtime.device": wanted,
            "runtime.threads": runtime.threads or threads or usable_cores(),
            "runtime.precision": precision,
            "runtime.channels_last": True
            if runtime.channels_last is None
            else runtime.channels_last,
            "runtime.micro_batch": runtime.micro_batch or config.data.batch_size,
        },
        "runtime",
    )


def check_device(device: str) -> None:
    """Raises ConfigError with the mend if a device cannot be used here."""
    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        have = f"{count} CUDA devices are" if count else "no CUDA device is"
        raise ConfigError(f"device {device!r}: {have} to be had here; use --device cpu")


@contextmanager
def applied(runtime: RuntimeConfig) -> Iterator[torch.device]:
    """Use a decided runtime: threads set, random state of the process left as it was."""
    assert runtime.threads is not None, "choose_runtime decides the threads"
    before = torch.get_num_threads()
    devices = [torch.device(runtime.device)] if runtime.device.startswith("cuda") else []
    torch.set_num_threads(runtime.threads)
    try:
        with torch.random.fork_rng(devices=devices):
            yield torch.device(runtime.device)
    finally:
        torch.set_num_threads(before)


def promise(runtime: RuntimeConfig) -> str:
    """What may be expected of a repetition, in words."""
    if runtime.device == "cpu":
        return (
            f"the same score to 1e-6 on the same kind of CPU, with the same versions and"
            f" {runtime.threads} thread(s)"
        )
    return "about the same score: within a few thousandths, since GPU sums come in no fixed order"
