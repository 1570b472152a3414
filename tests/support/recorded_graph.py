"""CUDA graphs with real numbers on a CPU: a capture records the ops, a replay does them again.

    with recorded_graphs() as events:
        ...  # CapturedSteps on torch.device("cpu")

As in a graph, Python is not asked again: a replay reads the tensors of the capture, and every
number that came from Python is the one of then.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer import cuda_graph
from trainer.flat_model import Leaves
from trainer.step import Stepper


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ops.append((func, args, kwargs or {}, result))
        return result


class RecordedGraph:
    """In the place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.recorder = _Recorder()

    @torch.no_grad()
    def replay(self) -> None:
        """Do the recorded ops again, into the tensors that they made."""
        for func, args, kwargs, before in self.recorder.ops:
            after = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                # a view, or what was changed in place, is up to date already
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def as_on_a_gpu(stepper: Stepper) -> Stepper:
    """The stepper, with its weights cast and its gradients gathered as on a GPU."""
    lowered = stepper.config.runtime.precision == "bfloat16"
    stepper.leaves = Leaves(stepper.flat, lowered=lowered)
    stepper.forward = stepper.leaves.forward
    return stepper


class _Stream:
    def __init__(self, name: str, events: Events) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: _Stream) -> None:
        self.events.note(f"{self.name} waits for {other.name}")


class Events(list[str]):
    """What was asked of torch.cuda, in order; `then` is called with each as it is added."""

    then: Callable[[str], None] | None = None

    def note(self, text: str) -> None:
        """Add `text`."""
        self.append(text)
        if self.then is not None:
            self.then(text)


def _warning_of_a_prototype(events: Events) -> Callable[[str], None]:
    def set_mode(mode: str) -> None:
        events.note(f"sync debug {mode}")
        # torch's own words, and as torch does it: once the mode is set
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all"
            " synchronizing operations",
            UserWarning,
            stacklevel=3,
        )

    return set_mode


@contextlib.contextmanager
def recorded_graphs() -> Iterator[Events]:
    """Stubs of torch.cuda for CapturedSteps on the CPU; yields what is asked of it."""
    events = Events()

    @contextlib.contextmanager
    def graph(one: RecordedGraph, **_: object) -> Iterator[None]:
        events.note("capture begins")
        try:
            with one.recorder:
                yield
        except RuntimeError:
            # as torch, where the end of a broken capture finds it broken
            raise RuntimeError("operation failed due to a previous error during capture") from None
        events.note("capture ends")

    def stream_made(_: object) -> _Stream:
        events.note("a stream is made")
        return _Stream("side", events)

    def set_rng_state(state: Tensor, _: object) -> None:
        events.note("random state put back")
        torch.set_rng_state(state)

    stubs: dict[str, object] = {
        "cuda.CUDAGraph": RecordedGraph,
        "cuda.Stream": stream_made,
        "cuda.current_stream": lambda *_: _Stream("main", events),
        "cuda.stream": lambda stream: contextlib.nullcontext(),
        "cuda.graph": graph,
        "cuda.get_rng_state": lambda device: torch.get_rng_state(),
        "cuda.set_rng_state": set_rng_state,
        "cuda.set_sync_debug_mode": _warning_of_a_prototype(events),
        "cuda.empty_cache": lambda: events.note("empty cache"),
        "Tensor.pin_memory": Tensor.clone,
    }
    with contextlib.ExitStack() as stack:
        for name, stub in stubs.items():
            stack.enter_context(mock.patch(f"torch.{name}", stub))
        cuda_graph._side_stream.cache_clear()
        stack.callback(cuda_graph._side_stream.cache_clear)
        yield events
