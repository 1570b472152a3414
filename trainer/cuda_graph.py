"""A training step recorded once as a CUDA graph and replayed: the GPU no longer waits for Python.

The phases of a replayed step cannot be told apart: `lap` is called at its end alone.

Which pictures a step takes, their random draws, the learning rate, the Dice weight and the
average's share are read from tables on the device, at a row that the step itself counts: between
the replays of an epoch nothing is sent.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.adamw import Rates
from trainer.augment import Draws
from trainer.config import Config
from trainer.errors import CaptureFailed
from trainer.runtime import is_lost, is_out_of_memory
from trainer.step import EagerSteps, Epoch, Numbers, Stepper

_WARM_UP_STEPS = 2


def steps_for(stepper: Stepper, first: Epoch) -> EagerSteps | CapturedSteps:
    """What takes the steps of a training, replayed from a graph where they can be.

    first: its first epoch, with which they are tried. Raises CaptureFailed.
    """
    steps = None
    if stepper.device.type == "cuda" and can_be_captured(stepper.config):
        steps = CapturedSteps.of(stepper, first)
    return steps or EagerSteps(stepper)


def can_be_captured(config: Config) -> bool:
    """Whether a replay does what the step would have done.

    Noise on pixels is drawn outside a graph, and another network may draw lots or count in Python.
    """
    wanted = config.runtime.cuda_graph
    return wanted and config.augmentation.noise == 0 and ":" not in config.model.name


class CapturedSteps:
    """Steps as replays of a graph, for epochs of one size; used like EagerSteps.

    sums: float64 [3], over the steps of the epoch so far: loss, CE and Dice.
    """

    @classmethod
    def of(cls, stepper: Stepper, first: Epoch) -> CapturedSteps | None:
        """None where the step cannot be captured: a model that waits for the device, say.

        Raises CaptureFailed where that shows only while it is captured.
        """
        try:
            return cls(stepper, first)
        except RuntimeError as error:
            if is_out_of_memory(error) or is_lost(error):
                raise
            warnings.warn(f"training runs without a CUDA graph: {error}", stacklevel=3)
        # what the warm-up freed is kept for its own stream, where no step will run; given back
        # here, where the error holds nothing of it any longer
        torch.cuda.empty_cache()
        return None

    def __init__(self, stepper: Stepper, first: Epoch) -> None:
        self.stepper = stepper
        device = stepper.device
        tables = _tables(first)
        self._order, self._draws, self._numbers = (
            torch.empty_like(table, device=device) for table in tables
        )
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.begin(first)
        self._graph = torch.cuda.CUDAGraph()
        side = _side_stream(device)
        kept = [value.clone() for value in self._changed_by_a_step()]
        random = torch.cuda.get_rng_state(device)

        def put_back() -> None:
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.set_rng_state(random, device)
            for value, before in zip(self._changed_by_a_step(), kept, strict=True):
                value.copy_(before)

        lap, stepper.lap = stepper.lap, lambda phase: None
        try:
            try:
                self._warm_up(side)
            except BaseException:
                put_back()
                raise
            # not to be put back where it fails: the device takes no more calls then
            self._capture(side)
            put_back()
        finally:
            stepper.lap = lap

    def begin(self, epoch: Epoch) -> None:
        """Send what the steps of an epoch are given."""
        places = (self._order, self._draws, self._numbers)
        for place, table in zip(places, _tables(epoch), strict=True):
            place.copy_(table.pin_memory(), non_blocking=True)
        self._row.zero_()
        self.sums.zero_()

    def __call__(self) -> None:
        """The epoch's next step."""
        self._graph.replay()
        self.stepper.lap("optimiser")

    def _step(self) -> None:
        order, draws, numbers = (
            table.index_select(0, self._row)[0]
            for table in (self._order, self._draws, self._numbers)
        )
        keep, pace, scale, dice_weight, share = numbers.unbind()
        # no seed: noise is not captured
        self.sums += self.stepper(
            order, Draws(draws, noise_seed=0), Numbers(Rates(keep, pace, scale), dice_weight, share)
        )
        self._row += 1

    def _try_step(self) -> None:
        self._step()
        # the epoch may be shorter than the warm-up
        self._row.zero_()

    def _warm_up(self, side: torch.cuda.Stream) -> None:
        side.wait_stream(torch.cuda.current_stream(self.stepper.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                self._try_step()
            # a step that waits for the device is to be found before the capture, which it breaks
            with _waits_are_errors():
                self._try_step()

    def _capture(self, side: torch.cuda.Stream) -> None:
        first: RuntimeError | None = None
        try:
            # on entering it gives back what the warm-up freed, which would lie beside its own pool.
            # What other threads of this process ask of the device breaks no capture of this one
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                try:
                    self._step()
                except RuntimeError as error:
                    # the end of a broken capture raises another, which says less
                    first = error
                    raise
        except RuntimeError as error:
            raise CaptureFailed(
                f"the capture of a CUDA graph failed: {first or error};"
                " with runtime.cuda_graph false steps are taken one by one"
            ) from (first or error)

    def _changed_by_a_step(self) -> list[Tensor]:
        stepper = self.stepper
        return [
            self._row,
            self.sums,
            stepper.flat.weights.detach(),
            stepper.average.weights,
            stepper.average.buffers,
            stepper.optimizer.mean,
            stepper.optimizer.square,
            *stepper.model.buffers(),
        ]


def _tables(epoch: Epoch) -> tuple[Tensor, Tensor, Tensor]:
    """On the CPU: int64 [steps, B], float32 [steps, draw, B] and float32 [steps, 5]."""
    numbers = [[*one.rates, one.dice_weight, one.share] for one in epoch.numbers]
    return epoch.order, epoch.draw_table(), torch.tensor(numbers, dtype=torch.float32)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where steps are warmed up and captured, the same for every training of this process.

    Freed memory is kept for the stream that had it, and nobody would come back to another one.
    """
    return torch.cuda.Stream(device)


@contextmanager
def _waits_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        try:
            # where warnings are errors it raises with the mode already set
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
