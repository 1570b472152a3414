"""A GPU of shapes without numbers, for a CPU build of torch: FakeTensors on cuda:0.

    with fake_cuda():
        ...  # the real code of the trainer; every tensor on cuda:0 is shape arithmetic

Devices that get mixed, reads that wait, dtypes, bytes and memory become visible by `Traffic`
(scripts.benchmarks.traffic). What it cannot show: kernels, speed, races, and whether a capture is
legal.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.support.paths import ROOT
from trainer import augment, cuda_graph, pixels
from trainer.data.cache import locked
from trainer.files import atomic_path

aten = torch.ops.aten

_SOURCE = Path(__file__).parent / "no_op_guard.cpp"


def pinned_torch() -> str:
    """The version of torch that constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("torch=="))


@functools.cache
def _library() -> ctypes.CDLL:
    """The guard, compiled once for all test processes; a test is skipped where it cannot be."""
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("fake CUDA needs a C++ compiler: install g++")
    if torch.cuda.is_available() or torch.version.cuda is not None:
        pytest.skip("fake CUDA needs a CPU build of torch: here real CUDA is to be tested")
    version = torch.__version__.partition("+")[0]
    if version != pinned_torch():
        pytest.skip(f"fake CUDA is tied to torch {pinned_torch()}, this is {version}")
    folder = Path(os.environ["FACE_PARSING_TEST_CACHE"])
    built = folder / f"no_op_guard-{version}.so"
    home = Path(torch.__file__).parent
    with locked(folder / "no_op_guard.lock"):
        if not built.exists():
            with atomic_path(built) as temporary:
                command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", str(_SOURCE)]
                command += [f"-I{home / 'include'}", "-o", str(temporary)]
                command += [f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"]
                subprocess.run(command, check=True)
    return ctypes.CDLL(str(built))


@contextlib.contextmanager
def _guard(bfloat16: bool) -> Iterator[None]:
    library = _library()
    library.install(ctypes.c_bool(bfloat16))
    try:
        yield
    finally:
        # other tests of this process find torch as it was
        library.remove_again()


class _Mode(FakeTensorMode):
    # torch.cuda.is_available says yes here, and yet nothing may be computed on a GPU
    avoid_device_init = True

    def __init__(self, read: Callable[[Tensor], float] | None, pinned: list[Tensor]) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._read, self._pinned = read, pinned

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and self._read is not None:
            number = self._read(args[0])
            return number if args[0].is_floating_point() else int(number)
        if func is aten.is_pinned.default:
            storage = args[0].untyped_storage()._cdata
            return storage in [one.untyped_storage()._cdata for one in self._pinned]
        if func is aten._pin_memory.default:
            return self._pin(torch.empty_like(args[0]))
        value = super().dispatch(func, types, args, kwargs)
        return self._pin(value) if kwargs.get("pin_memory") else value

    def _pin(self, value: Any) -> Any:
        self._pinned.append(value)
        return value


def _tolist(self: FakeTensor) -> Any:
    """As torch's of a real tensor, which is read at once."""
    first = self.reshape(-1)[0].item()
    return [first] * len(self) if self.dim() else first


class FakeDevice:
    """In the place of torch.cuda.device; `current` is what it was entered with on this thread."""

    _here = threading.local()

    def __init__(self, device: object) -> None:
        self.device = str(device)

    def __enter__(self) -> None:
        self.before, self._here.current = self.current(), self.device

    def __exit__(self, *_: object) -> None:
        self._here.current = self.before

    @classmethod
    def current(cls) -> str | None:
        """None: nobody has chosen one, and CUDA would take the first."""
        return getattr(cls._here, "current", None)


class FakeStream:
    """A stream that does at once what it is asked."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, other: object) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def synchronize(self) -> None: ...


class FakeEvent:
    """An event that has always happened already."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: object = None) -> None: ...

    def wait(self, stream: object = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


class FakeGraph:
    """A CUDA graph that counts its replays."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def _apply(self: nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
    """As nn.Module._apply, with new parameters: fake ones cannot be swapped."""
    for child in self.children():
        child._apply(fn)
    for key, value in self._parameters.items():
        if value is not None:
            moved = fn(value.detach())
            self._parameters[key] = nn.Parameter(moved, value.requires_grad)
    for key, value in self._buffers.items():
        if value is not None:
            self._buffers[key] = fn(value)
    return self


def unpinned(shape: Sequence[int]) -> tuple[Tensor, NDArray[np.uint8]]:
    """As `trainer.pixels._pinned`, without pinning; a fake tensor is no view of the array."""
    array = np.zeros(shape, np.uint8)
    return torch.from_numpy(array), array


class Events(list[str]):
    """What was asked of torch.cuda, in order. pinned: host memory that was page-locked."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []

    def note(self, text: str) -> Callable[..., None]:
        """A function that adds `text`."""
        return lambda *_, **__: self.append(text)


@contextlib.contextmanager
def fake_cuda(
    *,
    capability: tuple[int, int] = (9, 0),
    read: Callable[[Tensor], float] | None = None,
    loss_kernels: bool = True,
) -> Iterator[Events]:
    """Every tensor made within is fake; yields what is asked of torch.cuda.

    capability: of the card; below 8.0 it has no bfloat16 but by emulation. read: gives the
    number that is read from a tensor; None: reading is an error. loss_kernels: as on a GPU, where
    triton is; it need not be here.
    Tensors of the CPU with real numbers can be used within. Skips the test, with the reason, where
    the guard cannot be built.
    """
    events = Events()
    bfloat16 = capability >= (8, 0)

    @contextlib.contextmanager
    def graph(_: object, **__: object) -> Iterator[None]:
        events.append("capture begins")
        yield
        events.append("capture ends")

    stubs: dict[str, object] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: "Fake GPU",
        "is_bf16_supported": lambda including_emulation=True: including_emulation or bfloat16,
        "amp.common.amp_definitely_not_available": lambda: False,
        "Stream": FakeStream,
        "Event": FakeEvent,
        "current_stream": lambda *_: FakeStream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "device": FakeDevice,
        "CUDAGraph": FakeGraph,
        "graph": graph,
        "get_rng_state": lambda device=None: "state",
        "set_rng_state": events.note("random state put back"),
        "set_sync_debug_mode": lambda mode: events.append(f"sync debug {mode}"),
        "synchronize": events.note("synchronize"),
        "empty_cache": events.note("empty cache"),
        "mem_get_info": lambda device=None: (22_000_000_000, 24_000_000_000),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(_guard(bfloat16))
        # constants and streams of the real device, or of an earlier fake one
        of_device = (
            augment._constant,
            augment._centres,
            cuda_graph._side_stream,
            pixels._copies_of,
        )
        for cached in of_device:
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        for name, stub in stubs.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", stub))
        # whether their results are right cannot be asked here
        stack.enter_context(mock.patch("trainer.losses._kernels_agree", return_value=loss_kernels))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", _tolist))
        stack.enter_context(mock.patch("trainer.pixels._pinned", unpinned))
        stack.enter_context(_Mode(read, events.pinned))
        yield events
