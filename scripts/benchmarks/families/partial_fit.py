"""The scikit-learn example of `scripts/examples`: a program that this project knows nothing of.

One half splits the data otherwise than the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.families import Training
from scripts.examples import sklearn_partial_fit
from search.strategy.forecast.features import Array
from search.trainers.config_files import put_values, read_config
from search.trainers.space_files import read_space
from space import Concrete, concrete

EPOCHS = 24
_EXAMPLE = Path(sklearn_partial_fit.__file__).with_suffix("")


class PartialFit:
    """See `scripts.benchmarks.families.Family`. half: 0 or 1, which split of the data."""

    epochs = EPOCHS
    fresh = 10

    def __init__(self, half: int) -> None:
        config = read_config(_EXAMPLE.with_suffix(".yaml")).values
        self._config = put_values(config, {"epochs": EPOCHS, "data.split": half})
        space = read_space(_EXAMPLE.with_name(f"{_EXAMPLE.name}_space.yaml"))
        self.specs: dict[str, Concrete] = concrete(space.specs, EPOCHS)

    def curves(self, trainings: Sequence[Training]) -> Array:
        """Share of unseen digits told right after each epoch, float64 [N, epochs] in [0, 1]."""
        from threadpoolctl import threadpool_limits

        # one thread a process: the data are small
        with threadpool_limits(1):
            return np.array([self._curve(one) for one in trainings]).reshape(-1, EPOCHS)

    def _curve(self, training: Training) -> list[float]:
        scores: list[float] = []

        def report(score: float, **_: Any) -> None:
            scores.append(score)

        config = put_values(self._config, training.params)
        sklearn_partial_fit.train(config, report=report, out=None, seed=training.seed)
        return scores
