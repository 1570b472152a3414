"""What a study came to, trial by trial, for whoever compares trials.

The report, `search.compare`, `search.export` and a notebook all read this, whether the trials were
searched here or imported from somebody's old results.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study import lineages, training_metrics
from search.study.attributes import (
    CONFIG,
    CONFIGURATION,
    CONTENT,
    CONTINUED,
    IMPORTED,
    NOTE,
    RUN,
    SEED,
    SERIES,
    is_imported,
)
from search.study.histories import read_history
from search.study.identity import differing_facts
from search.study.lookup import load_setup
from search.study.names import repeats_name
from search.study.repeats import confirmed_scores
from search.study.run_folders import newest_claims
from search.study.search_space import is_number
from search.study.setup import Setup, StudyError, base_values, config_for, flat
from storage.optuna_internals import storage_of
from trainer.config import key_path, to_dict
from trainer.errors import ConfigError
from trainer.history import F_SCORE
from trainer.notation import decimal

EPOCHS = "training.epochs"


# troubles that are said one by one
_SAID = 5


@dataclass(frozen=True)
class Outcome:
    """One trial, all rows of its lineage together.

    name: of a person's own run, else `trial N`. value: highest score, in [0, 1], of the study's
    metric. metrics: the columns of `search.study.training_metrics`. params: searched values by
    name. config: everything that is known of how it was trained, by dotted name, params included.
    series: what was recorded each epoch (val_f, train_f, lr, ...), name -> {epoch: number}, epochs
    from 1. per_class: F-score of the best epoch by class name, in [0, 1], None where a class is
    absent; empty where it was not kept. budget: epochs that were planned. continued: the run whose
    weights it started from. attrs: the trial's user attributes.
    """

    number: int
    name: str
    state: TrialState
    value: float | None
    metrics: Mapping[str, Any]
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    series: Mapping[str, Mapping[int, float]]
    per_class: Mapping[str, float | None]
    budget: int
    continued: str | None
    attrs: Mapping[str, Any]
    row: FrozenTrial

    @property
    def curve(self) -> Mapping[int, float]:
        """Epoch -> score on the validation part."""
        return self.series[F_SCORE]

    @property
    def note(self) -> str | None:
        """What was written beside an enqueued or first trial."""
        return self.attrs.get(NOTE)

    @property
    def label(self) -> str:
        """What was trained: the configuration that a repeat repeats, else the trial's name."""
        return str(self.attrs.get(CONFIGURATION) or self.name)

    @property
    def seed(self) -> int | None:
        return self.attrs.get(SEED)


@dataclass(frozen=True)
class Results:
    """A study. metric: what a value is. setup: None where the trials were imported.

    rows: as the store has them, revivals on rows of their own. attrs: the study's user attributes.
    repeats: of its configurations, with fresh seeds, in the study that `search.confirm` made: label
    -> scores; empty where there is none on the same data and budget. troubles: a line for each
    thing that an earlier version stored and that cannot be used.
    """

    name: str
    metric: str
    setup: Setup | None
    outcomes: Sequence[Outcome]
    rows: Sequence[FrozenTrial]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Sequence[float]] = field(default_factory=dict)
    troubles: Sequence[str] = ()

    @property
    def imported(self) -> bool:
        return self.setup is None

    def scored(self) -> list[Outcome]:
        """Complete and pruned trials with a value, the best first, complete ones before pruned."""
        ended = [
            one
            for one in self.outcomes
            if one.value is not None and one.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]
        return sorted(
            ended,
            key=lambda one: (one.state != TrialState.COMPLETE, -(one.value or 0.0), one.number),
        )

    def complete(self) -> list[Outcome]:
        """Trials that were trained to their end, the best first."""
        return [one for one in self.scored() if one.state == TrialState.COMPLETE]

    @property
    def best(self) -> Outcome | None:
        """The answer: the complete trial with the highest value."""
        return next(iter(self.complete()), None)


def results_of(study: optuna.Study, runs: Path | None = None) -> Results:
    """What the store knows of a study, and its histories where the runs folder has them.

    Raises StudyError for a study that is neither a search nor imported.
    """
    attrs = study.user_attrs
    troubles: list[str] = []
    setup = None if is_imported(attrs) else load_setup(study)
    rows = study.get_trials(deepcopy=False)
    if setup is None:
        # two imports at the same moment bring a run twice
        once = {row.user_attrs.get(CONTENT, row.number): row for row in reversed(rows)}
        rows = sorted(once.values(), key=lambda row: row.number)
        outcomes = [_imported(trial, troubles) for trial in lineages.merged(rows)]
    else:
        numbers = defaultdict(list)
        for row in rows:
            numbers[lineages.rows_of(rows, row)[0].number].append(row.number)
        outcomes = [
            _own(trial, numbers[trial.number], setup, runs) for trial in lineages.merged(rows)
        ]
    metric = str(attrs[IMPORTED]["metric"]) if setup is None else setup.metric
    repeats = {} if setup is None else _repeats(study, setup)
    return Results(study.study_name, metric, setup, outcomes, rows, attrs, repeats, troubles)


