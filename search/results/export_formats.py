"""A trial, or all trials, in the forms that other programs take."""

from __future__ import annotations

import csv
import io
import json
import pprint
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial

from search.results.answer import study_answer
from search.results.trials import Results
from search.strategy.answers import Answer
from search.study import lineages
from search.study.attributes import RUNTIME, SEED
from search.study.lookup import load_setup
from search.study.program import Program
from search.study.run_records import search_record
from search.study.search_space import short
from search.study.setup import Setup, StudyError, config_for
from search.study.training_metrics import COLUMNS
from search.trainers.config_files import Format, written
from search.trainers.configs import trial_values
from search.trainers.placeholders import filled, words_of
from search.trainers.program_runs import program_of
from trainer.cli import one_line
from trainer.config import Config, get, leaf_keys, to_dict, to_yaml, value_text
from trainer.presets import PRESETS, preset_values
from trainer.streams import command_line, shown

# a cell that begins with one of these is run as a formula by a spreadsheet
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# keys that trainer.train takes as flags
_FLAGS = {"data.root": "--data", "training.seed": "--seed", "runtime.device": "--device"}


def chosen_trial(study: optuna.Study, number: int | None) -> Answer:
    """The answer of the study, or the trial asked for, of which nothing is expected.

    Raises StudyError.
    """
    trials = study.get_trials(deepcopy=False)
    if number is None:
        found = study_answer(study)
        if found is None:
            raise StudyError(
                f"study {study.study_name}: no trial is complete yet; wait for one, or name a"
                " pruned one with --trial N"
            )
    else:
        by_number = {trial.number: trial for trial in trials}
        if number not in by_number:
            raise StudyError(
                f"study {study.study_name}: --trial {number} does not exist; there are"
                f" {lineages.numbers_text(trials)}"
            )
        first = lineages.rows_of(trials, by_number[number])[0]
        # a repeat is no trial of its own, but may be trained again as well
        merged = {one.number: one for one in lineages.merged(trials)}
        found = Answer(merged.get(first.number, first))
    trial = found.trial
    if SEED not in trial.user_attrs:
        # also one that was set COMPLETE in the dashboard
        raise StudyError(
            f"study {study.study_name}: trial {trial.number} is {trial.state.name} and has never"
            " been trained; choose another with --trial N"
        )
    return found


def exported(study: optuna.Study, chosen: Answer, form: str = "yaml", *, command: str) -> str:
    """What repeats a trial: its config, its seed, early stopping off, its origin and its worth.

    form: `yaml`, `json` or `python-dict` (a literal that `ast.literal_eval` reads), all of one
    content; `cli`, the command that trains it. command: how the export was made. Raises StudyError
    or ConfigError if the study or the trial does not hold what is needed.
    """
    setup, trial = load_setup(study), chosen.trial
    if setup.program is not None:
        return _of_program(setup, setup.program, chosen, form)
    config = config_of(setup, trial)
    if form == "cli":
        return command_line(train_words(config)) + "\n"
    record = search_record(setup, trial) | {"epochs": setup.epochs, "command": command}
    if chosen.expected is not None:
        # of this configuration with a fresh seed; `value` is what this one seed reached
        record |= {"expected": chosen.expected, "expected_sd": chosen.error}
    if form == "yaml":
        return to_yaml(config, record)
    document = to_dict(config) | {"search": record}
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return pprint.pformat(document, sort_dicts=False, width=100) + "\n"


