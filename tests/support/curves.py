"""Made-up training curves: a known truth for forecast, pruner and revival."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.strategy.forecast.curve_banks import Recorded
from search.strategy.forecast.features import annealing

EPOCHS = 24
# configurations of a known order
GOOD = {"dice_weight": 2.5, "label_smoothing": 0.0, "T_0": 24.0}
MIDDLING = {"dice_weight": 1.1, "label_smoothing": 0.1, "T_0": 24.0}
BAD = {"dice_weight": 0.5, "label_smoothing": 0.2, "T_0": 24.0}


def drawn(rng: np.random.Generator, epochs: int = EPOCHS) -> dict[str, Any]:
    """A configuration of the default space."""
    return {
        "dice_weight": float(rng.uniform(0.5, 4.0)),
        "dice_schedule": str(rng.choice(["constant", "step", "linear", "cosine"])),
        "dice_ramp": float(rng.uniform(-0.6, 0.6)),
        "label_smoothing": float(rng.uniform(0, 0.2)),
        "dropout": float(rng.uniform(0, 0.4)),
        "weight_decay": float(10 ** rng.uniform(-5, -2)),
        "T_0": epochs / int(rng.integers(1, 7)),
    }


def end_of(params: Mapping[str, Any], level: float = 1.5) -> float:
    """The true end of a configuration, as -log(1 - score): best at dice 2.5 without smoothing."""
    bend = math.log(params["dice_weight"] / 2.5) ** 2
    return level - 0.05 * bend - 0.2 * params["label_smoothing"]


def made(
    params: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    epochs: int = EPOCHS,
    level: float = 1.5,
    noise: float = 0.01,
) -> tuple[float, ...]:
    """A curve that rises to its end, dips after restarts and differs a little between seeds."""
    end = end_of(params, level) + noise * rng.standard_normal()
    walk = np.cumsum(rng.standard_normal(epochs))[::-1] * noise / 3
    shares = np.arange(1, epochs + 1) / epochs
    dips = [0.08 * annealing(s, t_0=params["T_0"] / epochs)[0] for s in shares]
    rise = end * (1 - np.exp(-6 * shares)) - np.array(dips) - (walk - walk[-1])
    return tuple(float(score) for score in 1 - np.exp(-np.maximum(rise, 0.01)))


def bank(
    configurations: int = 40, *, seed: int = 0, repeats: int = 8, **shape: Any
) -> list[Recorded]:
    """Recorded curves, the first `repeats` configurations with two seeds."""
    rng = np.random.default_rng(seed)
    curves = []
    for config in range(configurations):
        params = drawn(rng, shape.get("epochs", EPOCHS))
        for again in range(2 if config < repeats else 1):
            curve = made(params, rng, **shape)
            curves.append(Recorded(config, again, params, curve, (0.0,) * len(curve)))
    return curves


def by_epoch(scores: tuple[float, ...], epochs: int | None = None) -> dict[int, float]:
    """Epoch -> score, of the first epochs."""
    return dict(enumerate(scores[:epochs], 1))


def trained(
    base: Mapping[str, Any],
    *,
    number: int = 0,
    seed: int | None = None,
    state: TrialState = TrialState.COMPLETE,
    epochs: int | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A row of a made-up training, of its first epochs; what `base` does not name is drawn."""
    rng = np.random.default_rng(number if seed is None else seed)
    params = {**drawn(rng), **base}
    values = by_epoch(made(params, rng), epochs)
    row = create_trial(
        state=state,
        value=max(values.values()) if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: _wide(value) for name, value in params.items()},
        user_attrs=dict(attrs or {}),
        intermediate_values=values,
    )
    row.number = number
    return row


def _wide(value: float | str) -> BaseDistribution:
    if isinstance(value, str):
        return CategoricalDistribution(("constant", "step", "linear", "cosine"))
    return FloatDistribution(-100, 100)
