"""Epochs that pruning has saved, and those that revivals have spent of them."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.study import lineages
from search.study.attributes import CONTINUES, COPIED_FROM, STOPPED
from search.study.lineages import curve_of, rows_of


def saved(trials: Sequence[FrozenTrial], epochs: int) -> int:
    """Epochs that pruning has saved. epochs: budget of a trial."""
    return sum(
        epochs - max(trial.intermediate_values, default=0)
        for trial in lineages.finished(trials)
        if trial.state == TrialState.PRUNED and parkable(trial)
    )


def spent(trials: Sequence[FrozenTrial], epochs: int) -> int:
    """Epochs of all revivals. Those under way count as if they came to the end."""
    spent = 0
    for trial in trials:
        if CONTINUES not in trial.user_attrs:
            continue
        if trial.state.is_finished():
            spent += len(trial.intermediate_values)
        else:
            *earlier, _ = rows_of(trials, trial)
            spent += epochs - max(curve_of(earlier), default=0)
    return spent


def parkable(row: FrozenTrial) -> bool:
    """Whether a pruned trial may go on: it was hopeless, not broken, and stopped by no user."""
    attrs = row.user_attrs
    return not (lineages.diverged(row) or attrs.get(STOPPED) or COPIED_FROM in attrs)
