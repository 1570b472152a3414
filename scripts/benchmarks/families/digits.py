"""A perceptron on scikit-learn's digits, with this project's loss and searched parameters.

1,797 digits of 8 x 8, with noise; CE + level x soft Dice, AdamW, cosine restarts; an average of the
weights is scored, by the mean F-score of the classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scripts.benchmarks.families import Training
from scripts.benchmarks.families.batches import batched, mean_f_score
from search.strategy.forecast.features import Array
from space import SPACE, Concrete, Float, concrete
from trainer.dice_schedule import dice_weight_at
from trainer.lr_schedule import cycle_ends, lr_at

EPOCHS = 24
_SIDE, _HIDDEN, _CLASSES = 64, 48, 10
_TRAINED, _SCORED, _BATCH = 640, 1000, 32
_NOISE, _RATE = 0.25, 3e-3
_STEPS = _TRAINED // _BATCH
# weight decay of the space is meant for convolutions
_DECAY = 10.0
_EMA, _FIRST, _SECOND = 0.9, 0.9, 0.999
# so many at once fill a core's cache
_AT_ONCE = 48


class Digits:
    """See `scripts.benchmarks.families.Family`. half: 0 or 1, which draw of the data."""

    epochs = EPOCHS
    fresh = 12

    def __init__(self, half: int, *, rate_searched: bool) -> None:
        self._half = half
        self.specs: dict[str, Concrete] = concrete(SPACE, EPOCHS)
        if rate_searched:
            self.specs["learning_rate"] = Float(2e-4, 3e-2, log=True)

    def curves(self, trainings: Sequence[Training]) -> Array:
        return batched(self._curves, trainings, _AT_ONCE)

    def _curves(self, trainings: Sequence[Training]) -> Array:
        images, digits, unseen, truth = _pictures(self._half)
        params = [one.params for one in trainings]
        count = len(trainings)
        draws = [_Draws(one) for one in trainings]
        weights = [torch.stack(own) for own in zip(*(one.weights for one in draws), strict=True)]
        first, second = ([torch.zeros_like(it) for it in weights] for _ in range(2))
        averaged = [it.clone() for it in weights]
        rates = torch.tensor([_rates(own) for own in params]).T.reshape(-1, count, 1, 1)
        levels = torch.tensor([_levels(own) for own in params]).T
        smoothing = torch.tensor([own["label_smoothing"] for own in params])[:, None, None]
        decay = torch.tensor([own["weight_decay"] * _DECAY for own in params])[:, None, None]
        hot = functional.one_hot(digits, _CLASSES).float()
        scores = np.empty((count, EPOCHS))
        for step in range(EPOCHS * _STEPS):
            if step % _STEPS == 0:
                order = torch.stack([one.order() for one in draws])
            rows = order[:, step % _STEPS * _BATCH : (step % _STEPS + 1) * _BATCH]
            kept = torch.stack([one.kept() for one in draws], 1)
            wanted = hot[rows]
            for it in weights:
                it.requires_grad_()
            logs = _net(weights, images[rows], kept).log_softmax(-1)
            target = (1 - smoothing) * wanted + smoothing / _CLASSES
            chance = logs.exp()
            overlap = 2 * (chance * wanted).sum(1) / (chance.sum(1) + wanted.sum(1) + 1e-6)
            loss = -(target * logs).sum(-1).mean(1) + levels[step] * (1 - overlap.mean(1))
            slopes = torch.autograd.grad(loss.sum(), weights)
            bias = 1 - _FIRST ** (step + 1), 1 - _SECOND ** (step + 1)
            with torch.no_grad():
                for it, slope, m, v, mean in zip(
                    weights, slopes, first, second, averaged, strict=True
                ):
                    it.requires_grad_(False)
                    m.lerp_(slope, 1 - _FIRST)
                    v.mul_(_SECOND).addcmul_(slope, slope, value=1 - _SECOND)
                    it.mul_(1 - rates[step] * decay)
                    it.sub_(rates[step] * (m / bias[0]) / ((v / bias[1]).sqrt() + 1e-8))
                    mean.lerp_(it, 1 - _EMA)
                if (step + 1) % _STEPS == 0:
                    said = _net(averaged, unseen.expand(count, -1, -1)).argmax(-1)
                    scores[:, step // _STEPS] = mean_f_score(said, truth, _CLASSES)
        return scores


class _Draws:
    """What one training draws: first weights, orders, dropout; from its seed alone."""

    def __init__(self, training: Training) -> None:
        self._from = torch.Generator().manual_seed(training.seed)
        self._dropout = training.params["dropout"]
        self.weights = []
        for before, after, gain in ((_SIDE, _HIDDEN, 2), (_HIDDEN, _HIDDEN, 2), (_HIDDEN, 10, 1)):
            drawn = torch.randn(before, after, generator=self._from)
            self.weights += [drawn * (gain / before) ** 0.5, torch.zeros(1, after)]

    def order(self) -> Tensor:
        order = torch.randperm(_TRAINED, generator=self._from)
        # a draw for each unit would take as long as the training
        places = (_STEPS, 2, _BATCH, _HIDDEN)
        kept = torch.rand(places, generator=self._from) >= self._dropout
        self._masks = iter(kept.float() / (1 - self._dropout))
        return order

    def kept(self) -> Tensor:
        return next(self._masks)


def _net(weights: Sequence[Tensor], at: Tensor, kept: Tensor | None = None) -> Tensor:
    """Scores of the classes [training, picture, class]."""
    for layer in range(2):
        at = torch.relu(torch.baddbmm(weights[2 * layer + 1], at, weights[2 * layer]))
        if kept is not None:
            at = at * kept[layer]
    return torch.baddbmm(weights[5], at, weights[4])


def _rates(params: Mapping[str, float]) -> list[float]:
    steps = EPOCHS * _STEPS
    ends = cycle_ends(steps, t_0_steps=params["T_0"] * _STEPS)
    peak = params.get("learning_rate", _RATE)
    return [lr_at(step, ends=ends, peak=peak, eta_min=0.0) for step in range(steps)]


def _levels(params: Mapping[str, float]) -> list[float]:
    steps = EPOCHS * _STEPS
    level, ramp, schedule = (params[f"dice_{name}"] for name in ("weight", "ramp", "schedule"))
    return [
        dice_weight_at(step / steps, level=level, ramp=ramp, schedule=str(schedule))
        for step in range(steps)
    ]


@functools.cache
def _pictures(half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures [N, 64] and digits [N] to train on, and to score."""
    from sklearn.datasets import load_digits

    # one thread a process: the matrices are small
    torch.set_num_threads(1)
    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(half)
    order = rng.permutation(len(pixels))
    noisy = pixels[order] / 16 + _NOISE * rng.normal(size=pixels.shape)
    at, named = torch.from_numpy(noisy).float(), torch.from_numpy(digits[order]).long()
    scored = slice(_TRAINED, _TRAINED + _SCORED)
    return at[:_TRAINED], named[:_TRAINED], at[scored], named[scored]
