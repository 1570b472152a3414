"""The configs of trials as plain data, of whichever trainer."""

from __future__ import annotations

from typing import Any

import optuna

from search.study.setup import Setup, trial_config
from trainer.config import to_dict


def trial_values(trial: optuna.Trial | optuna.trial.FrozenTrial, setup: Setup) -> dict[str, Any]:
    """The config that a trial trains, or trained, with; see `search.study.setup.trial_config`.

    Raises KeyError for a trial that has no seed yet: it has not started. Raises ConfigError.
    """
    return to_dict(trial_config(trial, setup))
