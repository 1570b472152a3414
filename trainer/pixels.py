"""Where the pictures of a training lie.

On a CPU they stay mapped from disk. On a GPU they are resident in its memory, or, where they would
take too much of it, streamed: from the mapped files through pinned memory, ahead of need.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trainer.data.dataset import Part
from trainer.data.source import Bytes

# of the device's free memory, to the pictures of one part. A step and scoring need most of the
# rest at 512 pixels on 8 GB, and streaming costs little: Python needs 1.4 ms to gather 12 pictures
# of 512 pixels, and the GPU is some steps behind. Of several workers on one device each judges by
# what it finds free at its start.
RESIDENT_SHARE = 0.25
# batches on their way: as many as the steps that a GPU may be behind
SLOTS = 4
# pictures are sent to be resident in pieces: a copy of all of them might fill the main memory
_PIECE_BYTES = 64_000_000


class Pixels:
    """A part's pictures and masks where training and scoring run.

    For training, `begin_epoch` names the batches and `fetch` brings the next one, outside of a
    captured step; `batch` reads it, inside. Only streamed pictures need the first two.
    """

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part, self.device = part, device
        self.resident: tuple[Tensor, Tensor] | None = None
        self.stream: Stream | None = None
        # what a captured step reads, while the stream goes on
        self._current: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda":
            if fits(part, device):
                self.resident = _sent(part.images, device), _sent(part.masks, device)
            else:
                self.stream = Stream(part, device)

    def begin_epoch(self, order: ArrayLike) -> None:
        """The coming batches in the order of their use: int64 [steps, B] on the CPU."""
        if self.stream is None:
            return
        rows = list(np.asarray(order))
        if self._current is None:
            self._current = _empty(len(rows[0]), self.part.images.shape[1], self.device)
            for one in self._current:
                # a warm-up reads them before the first batch is there, and no mask has an id 255
                one.zero_()
        self.stream.begin(rows)

    def fetch(self, number: int) -> None:
        """Have batch `number` of the epoch, counted from 0, ready for the coming step."""
        if self.stream is None:
            return
        assert self._current is not None, "begin_epoch comes first"
        for ours, arrived in zip(self._current, self.stream.get(number), strict=True):
            ours.copy_(arrived)
        self.stream.release(number)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, S, S, 3] and uint8 [B, S, S] of int64 [B], which lies on the same device.

        Of streamed pictures it is the batch that was fetched, in tensors that the next fetch
        overwrites.
        """
        if self.resident is not None:
            return self.resident[0][indices], self.resident[1][indices]
        if self._current is not None:
            return self._current
        rows = indices.numpy()
        return torch.from_numpy(self.part.images[rows]), torch.from_numpy(self.part.masks[rows])

    def slices(self, wanted: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures and masks as of `batch`, slice by slice; each is read before the next is asked
        for. No epoch may be under way."""
        if self.resident is not None:
            for where in wanted:
                yield self.resident[0][where], self.resident[1][where]
        elif self.stream is not None:
            self.stream.begin([np.arange(where.start, where.stop) for where in wanted])
            for number in range(len(wanted)):
                yield self.stream.get(number)
                self.stream.release(number)
        else:
            for where in wanted:
                # copied, so that the cache cannot be changed
                images, masks = (
                    torch.from_numpy(np.array(array[where]))
                    for array in (self.part.images, self.part.masks)
                )
                yield images, masks


def fits(part: Part, device: torch.device) -> bool:
    """Whether the part's pictures may be resident on a GPU; where not, it is said."""
    needed = part.images.nbytes + part.masks.nbytes
    free, _ = torch.cuda.mem_get_info(device)
    if needed <= RESIDENT_SHARE * free:
        return True
    _say_once(
        f"note: {len(part):,} pictures take {needed / 1e9:.1f} GB, more than {RESIDENT_SHARE:.0%}"
        f" of the memory that is free on {device}: they are streamed from the cache on disk"
    )
    return False


# every trial of a worker finds the same
@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sent(array: Bytes, device: torch.device) -> Tensor:
    there = torch.empty(array.shape, dtype=torch.uint8, device=device)
    rows = max(1, _PIECE_BYTES // array[0].nbytes)
    for start in range(0, len(array), rows):
        piece = slice(start, start + rows)
        there[piece].copy_(torch.from_numpy(np.array(array[piece])))
    return there


def _empty(count: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    def one(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.uint8, device=device)

    return one(count, side, side, 3), one(count, side, side)


def _pinned(shape: Sequence[int]) -> tuple[Tensor, Bytes]:
    """Main memory that a GPU can read while Python goes on; the array is a view of the tensor."""
    pinned = torch.empty(*shape, dtype=torch.uint8, pin_memory=True)
    return pinned, pinned.numpy()


class _Slot:
    """Room for a batch in pinned memory and on the device, and who has done what with it."""

    def __init__(self, count: int, side: int, device: torch.device) -> None:
        self.there = _empty(count, side, device)
        self.pinned = [_pinned(one.shape) for one in self.there]
        # the batch is on the device; the batch has been read there
        self.arrived, self.read = torch.cuda.Event(), torch.cuda.Event()


class Stream:
    """Batches of a part brought to a GPU one after the other, SLOTS of them ahead of need.

    `begin` names them, `get` gives the next one, `release` says that all that reads it has been
    asked for. A slot's pinned memory is filled anew once its copy has arrived, which the CPU waits
    for; its place on the device once it has been read, which the copies' stream waits for.
    """

    def __init__(self, part: Part, device: torch.device) -> None:
        self.device = device
        # plain arrays: views of memory maps take longer to make
        self._arrays = np.asarray(part.images), np.asarray(part.masks)
        self.copies = _copies_of(device)
        self.rows: Sequence[NDArray[np.integer]] = []
        self.slots: list[_Slot] = []

    def begin(self, rows: Sequence[NDArray[np.integer]]) -> None:
        """The coming batches, whole numbers [B] each; what is left of earlier ones is dropped."""
        self.rows = rows
        # earlier batches may still be read
        self.copies.wait_stream(torch.cuda.current_stream(self.device))
        largest = max(map(len, rows), default=0)
        if not self.slots or len(self.slots[0].there[0]) < largest:
            # memory of the copies' own stream: given back, it is no other stream's while they run.
            # And training has to be able to write what scoring made
            with torch.inference_mode(False), torch.cuda.stream(self.copies):
                side = self._arrays[0].shape[1]
                self.slots = [_Slot(largest, side, self.device) for _ in range(SLOTS)]
        for number in range(min(SLOTS, len(rows))):
            self._send(number)

    def get(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch `number`, as of `Pixels.batch`; the current stream waits for it."""
        slot, count = self.slots[number % SLOTS], len(self.rows[number])
        torch.cuda.current_stream(self.device).wait_event(slot.arrived)
        return slot.there[0][:count], slot.there[1][:count]

    def release(self, number: int) -> None:
        """The current stream has been asked for all that reads batch `number`."""
        self.slots[number % SLOTS].read.record(torch.cuda.current_stream(self.device))
        if number + SLOTS < len(self.rows):
            self._send(number + SLOTS)

    def _send(self, number: int) -> None:
        slot, rows = self.slots[number % SLOTS], self.rows[number]
        slot.arrived.synchronize()
        for array, (_, ours) in zip(self._arrays, slot.pinned, strict=True):
            # row by row: numpy's take is no faster, and copies an array whole that is not in one
            # piece. Nor are sorted rows, even from a cold disk
            for place, row in enumerate(rows):
                ours[place] = array[row]
        self.copies.wait_event(slot.read)
        with torch.cuda.stream(self.copies):
            for (pinned, _), there in zip(slot.pinned, slot.there, strict=True):
                there[: len(rows)].copy_(pinned[: len(rows)], non_blocking=True)
            slot.arrived.record(self.copies)


# one for all trainings of a process: memory that was a dead stream's is no other's
@functools.cache
def _copies_of(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
