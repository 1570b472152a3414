"""Steps replayed from a graph: with real numbers on a CPU, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.faces import tiny_config, tiny_faces
from tests.support.planted import PLANTED
from tests.support.recorded_graph import as_on_a_gpu, recorded_graphs
from tests.trainer.test_pixels import prompt_streams, streamed
from trainer import pixels
from trainer.augment import drawn
from trainer.config import Config
from trainer.cuda_graph import CapturedSteps, can_be_captured, steps_for
from trainer.errors import CaptureFailed
from trainer.model import model_of
from trainer.pixels import Pixels
from trainer.runtime import is_out_of_memory
from trainer.step import EagerSteps, Epoch, Stepper

BATCH = 8
VARIANTS = [
    {},
    {"micro_batch": 4, "aux_weight": 0.4, "label_smoothing": 0.1, "lovasz_weight": 0.2},
    {"cutmix": 0.5, "erasing": 0.5, "crop": 0.5, "precision": "bfloat16"},
]


class Resident(Pixels):
    """Pictures in tensors, as on a GPU: a replay asks no array of numpy's."""

    def __init__(self) -> None:
        part = tiny_faces().train
        self.pictures = torch.from_numpy(np.array(part.images))
        self.masks = torch.from_numpy(np.array(part.masks))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.pictures[indices], self.masks[indices]


def a_stepper(config: Config, device: str = "cpu") -> Stepper:
    torch.manual_seed(0)
    place = torch.device(device)
    pixels = Resident() if device == "cpu" else Pixels(tiny_faces().train, place)
    return Stepper(config, model_of(config).train().to(place), pixels, place, ema_decay=0.9)


def an_epoch(stepper: Stepper, steps: int, seed: int = 1) -> Epoch:
    generator = torch.Generator().manual_seed(seed)
    return Epoch(
        order=torch.randint(20, (steps, BATCH), generator=generator),
        draws=[drawn(BATCH, generator) for _ in range(steps)],
        numbers=[
            stepper.numbers(1e-3 * (1 + step + seed), 1.5 - 0.1 * step) for step in range(steps)
        ],
    )


def state_of(stepper: Stepper) -> list[Tensor]:
    """Everything that training changes, copied."""
    flat, average, optimizer = stepper.flat, stepper.average, stepper.optimizer
    return [
        value.detach().clone()
        for value in (
            *(flat.weights, flat.buffers, flat.counts, average.weights, average.buffers),
            *(optimizer.mean, optimizer.square, torch.get_rng_state()),
        )
    ]


def two_epochs(
    make: Callable[[Stepper, Epoch], EagerSteps | CapturedSteps], config: Config, count: int
) -> list[Tensor]:
    """The sums after every step, and what the training is at the end."""
    stepper = a_stepper(config)
    torch.manual_seed(7)
    steps: EagerSteps | CapturedSteps | None = None
    sums = []
    for epoch in range(2):
        given = an_epoch(stepper, count, seed=epoch)
        steps = steps or make(stepper, given)
        steps.begin(given)
        for _ in range(count):
            steps()
            sums.append(steps.sums.clone())
    return [torch.stack(sums), *state_of(stepper)]


def check_same_digits(count: int = 3, **values: object) -> None:
    """Captured steps are the eager ones to the last digit, with dropout on."""
    config = tiny_config({"dropout": 0.3, **values})
    with recorded_graphs():
        captured = two_epochs(
            lambda stepper, first: CapturedSteps(as_on_a_gpu(stepper), first), config, count
        )
    eager = two_epochs(lambda stepper, _: EagerSteps(stepper), config, count)
    for one, two in zip(captured, eager, strict=True):
        assert torch.equal(one, two)


def test_a_step_with_noise_on_pixels_or_without_leave_is_not_captured() -> None:
    assert can_be_captured(tiny_config())
    assert not can_be_captured(tiny_config({"noise": 0.1}))
    assert not can_be_captured(tiny_config({"cuda_graph": False}))


def test_on_a_cpu_steps_are_eager() -> None:
    stepper = a_stepper(tiny_config())
    assert isinstance(steps_for(stepper, an_epoch(stepper, 1)), EagerSteps)


@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: ",".join(values) or "default")
def test_captured_steps_are_the_eager_ones_to_the_last_digit(values: dict[str, object]) -> None:
    check_same_digits(**values)


def test_an_epoch_may_be_shorter_than_the_warm_up() -> None:
    check_same_digits(count=1)


@pytest.mark.parametrize("name", [name for name, mistake in PLANTED.items() if mistake.in_digits])
def test_a_planted_mistake_shows_in_the_digits(name: str) -> None:
    with PLANTED[name].planted(), pytest.raises(AssertionError):
        check_same_digits()


