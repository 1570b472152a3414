"""What studies reached, in numbers that can stand beside each other: for `search.compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.results.trials import Outcome, Results
from search.study import lineages
from search.study.attributes import CONFIGURATION, COPIED_FROM
from search.study.identity import differing_facts
from search.study.search_space import describe, format_value, short
from search.study.setup import Setup, base_values

GRID = "data.image_size"
# shares of the highest score that all of a group reached
SHARES = (1.0, 0.99, 0.95)


@dataclass(frozen=True)
class Reached:
    """When a score was reached. seconds: since the study's first trial began; None where a trial of
    another study brought it along. epochs: of all trials that had ended by then.
    """

    seconds: float | None
    epochs: int


def own_rows(results: Results) -> list[FrozenTrial]:
    """Rows that were trained in the study: nothing imported, nothing taken over."""
    if results.imported:
        return []
    return [row for row in results.rows if COPIED_FROM not in row.user_attrs]


def epochs_trained(results: Results) -> int:
    """Epochs of all rows; of imported ones as far as they are known."""
    if results.imported:
        return sum(one.metrics.get("epochs_trained") or 0 for one in results.outcomes)
    return sum(len(row.intermediate_values) for row in own_rows(results))


def work_s(results: Results) -> float | None:
    """Seconds from start to end of each trial, summed; None where none is known.

    Of a trial that was interrupted only the last run counts.
    """
    spans = [
        (lineages.utc(row.datetime_complete) - lineages.utc(row.datetime_start)).total_seconds()
        for row in own_rows(results)
        if row.datetime_start is not None and row.datetime_complete is not None
    ]
    return sum(spans) if spans else None


def first_reached(results: Results, score: float) -> Reached | None:
    """When the first complete trial ended with at least `score`, in [0, 1]; None for never.

    When imported runs were trained is not known: see `own_rows`.
    """
    if not results.imported and any(
        COPIED_FROM in row.user_attrs and _has(row, score) for row in results.rows
    ):
        return Reached(None, 0)
    rows = own_rows(results)
    ended = [
        lineages.utc(row.datetime_complete)
        for row in rows
        if row.datetime_complete is not None and _has(row, score)
    ]
    starts = [lineages.utc(row.datetime_start) for row in rows if row.datetime_start is not None]
    if not ended or not starts:
        return None
    at = min(ended)
    epochs = sum(len(row.intermediate_values) for row in rows if _ended_by(row, at))
    return Reached((at - min(starts)).total_seconds(), epochs)


def _has(row: FrozenTrial, score: float) -> bool:
    value = lineages.value(row)
    return row.state == TrialState.COMPLETE and value is not None and value >= score


def _ended_by(row: FrozenTrial, at: datetime) -> bool:
    return row.datetime_complete is not None and lineages.utc(row.datetime_complete) <= at


# ---------------------------------------------------------------------------------- comparability


def incomparable_reasons(one: Results, other: Results) -> list[str]:
    """Why scores of `one` do not compare with those of `other`; empty where they do."""
    if one.setup is None:
        return [f'imported with the metric "{one.metric}", on data that nobody told']
    reasons = []
    if one.metric != other.metric:
        reasons.append(f'the metric "{one.metric}", not "{other.metric}"')
    if other.setup is None:
        return [*reasons, "trained here, not imported"]
    facts = differing_facts(one.setup, other.setup, "data", "grid")
    if "data" in facts:
        reasons.append(f"the data {data_text(one.setup)}, not {data_text(other.setup)}")
    if "grid" in facts:
        grids = [base_values(setup).get(GRID) for setup in (one.setup, other.setup)]
        reasons.append(f"scored on a grid of {grids[0]} pixels, not {grids[1]}")
    return reasons


def comparable_groups(studies: Sequence[Results]) -> list[list[int]]:
    """Indices of studies whose scores compare with each other, in their order."""
    found: list[list[int]] = []
    for index, results in enumerate(studies):
        for group in found:
            if not incomparable_reasons(results, studies[group[0]]):
                group.append(index)
                break
        else:
            found.append([index])
    return found


def data_text(setup: Setup) -> str:
    """A study's data in a few words."""
    data = setup.data
    return (
        f"{data['name']}, {data['train']} train, {data['val']} val, {str(data['fingerprint'])[:8]}"
    )


# ------------------------------------------------------------------------------------ differences


def identity(setup: Setup) -> dict[str, str]:
    """What makes a study what it is, by short names."""
    base = {short(key): format_value(value) for key, value in base_values(setup).items()}
    space = {name: describe(spec) for name, spec in setup.specs().items()}
    fixed = {f"{name} fixed": format_value(value) for name, value in setup.fixed.items()}
    search = {
        "sampler": setup.sampler,
        "pruner": setup.pruner,
        "prune_risk": format_value(setup.prune_risk),
        "revive": format_value(setup.revive),
        "seed": str(setup.seed),
        "preset": setup.preset or "-",
    }
    return {**base, **space, **fixed, **search}


def best_config(config: Mapping[str, Any]) -> dict[str, str]:
    """A trial's config by short names."""
    return {
        short(key): format_value(value)
        for key, value in config.items()
        # where the data lie is no setting: their fingerprint identifies them
        if key not in ("data.root", "search")
    }


def differing_keys(columns: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Keys whose known values differ; and for each column the keys that it alone has."""
    keys = dict.fromkeys(key for column in columns for key in column)
    differ, alone = [], [list[str]() for _ in columns]
    for key in keys:
        known = [index for index, column in enumerate(columns) if key in column]
        if len({columns[index][key] for index in known}) > 1:
            differ.append(key)
        elif len(known) == 1:
            alone[known[0]].append(key)
    return differ, alone


def repeated_trials(results: Results) -> dict[str, list[Outcome]]:
    """The trials of each configuration of a study of repeats, the best mean first.

    Empty for any other study.
    """
    found: dict[str, list[Outcome]] = {}
    for one in results.complete():
        label = one.attrs.get(CONFIGURATION)
        if label is not None:
            found.setdefault(str(label), []).append(one)
    return dict(sorted(found.items(), key=lambda item: -mean(item[1])))


def mean(outcomes: Sequence[Outcome]) -> float:
    """Their mean score."""
    return fmean(one.value for one in outcomes if one.value is not None)


def representative(results: Results) -> Outcome | None:
    """The trial that stands for a study: its best, of repeats one of the best configuration."""
    own = next(iter(repeated_trials(results).values()), None)
    return results.best if own is None else own[0]
