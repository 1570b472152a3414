"""Small made-up scenes, segmented by the narrowest `lmsa`, with this project's loss and parameters.

Drawn faces of 16 x 16 pixels: ground, skin, hair and clothes are large, and the other four classes
are a few pixels each, learnt late, and count as much. CE + level x Dice, AdamW, cosine restarts; an
average of the weights is scored, by the mean F-score of the classes.

K networks are trained as one whose convolutions have K groups: alone, most of the time would go
into starting operations. B batch, C channel, H row, W column.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks.families import Training
from scripts.benchmarks.families.batches import batched, mean_f_score
from search.strategy.forecast.features import Array
from space import SPACE, Concrete, Float, concrete
from trainer.adamw import AdamW, Rates
from trainer.dice_schedule import dice_weight_at
from trainer.ema import WeightAverage
from trainer.flat_model import FlatModel
from trainer.lmsa import BRANCH_SIDES, MIN_CHANNELS, Lmsa
from trainer.losses import segmentation_loss
from trainer.lr_schedule import cycle_ends, lr_at

EPOCHS = 24
_SIDE, _CLASSES = 16, 8
_TRAINED, _SCORED, _BATCH = 32, 32, 4
# deviations of the classes' colours, of a scene's own tints from them, and between pixels
_COLOUR, _TINT, _NOISE = 0.8, 0.4, 0.5
_STEPS = _TRAINED // _BATCH
# weight decay of the space is meant for longer trainings
_DECAY = 20.0
_EMA = 0.9
# with fewer groups than four, convolutions are computed in another way, to other last digits
_FEWEST, _AT_ONCE = 4, 16


class Scenes:
    """See `scripts.benchmarks.families.Family`. half: 0 or 1, which scenes."""

    epochs = EPOCHS
    fresh = 6

    def __init__(self, half: int) -> None:
        self._half = half
        self.specs: dict[str, Concrete] = {
            **concrete(SPACE, EPOCHS),
            "learning_rate": Float(6e-3, 1e-1, log=True),
        }

    def curves(self, trainings: Sequence[Training]) -> Array:
        """Mean F-score after each epoch, float64 [N, epochs] in [0, 1]."""
        return batched(self._curves, trainings, _AT_ONCE)

    def _curves(self, trainings: Sequence[Training]) -> Array:
        images, masks, unseen, truth = _scenes(self._half)
        many = [*trainings, *[trainings[-1]] * (_FEWEST - len(trainings))]
        count = len(many)
        params = [one.params for one in many]
        draws = [torch.Generator().manual_seed(one.seed) for one in many]
        model = _together([_fresh(one.seed) for one in many])
        flat = FlatModel(model)
        average = WeightAverage(flat, _EMA)
        weights = flat.weights.detach()
        gradient = flat.weights.grad
        assert gradient is not None
        optimiser = AdamW(weights, weight_decay=0.0)
        owner = torch.cat(
            [
                torch.arange(count).repeat_interleave(value.numel() // count)
                for value in model.parameters()
            ]
        )
        rates = torch.tensor([_rates(own) for own in params]).T
        levels = [_levels(own) for own in params]
        decay = torch.tensor([own["weight_decay"] * _DECAY for own in params])
        dropout = torch.tensor([own["dropout"] for own in params])[:, None, None, None]
        kept = model.dropout
        scores = np.empty((count, EPOCHS))
        for step in range(EPOCHS * _STEPS):
            if step % _STEPS == 0:
                order = torch.stack([torch.randperm(_TRAINED, generator=own) for own in draws])
                chance = torch.stack(
                    [torch.rand(_STEPS, _BATCH, MIN_CHANNELS, generator=own) for own in draws]
                )
                masks_of_epoch = (chance >= dropout).float() / (1 - dropout)
            at = step % _STEPS
            rows = order[:, at * _BATCH : (at + 1) * _BATCH]
            kept.share = masks_of_epoch[:, at].transpose(0, 1).reshape(_BATCH, -1, 1, 1)
            logits = model(_side_by_side(images[rows]))
            logits = logits.view(_BATCH, count, _CLASSES, _SIDE, _SIDE)
            gradient.zero_()
            losses = [
                segmentation_loss(
                    logits[:, group],
                    masks[rows[group]],
                    dice_weight=levels[group][step],
                    label_smoothing=own["label_smoothing"],
                ).total
                for group, own in enumerate(params)
            ]
            torch.stack(losses).sum().backward()
            plain = optimiser.next_rates(1.0)
            now = rates[step]
            optimiser.step(
                gradient,
                Rates((1 - now * decay)[owner], (now * plain.pace)[owner], plain.scale),
            )
            average.update(average.next_share())
            if at == _STEPS - 1:
                scores[:, step // _STEPS] = _scored(model, average, unseen, truth)
        return scores[: len(trainings)]


class _Kept(nn.Module):
    """Dropout of whole channels by a drawn share, as `Lmsa` has it in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.share if self.training else x


class _Linears(nn.Module):
    """K linear layers. Their outputs lie as [B, parts, K, C], the inputs as [B, K, C]."""

    def __init__(self, own: Sequence[nn.Linear], parts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([one.weight.detach().T for one in own]))
        self.bias = nn.Parameter(torch.stack([one.bias.detach()[None] for one in own]))
        self._parts = parts

    def forward(self, x: Tensor) -> Tensor:
        groups, features, _ = self.weight.shape
        out = torch.baddbmm(self.bias, x.view(-1, groups, features).transpose(0, 1), self.weight)
        return out.view(groups, len(x), self._parts, -1).permute(1, 2, 0, 3).reshape(len(x), -1)


