"""When to stop a trial: `restart-aware`, and Optuna's own pruners by name."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

from search import lineage
from search.sampler import StudyView

if TYPE_CHECKING:
    from search.study import Setup

WARMUP_SHARE = 0.15
# complete trials that weigh as much as knowing nothing
_FEW = 4


@dataclass(frozen=True)
class Rule:
    """The numbers of `restart-aware`.

    quantile: of the others' best-so-far, that a trial is held against. end_margin, mid_margin: how
    far below it may lie, in robust standard deviations of the others: at a cycle's end, and right
    after a restart. blind_margin: what is added to both where scores at this epoch have told
    nothing of final ones, see `foresight`: replayed on 30 curves of the built-in faces, without it
    .32 of the pruned trials would have ended above the median, with it .22. least_others: no
    verdict with fewer trials that came as far. least_spread: the deviation taken where the others
    lie closer together; the noise between seeds is 0.002-0.007.
    """

    quantile: float = 0.5
    end_margin: float = 0.25
    mid_margin: float = 1.0
    blind_margin: float = 1.0
    least_others: int = 4
    least_spread: float = 0.004


class RestartAwarePruner(BasePruner):
    """Stops a trial whose best score lies clearly below the others' at the same share of training.

    A score right after a restart says little, so best-so-far is compared, and the margin is wide
    in mid-cycle, narrow at a cycle's end, and wider still where scores at this epoch have told
    little of how trials end. Pruned trials stay in the pool with what they had
    reached: a pool of survivors would raise the bar with every trial that is stopped.

    epochs: the budget. t_0, t_mult: the first cycle in epochs and its growth, where a trial does
    not search them itself.
    """

    def __init__(
        self,
        epochs: int,
        *,
        t_0: float | None = None,
        t_mult: int = 1,
        warmup_share: float = WARMUP_SHARE,
        rule: Rule | None = None,
    ) -> None:
        self._epochs = epochs
        self._t_0 = float(epochs) if t_0 is None else t_0
        self._t_mult = t_mult
        self._first_epoch = first_epoch(epochs, warmup_share)
        self._rule = rule or Rule()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch is None or epoch < self._first_epoch or epoch >= self._epochs:
            return False
        own = lineage.best_at(trial.intermediate_values, epoch)
        if own is None:
            return False
        lineages = lineage.merged(study.get_trials(deepcopy=False))
        reached, stopped = others_at(lineages, trial, epoch)
        if len(reached) < self._rule.least_others:
            return False
        t_0 = trial.params.get("T_0", self._t_0)
        phase = cycle_phase(epoch, t_0=t_0, t_mult=self._t_mult)
        return own < bar(reached, stopped, phase, foresight(lineages, epoch), self._rule)


def first_epoch(epochs: int, share: float) -> int:
    """The first epoch at or after a share of the budget, at least 1."""
    # 0.15 * 20 is a little more than 3 in binary
    return max(1, math.ceil(share * epochs - 1e-9))


def cycle_phase(epoch: float, *, t_0: float, t_mult: int = 1) -> float:
    """How far a cycle has come at the end of an epoch, in (0, 1]; 1 at the cycle's end.

    >>> cycle_phase(5, t_0=10), cycle_phase(10, t_0=10), cycle_phase(12, t_0=4, t_mult=2)
    (0.5, 1.0, 1.0)
    """
    start, length = 0.0, t_0
    while epoch > start + length + 1e-9:
        start += length
        length *= t_mult
    return min(1.0, (epoch - start) / length)


def bar(
    reached: Sequence[float], stopped: Sequence[float], phase: float, known: float, rule: Rule
) -> float:
    """The score that a trial has to have.

    reached: best-so-far of others that came this far. stopped: of those pruned before. phase: in
    (0, 1], see `cycle_phase`. known: in [0, 1], see `foresight`.
    """
    spread = max(robust_deviation(reached), rule.least_spread)
    margin = rule.end_margin + (rule.mid_margin - rule.end_margin) * (1 - phase)
    margin += rule.blind_margin * (1 - known)
    level = float(np.quantile([*reached, *stopped], rule.quantile))
    return level - margin * spread


def robust_deviation(values: Sequence[float]) -> float:
    """A standard deviation that a single outlier does not move: 1.4826 x median deviation."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def foresight(lineages: Sequence[FrozenTrial], epoch: int) -> float:
    """How well best-so-far at an epoch has told of the final value: 0 not at all, towards 1 fully.

    The rank correlation of the two over the complete trials, no less than 0, drawn towards 0 while
    there are few of them.
    """
    pairs = [
        (early, final)
        for one in lineages
        if one.state == TrialState.COMPLETE
        and (early := lineage.best_at(one.intermediate_values, epoch)) is not None
        and (final := lineage.value(one)) is not None
    ]
    if len(pairs) < 2:
        return 0.0
    # equal scores share a rank: trials that all stand alike so early tell nothing
    ranks = [np.unique(column, return_inverse=True)[1] for column in np.array(pairs).T]
    if min(rank.max() for rank in ranks) == 0:
        return 0.0
    correlation = float(np.asarray(np.corrcoef(ranks))[0, 1])
    return max(0.0, correlation) * len(pairs) / (len(pairs) + _FEW)


