"""The next configuration: `tpe` and `random` are Optuna's, `gp` looks for the best true mean.

All are reseeded before every trial from (study seed, trial number), so that neither workers nor
restarts repeat draws; lineages are one trial each; earlier trials stand under the present ranges,
those outside are left out; a pruned trial counts as what it would likely have reached.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.strategy.configurations import as_trained, evidence, in_training
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import Shown, TrueMeans
from search.study import lineages
from search.study.attributes import ENQUEUED, FIRST
from search.study.drawing import drawn, nearby
from search.study.names import SAMPLERS
from search.study.search_space import Spec, Value, distribution, matching
from storage.optuna_internals import StudyView

if TYPE_CHECKING:
    from search.study.setup import Setup

# ended trials before the model is asked; so many of them are drawn at random, since planned trials
# lie together
STARTUP_TRIALS, _AT_RANDOM = 10, 4
PLANNED = (FIRST, ENQUEUED)
# configurations that `gp` looks at: anywhere, and near each of the best known
_ANYWHERE, _BEST, _NEAR = 1000, 5, 40


def make_sampler(setup: Setup, study_forecast: Callable[[], StudyForecast]) -> LineageSampler:
    """The sampler of a study. study_forecast: gives its own, asked for with the first draw."""
    return sampler_kind(setup.sampler)(
        setup.sampler,
        study_forecast,
        seed=setup.seed,
        specs=setup.specs(),
        fixed=setup.fixed,
    )


def sampler_kind(name: str) -> type[LineageSampler]:
    """What makes the sampler of a name. Raises ValueError."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler: one of {', '.join(SAMPLERS)} is needed, got {name!r}")
    return MeansSampler if name == "gp" else LineageSampler


