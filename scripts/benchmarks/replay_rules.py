"""The rules that `scripts/bench pruners` replays: this project's, Optuna's, and those of others.

Optuna's are its own classes. Ray Tune's and Syne Tune's are theirs where they can be imported and
else re-stated from the papers, which their names say. Two rivals predict curves with networks
whose weights are a download; here `Extrapolator` stands in their place.
"""

from __future__ import annotations

import functools
import importlib
import math
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
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
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from scripts.benchmarks.replay import Rule, Setting
from search.strategy.forecast.features import ConfigurationFeatures
from search.strategy.forecast.model import Forecast, prior_from
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.pruners import THRESHOLDS, RestartAwarePruner, Thresholds, first_epoch
from search.strategy.revival import trial_to_revive
from search.study import lineages
from search.study.attributes import CONTINUES
from search.study.setup import PRUNE_RISK

OURS = "restart-aware"
NO_PRUNING = "no pruning"
# beside the default one
RISKS = (0.05, 0.1, 0.2)
LEFT_OUT = {
    "Wilcoxon": "compares the scores of single instances (folds, images) that all trials share;"
    " the epochs of a curve are no such instances",
}
Factory = Callable[[Setting], Rule]
# whole curves that a covariance needs
_FEW = 3
# the noise between seeds: whole curves may lie closer together by luck
_LEAST_SPREAD = 0.002


def restart_aware(
    setting: Setting, risk: float = PRUNE_RISK, thresholds: Thresholds = THRESHOLDS
) -> Rule:
    """This project's pruner and revival, as they ship where nothing is given."""
    starts = [prior_from(setting.prior)] if setting.prior else []
    study_forecast = StudyForecast(
        Forecast(starts, ConfigurationFeatures(setting.epochs)), setting.configurations
    )

    def revive(study: optuna.Study, total: int) -> int | None:
        rows = study.get_trials(deepcopy=False)
        return trial_to_revive(
            rows,
            study_forecast,
            epochs=setting.epochs,
            total=total,
            limit=None,
            risk=risk,
            thresholds=thresholds,
        )

    pruner = RestartAwarePruner(
        setting.epochs,
        lambda: study_forecast,
        risk=risk,
        total=setting.total,
        thresholds=thresholds,
    )
    return Rule(pruner, revive)


# ------------------------------------------------------------------------------------------ rivals


class OneCheck(BasePruner):
    """At one epoch only the trials that rank among the best `keep` so far go on.

    Source: i-Epoch, arXiv 2404.04111.
    """

    def __init__(self, epoch: int, keep: int = 3) -> None:
        self._epoch = epoch
        self._keep = keep

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if trial.last_step != self._epoch:
            return False
        own = trial.intermediate_values[self._epoch]
        return sum(score > own for score in _others(study, trial, self._epoch)) >= self._keep


class Stopping(BasePruner):
    """Asynchronous successive halving that stops: judged once at each rung, by what came before.

    goes_on(own, earlier): whether a score is good enough among those recorded at its rung.
    """

    def __init__(
        self, rungs: Sequence[int], goes_on: Callable[[float, Sequence[float]], bool]
    ) -> None:
        self._rungs = rungs
        self._goes_on = goes_on

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        rung = trial.last_step
        if rung is None or rung not in self._rungs:
            return False
        earlier = _others(study, trial, rung)
        return bool(earlier) and not self._goes_on(trial.intermediate_values[rung], earlier)


