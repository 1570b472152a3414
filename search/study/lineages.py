"""Rows of a study that are one trial.

Reviving a parked trial makes a new row with the attribute `continues`. Whoever judges trials
(sampler, pruner, importances, report, export) looks at lineages: the rows of one trial merged. A
row with the attribute `repeats` is no trial: its score is evidence of the trial that it repeats,
see `search.study.repeats`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from optuna.trial import FrozenTrial, TrialState

from search.study.attributes import (
    CONTINUES,
    DIVERGED,
    EXCEPTIONS,
    REASON,
    REPEATS,
    TRACEBACK,
    VERDICT,
)
from storage.counting import COUNTED_STATES, EXTRA, UNCOUNTED

_OF_ONE_ROW = (REASON, EXCEPTIONS, TRACEBACK, VERDICT)


def utc(moment: datetime) -> datetime:
    """A start or end of a trial, which Optuna shows in this machine's time, as UTC.

    Whatever subtracts or compares two of them must do so in UTC: clocks are changed.
    """
    return moment.astimezone(UTC)


def counts(trial: FrozenTrial) -> bool:
    """Whether a row counts towards `--trials`: finished, no revival, repeat or copy."""
    return trial.state.name in COUNTED_STATES and not any(
        key in trial.user_attrs for key in UNCOUNTED
    )


def numbers_text(trials: Sequence[FrozenTrial]) -> str:
    """How many rows a study has and how they are numbered, in words."""
    last = max((trial.number for trial in trials), default=-1)
    gaps = f" to {last}, since some were deleted" if last >= len(trials) else ""
    return f"{len(trials)}, counted from 0{gaps}"


def finished(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The rows that count towards `--trials`, in the order given."""
    return [trial for trial in trials if counts(trial)]


def diverged(trial: FrozenTrial) -> bool:
    """Whether the trial's loss stopped being a number."""
    return trial.constraints.get(DIVERGED, 0.0) > 0


def value(trial: FrozenTrial) -> float | None:
    """A trial's value: the f_score of its best epoch, in [0, 1]; None before its first report."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return float(trial.value)
    return max(trial.intermediate_values.values(), default=None)


def rows_of(trials: Sequence[FrozenTrial], row: FrozenTrial) -> list[FrozenTrial]:
    """The rows of one trial up to `row`, its first one first."""
    if row.user_attrs.get(CONTINUES) is None:
        return [row]
    by_number = {trial.number: trial for trial in trials}
    chain: dict[int, FrozenTrial] = {}
    link: FrozenTrial | None = row
    while link is not None and link.number not in chain:
        chain[link.number] = link
        link = by_number.get(link.user_attrs.get(CONTINUES, -1))
    return list(chain.values())[::-1]


def up_to(trials: Sequence[FrozenTrial], row: FrozenTrial) -> FrozenTrial:
    """The rows of one trial up to `row` as one; see `merged`."""
    return _joined(rows_of(trials, row))


def merged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """One trial per lineage, in the order of their first rows.

    A row with `continues: N` goes on from row N. The merged trial has the first row's number and
    parameters, the curves of all rows together, and everything else (state, value, attributes on
    top of the earlier ones) from the last row. Rows that stand alone are returned as they are,
    not copied. A row whose parent is missing or lost stands alone. A revival that failed or was
    withdrawn leaves its trial as it was parked. Repeats are left out.
    """
    by_number = {trial.number: trial for trial in trials}
    chains: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda row: row.number):
        if REPEATS in trial.user_attrs:
            continue
        root, seen = trial, {trial.number}
        while (parent := by_number.get(root.user_attrs.get(CONTINUES, -1))) is not None:
            if parent.number in seen or parent.state == TrialState.FAIL:
                break
            seen.add(parent.number)
            root = parent
        chains.setdefault(root.number, []).append(trial)
    return [_joined(chain) for _, chain in sorted(chains.items())]


def _joined(chain: list[FrozenTrial]) -> FrozenTrial:
    while len(chain) > 1 and chain[-1].state == TrialState.FAIL:
        chain = chain[:-1]
    if len(chain) == 1:
        return chain[0]
    first, last = chain[0], chain[-1]
    one = copy.copy(last)
    one.number = first.number
    one.params = first.params
    one.distributions = first.distributions
    one.datetime_start = first.datetime_start
    one.intermediate_values = curve_of(chain)
    one.user_attrs = {
        key: item
        for row in chain
        for key, item in row.user_attrs.items()
        # how an earlier row ended is not how the trial did
        if row is last or key not in _OF_ONE_ROW
    }
    if last.state == TrialState.COMPLETE and last.value is not None:
        # the best epoch may lie before the revival
        one.value = max(last.value, *one.intermediate_values.values())
    return one


def best_first(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The COMPLETE ones by value, the earlier one first on a tie."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The COMPLETE lineage with the highest value, the earlier one on a tie; None if there is none.

    Copies from another study may win: they have the same identity.
    """
    return next(iter(best_first(merged(trials))), None)


def nothing_better_for(trials: Sequence[FrozenTrial]) -> int:
    """How many counted trials have finished since the best one so far did (`--stop-after`).

    0 while nothing is COMPLETE: then there is no best to be beaten yet.
    """
    answer = best_of(trials)
    if answer is None or answer.datetime_complete is None:
        return 0
    at = utc(answer.datetime_complete)
    return sum(
        trial.datetime_complete is not None
        and utc(trial.datetime_complete) > at
        and trial.number != answer.number
        for trial in finished(trials)
    )


def curve_of(rows: Sequence[FrozenTrial]) -> dict[int, float]:
    """Epoch -> score of the rows of one trial."""
    return {epoch: score for row in rows for epoch, score in row.intermediate_values.items()}


def revivals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The rows that go on from another one; those that failed or were withdrawn do not count."""
    return [t for t in trials if CONTINUES in t.user_attrs and t.state != TrialState.FAIL]


def repeats(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The rows that train the configuration of a trial again."""
    return [trial for trial in trials if REPEATS in trial.user_attrs]


def is_extra(trial: FrozenTrial) -> bool:
    """Whether a row is a revival or a repeat: it takes no place of the budget."""
    return any(key in trial.user_attrs for key in EXTRA)


def under_way(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The revivals and repeats that run or wait."""
    return [trial for trial in trials if is_extra(trial) and not trial.state.is_finished()]
