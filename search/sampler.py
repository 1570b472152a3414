"""Optuna's samplers, shown the evidence as it is.

One wrapper: reseeded before every trial from (study seed, trial number), so that neither workers
nor restarts repeat draws; lineages are one trial each; earlier trials stand under the present
ranges, those outside are left out; a pruned trial counts as what it would likely have reached.
"""

from __future__ import annotations

import copy
import hashlib
import statistics
import warnings
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search import lineage
from search.spaces import Spec, Value, distribution, matching

if TYPE_CHECKING:
    from search.study import Setup

SAMPLERS = ("tpe", "gp", "random")
# drawn at random before the model is asked; planned trials come on top, since they lie together
STARTUP_TRIALS = 10
PLANNED = ("first", "enqueued")


def make_sampler(setup: Setup) -> LineageSampler:
    """The sampler of a study."""
    return LineageSampler(
        setup.sampler,
        seed=setup.seed,
        specs=setup.specs(),
        fixed=setup.fixed,
        epochs=setup.epochs,
    )


class StudyView:
    """A study whose trials are shown through `trials_of`; everything else is the study's own."""

    def __init__(
        self, study: optuna.Study, trials_of: Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]
    ) -> None:
        self._study = study
        self._trials_of = trials_of
        self._shown: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._shown is None:
            self._shown = self._trials_of(self._study.get_trials(deepcopy=False))
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    # Optuna's own samplers and pruners read through this one
    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)


class LineageSampler(BaseSampler):
    """`tpe`, `gp` or `random`, shown merged lineages under the present ranges.

    specs: the searched parameters. fixed: values that every new trial takes. epochs: the budget.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        specs: dict[str, Spec],
        fixed: dict[str, Value],
        epochs: int,
    ) -> None:
        if name not in SAMPLERS:
            raise ValueError(f"sampler: one of {', '.join(SAMPLERS)} is needed, got {name!r}")
        self._name = name
        self._seed = seed
        self._specs = specs
        self._fixed = fixed
        self._epochs = epochs
        self._inner: BaseSampler = RandomSampler(seed=draw_seed(seed, 0))
        self._view: StudyView | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._seeded(study, trial.number)
        self._view = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        found = self._inner.infer_relative_search_space(self._seen(study), trial)
        return {name: dist for name, dist in found.items() if name not in self._fixed}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(self._seen(study), trial, search_space)

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
            self._seen(study), trial, param_name, param_distribution
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

    def _seen(self, study: optuna.Study) -> optuna.Study:
        # one view per trial: all its draws rest on the same evidence
        if self._view is None:
            self._view = StudyView(study, self._rewritten)
        return self._view  # type: ignore[return-value]

    def _seeded(self, study: optuna.Study, number: int) -> BaseSampler:
        seed = draw_seed(self._seed, number)
        if self._name == "random":
            return RandomSampler(seed=seed)
        planned = sum(
            trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and any(mark in trial.user_attrs for mark in PLANNED)
            for trial in study.get_trials(deepcopy=False)
        )
        if self._name == "gp":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS + planned)
        return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS + planned)

    def _rewritten(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        shown = []
        lineages = lineage.merged(trials)
        gains = LateGains(lineages)
        for trial in lineages:
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
            if trial.state == TrialState.PRUNED:
                self._judge_pruned(one, gains)
            shown.append(one)
        return shown

    def _judge_pruned(self, trial: FrozenTrial, gains: LateGains) -> None:
        """Show a pruned trial by the value it would likely have reached, in this view only."""
        if lineage.diverged(trial):
            trial.intermediate_values = {}
            return
        likely = gains.likely(trial)
        if likely is None:
            return
        # all at the same step: TPE would put whoever was pruned later before the better one
        trial.intermediate_values = {self._epochs: likely}
        if self._name == "gp":
            # the Gaussian process leaves pruned trials out altogether
            trial.state = TrialState.COMPLETE
            trial.values = [likely]


class LateGains:
    """What complete trials still gained after an epoch: the outlook of those stopped there."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._complete = [
            (trial.intermediate_values, value)
            for trial in trials
            if trial.state == TrialState.COMPLETE and (value := lineage.value(trial)) is not None
        ]

    def likely(self, trial: FrozenTrial) -> float | None:
        """Best so far plus the median later gain, never above the best complete value."""
        reached = max(trial.intermediate_values.values(), default=None)
        if reached is None or not self._complete:
            return reached
        epoch = max(trial.intermediate_values)
        gains = [
            value - earlier
            for curve, value in self._complete
            if (earlier := lineage.best_at(curve, epoch)) is not None
        ]
        if not gains:
            return reached
        top = max(value for _, value in self._complete)
        return max(reached, min(reached + statistics.median(gains), top))


def draw_seed(study_seed: int, number: int) -> int:
    """The seed of one trial's draws, in [0, 2^32)."""
    digest = hashlib.sha256(f"draw {study_seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
