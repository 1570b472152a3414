"""Which configurations are repeated, and with which fresh seeds.

A study of repeats, `<name>-confirm`, holds one trial for each configuration and repeat index, which
counts its seeds from 0. Everything that a run decides follows from the trials that have ended, so a
run that was ended goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

import space
from search.confirmation.scores import repeat_key, repeats_of
from search.management.enqueue import put_in_queue
from search.management.options import StudyOptions
from search.management.planning import planned
from search.results.reading import results_of
from search.results.trials import Outcome
from search.study.attributes import CONFIGURATION, REPEAT, SEED
from search.study.identity import identity_differences, summarised
from search.study.lookup import load_setup, named_study
from search.study.names import repeats_name, search_name
from search.study.program import Program
from search.study.requests import planned_params
from search.study.search_space import (
    Searched,
    Spec,
    Value,
    canonical,
    is_number,
    resolve,
    value_of,
    widened,
)
from search.study.setup import Setup, StudyError, config_for, make_setup
from storage import LeasedStorage
from trainer.config import Config, compose, get, is_integer, is_numeric
from trainer.data.dataset import DataSummary, describe
from trainer.errors import ConfigError
from trainer.model import model_of


@dataclass(frozen=True)
class ConfirmOptions:
    """What a run of repeats is asked for.

    study: search whose `top` best are repeated, None: the latest; with compare (`KEY=V,V`) a name
    for the repeats. config, data, preset: as in `StudyOptions`. seeds: of each configuration at
    most. budget: epochs of all together at most. margin: difference that counts as none, in
    standard deviations between seeds.
    """

    seeds: int
    margin: float = 1.0
    study: str | None = None
    top: int | None = None
    compare: str | None = None
    config: Path | None = None
    data: str | None = None
    preset: str | None = None
    budget: int | None = None


@dataclass(frozen=True)
class Configuration:
    """What is repeated. label: its name in tables. value: its score at the search, None without."""

    label: str
    params: Mapping[str, Value]
    value: float | None = None


@dataclass(frozen=True)
class Task:
    """Configurations to repeat in the study that `setup` describes.

    summary: of the faces; None where another program trains. used: seeds that are not fresh.
    notes: lines to show.
    """

    setup: Setup
    summary: DataSummary | None
    configurations: Sequence[Configuration]
    used: frozenset[int] = frozenset()
    notes: Sequence[str] = ()

    @property
    def labels(self) -> list[str]:
        return [one.label for one in self.configurations]


def best_of(
    storage: LeasedStorage, name: str, top: int, *, root: str | None, preset: str | None
) -> Task:
    """The `top` best complete trials of a search, those of one configuration counted once.

    root, preset: as the user gave them, None: the search's own. Raises StudyError where the
    search has no complete trial, or its trials were trained on other data or another way.
    """
    study = named_study(storage, search_name(name))
    parent = load_setup(study)
    if preset not in (None, parent.preset):
        raise StudyError(
            f"--preset {preset}: study {parent.name} was made with {parent.preset}, and repeats"
            " train as its trials did: leave --preset out"
        )
    found = _distinct(results_of(study).complete(), parent)[:top]
    if not found:
        raise StudyError(
            f'study "{parent.name}" has no complete trial to repeat: go on with search.run, or'
            " compare values of a key with --compare KEY=VALUE,VALUE"
        )
    # the confirming study fixes nothing: whatever a trial had is one of its parameters
    specs = _holding(parent.specs(), [one.params for one in found])
    summary: DataSummary | None = None
    if parent.program is None:
        setup, summary = _setup_of_faces(parent, specs, dict(found[0].params), root)
    else:
        setup = _setup_of_program(parent, parent.program, specs, root)
    _refuse(parent, setup, "repeats would not compare with its trials")
    seeds = (row.user_attrs.get(SEED) for row in study.get_trials(deepcopy=False))
    return Task(
        setup,
        summary,
        [Configuration(one.name, dict(one.params), one.value) for one in found],
        frozenset(seed for seed in seeds if seed is not None),
    )


def _setup_of_faces(
    parent: Setup, specs: Mapping[str, Spec], params: dict[str, Value], root: str | None
) -> tuple[Setup, DataSummary]:
    """The setup of repeats, and their faces. params: of one of the configurations."""
    if "dice_schedule" in params:
        # a constant one would not tell the ramp of the base
        params["dice_schedule"] = "linear"
    config = config_for(parent, params, seed=0, data_root=root)
    summary = describe(config.data.root, config.data.synthetic_images)
    searched = Searched(dict(specs), {}, config)
    return _setup(repeats_name(parent.name), searched, summary, parent), summary


def _setup_of_program(
    parent: Setup, program: Program, specs: Mapping[str, Spec], root: str | None
) -> Setup:
    """The setup of repeats by a user's program. Raises StudyError where it takes no seed."""
    if root is not None:
        raise StudyError(f"--data {root}: a program of your own has its data in its config")
    if not program.takes_seeds:
        raise StudyError(
            f"study {parent.name}: no seed reaches {program.call}, so each repeat would be the"
            " same training: write {seed} in --command, or have a key seed in its config, in a new"
            " search"
        )
    return dataclasses.replace(
        parent,
        name=repeats_name(parent.name),
        space={name: space.to_json(spec) for name, spec in specs.items()},
        fixed={},
        sampler="random",
        pruner="none",
        revive=0,
        uid=uuid.uuid4().hex,
    )


