"""The configs of trials as plain data, of whichever trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from search.study.attributes import RUNTIME, SEED
from search.study.setup import Setup, config_for
from search.trainers.config_files import put_values, value_at
from trainer.config import to_dict
from trainer.errors import ConfigError


def trial_values(trial: optuna.Trial | optuna.trial.FrozenTrial, setup: Setup) -> dict[str, Any]:
    """The config that a trial trains, or trained, with.

    Raises KeyError for a trial that has no seed yet: it has not started. Raises ConfigError.
    """
    seed, runtime = trial.user_attrs[SEED], trial.user_attrs.get(RUNTIME)
    return values_for(setup, trial.params, seed=seed, runtime=runtime)


def values_for(
    setup: Setup,
    params: Mapping[str, Any],
    *,
    seed: int,
    runtime: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of these parameters; see `search.study.setup.config_for`. Raises ConfigError.

    Of a program's, a parameter without a meaning (`only_if`) leaves the base's value as it is.
    """
    program = setup.program
    if program is None:
        return to_dict(config_for(setup, params, seed=seed, runtime=runtime))
    plain = {name: value for name, value in params.items() if name not in program.only_if}
    if program.seed_key is not None:
        plain[program.seed_key] = seed
    # what was added by --new-key is in no base
    values = put_values(setup.base, plain, new_keys=True)
    for name, conditions in program.only_if.items():
        if name in params and all(_holds(values, *one) for one in conditions.items()):
            values = put_values(values, {name: params[name]}, new_keys=True)
    return values


def with_meaning(setup: Setup, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without those that did nothing, since what they depend on does not hold."""
    program = setup.program
    if program is None or not program.only_if:
        return dict(params)
    values = values_for(setup, params, seed=0)
    return {
        name: value
        for name, value in params.items()
        if all(_holds(values, *one) for one in program.only_if.get(name, {}).items())
    }


def _holds(values: Mapping[str, Any], key: str, wanted: Any) -> bool:
    try:
        present = value_at(values, key)
    except ConfigError:
        return False
    return present in wanted if isinstance(wanted, list) else bool(present == wanted)
