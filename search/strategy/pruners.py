"""When to stop a trial: `restart-aware`, and Optuna's own pruners by name."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import FrozenTrial

from search.strategy.forecast.features import knots_by
from search.strategy.forecast.study_forecast import StudyForecast
from search.study import lineages
from search.study.attributes import CONTINUES, REPEATS, TOTAL
from search.study.verdicts import Verdict
from storage.optuna_internals import StudyView

if TYPE_CHECKING:
    from search.study.setup import Setup

LOG = logging.getLogger(__name__)
# of the budget, before which no trial is stopped by one of Optuna's own pruners
_OPTUNAS_WARMUP = 0.15


@dataclass(frozen=True)
class Thresholds:
    """Where a trial is parked and where it goes on again.

    park: chance of still giving the answer below which a trial is parked, in accepted risks and
    for a whole training still to go, while trials are to come. again: of a revived trial, and for
    all at the end of the budget. warmup_share: of the budget, before which no trial is parked.
    `scripts/bench pruners --grid` shows what they are worth.
    """

    park: float = 5.0
    again: float = 0.5
    warmup_share: float = 0.1


THRESHOLDS = Thresholds()


class RestartAwarePruner(BasePruner):
    """Parks a trial that has hardly a chance left to give the study's answer.

    A forecast of its end (see `search.strategy.forecast.model`: from its best-so-far at equal
    shares of the budget, where it stands in its cycle and its configuration) is held against the
    best complete trial, the running ones and what is still to come. While forecasts have been wrong
    in the study itself none is parked, see `StudyForecast.trusted`.

    epochs: the budget. risk: accepted risk, in (0, 1), of an answer that is worse by more than the
    noise between seeds. study_forecast: gives the one on the study. total: finished trials wanted;
    None: as the study says. checked: complete trials that forecasts must have been right on before
    any is parked, 0 where the recorded curves are of the same program (else `CHECKED`).
    """

    def __init__(
        self,
        epochs: int,
        study_forecast: Callable[[], StudyForecast],
        *,
        risk: float,
        total: int | None = None,
        checked: int = 0,
        thresholds: Thresholds = THRESHOLDS,
    ) -> None:
        self._epochs = epochs
        self._checked = checked
        self._forecast_of_study = study_forecast
        self._risk = risk
        self._total = total
        self._thresholds = thresholds
        self._first_epoch = first_epoch(epochs, thresholds.warmup_share)
        # on the trial that was judged last; None where there was nothing to judge
        self.verdict: Verdict | None = None
        self._median: MergedPruner | None = None

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.verdict = None
        epoch = trial.last_step
        if REPEATS in trial.user_attrs or epoch is None or not self._judged(epoch):
            # a repeat is worth its end alone
            return False
        rows = study.get_trials(deepcopy=False)
        study_forecast = self._forecast_of_study()
        study_forecast.update(rows)
        if not study_forecast.fits:
            return self._by_median(study, trial)
        if not study_forecast.trusted(self._checked):
            return False
        one = lineages.up_to(rows, trial)
        revived = CONTINUES in trial.user_attrs
        total = self._total if self._total is not None else study.user_attrs.get(TOTAL, 0)
        to_come = 0 if revived else study_forecast.newcomers(total)
        competitors = study_forecast.competitors(but=one.number, to_come=to_come)
        if competitors.best is None and not competitors.running:
            return False
        # at the end of the budget only a better answer by more than the luck of a seed counts
        margin = study_forecast.forecast.noise if revived else 0.0
        end = study_forecast.end(one)
        chance = competitors.chance(end, margin)
        # a chance is worth the epochs that it still costs
        left = 1 - epoch / self._epochs
        limits = self._thresholds
        needed = left * self._risk * (limits.again if revived else limits.park)
        scale = study_forecast.scale
        forecast = scale.from_log(end.mean)
        rivals = [other.mean for other in competitors.running]
        rivals += [] if competitors.best is None else [competitors.best]
        self.verdict = Verdict(
            "restart-aware",
            epoch,
            self._epochs,
            best=max(one.intermediate_values.values()),
            forecast=forecast,
            deviation=end.deviation * scale.wrong(forecast),
            against=scale.from_log(max(rivals) + margin),
            to_come=to_come,
            chance=chance,
            needed=needed,
        )
        return chance < needed

    def _by_median(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Prune by the median: a score has no place on the scale of the forecast."""
        if self._median is None:
            LOG.info(
                "scores outside 0 to 1 (with --direction minimize: losses below 0) cannot be"
                " forecast: trials are pruned where they are below the median of the others"
            )
            self._median = MergedPruner("median", self._epochs)
        stop = self._median.prune(study, trial)
        self.verdict = self._median.verdict
        return stop

    def _judged(self, epoch: int) -> bool:
        """Whether an epoch tells the forecast anything new: between two knots it learns nothing."""
        if not self._first_epoch <= epoch < self._epochs:
            return False
        reached, before = (knots_by(at, self._epochs) for at in (epoch, epoch - 1))
        return epoch == self._first_epoch or reached > before


def first_epoch(epochs: int, share: float) -> int:
    """The first epoch at or after a share of the budget, at least 1."""
    # 0.15 * 20 is a little more than 3 in binary
    return max(1, math.ceil(share * epochs - 1e-9))


class MergedPruner(BasePruner):
    """One of Optuna's pruners, shown each lineage as one trial."""

    def __init__(self, name: str, epochs: int) -> None:
        self._inner = _optunas(name, epochs)
        self._name = name
        self._epochs = epochs
        self.verdict: Verdict | None = None

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.verdict = None
        if REPEATS in trial.user_attrs:
            return False
        one = lineages.up_to(study.get_trials(deepcopy=False), trial)
        if curve := one.intermediate_values:
            best = max(curve.values())
            self.verdict = Verdict(self._name, max(curve), self._epochs, best)
        return self._inner.prune(StudyView(study, lineages.merged), one)  # type: ignore[arg-type]


def _optunas(name: str, epochs: int) -> BasePruner:
    early, warmup = first_epoch(epochs, 0.1), first_epoch(epochs, _OPTUNAS_WARMUP)
    median = MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    made: dict[str, Callable[[], BasePruner]] = {
        "median": lambda: median,
        "percentile": lambda: PercentilePruner(25.0, n_startup_trials=5, n_warmup_steps=warmup),
        "hyperband": lambda: HyperbandPruner(min_resource=early, max_resource=epochs),
        "successive-halving": lambda: SuccessiveHalvingPruner(min_resource=early),
        "patient": lambda: PatientPruner(median, patience=early),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return made[name]()


def make_pruner(setup: Setup, study_forecast: Callable[[], StudyForecast]) -> BasePruner:
    """The pruner of a study. study_forecast: gives its own, asked for with the first verdict."""
    if setup.pruner == "none":
        return NopPruner()
    if setup.pruner == "restart-aware":
        limits = THRESHOLDS
        if not setup.goes_on:
            # what is stopped is lost for good
            limits = replace(limits, park=limits.again)
        return RestartAwarePruner(
            setup.epochs, study_forecast, risk=setup.prune_risk, thresholds=limits
        )
    return MergedPruner(setup.pruner, setup.epochs)
