"""What a GPU did between two marks of a trace that torch.profiler exported: kernels and pauses."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

# what runs on the device, as Kineto's categories have it
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
# the first that matches names a kernel's group
_GROUPS = {
    "batch normalisation": r"batch_?norm|bn_(fw|bw)|bnorm",
    "loss": r"softmax|nll|dice|cross_entropy|block_sums|loss|_add_up|_differentiate",
    "upsampling and pooling": r"upsample|pool",
    "convolution": r"conv|cudnn|gemm|wgrad|dgrad|fprop|xmma|cutlass|winograd|nhwc|nchw|im2col",
    "warping": r"grid_sampl|flip",
    "dropout and random numbers": r"dropout|philox|distribution|bernoulli",
    "gather and scatter": r"gather|scatter|index|take",
    "sums and norms": r"reduce|norm|welford",
    "memory copies": r"^memcpy|^memset",
    "casts and arithmetic of elements": r"elementwise|vectorized|copy|fill|cat|triton|pointwise",
}


class Kernel(NamedTuple):
    """All runs of one kernel within the marks."""

    name: str
    runs: int
    seconds: float


class Window(NamedTuple):
    """seconds: between the marks. busy_s: with any kernel at work. kernels: the longest first."""

    seconds: float
    busy_s: float
    kernels: list[Kernel]

    @property
    def groups(self) -> dict[str, float]:
        """Seconds by kind of kernel, the longest first."""
        found: dict[str, float] = defaultdict(float)
        for kernel in self.kernels:
            found[group_of(kernel.name)] += kernel.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def group_of(name: str) -> str:
    """What a kernel does, by its name.

    >>> group_of("sm90_xmma_fprop_implicit_gemm_bf16"), group_of("Memcpy DtoD (Device -> Device)")
    ('convolution', 'memory copies')
    """
    for group, pattern in _GROUPS.items():
        if re.search(pattern, name, re.IGNORECASE):
            return group
    return "other"


def window_of(trace: Mapping[str, Any], mark: str) -> Window:
    """What ran within the annotation `mark` of a trace as `export_chrome_trace` writes it.

    Raises ValueError where it is not in the trace.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    marks = [e for e in events if e.get("cat") == "user_annotation" and e.get("name") == mark]
    if not marks:
        raise ValueError(f"the trace has no annotation {mark!r}")
    # microseconds
    begin = float(marks[0]["ts"])
    end = begin + float(marks[0]["dur"])
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        start = float(event["ts"])
        if event.get("cat") in _ON_DEVICE and begin <= start < end:
            spans[event["name"]].append((start, start + float(event["dur"])))
    kernels = [
        Kernel(name, len(them), sum(stop - start for start, stop in them) / 1e6)
        for name, them in spans.items()
    ]
    kernels.sort(key=lambda kernel: -kernel.seconds)
    busy = sum(stop - start for start, stop in _joined(chain.from_iterable(spans.values())))
    return Window((end - begin) / 1e6, busy / 1e6, kernels)


def _joined(spans: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Spans of time without overlap: kernels of two streams may run at once."""
    last: tuple[float, float] | None = None
    for start, stop in sorted(spans):
        if last is None:
            last = (start, stop)
        elif start <= last[1]:
            last = (last[0], max(last[1], stop))
        else:
            yield last
            last = (start, stop)
    if last is not None:
        yield last
