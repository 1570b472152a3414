"""How training is computed here: device, threads, precision. Decided once, recorded, repeated."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from trainer.config import Config, with_values
from trainer.config.sections import RuntimeConfig
from trainer.errors import ConfigError, DeviceLost


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
    Raises ConfigError if the device is not there, or has not the precision that is asked for.
    """
    runtime = config.runtime
    wanted = runtime.device if runtime.device != "auto" else (device or "auto")
    wanted = chosen_device(wanted)
    precision = runtime.precision
    check_precision(precision, wanted)
    if precision == "auto":
        on_gpu = wanted.startswith("cuda")
        coarse = no_bfloat16_on(wanted) is None if on_gpu else _cpu_likes_bfloat16(config)
        precision = "bfloat16" if coarse else "float32"
    return with_values(
        config,
        {
            "runtime.device": wanted,
            "runtime.threads": runtime.threads or threads or usable_cores(),
            "runtime.precision": precision,
            "runtime.channels_last": runtime.channels_last is not False,
            "runtime.micro_batch": runtime.micro_batch or config.data.batch_size,
        },
        "runtime",
    )


# below, casts cost as much as products save
_LEAST_SIZE_FOR_BFLOAT16 = 48


def _cpu_likes_bfloat16(config: Config) -> bool:
    """Whether steps are faster in bfloat16: a rule, since what is timed would not be repeated."""
    can: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        bool(can.get("avx512_bf16") or can.get("amx_bf16"))
        and config.data.image_size >= _LEAST_SIZE_FOR_BFLOAT16
    )


def chosen_device(device: str) -> str:
    """What "auto", or a device by name, comes to here. Raises ConfigError if it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


# of NVIDIA's cards; from Ampere on they multiply in bfloat16
_BFLOAT16_FROM = (8, 0)


def no_bfloat16_on(device: str) -> str | None:
    """Why bfloat16 is not to be used on a device, in words; None where nothing speaks against it.

    torch emulates it on older cards, slower than float32, and cuDNN has no convolution for it.
    """
    # AMD's cards have it, under numbers of their own
    if not device.startswith("cuda") or torch.version.hip is not None:
        return None
    # asked of this device: torch.cuda.is_bf16_supported asks the current one
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16_FROM:
        return None
    name = torch.cuda.get_device_name(device)
    return f"{name} (compute capability {capability[0]}.{capability[1]}) has no bfloat16"


def check_precision(precision: str, device: str) -> None:
    """Raises ConfigError with the fix if a device has not the precision that is asked for."""
    lacks = no_bfloat16_on(device) if precision == "bfloat16" else None
    if lacks is not None:
        raise ConfigError(f"runtime.precision 'bfloat16': {lacks}; give float32 or auto")


def precision_note(precision: str, device: str) -> str | None:
    """What to say where "auto" comes to float32 on a GPU for want of bfloat16; else None."""
    lacks = no_bfloat16_on(device) if precision == "auto" else None
    return None if lacks is None else f"{lacks}: float32"


def check_device(device: str) -> None:
    """Raises ConfigError with the fix if a device cannot be used here, or is none."""
    # what is a device's name is for the config to say
    with_values(Config(), {"runtime.device": device})
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
    before, timed = torch.get_num_threads(), torch.backends.cudnn.benchmark
    devices = [torch.device(runtime.device)] if runtime.device.startswith("cuda") else []
    _keep_freed_memory()
    torch.set_num_threads(runtime.threads)
    # all batches have one shape, for which it pays to time what cuDNN can do
    torch.backends.cudnn.benchmark = timed or bool(devices)
    # streams and graphs are made on the current device
    here = torch.cuda.device(devices[0]) if devices else nullcontext()
    whole = whole_float32() if devices else nullcontext()
    try:
        with here, whole, torch.random.fork_rng(devices=devices):
            yield torch.device(runtime.device)
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.benchmark = timed


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions of float32 with all its digits on a GPU; what was set before comes back.

    torch lets cuDNN round what it multiplies to TF32, 10 bits of 23, as it comes: a network would
    be scored with other numbers than on a CPU or an older card, and "float32" would be none.
    """
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    # not by `fp32_precision`: torch refuses to read the older switch where the two disagree
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = "tf32" in before
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before


# before what CUDA and HIP say, where torch passes it on and where Triton does, which misspells one
_SAID = (
    r"\b(?:(?:CUDA|HIP)(?: driver)? error:"
    r"|Triton Error \[(?:CUDA|HIP)\]:(?:\s+Code: \d+, Mess+age:)?)\s+"
)
# as torch words it: of its own allocators, of CUDA and HIP, of cuBLAS and cuDNN. That cuDNN finds
# no way to convolve is mostly want of memory for its workspace
_OUT_OF_MEMORY = re.compile(
    rf"(?:{_SAID}|\b(?:CUDA|HIP) )out of memory"
    r"|\b(?:CUBLAS|HIPBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(?:HOST|DEVICE)_ALLOCATION_FAILED"
    r"|unable to find an engine to execute this computation"
    r"|unable to find a valid cuDNN algorithm"
    r"|DefaultCPUAllocator: (?:can't allocate|not enough) memory",
    re.IGNORECASE,
)
# errors after which CUDA answers every call of the process with an error
_LOST = re.compile(
    rf"{_SAID}(?:an )?(?:"
    r"device-side assert triggered|illegal memory access|illegal instruction|misaligned address"
    r"|invalid program counter|operation not supported on global/shared address space"
    r"|unspecified launch failure|the launch timed out|hardware stack error"
    r"|uncorrectable (?:ECC|NVLink) error|unknown error"
    # a server of NVIDIA's MPS that another of its clients took along
    r"|MPS |the remote procedural call between the MPS server)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of a device or of this machine; of what has lost a device
    (`is_lost`), whether that was the cause.
    """
    errors = [error]
    if is_lost(error):
        errors = list(_behind(error))
    return any(
        isinstance(one, torch.OutOfMemoryError | MemoryError)
        or (isinstance(one, RuntimeError) and _OUT_OF_MEMORY.search(str(one)) is not None)
        for one in errors
    )


def is_lost(error: BaseException) -> bool:
    """Whether this process can no longer use its GPU: another process has to go on."""
    return any(
        isinstance(one, DeviceLost)
        or (isinstance(one, RuntimeError) and _LOST.search(str(one)) is not None)
        for one in _behind(error)
    )


def first_line(error: BaseException) -> str:
    """What an error of CUDA is told by; the lines after the first are of how to debug it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it. What was put away after a GPU was lost fails as well, and that
    is what is heard of.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def release(device: str, error: BaseException | None = None) -> None:
    """Give a GPU back what a training has left there; the cache of torch would keep it.

    error: what ended the training, whose frames hold all of it.
    """
    usable = device.startswith("cuda") and not (error is not None and is_lost(error))
    # what gives memory back begins a context on the current device, which takes half a gigabyte
    with torch.cuda.device(device) if usable else nullcontext():
        for one in _behind(error):
            traceback.clear_frames(one.__traceback__)
        if usable:
            # a network may hold itself
            gc.collect()
            torch.cuda.empty_cache()


# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, where it is glibc.

    It gives every large block back at once otherwise, and a step spends a tenth of its time in
    getting cleared pages anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # 32 MiB is the most that glibc takes
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def promise(runtime: RuntimeConfig) -> str:
    """What may be expected of a repetition, in words."""
    if runtime.device == "cpu":
        return (
            f"the same score to 1e-6 on the same kind of CPU, with the same versions and"
            f" {runtime.threads} thread(s)"
        )
    return "about the same score: within a few thousandths, since GPU sums come in no fixed order"