def _fresh(seed: int) -> Lmsa:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Lmsa(width=0.0, dropout=0.0, num_classes=_CLASSES, aux=False)


def _together(own: Sequence[nn.Module]) -> Any:
    """Networks of one kind as one: float [B, K * C, H, W] in and out, a network's side by side."""
    model = copy.deepcopy(own[0])
    for name, module in own[0].named_modules():
        same = [one.get_submodule(name) for one in own]
        if isinstance(module, nn.Conv2d):
            model.set_submodule(name, _convolutions(same))
        elif isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, _joined(nn.BatchNorm2d(len(own) * module.num_features), same))
        elif isinstance(module, nn.Linear):
            parts = len(BRANCH_SIDES) if name.endswith("weigh") else 1
            model.set_submodule(name, _Linears([cast(nn.Linear, one) for one in same], parts))
        elif isinstance(module, nn.Dropout2d):
            model.set_submodule(name, _Kept())
    return model


def _joined(together: nn.Module, own: Sequence[nn.Module]) -> nn.Module:
    """The same module with the parameters of several, one after the other."""
    for name, value in together.named_parameters():
        value.data = torch.cat([each.get_parameter(name).detach() for each in own])
    return together


def _convolutions(own: Sequence[Any]) -> nn.Module:
    one, count = own[0], len(own)
    together = nn.Conv2d(
        count * one.in_channels,
        count * one.out_channels,
        one.kernel_size,
        padding=one.padding,
        groups=count * one.groups,
        bias=one.bias is not None,
    )
    return _joined(together, own)


def _side_by_side(images: Tensor) -> Tensor:
    """[K, B, C, H, W] -> [B, K * C, H, W]."""
    return images.transpose(0, 1).flatten(1, 2)


def _scored(model: Any, average: WeightAverage, unseen: Tensor, truth: Tensor) -> Array:
    """Mean F-score of each average, float64 [K]."""
    model.eval()
    with torch.no_grad():
        count = model.head.groups
        at = unseen.repeat(1, count, 1, 1)
        logits = torch.func.functional_call(model, average.state, (at,))
        said = logits.view(len(at), count, _CLASSES, -1).argmax(2)
    model.train()
    return mean_f_score(said.transpose(0, 1).flatten(1), truth.flatten(), _CLASSES)


def _rates(params: Mapping[str, Any]) -> list[float]:
    steps = EPOCHS * _STEPS
    ends = cycle_ends(steps, t_0_steps=params["T_0"] * _STEPS)
    return [
        lr_at(step, ends=ends, peak=params["learning_rate"], eta_min=0.0) for step in range(steps)
    ]


def _levels(params: Mapping[str, Any]) -> list[float]:
    steps = EPOCHS * _STEPS
    level, ramp, schedule = (params[f"dice_{name}"] for name in ("weight", "ramp", "schedule"))
    return [
        dice_weight_at(step / steps, level=level, ramp=ramp, schedule=schedule)
        for step in range(steps)
    ]


@functools.cache
def _scenes(half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures float [N, 3, H, W] and masks int64 [N, H, W] to train on, and to score."""
    # one thread a process: the pictures are small
    torch.set_num_threads(1)
    rng = np.random.default_rng(half)
    colours = rng.normal(0, _COLOUR, size=(_CLASSES, 3))
    drawn = [_scene(rng, colours) for _ in range(_TRAINED + _SCORED)]
    images = torch.tensor(np.array([image for image, _ in drawn])).float().movedim(-1, 1)
    masks = torch.tensor(np.array([mask for _, mask in drawn]))
    return images[:_TRAINED], masks[:_TRAINED], images[_TRAINED:], masks[_TRAINED:]


def _scene(rng: np.random.Generator, colours: Array) -> tuple[Array, Any]:
    """Picture [H, W, 3] and mask [H, W]: a face that looks ahead, on a ground."""
    row, column = np.mgrid[:_SIDE, :_SIDE] + 0.5
    y, x = _SIDE / 2 + rng.uniform(-1.5, 1.5, 2)
    tall, wide = rng.uniform(4.5, 6.0), rng.uniform(3.5, 5.0)

    def oval(down: float, right: float, high: float, across: float) -> Any:
        """Places within an ellipse around a place in the head, whose half axes are 1."""
        from_row, from_column = row - y - down * tall, column - x - right * wide
        return (from_row / high) ** 2 + (from_column / across) ** 2 < 1

    mask = np.zeros((_SIDE, _SIDE), dtype=np.int64)
    mask[oval(1.6, 0, tall, wide * 1.4)] = 7  # clothes
    mask[oval(-0.2, 0, tall + 1, wide + 1.2) & (row < y + rng.uniform(-2, 4))] = 2  # hair
    head = oval(0, 0, tall, wide)
    mask[head] = 1
    mask[head & (row < y - tall * rng.uniform(0.5, 0.8))] = 2
    eye = rng.uniform(0.6, 1.1)
    for right in (-0.45, 0.45):
        mask[oval(-0.15, right, eye, eye)] = 3
        mask[oval(-0.45, right, 0.6, 1.4)] = 4  # a thin brow
    mask[oval(0.2, 0, rng.uniform(0.8, 1.4), 0.7)] = 5  # nose
    mask[oval(0.55, 0, 0.7, wide * rng.uniform(0.25, 0.5))] = 6  # mouth
    # every scene has tints of its own, so that a place tells more than a colour
    tints = colours + _TINT * rng.normal(size=colours.shape)
    return tints[mask] + _NOISE * rng.normal(size=(_SIDE, _SIDE, 3)), mask