class LineageSampler(BaseSampler):
    """`tpe` or `random`, shown merged lineages under the present ranges.

    study_forecast: gives the one on the study. specs: the searched parameters. fixed: values that
    every new trial takes.
    """

    def __init__(
        self,
        name: str,
        study_forecast: Callable[[], StudyForecast],
        *,
        seed: int,
        specs: dict[str, Spec],
        fixed: dict[str, Value],
    ) -> None:
        self._name = name
        self._study_forecast = study_forecast
        self._seed = seed
        self._specs = specs
        self._fixed = fixed
        self._inner: BaseSampler = RandomSampler(seed=draw_seed(seed, 0))
        self._view: StudyView | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._seeded_sampler(study, trial.number)
        self._view = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        found = self._inner.infer_relative_search_space(self.view_of(study), trial)
        return {name: dist for name, dist in found.items() if name not in self._fixed}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(self.view_of(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._fixed:
            return self._fixed[param_name]
        return self._inner.sample_independent(
            self.view_of(study), trial, param_name, param_distribution
        )

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        # the seed of a trial's draws is its number: nothing to add for threads
        pass

    def view_of(self, study: optuna.Study) -> optuna.Study:
        """The study as the inner sampler sees it."""
        # one view per trial: all its draws rest on the same evidence
        if self._view is None:
            self._view = StudyView(study, self._shown_trials)
        return self._view  # type: ignore[return-value]

    def _seeded_sampler(self, study: optuna.Study, number: int) -> BaseSampler:
        seed = draw_seed(self._seed, number)
        if self._name == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=startup_trials(study))

    def _shown_trials(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        shown = []
        merged = lineages.merged(trials)
        study_forecast = self._study_forecast()
        study_forecast.update(trials)
        likely = _likely_values(merged, study_forecast)
        for trial in merged:
            if trial.state in (TrialState.FAIL, TrialState.WAITING):
                continue
            if trial.state == TrialState.RUNNING and not trial.params:
                shown.append(trial)
                continue
            params = {
                name: matching(trial.params[name], spec)
                for name, spec in self._specs.items()
                if name in trial.params
            }
            if len(params) < len(self._specs) or None in params.values():
                # a running trial may have drawn only some of its parameters yet
                if trial.state == TrialState.RUNNING and None not in params.values():
                    shown.append(trial)
                continue
            one = copy.copy(trial)
            one.params = params
            one.distributions = {name: distribution(spec) for name, spec in self._specs.items()}
            if trial.number in likely:
                # TPE puts any complete trial before any pruned one, and among those the later
                # before the better
                one.state, one.values = TrialState.COMPLETE, [likely[trial.number]]
            elif lineages.diverged(trial):
                one.intermediate_values = {}
            shown.append(one)
        return shown


def startup_trials(study: optuna.Study) -> int:
    """How many ended trials a model needs before it is asked."""
    planned = sum(
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and any(mark in trial.user_attrs for mark in PLANNED)
        for trial in study.get_trials(deepcopy=False)
    )
    return max(STARTUP_TRIALS, planned + _AT_RANDOM)


class MeansSampler(LineageSampler):
    """`gp`: the configuration that may be expected to beat the best true mean by most.

    Every score carries the luck of a seed, and a process that runs through the scores follows the
    luck; see `search.strategy.forecast.true_means`. A forecast end counts as far as it is sure.
    """

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {
            name: distribution(spec)
            for name, spec in self._specs.items()
            if name not in self._fixed
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        study_forecast = self._study_forecast()
        study_forecast.update(trials)
        ended = [it.shown for it in evidence(trials, self._specs, study_forecast)]
        if len(lineages.finished(trials)) < startup_trials(study) or not ended or not search_space:
            return {}
        beside = in_training(trials, self._specs, but=trial.number)
        chosen = self._best_of(TrueMeans(self._specs, ended), ended, beside, trial.number)
        return {name: chosen[name] for name in search_space}

    def _best_of(
        self,
        means: TrueMeans,
        ended: Sequence[Shown],
        beside: Sequence[Mapping[str, Value]],
        number: int,
    ) -> dict[str, Value]:
        """The configuration of the greatest expected gain, as far as they are looked at.

        One that was trained already, or is, is none: another seed of it is no new configuration.
        """
        beliefs = means.beliefs()
        best = sorted(beliefs, key=lambda place: -beliefs[place].mean)[:_BEST]
        rng = random.Random(draw_seed(self._seed, number))
        anywhere = [drawn(self._specs, rng.random) for _ in range(_ANYWHERE)]
        near = [
            nearby(ended[place].params, self._specs, rng) for place in best for _ in range(_NEAR)
        ]
        known = [dict(one.params) for one in ended] + [dict(one) for one in beside]
        looked_at = [{**one, **self._fixed} for one in anywhere + near]
        new = [one for one in looked_at if as_trained(one) not in known] or looked_at
        gains = means.gains([as_trained(one) for one in new], beside)
        return new[int(gains.argmax())]


def _likely_values(
    merged: Sequence[FrozenTrial], study_forecast: StudyForecast
) -> dict[int, float]:
    """What each pruned trial would likely have reached, by number.

    None above the best that was measured: where the forecast is so bold, all come down by as much.
    """
    pruned = [
        one
        for one in merged
        if one.state == TrialState.PRUNED and one.intermediate_values and not lineages.diverged(one)
    ]
    scale = study_forecast.scale
    ends = {
        # what has no place on the scale of the forecast stands where it was stopped
        one.number: scale.from_log(study_forecast.end(one).mean)
        if study_forecast.fits
        else max(one.intermediate_values.values())
        for one in pruned
    }
    answer = lineages.best_of(merged)
    excess = 0.0
    if answer is not None and answer.value is not None and ends:
        excess = max(0.0, max(ends.values()) - answer.value)
    return {
        one.number: max(*one.intermediate_values.values(), ends[one.number] - excess)
        for one in pruned
    }


def draw_seed(study_seed: int, number: int) -> int:
    """The seed of one trial's draws, in [0, 2^32)."""
    digest = hashlib.sha256(f"draw {study_seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
