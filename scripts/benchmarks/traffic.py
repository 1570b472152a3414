"""What a computation asks of a device, op by op: bytes moved, memory held, waits and transfers.

It works on real CUDA tensors, and on fake ones where there is no GPU (tests/support/fake_cuda).
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# ops whose result Python, or the size of a tensor, waits for
_WAITING = (
    *("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique", "_unique2"),
    *("is_nonzero", "equal"),
)
_COPIES = ("aten._to_copy", "aten.copy_", "aten.lift_fresh")
# nothing is read or written by them
_FREE = ("aten.empty", "aten.new_empty", "aten.detach", "aten.alias")


class Op(NamedTuple):
    """One op on the device: bytes read and written, floating-point operations as torch counts them
    (products and convolutions), and what it was given besides tensors."""

    name: str
    place: str
    moved: int
    flops: int
    numbers: tuple[str, ...]


class Seen(NamedTuple):
    """A wait or a transfer: which op, called where."""

    name: str
    place: str


class Traffic(TorchDispatchMode):
    """Records while it is entered: `with Traffic() as seen: ...`.

    ops: those on the device, in order; views are none. waits: ops that Python waits for.
    transfers: copies between devices, and ops that mix them. written: storages that were changed,
    by their address. held, peak: bytes of the device that were allocated meanwhile, now and at
    most; peak_place: where that was.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.ops: list[Op] = []
        self.waits: list[Seen] = []
        self.transfers: list[Seen] = []
        self.written: set[int] = set()
        self.held = self.peak = 0
        self.peak_place = ""
        self._storages: dict[int, int] = {}

    @property
    def moved(self) -> int:
        """Bytes read and written in all."""
        return sum(op.moved for op in self.ops)

    def moved_by_place(self) -> Counter[str]:
        """Bytes by the line of code that moved them, the largest share first."""
        places = Counter[str]()
        for op in self.ops:
            places[op.place] += op.moved
        return Counter(dict(places.most_common()))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        if name.startswith("prim."):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            # there an op that is made of others, such as `to` or `item`, arrives whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        leaves = tree_leaves((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        place = _place()
        if name.removeprefix("aten.").split(".")[0] in _WAITING and any(map(self._is_here, inputs)):
            self.waits.append(Seen(name, place))
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if self._crosses(name, inputs, outputs):
            self.transfers.append(Seen(name, place))
        self.written.update(_address(value) for value in _changed(func, args, kwargs))
        for value in outputs:
            if self._is_here(value):
                self._hold(value, place)
        if any(map(self._is_here, [*inputs, *outputs])) and not _is_view(func, name):
            moved = sum(value.numel() * value.element_size() for value in [*inputs, *outputs])
            numbers = tuple(repr(leaf) for leaf in leaves if not isinstance(leaf, Tensor))
            self.ops.append(Op(name, place, moved, _flops(func, args, kwargs, result), numbers))
        return result

    def _is_here(self, value: Tensor) -> bool:
        return value.device.type == self.device

    def _crosses(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        if name.startswith(_COPIES):
            # a 0-dim tensor on the CPU is a number, which a kernel takes as an argument
            large = [value for value in inputs if value.dim() or self._is_here(value)]
            return len({value.device.type for value in [*large, *outputs]}) > 1
        return len({value.device.type for value in inputs}) > 1

    def _hold(self, value: Tensor, place: str) -> None:
        storage = value.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._storages:
            return
        self._storages[address] = size
        self.held += size
        if self.held > self.peak:
            self.peak, self.peak_place = self.held, place
        weakref.finalize(storage, self._let_go, address)

    def _let_go(self, address: int) -> None:
        self.held -= self._storages.pop(address, 0)


def _address(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def addresses(values: Sequence[Tensor]) -> set[int]:
    """The storages of tensors, as in `Traffic.written`."""
    return set(map(_address, values))


def _is_view(func: Any, name: str) -> bool:
    returned = func._schema.returns
    return name.startswith(_FREE) or any(
        one.alias_info is not None and not one.alias_info.is_write for one in returned
    )


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an op writes into."""
    given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | dict(
        kwargs
    )
    return [
        given[one.name]
        for one in func._schema.arguments
        if one.alias_info is not None
        and one.alias_info.is_write
        and isinstance(given.get(one.name), Tensor)
    ]


def _place() -> str:
    """The line of ours that is being computed: `step.py:97`; the backward pass is `autograd`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if "/trainer/" in name and "/tests/" not in name:
            return f"{name.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "autograd"


def _flops(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    counted = flop_registry.get(func._overloadpacket)
    return 0 if counted is None else int(counted(*args, **kwargs, out_val=result))
