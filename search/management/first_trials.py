"""The first trials: configurations worth trying before a sampler chooses any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

import space
from search.management.enqueue import put_in_queue
from search.study.attributes import FIRST, NOTE, PREDICTION, PRIORITY
from search.study.requests import planned_params
from search.study.search_space import (
    Spec,
    Value,
    as_number,
    describe,
    format_value,
    matching,
    nearest_end,
)
from search.study.setup import Setup, config_for
from search.trainers.config_files import value_at
from trainer.errors import ConfigError

# after everything that a user asked for
FIRST_PRIORITY = -1_000_000
# of the trials that are wanted one in so many, and no more: the model waits for all of them
LARGEST_SHARE, MOST = 4, 4


def enqueue_first(study: optuna.Study, setup: Setup, total: int) -> list[str]:
    """Enqueue the first trials of `space.py`; lines to print.

    In their order, at most `MOST` and a quarter of `total`; each once, however often this is
    called. A value of the base that lies outside goes to the nearest end, `--fix` overrides; a
    first trial whose own value lies outside, or that doubles another trial, is left out with one
    line.
    """
    if setup.program is not None:
        return _enqueue_base(study, setup)
    specs = setup.specs()
    rows = study.get_trials(deepcopy=False)
    present = {trial.user_attrs[FIRST] for trial in rows if FIRST in trial.user_attrs}
    taken = [(f"trial {trial.number}", planned_params(trial)) for trial in rows]
    room = min(MOST, total // LARGEST_SHARE) - len(present)
    chosen: list[tuple[dict[str, Value], dict[str, Any]]] = []
    lines = []
    whole = space.first_trials(setup.epochs)
    for number, (named, trial) in enumerate(zip(space.FIRST_TRIALS, whole, strict=True), 1):
        if len(chosen) >= room:
            break
        if number in present:
            continue
        params, reason = _fitted(trial.params, named.params, specs, setup)
        double = next((other for other in taken if _same(other[1], params)), None)
        if reason is None and double is not None:
            reason = f"the same as {double[0]}"
        if reason is not None:
            lines.append(f"first trial {number} ({trial.note}) left out: {reason}")
            continue
        attrs: dict[str, Any] = {FIRST: number, NOTE: trial.note, PRIORITY: FIRST_PRIORITY}
        if trial.prediction is not None:
            attrs[PREDICTION] = trial.prediction
        chosen.append((params, attrs))
        taken.append((f"first trial {number}", params))
    made = put_in_queue(study, FIRST, chosen)
    if made:
        lines.insert(0, f"first trials: {len(made)} of the seed's configurations enqueued")
    return lines


def _enqueue_base(study: optuna.Study, setup: Setup) -> list[str]:
    """Enqueue a program's own config as the first trial, for all others are held against it."""
    if any(FIRST in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return []
    try:
        base = {name: value_at(setup.base, name) for name in setup.specs()}
    except ConfigError:
        # of a key that is new nothing is known
        return []
    moved = [
        f"{name} {format_value(setup.defaults[name])} for {format_value(value)}"
        for name, value in base.items()
        if name not in setup.fixed and _lies_outside(value, setup.specs()[name])
    ]
    note = "the base config" + (f", but {', '.join(moved)}, which is not searched" if moved else "")
    attrs = {FIRST: 1, NOTE: note, PRIORITY: FIRST_PRIORITY}
    made = put_in_queue(study, FIRST, [(setup.defaults, attrs)])
    return [f"first trial: {note}"] if made else []


def _lies_outside(value: Any, spec: Spec) -> bool:
    number = as_number(value) if isinstance(value, str) else None
    return matching(value, spec) is None and (number is None or matching(number, spec) is None)


def _fitted(
    wanted: Mapping[str, Any], named: Mapping[str, Any], specs: Mapping[str, Spec], setup: Setup
) -> tuple[dict[str, Value], str | None]:
    """A complete configuration under the present ranges, and what is wrong with it, if anything."""
    params: dict[str, Value] = {}
    for name, spec in specs.items():
        if name in setup.fixed:
            params[name] = setup.fixed[name]
        elif name not in wanted:
            params[name] = setup.defaults[name]
        elif (value := matching(wanted[name], spec)) is not None:
            params[name] = value
        elif name in named:
            given = format_value(wanted[name])
            return params, f"{name} {given} is outside {describe(spec)}"
        else:
            params[name] = nearest_end(wanted[name], spec)
    try:
        config_for(setup, params, seed=0)
    except ConfigError as error:
        return params, str(error)
    return params, None


def _same(one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    """Whether two configurations train alike: the ramp is inert under a constant schedule."""

    def key(params: Mapping[str, Value]) -> dict[str, Value]:
        known = dict(params)
        if known.get("dice_schedule") == "constant":
            known.pop("dice_ramp", None)
        return known

    return key(one) == key(other)
