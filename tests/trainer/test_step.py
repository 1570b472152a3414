"""The fast step against the simple one: the same training, computed the plain way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.faces import tiny_config
from tests.support.recorded_graph import as_on_a_gpu
from trainer.augment import Draws, augmented, drawn
from trainer.config import Config
from trainer.data.dataset import FaceData
from trainer.fast_convolutions import Depthwise, Pointwise, use_fast_convolutions
from trainer.model import model_of
from trainer.pixels import Pixels
from trainer.step import Stepper

STEPS = 50
LR, DICE_WEIGHT, SMOOTHING, DECAY = 1e-3, 1.5, 0.1, 0.9


def settings(**values: object) -> Config:
    return tiny_config({"label_smoothing": SMOOTHING, "weight_decay": 0.01, **values})


def batches(config: Config, faces: FaceData) -> Iterator[tuple[Tensor, Draws]]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        chosen = torch.randperm(len(faces.train), generator=generator)[: config.data.batch_size]
        yield chosen, drawn(len(chosen), generator)


def fresh(config: Config) -> nn.Module:
    torch.manual_seed(3)
    return model_of(config).train()


def one_hot_loss(logits: Tensor, masks: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    truth = functional.one_hot(masks, 19).permute(0, 3, 1, 2).float()
    overlap, size = (p * truth).sum(dim=(2, 3)), (p + truth).sum(dim=(2, 3))
    dice = 1 - ((2 * overlap + 1e-8) / (size + 1e-8)).mean()
    ce = functional.cross_entropy(logits, masks, label_smoothing=SMOOTHING)
    return ce + DICE_WEIGHT * dice


def simple(config: Config, faces: FaceData) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and averaged weights of a loop as torch's tutorials write it."""
    model = fresh(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01, foreach=False)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = Pixels(faces.train, torch.device("cpu"))
    losses = []
    torch.manual_seed(4)
    for number, (chosen, draws) in enumerate(batches(config, faces)):
        images, masks = augmented(*pixels.batch(chosen), config.augmentation, draws)
        loss = one_hot_loss(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.training.max_grad_norm)
        optimizer.step()
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
        losses.append(loss.item())
    return losses, average


def fast(config: Config, faces: FaceData) -> tuple[list[float], dict[str, Tensor]]:
    """The same by the stepper, as a training on a CPU uses it."""
    model = use_fast_convolutions(fresh(config).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    device = torch.device("cpu")
    stepper = Stepper(config, model, Pixels(faces.train, device), device, ema_decay=DECAY)
    torch.manual_seed(4)
    losses = [
        stepper(chosen, draws, stepper.numbers(LR, DICE_WEIGHT))[0].item()
        for chosen, draws in batches(config, faces)
    ]
    return losses, stepper.average.state


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Distance of two sets of weights in units of the second's length."""
    names = [name for name, value in two.items() if value.is_floating_point()]
    first, second = (torch.cat([state[n].flatten() for n in names]) for state in (one, two))
    return float((first - second).norm() / second.norm())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_fifty_fast_steps_are_fifty_simple_steps(faces: FaceData) -> None:
    losses, weights = fast(settings(), faces)
    expected, truth = simple(settings(), faces)
    assert losses[0] == pytest.approx(expected[0], rel=1e-6)
    # rounding is all that differs, and grows from step to step as it does in any training
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-4)
    assert losses == pytest.approx(expected, rel=0.03)
    assert mean(losses) == pytest.approx(mean(expected), rel=3e-3)
    assert distance(weights, truth) < 0.25


@pytest.mark.long
def test_fifty_steps_in_bfloat16_lead_to_the_same_losses(faces: FaceData) -> None:
    losses, _ = fast(settings(precision="bfloat16"), faces)
    expected, _ = simple(settings(), faces)
    assert losses == pytest.approx(expected, rel=0.03)
    assert mean(losses) == pytest.approx(mean(expected), rel=3e-3)


def test_quick_convolutions_give_the_same_logits_and_gradients() -> None:
    config = settings()
    plain = fresh(config).double()
    quick = use_fast_convolutions(fresh(config).double().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    kinds = {type(module) for module in quick.modules()}
    assert {Pointwise, Depthwise} <= kinds
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    given = images.contiguous(memory_format=torch.channels_last)
    for model, x in ((plain, images), (quick, given)):
        torch.manual_seed(1)
        (model(x) ** 2).mean().backward()
    for (name, one), (_, two) in zip(
        plain.named_parameters(), quick.named_parameters(), strict=True
    ):
        assert one.grad is not None
        assert two.grad is not None
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "values",
    [
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "micro_batch": 3, "aux_weight": 0.4},
        {"precision": "float32", "micro_batch": 3},
    ],
    ids=str,
)
def test_weights_cast_and_gradients_gathered_at_once_give_the_same_digits(
    faces: FaceData, values: dict[str, object]
) -> None:
    config = settings(dropout=0.3, **values)
    device = torch.device("cpu")
    ends = []
    for at_once in (False, True):
        model = fresh(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stepper = Stepper(config, model, Pixels(faces.train, device), device, ema_decay=DECAY)
        leaves = as_on_a_gpu(stepper).leaves if at_once else None
        torch.manual_seed(4)
        losses = []
        for number, (chosen, draws) in zip(range(4), batches(config, faces), strict=False):
            if leaves is not None and number == 2:
                # left over of a step that broke off
                for leaf, _ in [*leaves._pairs[0], *leaves._pairs[1]]:
                    leaf.grad = torch.ones_like(leaf)
            losses.append(stepper(chosen, draws, stepper.numbers(LR, DICE_WEIGHT)))
        gradient = stepper.flat.weights.grad
        assert gradient is not None
        ends.append((torch.stack(losses), gradient, stepper.flat.weights, stepper.average.weights))
    assert all(map(torch.equal, *ends))
