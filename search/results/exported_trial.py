"""One trial as a config for the trainer: which one, and with which origin."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.study import lineages
from search.study.attributes import RUNTIME, SEED
from search.study.lookup import load_setup
from search.study.run_records import search_record
from search.study.setup import StudyError, config_for
from trainer.config import Config, to_yaml


def chosen_trial(study: optuna.Study, number: int | None) -> FrozenTrial:
    """The trial asked for, or the answer of the study. Raises StudyError."""
    trials = study.get_trials(deepcopy=False)
    if number is None:
        trial = lineages.best_of(trials)
        if trial is None:
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
        first = lineages.rows_of(trials, by_number[number])[0].number
        trial = next(one for one in lineages.merged(trials) if one.number == first)
    if SEED not in trial.user_attrs:
        # also one that was set COMPLETE in the dashboard
        raise StudyError(
            f"study {study.study_name}: trial {trial.number} is {trial.state.name} and has never"
            " been trained; choose another with --trial N"
        )
    return trial


def exported(study: optuna.Study, trial: FrozenTrial, *, command: str) -> str:
    """The YAML that repeats a trial: its seed, its runtime, early stopping off, and its origin.

    Raises StudyError or ConfigError if the study or the trial does not hold what is needed.
    """
    return to_yaml(*config_and_record(study, trial, command))


def config_and_record(
    study: optuna.Study, trial: FrozenTrial, command: str
) -> tuple[Config, dict[str, Any]]:
    setup = load_setup(study)
    config = config_for(
        setup,
        trial.params,
        seed=trial.user_attrs[SEED],
        runtime=trial.user_attrs.get(RUNTIME),
    )
    return config, search_record(setup, trial) | {"epochs": setup.epochs, "command": command}
