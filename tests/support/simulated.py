"""Studies of any size without training, for the report and its figures: all that a trial leaves."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.attributes import SETUP
from search.study.drawing import drawn
from search.study.run_folders import trial_folder
from search.study.setup import Setup, distributions
from search.study.training_metrics import metrics
from tests.support.studies import setup_of
from trainer.data.classes import NAMES

# where scores are highest
BEST_DICE = 2.5


def simulated(count: int, *, epochs: int = 12, seed: int = 0, **options: Any) -> optuna.Study:
    """A study in memory with `count` finished trials, a third of them pruned."""
    setup = setup_of(config={"epochs": epochs}, **options)
    study = empty(setup)
    study.add_trials(rows(setup, count, seed=seed))
    return study


def empty(setup: Setup) -> optuna.Study:
    study = optuna.create_study(study_name=setup.name, direction="maximize")
    study.set_user_attr(SETUP, setup.to_json())
    return study


def rows(setup: Setup, count: int, *, seed: int = 0) -> list[FrozenTrial]:
    """Finished trials with parameters drawn at random, scores best at `BEST_DICE`."""
    rng = random.Random(seed)
    return [row(setup, rng, pruned=rng.random() < 1 / 3) for _ in range(count)]


def row(setup: Setup, rng: random.Random, *, pruned: bool = False, **attrs: Any) -> FrozenTrial:
    params = drawn(setup.specs(), rng.random)
    history = history_of(setup, params, rng, setup.epochs // 4 if pruned else setup.epochs)
    kept = metrics(history, dice_weight=params["dice_weight"])
    curve = {line["epoch"]: line["val_f"] for line in history}
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None if pruned else kept["best_val_f"],
        params=params,
        distributions=distributions(setup),
        intermediate_values=curve,
        user_attrs={
            **kept,
            "seed": rng.randrange(2**31),
            "f_large": kept["best_val_f"] + 0.1,
            "f_small": kept["best_val_f"] - 0.1 + 0.01 * params["dice_weight"],
            **attrs,
        },
    )


def history_of(
    setup: Setup, params: Mapping[str, Any], rng: random.Random, trained: int
) -> list[dict[str, Any]]:
    """The lines of history.json of a training that gains evenly and restarts at T_0."""
    top = 0.75 - 0.03 * abs(params["dice_weight"] - BEST_DICE) + rng.gauss(0, 0.006)
    lines = []
    for epoch in range(1, trained + 1):
        grown = 1 - math.exp(-5 * epoch / setup.epochs)
        trough = 0.05 * (1 - ((epoch % params["T_0"]) / params["T_0"]))
        score = top * grown - trough * (params["T_0"] < setup.epochs) + rng.gauss(0, 0.004)
        lines.append(
            {
                "epoch": epoch,
                "lr": 1e-3,
                "val_f": score,
                "train_f": score + 0.02 * epoch / setup.epochs,
                "train_ce": 1.2 - score,
                "train_dice": 0.9 - score / 2,
                "val_f_per_class": {
                    name: None if name == "hat" else max(0.0, score - 0.01 * number)
                    for number, name in enumerate(NAMES)
                },
            }
        )
    return lines


def write_histories(study: optuna.Study, setup: Setup, runs: Path, seed: int = 0) -> None:
    """The history.json of every trial, as its worker would have left it."""
    rng = random.Random(seed)
    for trial in study.get_trials(deepcopy=False):
        folder = trial_folder(runs, setup.name, trial.number) / "1"
        folder.mkdir(parents=True)
        history = history_of(setup, trial.params, rng, len(trial.intermediate_values))
        for line in history:
            line["val_f"] = trial.intermediate_values[line["epoch"]]
        (folder / "history.json").write_text(json.dumps(history))