def _of_program(setup: Setup, program: Program, chosen: Answer, form: str) -> str:
    """A trial's config as the program takes it, and nothing else but comments."""
    trial = chosen.trial
    values = trial_values(trial, setup)
    if form == "cli":
        return command_line(program_words(setup, trial, f"best.{program.format}")) + "\n"
    if form == "python-dict":
        return pprint.pformat(values, sort_dicts=False, width=100) + "\n"
    own = cast(Format, program.format if form == "yaml" else form)
    text = written(values, own)
    if own == "json":
        return text
    score = lineages.value(trial)
    head = [f"trial {trial.number} of study {setup.name}: {setup.score_name} {score:.6g}"]
    if chosen.expected is not None:
        head.append(f"{chosen.expected:.6g} ± {chosen.error:.2g} expected with a fresh seed")
    head.append(f"as it was trained: {again_text(setup, trial)}")
    return "".join(f"# {one_line(line)}\n" for line in head) + text


def again_text(setup: Setup, trial: FrozenTrial) -> str:
    """How a program is run with an exported config."""
    program = program_of(setup)
    if program.kind == "function":
        return f"{program.call} with seed {trial.user_attrs[SEED]}"
    return command_line(program_words(setup, trial, f"best.{program.format}"))


def program_words(setup: Setup, trial: FrozenTrial, config: str) -> list[str]:
    """The command that trains a trial again, from its exported config. Raises StudyError."""
    program = program_of(setup)
    if program.kind == "function":
        raise StudyError("--format cli: a function has no command line; choose yaml")
    known = {"config": config, "out": "out", "device": "auto", "resume": None}
    seed, epochs = str(trial.user_attrs[SEED]), str(setup.epochs)
    return filled(words_of(program.call), {**known, "seed": seed, "epochs": epochs})


def config_of(setup: Setup, trial: FrozenTrial) -> Config:
    """The config that trains a trial again. Raises ConfigError."""
    attrs = trial.user_attrs
    return config_for(setup, trial.params, seed=attrs[SEED], runtime=attrs.get(RUNTIME))


def train_words(config: Config) -> list[str]:
    """The command that trains a config, with no file: words of `python -m trainer.train`.

    Besides what differs from the defaults it gives all that a preset would fill in, since which
    preset that is depends on the machine.
    """
    default, filled = Config(), _filled_by_presets(config.data.root)
    words = ["python", "-m", "trainer.train"]
    for key in leaf_keys():
        value = get(config, key)
        if value == get(default, key) and key not in filled:
            continue
        if key in _FLAGS:
            words += [_FLAGS[key], str(value)]
        else:
            words += ["--set", f"{short(key)}={value_text(value)}"]
    return words


def _filled_by_presets(root: str) -> set[str]:
    # train_images: with any number of them the epochs are among the keys
    return {key for name in PRESETS for key in preset_values(name, root=root, train_images=1)}


# ---------------------------------------------------------------------------------------- table


def table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Names of the columns and a row for each trial, by number, unrounded; None where unknown.

    The columns: trial, name, state, value, those of the seed's table, the parameters, seed, note.
    name: of the run, or of the configuration that a trial repeats. A parameter that is called as
    one of the others has `params_` before its name.
    """
    named = list(results.setup.specs()) if results.setup is not None else []
    params = dict.fromkeys([*named, *(name for one in results.outcomes for name in one.params)])
    before, after = ["trial", "name", "state", "value", *COLUMNS], ["seed", "note"]
    taken = {*before, *after}
    heads = [f"params_{name}" if name in taken else name for name in params]
    rows = [
        [
            *(one.number, one.label, one.state.name, one.value),
            *(one.metrics.get(name) for name in COLUMNS),
            *(one.params.get(name) for name in params),
            *(one.seed, one.note),
        ]
        for one in sorted(results.outcomes, key=lambda one: one.number)
    ]
    return [*before, *heads, *after], rows


def as_csv(results: Results) -> str:
    """`table` for a spreadsheet: one line of headings, one line a trial, no text that is run."""
    heads, rows = table(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_cell(item) for item in row] for row in (heads, *rows)])
    return text.getvalue()


def _cell(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    # what is not seen may stand before an equals sign
    line = "".join(letter for letter in one_line(shown(item)) if letter.isprintable()).strip()
    return f"'{line}" if line.startswith(_FORMULA) else line
