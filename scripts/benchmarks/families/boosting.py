"""Gradient boosting of trees, on data that scikit-learn ships: an epoch is some rounds of it.

One half tells breast cancers, the other odd digits from even ones; columns of noise are added, and
some of the trained labels are turned round. The score is the likelihood of an unseen label: it
falls again where too many rounds fit the noise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scripts.benchmarks.families import Training
from search.strategy.forecast.features import Array
from space import Choice, Concrete, Float, Int

EPOCHS = 24
_ROUNDS = 3
# rows of the data that are trained on; of those, the share that one training draws
_TRAINED, _DRAWN = 360, 0.9
_FLIPPED, _NOISE_COLUMNS = 0.15, 16
_SPECS: dict[str, Concrete] = {
    "learning_rate": Float(0.02, 1.0, log=True),
    "max_leaf_nodes": Int(2, 32, log=True),
    "min_samples_leaf": Int(1, 48, log=True),
    "l2_regularization": Float(1e-2, 30, log=True),
    # share of the columns that a node looks at
    "max_features": Float(0.05, 1.0),
    "interactions": Choice(("all", "none")),
}


class Boosting:
    """See `scripts.benchmarks.families.Family`. half: 0 or 1, which data."""

    epochs = EPOCHS
    fresh = 12

    def __init__(self, half: int) -> None:
        self._half = half
        self.specs = _SPECS

    def curves(self, trainings: Sequence[Training]) -> Array:
        """Likelihood after each epoch, float64 [N, epochs] in [0, 1]."""
        from threadpoolctl import threadpool_limits

        # one thread a process: the data are small
        with threadpool_limits(1):
            return np.array([self._curve(one) for one in trainings]).reshape(-1, EPOCHS)

    def _curve(self, training: Training) -> Array:
        from sklearn.ensemble import HistGradientBoostingClassifier

        columns, labels, unseen, truth = _rows(self._half)
        rng = np.random.default_rng(training.seed)
        rows = rng.permutation(_TRAINED)[: round(_DRAWN * _TRAINED)]
        params = {**training.params}
        together = {"all": None, "none": "no_interactions"}[params.pop("interactions")]
        trees = HistGradientBoostingClassifier(
            **params,
            interaction_cst=together,
            max_iter=EPOCHS * _ROUNDS,
            early_stopping=False,
            random_state=int(rng.integers(2**31)),
        ).fit(columns[rows], labels[rows])
        stages = list(trees.staged_predict_proba(unseen))[_ROUNDS - 1 :: _ROUNDS]
        sure = [chances[np.arange(len(truth)), truth] for chances in stages]
        return np.exp(np.log(np.clip(sure, 1e-6, 1)).mean(1))


@functools.cache
def _rows(half: int) -> tuple[Array, Any, Array, Any]:
    """Columns [N, C] and labels [N] to train on, and to score."""
    from sklearn.datasets import load_breast_cancer, load_digits

    loads: Callable[..., Any] = (load_breast_cancer, load_digits)[half]
    columns, labels = loads(return_X_y=True)
    # odd digits from even ones
    labels = labels % 2
    rng = np.random.default_rng(half)
    order = rng.permutation(len(labels))
    noise = rng.normal(size=(len(labels), _NOISE_COLUMNS))
    columns, labels = np.hstack([columns, noise])[order], labels[order]
    trained = labels[:_TRAINED] ^ (rng.random(_TRAINED) < _FLIPPED)
    return columns[:_TRAINED], trained, columns[_TRAINED:], labels[_TRAINED:]