def compared(text: str, options: ConfirmOptions) -> Task:
    """The values of one key that `--compare` names, all else as search.run would resolve it.

    Raises ConfigError for an unknown key and for values that cannot be compared.
    """
    key, values = _key_and_values(text)
    config, preset, data = options.config, options.preset, options.data
    plan = planned(StudyOptions(config=config, preset=preset, data=data))
    faces = plan.faces
    assert faces is not None, "no other program was asked for"
    composed = compose(
        file=config,
        preset=preset,
        default_preset=faces.preset,
        flags={"data.root": data},
        train_images=faces.summary.train,
        keep=[key],
    )
    try:
        searched = resolve(composed.config, table={key: _spec(values)})
        name = repeats_name(options.study or f"{plan.setup.name}-{key}")
        setup = _setup(name, searched, faces.summary, plan.setup)
        for value in values:
            _check(config_for(setup, {key: value}, seed=0), key, value)
    except ConfigError as error:
        raise ConfigError(f"--compare {text}: {error}") from None
    configurations = [Configuration(f"{key} {_shown(value)}", {key: value}) for value in values]
    return Task(setup, faces.summary, configurations, notes=composed.notes)


def joined(task: Task, study: optuna.Study, fix: str) -> Task:
    """The task in a study of repeats that exists: its ranges hold what both of them need.

    fix: what to do about a study that repeats something else. Raises StudyError with it.
    """
    stored = load_setup(study)
    _refuse(stored, task.setup, fix)
    for one in task.configurations:
        for row in repeats_of(study, one.label)[:1]:
            # a search may have been made anew under its old name
            if planned_params(row) != dict(one.params):
                name = study.study_name
                raise StudyError(f'study "{name}" repeats another {one.label} than this: {fix}')
    ranges = {n: it for n, it in stored.specs().items() if not isinstance(it, space.Choice)}
    ends = [{n: getattr(it, end) for n, it in ranges.items()} for end in ("low", "high")]
    specs = _holding(task.setup.specs(), ends)
    setup = dataclasses.replace(
        task.setup, space={name: space.to_json(spec) for name, spec in specs.items()}
    )
    return dataclasses.replace(task, setup=setup)


def _setup(name: str, searched: Searched, summary: DataSummary, like: Setup) -> Setup:
    return make_setup(
        name,
        searched,
        summary,
        seed=like.seed,
        sampler="random",
        pruner="none",
        preset=like.preset,
        revive=0,
        spend_saved=0,
    )


def _refuse(stored: Setup, new: Setup, fix: str) -> None:
    found = identity_differences(stored, new)
    if found:
        raise StudyError(f'study "{stored.name}" has {summarised(found)}: {fix}')


def _distinct(outcomes: Iterable[Outcome], setup: Setup) -> list[Outcome]:
    """The first of each configuration; only whole ones, for others cannot be trained again."""
    found: dict[str, Outcome] = {}
    for one in outcomes:
        if all(name in one.params for name in setup.specs()):
            # as it is trained: a ramp does nothing under a constant schedule
            found.setdefault(json.dumps(one.config, sort_keys=True), one)
    return list(found.values())


