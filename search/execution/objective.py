"""Where Optuna meets the trainer: trial -> config -> fit, and every epoch back to the trial."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

import optuna

from search.study.search_space import Value
from search.study.setup import Setup, distributions
from trainer.config import Config
from trainer.fit import FitResult, Progress, fit

if TYPE_CHECKING:
    from trainer.data.dataset import FaceData


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


def run_trial(
    trial: optuna.Trial,
    config: Config,
    data: FaceData,
    *,
    out: Path,
    after_epoch: Callable[[Progress], None],
    reported: Collection[int] = (),
    resume_from: Path | None = None,
) -> FitResult:
    """Train one trial, from `resume_from` on where it has been trained before.

    reported: epochs that the study has already. after_epoch is called once an epoch is reported
    and may raise to stop. Raises optuna.TrialPruned, trainer.errors.Diverged, and whatever
    training and the store raise.
    """

    def report(progress: Progress) -> None:
        # the checkpoint of this epoch is on disk: what is reported can always be gone on from
        if progress.epoch not in reported:
            trial.report(progress.f_score, step=progress.epoch)
            if progress.epoch < progress.epochs and trial.should_prune():
                raise optuna.TrialPruned(f"after epoch {progress.epoch}")
        after_epoch(progress)

    return fit(config, data, out=out, report=report, resume_from=resume_from)
