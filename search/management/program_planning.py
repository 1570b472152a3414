"""What the flags of a user's training program come to, checked before the store is touched."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import space
from search.management.enqueue import complete, read_requests
from search.management.options import Plan, StudyOptions
from search.study.names import default_program_name
from search.study.program import SCORE, STOP_GRACE_S, Program
from search.study.search_space import Spec, Value, as_number, inside, nearest_end, range_of
from search.study.setup import (
    CHANGEABLE,
    PRUNE_RISK,
    PRUNER,
    REVIVE,
    SAMPLER,
    SPEND_SAVED,
    Setup,
    checked_names,
    versions,
)
from search.trainers.command import check_command
from search.trainers.config_files import Format, put_values, read_config, value_at
from search.trainers.function import ARGUMENTS, function_of, taken
from search.trainers.output_patterns import OutputPattern
from search.trainers.placeholders import placeholders_of, words_of
from search.trainers.readings import leaves
from search.trainers.space_files import choice_of, read_space
from trainer.errors import ConfigError, UserError
from trainer.notation import load_yaml
from trainer.runtime import check_device

# flags of our own trainer, and of others alone
_OURS = {"data": "--data", "preset": "--preset", "image_size": "--image-size"}
_OURS |= {"batch_size": "--batch-size"}
_THEIRS = {
    "history": "--history",
    "score_key": "--score-key",
    "pattern": "--score",
    "resume_file": "--resume-file",
    "stop_grace_s": "--stop-grace-s",
    "epoch_timeout_s": "--epoch-timeout",
    "space_file": "--space",
    "choices": "--choice",
    "new_key": "--new-key",
    "direction": "--direction",
    "metric": "--metric",
}
# how a study searches, where nothing else is asked for
_HOW = {
    "sampler": SAMPLER,
    "pruner": PRUNER,
    "revive": REVIVE,
    "prune_risk": PRUNE_RISK,
    "spend_saved": SPEND_SAVED,
    "widen": "off",
}
_OF_COMMANDS = ("history", "score_key", "pattern", "stop_grace_s", "epoch_timeout_s")
# last parts of keys that programs call these things by
_EPOCHS = ("epochs", "num_epochs", "n_epochs", "max_epochs")
_SEEDS = ("seed", "random_seed", "manual_seed", "random_state")


def refuse_flags_of_programs(options: StudyOptions) -> None:
    """Raise UserError for a flag that says nothing to our own trainer."""
    for name, flag in _THEIRS.items():
        if getattr(options, name):
            raise UserError(
                f"{flag}: it is for a training program of your own; add --command or --trainer"
            )


@dataclass(frozen=True)
class _Base:
    """The config that trials differ from. given: whether there is one."""

    values: dict[str, Any]
    format: Format
    given: bool
    new_keys: bool

    def key(self, name: str, flag: str) -> str:
        """A key that is there, or may be new. Raises ConfigError."""
        try:
            value_at(put_values(self.values, {name: 0}, new_keys=self.new_keys), name)
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error}") from None
        return name

    def at(self, name: str) -> Any:
        try:
            return value_at(self.values, name)
        except ConfigError:
            return None

    def with_leaf(self, known: Sequence[str]) -> str | None:
        """The one key whose last part is one of these; None where there is none, or several."""
        found = [name for name, _ in leaves(self.values) if name.rpartition(".")[2] in known]
        return found[0] if len(found) == 1 else None


def planned_program(options: StudyOptions) -> Plan:
    """The plan of a study that a command or a function trains. Raises UserError."""
    _check_flags(options)
    requests = read_requests(options.enqueue) if options.enqueue else []
    check_device(options.device)
    base = _base(options)
    epochs, base = _epochs(options, base)
    specs, only_if = _specs(options, base, epochs)
    fixed, base = _fixed(options, base, specs)
    program = _program(options, base, only_if)
    if not specs:
        raise UserError(
            "nothing is searched: give --range KEY=LOW:HIGH, --choice KEY=A,B or --space FILE"
        )
    name = options.study or default_program_name(program.name)
    given = {name: it for name in CHANGEABLE if (it := getattr(options, name)) is not None}
    if not program.takes_seeds:
        # a second training would be the first one again
        given["spend_saved"] = 0.0
    setup = Setup(
        name=name,
        base=base.values,
        runtime={"device": options.device, "threads": None},
        space={key: space.to_json(spec) for key, spec in specs.items()},
        fixed=fixed,
        defaults={**{k: _default(base.at(k), spec) for k, spec in specs.items()}, **fixed},
        seed=options.seed or 0,
        epochs=epochs,
        data={"root": None, "name": program.name, "fingerprint": "", "train": 0, "val": 0},
        metric=program.label,
        versions=versions(),
        program=program,
        **{**_HOW, **given},
    )
    setup = checked_names(setup)
    for number, request in enumerate(requests, start=1):
        complete(request, setup, f"{options.enqueue}: entry {number}")
    return Plan(setup, [], requests)


def _default(value: Any, spec: Spec) -> Value:
    """What a trial takes of the base; a number may be spelt as a text, as old readers took it."""
    number = None if isinstance(spec, space.Choice) else as_number(value)
    return nearest_end(value if number is None else number, spec)


def _check_flags(options: StudyOptions) -> None:
    """Raise UserError for flags that do not go together."""
    if options.command is not None and options.function is not None:
        raise UserError("--command and --trainer each name what trains; leave one of them out")
    for name, flag in _OURS.items():
        if getattr(options, name) is not None:
            raise UserError(f"{flag}: it is our own trainer's; set a key with --fix KEY=VALUE")
    for name in _OF_COMMANDS if options.function is not None else ():
        if getattr(options, name) is not None:
            raise UserError(f"{_THEIRS[name]}: a function reports by itself; leave it out")
    if (options.history is None) != (options.score_key is None):
        raise UserError("--history and --score-key go together: which file, and which of its keys")
    if options.history is not None and options.pattern is not None:
        raise UserError("--history and --score each tell where scores stand; leave one out")
    if options.pattern is not None:
        OutputPattern(options.pattern)
    if options.resume_file is not None and os.path.isabs(options.resume_file):
        raise UserError(
            f"--resume-file {options.resume_file}: it is looked for in the trial's own folder; give"
            " a pattern as seen from there, such as checkpoints/*/last.pt"
        )


def _base(options: StudyOptions) -> _Base:
    if options.config is None:
        # nothing can be misspelt where nothing is written
        return _Base({}, "yaml", False, True)
    read = read_config(options.config)
    return _Base(read.values, read.format, True, options.new_key)


def _epochs(options: StudyOptions, base: _Base) -> tuple[int, _Base]:
    """The budget of a trial, and the config that says so where it says it at all."""
    key = base.with_leaf(_EPOCHS)
    if options.epochs is not None:
        if key is not None:
            base = dataclasses.replace(base, values=put_values(base.values, {key: options.epochs}))
        return options.epochs, base
    found = None if key is None else base.at(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(
            "--epochs N: how many epochs does a trial train? The config has no one key that says so"
        )
    return found, base


def _specs(
    options: StudyOptions, base: _Base, epochs: int
) -> tuple[dict[str, Spec], dict[str, dict[str, Value]]]:
    """What is searched, in the order given. Raises ConfigError."""
    specs: dict[str, Spec] = {}
    only_if: dict[str, dict[str, Value]] = {}
    if options.space_file is not None:
        file = read_space(options.space_file)
        specs |= space.concrete(file.specs, epochs)
        only_if = file.only_if
        for name in specs:
            base.key(name, f"--space {options.space_file}")
    for text in options.choices:
        name, choice = choice_of(text)
        specs[base.key(name, f"--choice {text}")] = choice
    for text in options.ranges:
        name = base.key(text.partition("=")[0].strip(), f"--range {text}")
        present = specs.get(name)
        if isinstance(present, space.Choice):
            raise ConfigError(f"--range {text}: {name} is a choice; leave one of the two out")
        value = base.at(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        specs[name] = range_of(text, present, whole=whole)
    return specs, only_if


def _fixed(
    options: StudyOptions, base: _Base, specs: Mapping[str, Spec]
) -> tuple[dict[str, Value], _Base]:
    """What `--fix` holds of the searched ones, and the config with what else it sets."""
    fixed: dict[str, Value] = {}
    for text in options.fix:
        name, equals, given = (part.strip() for part in text.partition("="))
        if not (name and equals and given):
            raise ConfigError(f"--fix {text}: it is not KEY=VALUE, for example loss.smoothing=0.1")
        value = load_yaml(given, f"--fix {text}", lambda _: False)
        if name in specs:
            fixed[name] = inside(name, value, specs[name], what="--fix ")
        else:
            values = put_values(
                base.values, {base.key(name, f"--fix {text}"): value}, new_keys=True
            )
            base = dataclasses.replace(base, values=values)
    return fixed, base


def _program(options: StudyOptions, base: _Base, only_if: dict[str, dict[str, Value]]) -> Program:
    """The program, which is there and takes what it needs. Raises UserError."""
    if options.direction not in (None, "maximize", "minimize"):
        near = difflib.get_close_matches(options.direction, ("maximize", "minimize"), n=1)
        raise UserError(
            f"--direction {options.direction}: it is maximize or minimize"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    metric = options.metric or (options.score_key or SCORE).rpartition(".")[2]
    made = Program(
        kind="command" if options.function is None else "function",
        call=options.command or options.function or "",
        folder=os.getcwd(),
        format=base.format,
        metric=metric,
        minimize=options.direction == "minimize",
        history=options.history,
        score_key=options.score_key,
        pattern=options.pattern,
        resume_file=options.resume_file,
        stop_grace_s=STOP_GRACE_S if options.stop_grace_s is None else options.stop_grace_s,
        epoch_timeout_s=options.epoch_timeout_s,
        only_if=only_if,
    )
    seeded = _check_function(made) if made.kind == "function" else _check_command(made)
    # a seed that the program takes as an argument is not written in its config as well
    return dataclasses.replace(
        made, seeded=seeded, seed_key=None if seeded else base.with_leaf(_SEEDS)
    )


def _check_command(program: Program) -> bool:
    """Whether the command line takes a seed. Raises UserError."""
    names = {name for word in words_of(program.call) for name in placeholders_of(word)}
    check_command(program)
    if "config" not in names:
        raise UserError(
            f"--command {program.call}: write {{config}} where the file of the trial's config goes"
        )
    if "resume" in names and program.resume_file is None:
        raise UserError(
            "--command: {resume} is filled with the newest match of a pattern; add --resume-file"
        )
    if program.resume_file is not None and "resume" not in names:
        raise UserError(
            "--resume-file: write {resume} in --command where the file to go on from goes"
        )
    return "seed" in names


def _check_function(program: Program) -> bool:
    """Whether the function takes a seed. Raises UserError."""
    function = function_of(program.call, program.folder)
    try:
        signature = inspect.signature(function)
        signature.bind({}, **taken(function, dict.fromkeys(ARGUMENTS)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--trainer {program.call}: it cannot be called as train(config, *,"
            f" {', '.join(ARGUMENTS)}), of which it may leave out all but the config: {error}"
        ) from None
    return "seed" in taken(function, {"seed": 0})