class Promotion(BasePruner):
    """Asynchronous successive halving that pauses at every rung and promotes the best of a rung.

    Before anything new is begun, from the highest rung down: a paused trial among the best
    floor(recorded / eta) of its rung goes on to the next one. Source: arXiv 1810.05934,
    algorithm 2.
    """

    def __init__(self, rungs: Sequence[int], eta: int) -> None:
        self._rungs = rungs
        self._eta = eta

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.last_step in self._rungs

    def promote(self, study: optuna.Study, total: int) -> int | None:
        rows = study.get_trials(deepcopy=False)
        last_rows = _last_rows(rows)
        for rung in reversed(self._rungs):
            recorded = [row for row in rows if rung in row.intermediate_values]
            recorded.sort(key=lambda row: -row.intermediate_values[rung])
            for row in recorded[: len(recorded) // self._eta]:
                if row.number in last_rows and row.last_step == rung:
                    return row.number
        return None


class Scheduled(BasePruner):
    """A scheduler of another library, asked as its own tuner asks it.

    before: what its methods take ahead of the trial.
    """

    def __init__(self, scheduler: Any, *before: Any) -> None:
        self._scheduler = scheduler
        self._before = before

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        row = SimpleNamespace(trial_id=str(trial.number), config={"x": 0.5})
        epoch = trial.last_step
        assert epoch is not None, "asked after a report"
        if epoch == 1:
            self._scheduler.on_trial_add(*self._before, row)
        said = {"training_iteration": epoch, "f_score": trial.intermediate_values[epoch]}
        return bool(self._scheduler.on_trial_result(*self._before, row, said) == "STOP")


def rungs_of(epochs: int, grace: int, eta: int) -> list[int]:
    """grace x eta**k below the end.

    >>> rungs_of(24, 1, 4), rungs_of(24, 3, 3)
    ([1, 4, 16], [3, 9])
    """
    return [grace * eta**k for k in range(epochs) if grace * eta**k < epochs]


def _others(study: optuna.Study, trial: FrozenTrial, epoch: int) -> list[float]:
    return [
        row.intermediate_values[epoch]
        for row in study.get_trials(deepcopy=False)
        if row.number != trial.number and epoch in row.intermediate_values
    ]


def _last_rows(rows: Iterable[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Number -> row, of those that no other row continues and that were parked."""
    continued = {row.user_attrs.get(CONTINUES) for row in rows}
    return {
        row.number: row
        for row in rows
        if row.number not in continued and row.state == TrialState.PRUNED
    }


_RAY = ("ray.tune.schedulers", "AsyncHyperBandScheduler")
_SYNE = ("syne_tune.optimizer.schedulers.asha", "AsynchronousSuccessiveHalving")


@cache
def _imported(module: str, name: str) -> Any | None:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None


def _ray(setting: Setting, share: float) -> Rule:
    grace, own = first_epoch(setting.epochs, share), _imported(*_RAY)
    if own is None:
        # the best quarter: no worse than the 75th percentile of those before
        return Rule(
            Stopping(
                rungs_of(setting.epochs, grace, 4),
                lambda score, earlier: score >= float(np.percentile(earlier, 75)),
            )
        )
    scheduler = own(metric="f_score", mode="max", max_t=setting.epochs, grace_period=grace)
    return Rule(Scheduled(scheduler, None))


def _syne(setting: Setting, share: float) -> Rule:
    grace, own = first_epoch(setting.epochs, share), _imported(*_SYNE)
    if own is None:
        # the best third: no more than a third of all, itself included, are better
        return Rule(
            Stopping(
                rungs_of(setting.epochs, grace, 3),
                lambda score, earlier: (
                    3 * sum(other > score for other in earlier) <= len(earlier) + 1
                ),
            )
        )
    uniform = importlib.import_module("syne_tune.config_space").uniform
    scheduler = own(
        {"x": uniform(0, 1)},
        metric="f_score",
        do_minimize=False,
        max_t=setting.epochs,
        grace_period=grace,
        random_seed=setting.seed,
    )
    return Rule(Scheduled(scheduler))


def _promotion(setting: Setting, share: float) -> Rule:
    pruner = Promotion(rungs_of(setting.epochs, first_epoch(setting.epochs, share), 3), eta=3)
    return Rule(pruner, pruner.promote)


# ---------------------------------------------------------------------------------- extrapolation


class Extrapolator:
    """A Gaussian process over the logarithm of the epoch, one curve at a time.

    Mean and standard deviation at each epoch are those of the whole curves known; what is left of a
    curve is a level of its own + something smooth in log epoch + noise, in the shares and with the
    smoothness of a grid under which the whole curves are likeliest. With fewer than three of them
    it says little: 0.3 on both sides of their mean, or of 0.5. It sees no parameters: before its
    first epoch every configuration is the same to it.
    """

    def __init__(self, epochs: int, prior: np.ndarray) -> None:
        """prior: whole curves of other studies, float64 [curves, epochs]; may be none."""
        self._epochs = epochs
        self._prior = prior
        self._known = -1
        self._gains: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def learn(self, lineages: Sequence[FrozenTrial]) -> None:
        """Take in a study's lineages; those that ended count as whole curves."""
        whole = [_curve(one) for one in lineages if one.state == TrialState.COMPLETE]
        if len(whole) == self._known:
            return
        self._known = len(whole)
        self._gains.clear()
        curves = np.vstack([self._prior, *whole])
        self._mean = curves.mean(axis=0) if len(curves) else np.full(self._epochs, 0.5)
        spread, correlation = (
            np.full(self._epochs, 0.3),
            _correlation(self._epochs, 0.5, 1.0, 0.001),
        )
        if len(curves) >= _FEW:
            spread = np.maximum(curves.std(axis=0, ddof=1), _LEAST_SPREAD)
            correlation = _likeliest((curves - self._mean) / spread)
        self._kernel = np.outer(spread, spread) * correlation

    def ahead(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the scores to come, after those seen [epochs so far]."""
        begun = len(seen)
        if begun not in self._gains:
            past, between = self._kernel[:begun, :begun], self._kernel[begun:, :begun]
            gain = np.linalg.solve(past, between.T).T
            variance = np.diag(self._kernel)[begun:] - (gain * between).sum(axis=1)
            self._gains[begun] = gain, np.sqrt(variance)
        gain, deviation = self._gains[begun]
        return self._mean[begun:] + gain @ (seen - self._mean[:begun]), deviation


def _correlation(epochs: int, level: float, smooth: float, noise: float) -> np.ndarray:
    time = np.log(np.arange(1.0, epochs + 1))
    near = np.exp(-np.square(time[:, None] - time[None, :]) / (2 * smooth**2))
    return (1 - noise) * (level + (1 - level) * near) + noise * np.eye(epochs)


@cache
def _grid(epochs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlations of the grid, their inverses, and the logarithms of their determinants."""
    settings = product((0.0, 0.25, 0.5, 0.75, 0.9), (0.1, 0.25, 0.5, 1.0, 2.0), (0.01, 0.05, 0.2))
    correlations = np.array([_correlation(epochs, *setting) for setting in settings])
    return correlations, np.linalg.inv(correlations), np.linalg.slogdet(correlations)[1]


def _likeliest(rest: np.ndarray) -> np.ndarray:
    """The correlation under which curves in standard deviations are likeliest: [curves, epochs]."""
    correlations, inverses, logs = _grid(rest.shape[1])
    # of the curves only the sums of their products matter
    squares = np.einsum("set,et->s", inverses, rest.T @ rest)
    return np.asarray(correlations[np.argmin(squares + len(rest) * logs)])


def _curve(one: FrozenTrial) -> np.ndarray:
    return np.array([one.intermediate_values[epoch] for epoch in sorted(one.intermediate_values)])


def _prior_curves(setting: Setting, use: bool) -> np.ndarray:
    """The prior's curves at the study's epochs, by shares of the budget: [curves, epochs]."""
    shares = np.arange(1, setting.epochs + 1) / setting.epochs
    curves = [
        np.interp(shares, np.arange(1, len(one.val_f) + 1) / len(one.val_f), one.val_f)
        for one in setting.prior
        if use
    ]
    return np.array(curves).reshape(-1, setting.epochs)


class PredictiveStopping(BasePruner):
    """Stops a trial whose chance to end above the best score so far is below `least`.

    Source: arXiv 2310.20447 (there the chance is a network's).
    """

    def __init__(self, model: Extrapolator, least: float = 0.05) -> None:
        self._model = model
        self._least = least

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        rows = study.get_trials(deepcopy=False)
        others = [value for row in rows if row.number != trial.number for value in _scores(row)]
        if not others:
            return False
        self._model.learn(rows)
        mean, deviation = self._model.ahead(_curve(trial))
        return bool(ndtr((mean[-1] - max(others)) / deviation[-1]) < self._least)


class FreezeThaw(BasePruner):
    """Steps the trial that is likeliest to improve, one epoch at a time, within a budget.

    Before every epoch it draws how far to look ahead, h, evenly from 1 to the whole budget of a
    trial, and by how much the best score b is to be beaten, 10**u * (1 - b) with u evenly from -4
    to -1. Of the trial at hand, the parked ones and a new one, the likeliest to do so within h
    epochs goes on. An epoch is kept back for each trial not yet begun, since the replay begins
    them all. Source: arXiv 2404.16795 (there the chance is a network's, which sees parameters).
    """

    def __init__(self, setting: Setting, model: Extrapolator, share: float) -> None:
        self._epochs = setting.epochs
        self._total = setting.total
        self._budget = math.floor(share * setting.epochs * setting.total)
        self._seed = setting.seed
        self._model = model

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._next(study) != trial.number

    def thaw(self, study: optuna.Study, total: int) -> int | None:
        return self._next(study)

    def _next(self, study: optuna.Study) -> int | None:
        """The number of the row to go on from; None for a new trial, or for nothing more."""
        rows = study.get_trials(deepcopy=False)
        merged = lineages.merged(rows)
        spent = sum(len(row.intermediate_values) for row in rows)
        unborn = self._total - len(merged)
        if not rows or spent + unborn >= self._budget:
            return None
        # the same state, the same draw: asked after an epoch and again before the next one
        rng = random.Random(f"{self._seed} {spent}")
        horizon = rng.randint(1, self._epochs)
        best = max(score for one in merged for score in _scores(one))
        goal = best + 10 ** rng.uniform(-4, -1) * (1 - best)
        self._model.learn(merged)

        def chance(seen: np.ndarray) -> float:
            mean, deviation = self._model.ahead(seen)
            at = min(horizon, len(mean)) - 1
            return float((mean[at] - goal) / deviation[at])

        last_of = _ends(rows)
        candidates: list[tuple[float, int | None]] = [
            (chance(_curve(one)), last_of[one.number])
            for one in merged
            if one.state != TrialState.COMPLETE
        ]
        if unborn:
            candidates.append((chance(np.empty(0)), None))
        return max(candidates, key=lambda one: one[0])[1] if candidates else None


def _ends(rows: Sequence[FrozenTrial]) -> dict[int, int]:
    """Number of a lineage's first row -> number of its last."""
    first: dict[int, int] = {}
    for row in rows:
        parent = row.user_attrs.get(CONTINUES)
        first[row.number] = row.number if parent is None else first[parent]
    return {root: number for number, root in first.items()}


def _scores(row: FrozenTrial) -> Iterable[float]:
    return row.intermediate_values.values()


# --------------------------------------------------------------------------------------- the table


def _optuna(make: Callable[[int], BasePruner]) -> Factory:
    return lambda setting: Rule(make(setting.epochs))


def _one_check(share: float) -> Factory:
    return lambda setting: Rule(OneCheck(first_epoch(setting.epochs, share)))


def _predictive(use_prior: bool) -> Factory:
    return lambda setting: Rule(
        PredictiveStopping(Extrapolator(setting.epochs, _prior_curves(setting, use_prior)))
    )


def _freeze_thaw(share: float, use_prior: bool) -> Factory:
    def make(setting: Setting) -> Rule:
        model = Extrapolator(setting.epochs, _prior_curves(setting, use_prior))
        pruner = FreezeThaw(setting, model, share)
        return Rule(pruner, pruner.thaw)

    return make


def _patient(epochs: int) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(MedianPruner(), patience=5)


def rules() -> dict[str, Factory]:
    """Name -> what makes the rule for one study, in the order of the table."""
    ray = "Ray Tune" if _imported(*_RAY) else "re-stated after Ray Tune"
    syne = "Syne Tune" if _imported(*_SYNE) else "re-stated after Syne Tune"
    table: dict[str, Factory] = {
        NO_PRUNING: _optuna(lambda epochs: NopPruner()),
        OURS: restart_aware,
        **{f"{OURS}, risk {risk:g}": functools.partial(restart_aware, risk=risk) for risk in RISKS},
        "median": _optuna(lambda epochs: MedianPruner()),
        "median, warm-up 30 %": _optuna(
            lambda epochs: MedianPruner(n_warmup_steps=first_epoch(epochs, 0.3))
        ),
        "percentile 25": _optuna(lambda epochs: PercentilePruner(25.0)),
        "patience 5 + median": _optuna(_patient),
        "successive halving": _optuna(lambda epochs: SuccessiveHalvingPruner()),
        "successive halving from 10 %": _optuna(
            lambda epochs: SuccessiveHalvingPruner(min_resource=first_epoch(epochs, 0.1))
        ),
        "Hyperband": _optuna(lambda epochs: HyperbandPruner(max_resource=epochs)),
        "one check at epoch 1, top 3": _one_check(0.0),
        "one check at 25 %, top 3": _one_check(0.25),
        "one check at 40 %, top 3": _one_check(0.4),
    }
    for label, share in (("", 0.0), (" from 10 %", 0.1)):
        table[f"ASHA ({ray}){label}"] = functools.partial(_ray, share=share)
        table[f"ASHA ({syne}){label}"] = functools.partial(_syne, share=share)
        table[f"ASHA, promotion (re-stated){label}"] = functools.partial(_promotion, share=share)
    for label, use_prior in (("", False), (", with the prior", True)):
        table[f"extrapolation (plain, after LC-PFN){label}"] = _predictive(use_prior)
        for share in (0.42, 0.25):
            name = f"freeze-thaw (plain, after ifBO), {share:.0%}{label}"
            table[name.replace("%", " %")] = _freeze_thaw(share, use_prior)
    return table


def grid() -> dict[str, Factory]:
    """Name -> our own rule under other thresholds than those that ship."""
    values = product((3.0, 5.0, 8.0), (0.5, 1.0, 2.0), (0.1, 0.2))
    return {
        f"park {park:g}, again {again:g}, from {share:.0%}".replace("%", " %"): functools.partial(
            restart_aware, thresholds=Thresholds(park, again, share)
        )
        for park, again, share in values
    }