def _holding(specs: Mapping[str, Spec], values: Iterable[Mapping[str, Any]]) -> dict[str, Spec]:
    """The parameters, with ranges that hold all the values."""
    held = dict(specs)
    for some in values:
        for name in held.keys() & some.keys():
            held[name] = widened(held[name], some[name]) or held[name]
    return {name: held[name] for name in specs}


def _key_and_values(text: str) -> tuple[str, list[Value]]:
    """Raises ConfigError with one line."""
    name, equals, rest = (part.strip() for part in text.partition("="))
    fix = "write KEY=VALUE,VALUE, as in dice_weight=1.0,1.5,2.0"
    if not (name and equals and rest):
        raise ConfigError(f"--compare {text}: {fix}")
    try:
        key = canonical(name, list(space.SPACE))
    except ConfigError as error:
        raise ConfigError(f"--compare {text}: {error}") from None
    values = [value_of(key, part, f"--compare {text}") for part in rest.split(",")]
    if is_integer(key):
        for value in values:
            if is_number(value) and not isinstance(value, int):
                raise ConfigError(f"--compare {text}: {key} takes whole numbers, got {value}")
    elif is_numeric(key) and all(map(is_number, values)):
        values = [float(value) for value in values]
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"--compare {text}: {_shown(value)} stands there twice; name it once")
    if len(values) < 2:
        raise ConfigError(f"--compare {text}: one value has nothing to be compared with; {fix}")
    return key, values


def _spec(values: Sequence[Value]) -> Spec:
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values):
        return space.Choice(tuple(values))
    low, high = min(map(float, numbers)), max(map(float, numbers))
    if all(isinstance(value, int) for value in numbers):
        return space.Int(int(low), int(high))
    return space.Float(low, high)


def _check(config: Config, key: str, value: Value) -> None:
    """Raises ConfigError for a value that cannot be trained, or that would change nothing."""
    model_of(config)
    loss = config.loss
    if get(config, key) != value:
        raise ConfigError(
            f"{key} {_shown(value)} does nothing under dice_schedule {loss.dice_schedule}: choose"
            " another with --config FILE"
        )
    if key == "dice_schedule" and value != "constant" and loss.dice_ramp == 0:
        raise ConfigError(
            f"{key} {value} is constant while dice_ramp is 0: give loss.dice_ramp in --config FILE"
        )


def _shown(value: Value) -> str:
    """As a user writes it, and no two values alike."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return str(value)


def enqueue(study: optuna.Study, task: Task, wanted: Mapping[str, int]) -> None:
    """Put repeats in the queue, until each configuration has as many as are wanted."""
    rows: list[tuple[Mapping[str, Value], Mapping[str, Any]]] = []
    used = set(task.used) | {
        seed
        for row in study.get_trials(deepcopy=False)
        if (seed := row.user_attrs.get(SEED)) is not None
    }
    # seed by seed, so that an interrupted run knows as much of each
    for index, one in missing(study, task, wanted):
        seed = fresh_seed(task.setup.seed, one.label, index, used)
        used.add(seed)
        attrs = {REPEAT: repeat_key(one.label, index), CONFIGURATION: one.label, SEED: seed}
        rows.append((one.params, attrs))
    put_in_queue(study, REPEAT, rows)


def missing(
    study: optuna.Study, task: Task, wanted: Mapping[str, int]
) -> list[tuple[int, Configuration]]:
    """Repeats that are wanted and not there yet, with their index, the lowest first."""
    there = {label: len(repeats_of(study, label)) for label in wanted}
    return sorted(
        (
            (index, one)
            for one in task.configurations
            for index in range(there.get(one.label, 0), wanted.get(one.label, 0))
        ),
        key=lambda row: row[0],
    )


def fresh_seed(study_seed: int, label: str, index: int, used: Collection[int]) -> int:
    """The training seed of a repeat, in [0, 2^31): always the same one that is not used."""
    texts = (f"repeat {study_seed} {label} {index} {again}" for again in itertools.count())
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    drawn = (int.from_bytes(digest[:4], "big") % 2**31 for digest in digests)
    return next(seed for seed in drawn if seed not in used)
