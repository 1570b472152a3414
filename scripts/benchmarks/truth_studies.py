"""Closed-loop studies of real trainings, played side by side: what `scripts/bench truth` scores.

A study asks for one training after another; the trainings that the studies of a batch ask for are
run at once. Each is a real Optuna study with the sampler, pruner and revivals of an arm, as
`search.run` uses them.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner

from scripts.benchmarks.families import FRESH_FROM, Family, Training
from scripts.benchmarks.replay import train
from scripts.benchmarks.sampler_race import go_on, sampler
from search.strategy.answers import answer_of
from search.strategy.forecast.features import KNOWN, Array, ConfigurationFeatures
from search.strategy.forecast.model import Forecast
from search.strategy.forecast.priors import shipped_priors
from search.strategy.forecast.study_forecast import CHECKED, StudyForecast
from search.strategy.pruners import MergedPruner, RestartAwarePruner
from search.strategy.revival import trial_to_revive
from search.strategy.samplers import draw_seed
from search.study import lineages
from search.study.search_space import distribution, drawn
from search.study.setup import PRUNE_RISK

OURS, NONE = "restart-aware", "none"
# for a forecast
_CONFIGURATIONS = 48
# fewer seeds than this tell no variance; so many configurations of a table are looked at instead
_SEEDS, _LOOKED_AT = 4, 200


@dataclass(frozen=True)
class Arm:
    """How a study samples and prunes.

    sampler, pruner: as `search.run` names them. view: whether the sampler sees pruned trials at
    their forecast ends, as `search.run` shows them, or the rows as Optuna keeps them. prior:
    whether the forecast starts from the recorded curves that ship. revive: whether parked trials
    go on.
    """

    sampler: str = "gp"
    pruner: str = OURS
    view: bool = True
    prior: bool = True
    revive: bool = True
    risk: float = PRUNE_RISK


@dataclass(frozen=True)
class Chosen:
    """A study's answer after so many epochs in all.

    told: the score that the study tells of it, in [0, 1].
    """

    epochs: int
    params: Mapping[str, Any]
    told: float


@dataclass
class Played:
    """One study. highest, expected: its answers as they changed, by either rule.

    highest: the complete trial with the highest score. expected: the one with the best mean over
    seeds, as `answer_of` expects it.
    """

    epochs: int = 0
    highest: list[Chosen] = field(default_factory=list)
    expected: list[Chosen] = field(default_factory=list)


class _Study:
    """One study, asking for trainings."""

    def __init__(self, family: Family, arm: Arm, total: int, seed: int, played: Played) -> None:
        self._family, self._arm, self._total = family, arm, total
        self._seed, self._played = seed, played
        rng, specs = random.Random(seed), {**family.specs}
        others = {name: spec for name, spec in specs.items() if name not in KNOWN}
        features = ConfigurationFeatures(family.epochs, others=others)
        forecast = Forecast(shipped_priors() if arm.prior else (), features)
        sample = [drawn(specs, rng.random) for _ in range(_CONFIGURATIONS)]
        self._forecast = StudyForecast(forecast, sample)
        self._study = optuna.create_study(
            direction="maximize",
            sampler=sampler(arm.sampler, specs, self._forecast, seed, ours=arm.view),
            pruner=self._pruner(),
        )
        self._curves: dict[int, list[float]] = {}

    def _pruner(self) -> BasePruner:
        arm, epochs = self._arm, self._family.epochs
        # where only ends are known nothing can be stopped
        if arm.pruner == NONE or epochs == 1:
            return NopPruner()
        if arm.pruner == OURS:
            return RestartAwarePruner(
                epochs,
                lambda: self._forecast,
                risk=arm.risk,
                total=self._total,
                checked=CHECKED,
            )
        return MergedPruner(arm.pruner, epochs)

    def trainings(self) -> Generator[Training, list[float], None]:
        """Each training that is needed; its curve is sent back."""
        space = {name: distribution(spec) for name, spec in self._family.specs.items()}
        for place in range(self._total):
            self._revive()
            trial = self._study.ask(space)
            curve = yield Training(trial.params, draw_seed(self._seed, place) % FRESH_FROM)
            self._curves[trial.number] = curve
            train(self._study, trial, curve)
            self._ended(trial.number)
        self._revive()

    def _revive(self) -> None:
        while self._arm.pruner == OURS and self._arm.revive and self._family.epochs > 1:
            rows = self._study.get_trials(deepcopy=False)
            number = trial_to_revive(
                rows,
                self._forecast,
                epochs=self._family.epochs,
                total=self._total,
                limit=None,
                risk=self._arm.risk,
            )
            if number is None:
                return
            self._curves[len(rows)] = self._curves[number]
            go_on(self._study, rows[number], self._curves[number])
            self._ended(len(rows))

    def _ended(self, number: int) -> None:
        """Note what a row has cost, and what the answer is now."""
        rows = self._study.get_trials(deepcopy=False)
        self._played.epochs += len(rows[number].intermediate_values)
        highest = lineages.best_of(rows)
        if highest is None or highest.value is None:
            return
        self._note(self._played.highest, highest.params, highest.value)
        found = answer_of(rows, self._family.specs, self._forecast)
        assert found is not None
        told = highest.value if found.expected is None else found.expected
        self._note(self._played.expected, found.trial.params, told)

    def _note(self, answers: list[Chosen], params: Mapping[str, Any], told: float) -> None:
        if not answers or answers[-1].params != params or answers[-1].told != told:
            answers.append(Chosen(self._played.epochs, params, told))


def play(family: Family, arm: Arm, *, total: int, seeds: Sequence[int]) -> list[Played]:
    """Studies of `total` trials, one for each seed."""
    played = [Played() for _ in seeds]
    studies = [
        _Study(family, arm, total, seed, one).trainings()
        for seed, one in zip(seeds, played, strict=True)
    ]
    asked = {number: next(study) for number, study in enumerate(studies)}
    while asked:
        curves = family.curves(list(asked.values()))
        for number, curve in zip(list(asked), curves.tolist(), strict=True):
            try:
                asked[number] = studies[number].send(curve)
            except StopIteration:
                del asked[number]
    return played


def true_scores(family: Family, configurations: Sequence[Mapping[str, Any]]) -> Array:
    """Best scores of configurations with fresh seeds, the same for all, float64 [N, seeds]."""
    seeds = [FRESH_FROM + number for number in range(family.fresh)]
    trainings = [Training(params, seed) for params in configurations for seed in seeds]
    return family.curves(trainings).max(axis=1).reshape(len(configurations), len(seeds))


def seed_variance(family: Family, scores: Array) -> float:
    """Variance between seeds of the better configurations.

    scores: of answers with fresh seeds, [N, seeds]. Few recorded seeds tell too little; tables are
    quick, so there configurations drawn at random are asked for all that they hold.
    """
    if scores.shape[1] < _SEEDS:
        rng = random.Random(0)
        drawings = [drawn({**family.specs}, rng.random) for _ in range(_LOOKED_AT)]
        seeds = [*range(_SEEDS), *(FRESH_FROM + number for number in range(family.fresh))]
        trainings = [Training(params, seed) for params in drawings for seed in seeds]
        found = family.curves(trainings).max(axis=1).reshape(_LOOKED_AT, -1)
        means = found.mean(axis=1)
        scores = found[means >= np.median(means)]
    return float(np.median(scores.var(axis=1, ddof=1)))