def others_at(
    lineages: Sequence[FrozenTrial], trial: FrozenTrial, epoch: int
) -> tuple[list[float], list[float]]:
    """Best-so-far at an epoch of the other lineages: of those that came so far, of those pruned.

    Left out: failed trials, diverged ones, and those that a person stopped: that they ended says
    nothing about their score.
    """
    own = {trial.number, trial.user_attrs.get(lineage.CONTINUES)}
    reached, stopped = [], []
    for other in lineages:
        curve = other.intermediate_values
        if not curve or other.number in own or other.state == TrialState.FAIL:
            continue
        if lineage.diverged(other) or other.user_attrs.get("stopped"):
            continue
        score = lineage.best_at(curve, epoch)
        if score is None:
            continue
        if max(curve) >= epoch:
            reached.append(score)
        elif other.state == TrialState.PRUNED:
            stopped.append(score)
    return reached, stopped


class MergedPruner(BasePruner):
    """One of Optuna's pruners, shown each lineage as one trial."""

    def __init__(self, inner: BasePruner) -> None:
        self._inner = inner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self._inner.prune(StudyView(study, lineage.merged), trial)  # type: ignore[arg-type]


def _median(epochs: int) -> BasePruner:
    return MedianPruner(n_startup_trials=5, n_warmup_steps=first_epoch(epochs, WARMUP_SHARE))


def _percentile(epochs: int) -> BasePruner:
    return PercentilePruner(
        25.0, n_startup_trials=5, n_warmup_steps=first_epoch(epochs, WARMUP_SHARE)
    )


def _hyperband(epochs: int) -> BasePruner:
    return HyperbandPruner(min_resource=first_epoch(epochs, 0.1), max_resource=epochs)


def _halving(epochs: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=first_epoch(epochs, 0.1))


def _patient_median(epochs: int) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(_median(epochs), patience=first_epoch(epochs, 0.1))


_OPTUNAS: dict[str, Callable[[int], BasePruner]] = {
    "median": _median,
    "percentile": _percentile,
    "hyperband": _hyperband,
    "successive-halving": _halving,
    "patient": _patient_median,
}
PRUNERS = ("restart-aware", *_OPTUNAS, "none")


def make_pruner(setup: Setup) -> BasePruner:
    """The pruner of a study."""
    if setup.pruner == "none":
        return NopPruner()
    if setup.pruner == "restart-aware":
        cycles = setup.base["training"].get("scheduler_params", {})
        return RestartAwarePruner(
            setup.epochs, t_0=cycles.get("T_0"), t_mult=cycles.get("T_mult", 1)
        )
    return MergedPruner(_OPTUNAS[setup.pruner](setup.epochs))
