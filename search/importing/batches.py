"""Runs of somebody's own as trials of a study of their own metric.

Such a study has no setup, since nothing here can be trained to its scores again. Everything is
checked before the store is touched, and a run that is there already is not added again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

import space
from search.importing.run_files import read_runs
from search.importing.runs import EPOCHS, Run, continues, parent, summed_up
from search.study import training_metrics
from search.study.attributes import (
    CONFIG,
    CONTENT,
    CONTINUED,
    EXPERIMENT,
    IGNORED,
    IMPORTED,
    NOTE,
    RUN,
    SEED,
    SERIES,
    SETUP,
    SOURCE,
)
from search.study.identity import is_marked, refuse_direction
from search.study.lookup import study_or_none
from search.study.search_space import is_number, short
from search.study.setup import StudyError
from search.study.wording import params_text
from storage.rdb import LeasedStorage
from trainer.config import is_integer, key_path, leaf_keys
from trainer.errors import UserError
from trainer.history import F_SCORE, TRAIN_F_SCORE

METRIC = "as reported by the imported runs; not comparable with f_score here"
# how a run was computed or ended, not what was tried
_NO_PARAMS = ("experiment.", "runtime.", "data.root", "training.early_stopping_patience")
_LOG = {
    "learning_rate",
    *(name for name, spec in space.SPACE.items() if getattr(spec, "log", False)),
}


@dataclass(frozen=True)
class Batch:
    """The runs of one file or folder, read and checked.

    metric: as given, None for neither. notes: lines to show.
    """

    path: Path
    runs: Sequence[Run]
    metric: str | None
    notes: Sequence[str]


@dataclass(frozen=True)
class Imported:
    """added: numbers of the new trials. present: how many of the runs were there already."""

    study: optuna.Study
    added: list[int]
    present: int


def read_batch(path: Path, metric: str | None = None) -> Batch:
    """Read and check a file or folder. Raises UserError, with file, run and fix."""
    runs, left_out = read_runs(path)
    settings = [run.settings for run in runs]
    for run in runs:
        _check_storable(run)
    _refuse_twins(runs)
    given = {run.metric or run.settings.metric for run in runs}
    if metric is None and len(given) > 1:
        shown = "; ".join(sorted(text or "none given" for text in given))
        raise UserError(
            f"{path}: its runs have several metrics ({shown}); split the file, or say --metric"
        )
    left_out += [note for run in runs for note in run.notes]
    keys = summed_up(known.notes for known in settings)
    idle = sorted({key for known in settings for key in known.ignored})
    if idle:
        keys.append(f"without an effect on these runs, kept apart: {', '.join(idle)}")
    return Batch(path, runs, metric or next(iter(given)), [*left_out, *keys])


def import_batch(storage: LeasedStorage, name: str, batch: Batch) -> Imported:
    """Add the runs to the imported study, which is made if it is not there.

    Raises StudyError for a study of another kind or metric, UserError for a run that contradicts
    one of the study; nothing has been written then.
    """
    study = _existing(storage, name)
    trials = [] if study is None else study.get_trials(deepcopy=False)
    metric = _agreed_metric(study, name, batch.metric)
    rows, present = _rows(batch, trials)
    if study is None:
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
    known = study.user_attrs.get(IMPORTED, {})
    sources = dict.fromkeys([*filter(None, [known.get("source")]), batch.path.name])
    # before the trials: an interrupted import is simply repeated
    if rows or not known:
        study.set_user_attr(IMPORTED, {"metric": metric, "source": ", ".join(sources)})
    for row in rows:
        study.add_trial(row)
    had = {trial.number for trial in trials}
    marks = {row.user_attrs[CONTENT] for row in rows}
    added = [
        trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.number not in had and trial.user_attrs.get(CONTENT) in marks
    ]
    return Imported(study, added, present)


def _existing(storage: LeasedStorage, name: str) -> optuna.Study | None:
    study = study_or_none(storage, name)
    if study is None:
        return None
    if SETUP in study.user_attrs:
        raise StudyError(
            f'study "{name}" was made by search.run, and imported runs have a metric of their own:'
            " name another with --study"
        )
    if is_marked(study, maker="search.import_results", mark=IMPORTED):
        refuse_direction(study)
    return study


def _agreed_metric(study: optuna.Study | None, name: str, given: str | None) -> str:
    stored = {} if study is None else study.user_attrs.get(IMPORTED, {})
    if not stored:
        return given or METRIC
    if given is not None and given != stored["metric"]:
        raise StudyError(
            f'study "{name}" has the metric "{stored["metric"]}", these runs have "{given}": name'
            " another study with --study"
        )
    return str(stored["metric"])


# ------------------------------------------------------------------------------------------- rows


def _rows(batch: Batch, trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], int]:
    """The trials to add, and how many runs are there already."""
    present = {trial.user_attrs.get(CONTENT) for trial in trials}
    new = [run for run in batch.runs if run.mark not in present]
    names = _names(batch, trials, new)
    scores = {str(trial.user_attrs.get(RUN)): float(trial.value or 0) for trial in trials} | {
        name: run.best for run, name in zip(new, names, strict=True)
    }
    params, distributions = _params([run.settings.config for run in new], trials)
    rows = [
        create_trial(
            state=TrialState.COMPLETE,
            value=run.best,
            params=own,
            distributions={key: distributions[key] for key in own},
            user_attrs={
                **_attrs(run, {other: scores[other] for other in scores if other != name}),
                RUN: name,
                CONTENT: run.mark,
                SOURCE: batch.path.name,
            },
            intermediate_values=dict(enumerate(run.f_scores, 1)),
        )
        for run, name, own in zip(new, names, params, strict=True)
    ]
    return rows, len(batch.runs) - len(new)


def _check_storable(run: Run) -> None:
    """Raise UserError for what no reader of the study could use."""
    epochs = run.settings.config.get(EPOCHS)
    if epochs is not None and not (is_number(epochs) and epochs >= 1 and epochs == int(epochs)):
        raise UserError(
            f"{run.where}: {EPOCHS}: {epochs!r} is no number of epochs; write it like 150"
        )
    given = (run.name, run.note, run.metric, run.config)
    try:
        json.dumps(given, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.end]
        # the run's name may hold it
        where = run.where.encode(errors="backslashreplace").decode()
        raise UserError(
            f"{where}: {found!r} is half a letter, which no store keeps; write it otherwise"
        ) from None


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        twin = seen.setdefault(run.mark, run)
        if twin is not run:
            raise UserError(
                f"{run.where}: tells what {twin.where.rpartition(': ')[2]} does; give each a run"
                " or a seed, or leave one out"
            )


def _names(batch: Batch, trials: Sequence[FrozenTrial], new: Sequence[Run]) -> list[str]:
    """A name for each new run. Raises UserError for one that another run of the study has."""
    taken = {str(trial.user_attrs.get(RUN)) for trial in trials}
    names = []
    for run in new:
        if run.name is not None and run.name in taken:
            raise UserError(
                f"{run.where}: the study has another run of this name, with other figures or"
                " another config; rename it, or name another study with --study"
            )
        name = label = run.name or _label(batch, run)
        tried = 1
        while name in taken:
            tried += 1
            name = f"{label} ({tried})"
        taken.add(name)
        names.append(name)
    return names


def _label(batch: Batch, run: Run) -> str:
    """What tells a row of a table from the others, for a name."""
    configs = [other.settings.config for other in batch.runs]
    own = run.settings.config
    telling = {key: own[key] for key in own if any(other.get(key) != own[key] for other in configs)}
    text = params_text({short(key): value for key, value in (telling or own).items()})
    return text[:60] or f"row {batch.runs.index(run) + 1}"


def _attrs(run: Run, others: Mapping[str, float]) -> dict[str, Any]:
    """others: best score of each other run of the study, by its name."""
    settings = run.settings
    labels = {"name": settings.experiment, "description": settings.description}
    given = {
        CONFIG: settings.config,
        SERIES: {name: list(values) for name, values in run.series.items()},
        IGNORED: settings.ignored,
        EXPERIMENT: {key: text for key, text in labels.items() if text},
        NOTE: run.note,
        SEED: run.known_seed,
        **_metrics(run, settings.config),
    }
    if continues(settings, run.f_scores):
        given[CONTINUED] = parent(settings, others)
    return {key: value for key, value in given.items() if value is not None}


def _metrics(run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """The seed's table of one run; None for what cannot be known."""
    dice, ce = config.get("loss.dice_weight"), config.get("loss.ce_weight", 1.0)
    ratio = training_metrics.ratio(ce, dice) if is_number(dice) and is_number(ce) else None
    if not run.f_scores:
        return {"ce_dice_ratio": ratio, **_completed(run.metrics)}
    none: Sequence[float | None] = [None] * len(run.f_scores)
    train = run.series.get(TRAIN_F_SCORE, none)
    history = [
        {"epoch": epoch, F_SCORE: score, TRAIN_F_SCORE: fit}
        for epoch, (score, fit) in enumerate(zip(run.f_scores, train, strict=True), 1)
    ]
    return {**training_metrics.metrics(history, dice_weight=0.0), "ce_dice_ratio": ratio}


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A table's metrics, with those that follow from the others."""
    all_ = dict(given)
    best = all_["best_val_f"]
    if "train_f_at_best" in all_:
        all_.setdefault("gap", all_["train_f_at_best"] - best)
    elif "gap" in all_:
        all_["train_f_at_best"] = best + all_["gap"]
    if "final_val_f" in all_:
        all_.setdefault("degradation", best - all_["final_val_f"])
    elif "degradation" in all_:
        all_["final_val_f"] = best - all_["degradation"]
    if "degradation" in all_ and best > 0:
        all_.setdefault("degradation_pct", 100 * all_["degradation"] / best)
    return all_


