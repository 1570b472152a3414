"""What a step takes at best on a device: each op at max(bytes / bandwidth, FLOP / rate, launch).

The ops are recorded from a real step (`traffic`), the rates measured on the same device. No step
that moves the same bytes by the same kernels can be faster; one that fuses them can.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from scripts.benchmarks.traffic import Op

# of a copy, on a GPU: many times what its caches hold
_LARGE_BYTES = 2**29
_RUNS = 5
_WARMUP_CALLS = 3


class Rates(NamedTuple):
    """What a device reaches. Of bytes: read and written together. flops_per_s: of convolutions.

    cache_bytes: of its last cache, 0 where none is known; an op that touches at most half of it
    moves cache_bytes_per_s. launch_s: least time of a kernel, however small.
    """

    bytes_per_s: float
    flops_per_s: float
    cache_bytes: float
    cache_bytes_per_s: float
    launch_s: float


class Price(NamedTuple):
    """Least seconds of a step, and how they are shared among ops by what bounds them."""

    ops: int
    moved: int
    flops: int
    memory_s: float
    arithmetic_s: float
    launch_s: float

    @property
    def seconds(self) -> float:
        return self.memory_s + self.arithmetic_s + self.launch_s

    @property
    def bound(self) -> str:
        """What takes the largest share: memory, arithmetic or launch."""
        shares = {
            "memory": self.memory_s,
            "arithmetic": self.arithmetic_s,
            "launch": self.launch_s,
        }
        return max(shares, key=lambda name: shares[name])


def priced(ops: Iterable[Op], rates: Rates) -> Price:
    """The least time of ops, one after the other.

    >>> two = [Op("add", "", 200, 0, ()), Op("convolution", "", 100, 900, ())]
    >>> price = priced(two, Rates(100.0, 100.0, 0.0, 1.0, 0.5))
    >>> price.memory_s, price.arithmetic_s, price.bound
    (2.0, 9.0, 'arithmetic')
    """
    count = moved = flops = 0
    by = dict.fromkeys(("memory", "arithmetic", "launch"), 0.0)
    for op in ops:
        count, moved, flops = count + 1, moved + op.moved, flops + op.flops
        in_cache = op.moved <= rates.cache_bytes / 2
        speed = rates.cache_bytes_per_s if in_cache else rates.bytes_per_s
        times = {
            "memory": op.moved / speed,
            "arithmetic": op.flops / rates.flops_per_s,
            "launch": rates.launch_s,
        }
        bound = max(times, key=lambda name: times[name])
        by[bound] += times[bound]
    return Price(count, moved, flops, by["memory"], by["arithmetic"], by["launch"])


# ---------------------------------------------------------------------------------- measured rates


def measured_rates(
    device: torch.device, *, kinds: Sequence[str], size: int, batch: int, channels: Sequence[int]
) -> dict[str, Any]:
    """What a device reaches here and now, as `scripts/bench gpu` keeps it.

    kinds: float32, and bfloat16 where the device has it. size, batch, channels: of the 3x3
    convolutions that are timed: the first number of channels on the whole grid, each next one on a
    grid of half the side. `rates_of` makes Rates of the result.
    """
    with torch.no_grad():
        return {
            **_memory(device),
            "launch_s": _launch_s(device),
            "matmul_flops_per_s": {kind: _matmul(device, getattr(torch, kind)) for kind in kinds},
            "convolution_flops_per_s": {
                kind: {
                    f"{number} channels, {size >> level} pixels": _convolution(
                        device, getattr(torch, kind), number, batch, size >> level
                    )
                    for level, number in enumerate(channels)
                }
                for kind in kinds
            },
        }


def rates_of(measured: dict[str, Any], precision: str) -> Rates:
    """The best of what was measured: a limit is to be one."""
    return Rates(
        max(measured["copy_bytes_per_s"], measured["triad_bytes_per_s"]),
        max(measured["convolution_flops_per_s"][precision].values()),
        measured["cache_bytes"],
        measured["cache_bytes_per_s"],
        measured["launch_s"],
    )


def seconds_per_call(work: Callable[[], object], device: torch.device, calls: int) -> float:
    """The fastest of a few runs of `calls` calls; on a GPU these are one graph, as in training."""
    if device.type != "cuda":
        return _called(work, calls)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        # libraries choose their kernels and take their memory before a capture
        for _ in range(_WARMUP_CALLS):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # the first replay brings the graph to the device
    graph.replay()
    best_ms = math.inf
    for _ in range(_RUNS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best_ms = min(best_ms, begin.elapsed_time(end))
    return best_ms / 1e3 / calls


def _called(work: Callable[[], object], calls: int) -> float:
    work()
    best_s = math.inf
    for _ in range(_RUNS):
        began_s = time.perf_counter()
        for _ in range(calls):
            work()
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s / calls


def _memory(device: torch.device) -> dict[str, float]:
    """Copy and triad (c = a + 2 b) of tensors too large for any cache, and a copy within it."""
    large, cache = _LARGE_BYTES, 0
    if device.type == "cuda":
        large = min(large, torch.cuda.mem_get_info(device)[0] // 8)
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
    else:
        large //= 8
    a, b, c = (torch.ones(large // 4, device=device) for _ in range(3))
    copy_s = seconds_per_call(lambda: b.copy_(a), device, 4)
    triad_s = seconds_per_call(lambda: torch.add(a, b, alpha=2.0, out=c), device, 4)
    found = {
        "copy_bytes_per_s": 2 * large / copy_s,
        "triad_bytes_per_s": 3 * large / triad_s,
        "cache_bytes": float(cache),
        "cache_bytes_per_s": 2 * large / copy_s,
    }
    if cache:
        # a quarter of it in all
        few = max(1, cache // 8 // 4)
        small_s = seconds_per_call(lambda: b[:few].copy_(a[:few]), device, 100)
        found["cache_bytes_per_s"] = max(found["cache_bytes_per_s"], 2 * few * 4 / small_s)
    return found


def _launch_s(device: torch.device) -> float:
    """Of a kernel that does next to nothing, one of many that wait for each other."""
    number = torch.zeros(1, device=device)
    return seconds_per_call(lambda: number.add_(1.0), device, 500)


def _matmul(device: torch.device, kind: torch.dtype) -> float:
    side = 4096 if device.type == "cuda" else 512
    a, b, c = (torch.ones(side, side, device=device, dtype=kind) for _ in range(3))
    return 2 * side**3 / seconds_per_call(lambda: torch.mm(a, b, out=c), device, 4)


def _convolution(
    device: torch.device, kind: torch.dtype, channels: int, batch: int, side: int
) -> float:
    """FLOP/s of a 3x3 convolution as the network has them, channels last."""
    shape = (batch, channels, side, side)
    images, weights = (
        torch.randn(*one, device=device, dtype=kind).contiguous(memory_format=torch.channels_last)
        for one in (shape, (channels, channels, 3, 3))
    )

    def work() -> Tensor:
        return functional.conv2d(images, weights, padding=1)

    return 2 * 9 * channels * math.prod(shape) / seconds_per_call(work, device, 4)
