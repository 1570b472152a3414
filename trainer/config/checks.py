"""Plain values to a checked Config: unknown keys refused by name, combinations that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from trainer import dice_schedule
from trainer.config.keys import as_spelt, did_you_mean, key_path, leaf_paths, put
from trainer.config.sections import Config, to_dict
from trainer.errors import ConfigError


def config_from_dict(data: Mapping[str, Any], where: str = "config") -> Config:
    """A checked Config; what is not given takes its default.

    where: what the values came from, for messages.
    Raises ConfigError with one line that names the key, the value and the fix.
    """
    config = validated(data, where)
    _check_together(config, where)
    return config


def validated(data: Mapping[str, Any], where: str) -> Config:
    _refuse_unknown(data, where)
    try:
        return Config.model_validate(as_spelt(data)[0])
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {_first_mistake(error)}") from None


def with_values(config: Config, values: Mapping[str, Any], where: str = "config") -> Config:
    """A config with some keys changed and all checked together. Raises ConfigError."""
    data = to_dict(config)
    for name, value in values.items():
        put(data, key_path(name), value)
    return config_from_dict(data, where)


def _refuse_unknown(data: Mapping[str, Any], where: str) -> None:
    tree = to_dict(Config())

    def walk(given: Any, known: Any, path: tuple[str, ...]) -> None:
        if not isinstance(known, dict) or path == ("search",):
            return
        dotted = ".".join(path) or "the file"
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: {dotted}: keys and values are needed, got {given!r}")
        for key, value in given.items():
            if key not in known:
                name = ".".join((*path, str(key)))
                raise ConfigError(f"{where}: unknown key {name!r}{did_you_mean(name)}")
            walk(value, known[key], (*path, str(key)))

    walk(data, tree, ())


def _first_mistake(error: pydantic.ValidationError) -> str:
    # a union reports a mistake for each of its members: the last part of its path is not a key
    first = error.errors(include_url=False)[0]
    parts = tuple(str(part) for part in first["loc"])
    while len(parts) > 1 and not any(path[: len(parts)] == parts for path in leaf_paths()):
        parts = parts[:-1]
    problem = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(parts)}: {problem}, got {first['input']!r}"


def _check_together(config: Config, where: str) -> None:
    low, high = config.augmentation.scale_range
    if low > high:
        raise ConfigError(
            f"{where}: augmentation.scale_range: [{low:g}, {high:g}] is upside down; smaller first"
        )
    loss, training = config.loss, config.training
    if loss.dice_schedule == "constant" and loss.dice_ramp != 0:
        *others, last = (name for name in dice_schedule.SCHEDULES if name != "constant")
        raise ConfigError(
            f"{where}: loss.dice_ramp: {loss.dice_ramp:g} does nothing under dice_schedule"
            f" constant; set dice_ramp: 0 or choose {', '.join(others)} or {last}"
        )
    if loss.dice_weight - abs(loss.dice_ramp) / 2 < 0:
        raise ConfigError(
            f"{where}: loss.dice_ramp: {loss.dice_ramp:g} around dice_weight {loss.dice_weight:g}"
            f" would make the Dice weight negative; stay within +-{2 * loss.dice_weight:g}"
        )
    if loss.ce_weight == 0 and loss.dice_weight == 0:
        raise ConfigError(
            f"{where}: loss.ce_weight and loss.dice_weight are both 0; nothing to learn"
        )
    t_0 = training.scheduler_params.T_0
    # a cycle given as a share of the budget carries rounding of its own
    if t_0 is not None and t_0 > training.epochs * (1 + 1e-9):
        raise ConfigError(
            f"{where}: training.scheduler_params.T_0: {t_0:g} epochs is longer than the budget of"
            f" {training.epochs} epochs; lower T_0 or raise training.epochs"
        )
    if training.scheduler_params.eta_min > training.learning_rate:
        raise ConfigError(
            f"{where}: training.scheduler_params.eta_min: {training.scheduler_params.eta_min:g} is"
            f" above learning_rate {training.learning_rate:g}; lower it"
        )
    if training.warmup_epochs >= training.epochs:
        raise ConfigError(
            f"{where}: training.warmup_epochs: {training.warmup_epochs:g} is not below the budget"
            f" of {training.epochs} epochs; lower it"
        )
