"""Enqueued trials: by their mark, what was asked for, and whether its forecast held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.study.search_space import Value


def marked(study: optuna.Study, mark: str) -> dict[Any, FrozenTrial]:
    """The study's trials by their attribute `mark`, the earliest of each."""
    found: dict[Any, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if mark in trial.user_attrs:
            found.setdefault(trial.user_attrs[mark], trial)
    return found


def planned_params(trial: FrozenTrial) -> dict[str, Value]:
    """A trial's parameters, those that it waits to take included."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def forecast_held(
    expected: Sequence[float] | None, score: float | None, *, complete: bool
) -> bool | None:
    """Whether the forecast that was enqueued with a trial held; None where that is not known.

    expected: lowest and highest score; None where none was given. complete: whether the trial was
    trained to its end. One that has gone above cannot come back, so that is known before.
    """
    if expected is None or score is None:
        return None
    low, high = expected
    if score > high:
        return False
    return score >= low if complete else None
