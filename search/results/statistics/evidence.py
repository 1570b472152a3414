"""What trials can bear, in numbers: correlations, differences, importances, curves, cycles.

Knows no sentences. Random draws have fixed seeds, so that a report says the same twice.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy import stats

from search.results.statistics.groups import as_number
from search.results.trials import Outcome
from storage.optuna_internals import set_trial_id
from trainer.history import best_epoch

Array: TypeAlias = NDArray[np.float64]

# fewer trials than this have no rank correlation worth an interval
LEAST_RANKED = 8
_RESAMPLES = 20
# more restarts are a slip of the pen
_MOST_CYCLES = 10_000
# as many trials as a resample of importances needs; more make it slow, not surer
_IMPORTANCE_TRIALS = 300


# ------------------------------------------------------------------------------------ statistics


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval. count: of trials behind it."""

    value: float
    low: float
    high: float
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0, else 0: not decided."""
        return int(self.low > 0) - int(self.high < 0)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Spearman's rho of x [N] and y [N] with its interval; None where N is small.

    None too where one of both never varies. The interval is Fisher's with the variance of Bonett
    and Wright (Psychometrika 65, 2000). Resampled pairs would not do where many values are equal:
    one trial that peaked early and scored well decided the matter in half of all studies.
    """
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(one) < LEAST_RANKED or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    count, rho = len(one), float(stats.spearmanr(one, other).statistic)
    # half of what two neighbours that change places take from a perfect order
    most = 1 - 6 / (count**3 - count)
    bounded = max(-most, min(most, rho))
    reach = float(stats.norm.ppf(0.975)) * math.sqrt((1 + bounded**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(bounded) + it) for it in (-reach, reach))
    return Estimate(rho, min(low, rho), max(high, rho), count)