# ----------------------------------------------------------------------------------------- params


def _params(
    configs: Sequence[Mapping[str, Any]], trials: Sequence[FrozenTrial]
) -> tuple[list[dict[str, Any]], dict[str, BaseDistribution]]:
    """Parameters of each new run: keys of our config that vary among all runs of the study."""
    everyone = [*configs, *(trial.user_attrs.get(CONFIG, {}) for trial in trials)]
    had = {key: item for trial in trials for key, item in trial.distributions.items()}
    distributions = {}
    for key in leaf_keys():
        values = [config[key] for config in everyone if config.get(key) is not None]
        name = short(key)
        varies = any(value != values[0] for value in values)
        if key.startswith(_NO_PARAMS) or not (varies or (values and name in had)):
            continue
        made = _distribution(name, values, had.get(name))
        if made is not None:
            distributions[name] = made
    params = [
        {
            name: value
            for name in distributions
            if (value := config.get(".".join(key_path(name)))) is not None
        }
        for config in configs
    ]
    return params, distributions


def _distribution(
    name: str, values: Sequence[Any], had: BaseDistribution | None
) -> BaseDistribution | None:
    """What holds every value, None where Optuna can hold them in no one parameter."""
    made: BaseDistribution
    if all(map(is_number, values)):
        low, high = min(values), max(values)
        if is_integer(name) and all(value == int(value) for value in values):
            made = IntDistribution(int(low), int(high))
        else:
            made = FloatDistribution(float(low), float(high), log=name in _LOG and low > 0)
    elif all(isinstance(value, (str, bool)) for value in values):
        made = CategoricalDistribution(sorted(set(values), key=str))
    else:
        return None
    if had is not None:
        try:
            check_distribution_compatibility(had, made)
        except ValueError:
            return None
    return made
