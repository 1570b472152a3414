"""Where Optuna meets a training: parameters drawn for a trial, and every epoch back to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import optuna

from search.study.search_space import Value
from search.study.setup import Setup, distributions
from storage.optuna_internals import replace_report


def suggest(trial: optuna.Trial, setup: Setup) -> dict[str, Value]:
    """Every searched parameter of a trial; those that it has already stay."""
    drawn: dict[str, Value] = {}
    for name, dist in distributions(setup).items():
        if name in trial.params:
            # a requeued trial keeps its numbers, also where a range has changed since
            drawn[name] = trial.params[name]
        elif isinstance(dist, optuna.distributions.CategoricalDistribution):
            drawn[name] = cast(Value, trial.suggest_categorical(name, list(dist.choices)))
        elif isinstance(dist, optuna.distributions.IntDistribution):
            drawn[name] = trial.suggest_int(name, dist.low, dist.high, log=dist.log)
        elif isinstance(dist, optuna.distributions.FloatDistribution):
            drawn[name] = trial.suggest_float(name, dist.low, dist.high, log=dist.log)
    return drawn


class Listener:
    """Reports each epoch to its trial, and prunes it where that is hopeless.

    reported: epoch -> score that the study has already; one that comes out otherwise is replaced.
    look: raises where somebody wants an end; done: whether nothing is left to train.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        epochs: int,
        reported: Mapping[int, float],
        look: Callable[[bool], None],
    ) -> None:
        self._trial = trial
        self._epochs = epochs
        self._reported = dict(reported)
        self._look = look
        self._done = False
        self.replaced: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether an epoch was reported already."""
        return bool(self._reported)

    def report(self, epoch: int, score: float) -> None:
        """As `search.trainers.contract.Told`. Raises optuna.TrialPruned and what `look` raises."""
        if self._reported.get(epoch) != score:
            self._keep(epoch, score)
            if epoch < self._epochs and self._trial.should_prune():
                raise optuna.TrialPruned(f"after epoch {epoch}")
        self._done = epoch >= self._epochs
        self.look()

    def look(self) -> None:
        self._look(self._done)

    def catch_up(self, scores: Mapping[int, float]) -> None:
        """Report epochs that are on disk and not in the store: the owner died in between."""
        missing = [epoch for epoch in scores if epoch not in self._reported]
        for epoch in missing:
            self._keep(epoch, scores[epoch])
        last = max(scores)
        if missing and last < self._epochs and self._trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {last}")

    def _keep(self, epoch: int, score: float) -> None:
        if epoch in self._reported:
            self.replaced.append(epoch)
            replace_report(self._trial, epoch, score)
        else:
            self._trial.report(score, step=epoch)
        self._reported[epoch] = score