def mean_difference(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Mean of `one` less mean of `other`, with Welch's interval; None below three of either."""
    if min(len(one), len(other)) < 3:
        return None
    parts = [float(np.var(it, ddof=1)) / len(it) for it in (one, other)]
    apart, variance = float(np.mean(one) - np.mean(other)), sum(parts)
    freedom = sum(part**2 / (len(it) - 1) for part, it in zip(parts, (one, other), strict=True))
    reach = 0.0
    if variance > 0:
        reach = float(stats.t.ppf(0.975, variance**2 / freedom)) * variance**0.5
    return Estimate(apart, apart - reach, apart + reach, len(one) + len(other))


def without_others(y: Array, own: Array, others: Sequence[Sequence[Any]]) -> tuple[Array, bool]:
    """Scores y [N] less what the other parameters explain linearly, and whether that was possible.

    own [N]: the parameter that is looked at, which is fitted beside the others as a parabola so
    that they do not take its share. others: each a column [N] of numbers or choices. Left as they
    are where there are not at least four trials for each coefficient.
    """
    columns = [column for values in others for column in _columns(values)]
    if not columns or len(y) < 4 * (len(columns) + 3):
        return y, False
    scaled = (own - own.mean()) / (own.std() or 1.0)
    shape = np.column_stack([np.ones(len(y)), scaled, scaled**2])
    rest = np.column_stack(columns)
    weights = np.linalg.lstsq(np.column_stack([shape, rest]), y, rcond=None)[0]
    return y - (rest - rest.mean(axis=0)) @ weights[3:], True


def _columns(values: Sequence[Any]) -> list[Array]:
    """A parameter as standardised columns; a choice as one column for each value but the first."""
    numbers = [as_number(value) for value in values]
    if all(number is not None for number in numbers):
        column = np.array(numbers, dtype=np.float64)
        spread = column.std()
        return [(column - column.mean()) / spread] if spread > 0 else []
    kinds = sorted({str(value) for value in values})
    return [np.array([str(value) == kind for value in values], np.float64) for kind in kinds[1:]]


# ----------------------------------------------------------------------------------- importances


class _Resample(optuna.Study):
    """Trials as a study that is maximised, without a store."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self._given = trials

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE]

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._given


def importances(outcomes: Sequence[Outcome]) -> dict[str, Estimate] | None:
    """Each parameter's share of 1 by PED-ANOVA, the highest first; None below ten complete trials.

    outcomes: complete. Intervals: the middle 90 % of resampled trials. Of more trials than are
    needed an even sample stands for all.
    """
    if len(outcomes) < LEAST_FOR_IMPORTANCES:
        return None
    picked = np.linspace(0, len(outcomes) - 1, min(len(outcomes), _IMPORTANCE_TRIALS)).astype(int)
    trials = numbered([outcomes[at].row for at in picked])
    names = sorted({name for trial in trials for name in trial.params})
    if not names:
        return None
    rng = np.random.default_rng(0)
    drawn_shares = [shares(trials)]
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(trials), size=len(trials))
        drawn_shares.append(shares([trials[i] for i in drawn]))
    table = np.array([[own.get(name, 0.0) for name in names] for own in drawn_shares])
    # repeated trials in a resample favour small shares, so that all of them may lie above
    low = np.minimum(table[0], np.percentile(table[1:], 5, axis=0))
    high = np.maximum(table[0], np.percentile(table[1:], 95, axis=0))
    found = {
        name: Estimate(float(table[0, i]), float(low[i]), float(high[i]), len(trials))
        for i, name in enumerate(names)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def numbered(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Copies that the evaluator can tell apart: it does so by an id that only a store gives."""
    copies = [copy.copy(trial) for trial in trials]
    for number, trial in enumerate(copies):
        set_trial_id(trial, number)
    return copies


def shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much each parameter mattered for reaching the top, shares of 1, the highest first.

    trials: complete; see `numbered`.
    """
    with warnings.catch_warnings():
        # marked experimental, and it notes parameters that few trials have
        warnings.simplefilter("ignore")
        found = PedAnovaImportanceEvaluator().evaluate(_Resample(list(trials)))
    total = sum(found.values()) or 1.0
    return {name: found[name] / total for name in sorted(found, key=lambda name: -found[name])}


# --------------------------------------------------------------------------------------- curves


def peak(outcome: Outcome) -> int | None:
    """The epoch of the highest score, the earlier one on a tie; None without a curve."""
    return best_epoch(outcome.curve)


def wait_of(outcome: Outcome) -> int:
    """Epochs that were trained after the best one."""
    top = peak(outcome)
    return 0 if top is None else max(outcome.curve) - top


def common_wait(outcomes: Sequence[Outcome]) -> int:
    """The longest wait after the best epoch that all of them have, in epochs."""
    return min((wait_of(one) for one in outcomes), default=0)


def fall_after(outcome: Outcome, wait: int) -> float | None:
    """Score of the best epoch less that of `wait` epochs later; None where it was not trained on.

    An epoch that was not reported takes the last one before it.
    """
    top = peak(outcome)
    if top is None or wait_of(outcome) < wait:
        return None
    at = max(epoch for epoch in outcome.curve if epoch <= top + wait)
    return outcome.curve[top] - outcome.curve[at]


def instability(outcome: Outcome) -> float | None:
    """Standard deviation of the changes from epoch to epoch; None below three epochs."""
    known = outcome.metrics.get("instability")
    if known is not None:
        return float(known)
    changes = np.diff([outcome.curve[epoch] for epoch in sorted(outcome.curve)])
    return float(np.std(changes, ddof=1)) if len(changes) >= 2 else None


# -------------------------------------------------------------------------------- warm restarts


@dataclass(frozen=True)
class Cycles:
    """A run with warm restarts. planned, trained: epochs. ends: of each cycle that was planned.

    The last end lies behind `planned` where the plan stops within a cycle.
    """

    t_0: float
    t_mult: float
    planned: int
    trained: int
    ends: tuple[float, ...]

    @property
    def plan_is_whole(self) -> bool:
        return self.ends[-1] <= self.planned + 0.5

    @property
    def done(self) -> bool:
        """Trained to the end of the last cycle, after at least one restart."""
        return self.plan_is_whole and self.trained >= self.planned - 0.5

    @property
    def whole_cycles(self) -> int:
        return sum(end <= self.trained + 0.5 for end in self.ends)


def cycles_of(outcome: Outcome) -> Cycles | None:
    """The run's cycles; None where no restart was planned, or T_0 is not known."""
    t_0 = as_number(outcome.config.get("training.scheduler_params.T_0"))
    t_mult = as_number(outcome.config.get("training.scheduler_params.T_mult")) or 1.0
    scheduler = outcome.config.get("training.scheduler")
    planned = outcome.budget
    if scheduler is not None and "Restart" not in str(scheduler):
        return None
    # half an epoch is rounding, not a restart
    if t_0 is None or t_0 <= 0 or t_mult < 1 or t_0 > planned - 0.5:
        return None
    if planned > _MOST_CYCLES * t_0:
        return None
    ends, length = [t_0], t_0
    while ends[-1] < planned - 0.5:
        length *= t_mult
        ends.append(ends[-1] + length)
    trained = int(outcome.metrics.get("epochs_trained") or max(outcome.curve, default=0))
    return Cycles(t_0, t_mult, planned, trained, tuple(ends))


# fewer trials than this say nothing about importances
LEAST_FOR_IMPORTANCES = 10
