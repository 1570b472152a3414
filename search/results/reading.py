"""Reading a study's trials from the store, and their histories from the runs folder."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.results.trials import Outcome, Results
from search.strategy.forecast.priors import expected_ends
from search.study import lineages, training_metrics
from search.study.attributes import (
    CONFIG,
    CONTENT,
    CONTINUED,
    IMPORTED,
    RUN,
    SEED,
    SERIES,
    is_imported,
)
from search.study.lookup import load_setup
from search.study.names import is_repeats
from search.study.repeats import scores_of_repeats
from search.study.run_folders import newest_claims, read_history
from search.study.search_space import as_number
from search.study.setup import Setup, base_values, flat
from search.trainers.configs import values_for, with_meaning
from trainer.config import key_path
from trainer.errors import ConfigError
from trainer.history import F_SCORE

EPOCHS = "training.epochs"
# troubles that are printed one by one
_LISTED = 5
# of what pruned trials may be expected to end with
_DRAWS = 40


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
            _searched(trial, numbers[trial.number], setup, runs) for trial in lineages.merged(rows)
        ]
    metric = str(attrs[IMPORTED]["metric"]) if setup is None else setup.metric
    repeats = {} if setup is None else scores_of_repeats(study, setup)
    ends = None
    if setup is not None and not is_repeats(study.study_name):
        ends = functools.partial(expected_ends, setup, rows, _DRAWS)
    return Results(study.study_name, metric, setup, outcomes, rows, attrs, repeats, troubles, ends)


def print_troubles(several: Iterable[Results]) -> None:
    """Print on stderr what cannot be used of the studies."""
    for results in several:
        for line in results.troubles[:_LISTED]:
            print(f"note: study {results.name}: {line}", file=sys.stderr)
        if len(results.troubles) > _LISTED:
            more = len(results.troubles) - _LISTED
            print(f"note: study {results.name}: {more} more trials likewise", file=sys.stderr)


def _imported(trial: FrozenTrial, troubles: list[str]) -> Outcome:
    attrs = trial.user_attrs
    series = {
        name: dict(enumerate(values, 1)) for name, values in {**attrs.get(SERIES, {})}.items()
    }
    series[F_SCORE] = dict(trial.intermediate_values)
    config = {**attrs.get(CONFIG, {}), **_dotted(trial.params)}
    name = str(attrs.get(RUN) or f"trial {trial.number}")
    planned, budget = config.get(EPOCHS), len(trial.intermediate_values)
    epochs = as_number(planned)
    if epochs is not None and epochs >= 1:
        budget = int(epochs)
    elif planned is not None:
        troubles.append(
            f"trial {trial.number} ({name}): {EPOCHS} is {planned!r}, no number, so its budget is"
            " not known; import its file again, under another --study, once it is put right"
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


def _searched(
    trial: FrozenTrial, numbers: Sequence[int], setup: Setup, runs: Path | None
) -> Outcome:
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
        params=with_meaning(setup, trial.params),
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
        whole = values_for(setup, trial.params, seed=trial.user_attrs.get(SEED, 0))
    except ConfigError:
        # a row that another program made
        return {**base_values(setup), **_dotted(trial.params)}
    if setup.program is not None:
        return {key: value for key, value in flat(whole) if key != setup.program.seed_key}
    # what differs from trial to trial by its nature is no setting
    return {
        key: value
        for key, value in flat(whole)
        if not key.startswith(("experiment.", "runtime."))
        and key not in ("search", "training.seed")
    }


def _dotted(params: Mapping[str, Any]) -> dict[str, Any]:
    return {_dotted_name(name): value for name, value in params.items()}


def _dotted_name(name: str) -> str:
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