def breaking(error: Exception, when: Callable[[], bool]) -> object:
    """A patch: the clipping of a step raises `error` from when on."""
    clip = Stepper._clip

    def clipped(self: Stepper, gradient: Tensor) -> None:
        if when():
            raise error
        clip(self, gradient)

    return mock.patch.object(Stepper, "_clip", clipped)


WAITED = RuntimeError("called a synchronizing CUDA operation")
FULL = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("error", [WAITED, FULL], ids=["waits", "memory"])
def test_a_failed_warm_up_leaves_everything_as_it_was(error: Exception) -> None:
    """Not before the side stream has been waited for, which may still be writing."""
    stepper = a_stepper(tiny_config({"dropout": 0.3}))
    before = state_of(stepper)
    at_wait: list[list[Tensor]] = []
    with recorded_graphs() as events:

        def look(event: str) -> None:
            if event == "main waits for side":
                at_wait.append(state_of(stepper))

        events.then = look
        with breaking(error, lambda: events[-1] == "sync debug error"):  # type: ignore[attr-defined]
            if error is WAITED:
                with pytest.warns(UserWarning, match="without a CUDA graph: called a synch"):
                    assert CapturedSteps.of(stepper, an_epoch(stepper, 3)) is None
                # else what the warm-up freed would lie beside the eager steps
                assert events.pop() == "empty cache"
            else:
                with pytest.raises(torch.OutOfMemoryError):
                    CapturedSteps.of(stepper, an_epoch(stepper, 3))
    assert events[-4:] == [
        *("sync debug error", "sync debug default"),
        *("main waits for side", "random state put back"),
    ]
    assert not any(map(torch.equal, at_wait[0], before))
    assert all(map(torch.equal, state_of(stepper), before))


@pytest.mark.parametrize("error", [WAITED, FULL], ids=["waits", "memory"])
def test_after_a_broken_capture_the_device_is_lost(error: Exception) -> None:
    stepper = a_stepper(tiny_config())
    with (
        recorded_graphs() as events,
        breaking(error, lambda: "capture begins" in events),  # type: ignore[attr-defined]
        pytest.raises(CaptureFailed, match=f"capture of a CUDA graph failed: {error}") as lost,
    ):
        CapturedSteps.of(stepper, an_epoch(stepper, 3))
    assert lost.value.__cause__ is error
    assert is_out_of_memory(error) == (error is FULL)
    # every further call would fail
    assert events[-1] == "capture begins"


def test_waits_are_errors_in_the_warm_up_alone() -> None:
    """Torch warns of that mode once it is set, and in tests a warning is an error."""
    stepper = a_stepper(tiny_config())
    with recorded_graphs() as events:
        CapturedSteps(stepper, an_epoch(stepper, 3))
    modes = [event for event in events if event.startswith("sync debug")]
    assert modes == ["sync debug error", "sync debug default"]
    assert events.index("sync debug default") < events.index("capture begins")


def test_one_side_stream_serves_all_trainings() -> None:
    with recorded_graphs() as events:
        for _ in range(2):
            stepper = a_stepper(tiny_config())
            CapturedSteps(stepper, an_epoch(stepper, 1))
    assert events.count("a stream is made") == 1
    assert events.count("capture ends") == 2


def test_captured_steps_on_streamed_pictures_are_the_eager_ones() -> None:
    config, results = tiny_config({"dropout": 0.3}), []
    for captured in (False, True):
        pixels._copies_of.cache_clear()
        stepper = a_stepper(config)
        torch.manual_seed(7)
        with recorded_graphs(), prompt_streams():
            if captured:
                stepper.pixels = streamed(tiny_faces().train)
            steps = None
            for epoch in range(2):
                given = an_epoch(stepper, 6, seed=epoch)
                if captured:
                    stepper.pixels.begin_epoch(given.order)
                steps = steps or (
                    CapturedSteps(as_on_a_gpu(stepper), given) if captured else EagerSteps(stepper)
                )
                steps.begin(given)
                for number in range(6):
                    if captured:
                        stepper.pixels.fetch(number)
                    steps()
        results.append([steps.sums.clone(), *state_of(stepper)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device")
def test_captured_steps_are_the_same_steps() -> None:
    """Without dropout: a graph counts its random numbers otherwise."""
    config = tiny_config({"dropout": 0.0, "device": "cuda", "precision": "float32"})
    ends = []
    for captured in (False, True):
        stepper = a_stepper(config, "cuda")
        steps: EagerSteps | CapturedSteps | None = None
        sums = []
        for epoch in range(2):
            given = an_epoch(stepper, 5, seed=epoch)
            if steps is None:
                steps = steps_for(stepper, given) if captured else EagerSteps(stepper)
            steps.begin(given)
            for _ in range(5):
                steps()
                sums.append(steps.sums.tolist())
        assert isinstance(steps, CapturedSteps) == captured
        ends.append(torch.tensor(sums))
        assert stepper.model.state_dict()["stem.1.num_batches_tracked"] == 10
    # sums on a GPU come in no fixed order
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-2, atol=0)