def say_troubles(several: Iterable[Results]) -> None:
    """Print on stderr what cannot be used of the studies."""
    for results in several:
        for line in results.troubles[:_SAID]:
            print(f"note: study {results.name}: {line}", file=sys.stderr)
        if len(results.troubles) > _SAID:
            more = len(results.troubles) - _SAID
            print(f"note: study {results.name}: {more} more trials likewise", file=sys.stderr)


def _repeats(study: optuna.Study, setup: Setup) -> dict[str, list[float]]:
    """The scores in the study of repeats of a search, where they compare with its own."""
    name = repeats_name(study.study_name)
    if name == study.study_name:
        return {}
    try:
        other = optuna.Study(study_name=name, storage=storage_of(study))
        there = load_setup(other)
    except (KeyError, StudyError):
        return {}
    return {} if differing_facts(there, setup, "data", "epochs") else confirmed_scores(other)


def _imported(trial: FrozenTrial, troubles: list[str]) -> Outcome:
    attrs = trial.user_attrs
    series = {
        name: dict(enumerate(values, 1)) for name, values in {**attrs.get(SERIES, {})}.items()
    }
    series[F_SCORE] = dict(trial.intermediate_values)
    config = {**attrs.get(CONFIG, {}), **_dotted(trial.params)}
    name = str(attrs.get(RUN) or f"trial {trial.number}")
    told, budget = config.get(EPOCHS), len(trial.intermediate_values)
    epochs = decimal(told) if isinstance(told, str) else told
    if is_number(epochs) and epochs >= 1:
        budget = int(epochs)
    elif told is not None:
        troubles.append(
            f"trial {trial.number} ({name}): {EPOCHS} is {told!r}, no number, so its budget is not"
            " known; import its file again, under another --study, once it is put right"
        )
    return Outcome(
        number=trial.number,
        name=name,
        state=trial.state,
        value=lineages.value(trial),
        metrics=training_metrics.row_of(trial),
        params=trial.params,
        config=config,
        series=series,
        per_class={},
        budget=budget,
        continued=attrs.get(CONTINUED),
        attrs=attrs,
        row=trial,
    )


def _own(trial: FrozenTrial, numbers: Sequence[int], setup: Setup, runs: Path | None) -> Outcome:
    # of a claim that has hardly begun there is none
    folders = [] if runs is None else newest_claims(runs, setup.name, numbers)
    history = next((rows for folder in folders if (rows := read_history(folder))), [])
    series = _columns(history)
    # the store has what was reported, a file perhaps another owner's epochs
    series[F_SCORE] = dict(trial.intermediate_values)
    metrics = training_metrics.row_of(trial)
    best = next((entry for entry in history if entry["epoch"] == metrics["best_epoch"]), {})
    return Outcome(
        number=trial.number,
        name=f"trial {trial.number}",
        state=trial.state,
        value=lineages.value(trial),
        metrics=metrics,
        params=trial.params,
        config=_config(trial, setup),
        series=series,
        per_class=best.get("val_f_per_class") or {},
        budget=setup.epochs,
        continued=None,
        attrs=trial.user_attrs,
        row=trial,
    )


def _config(trial: FrozenTrial, setup: Setup) -> dict[str, Any]:
    try:
        whole = to_dict(config_for(setup, trial.params, seed=trial.user_attrs.get(SEED, 0)))
    except ConfigError:
        # a row of somebody else's making
        return {**base_values(setup), **_dotted(trial.params)}
    # what differs from trial to trial by its nature is no setting
    return {
        key: value
        for key, value in flat(whole)
        if not key.startswith(("experiment.", "runtime."))
        and key not in ("search", "training.seed")
    }


def _dotted(params: Mapping[str, Any]) -> dict[str, Any]:
    return {_place(name): value for name, value in params.items()}


def _place(name: str) -> str:
    try:
        return ".".join(key_path(name))
    except ConfigError:
        # of another trainer
        return name


def _columns(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    columns: dict[str, dict[int, float]] = {}
    for entry in history:
        for name, value in entry.items():
            if name != "epoch" and isinstance(value, (int, float)):
                columns.setdefault(name, {})[entry["epoch"]] = float(value)
    return columns
