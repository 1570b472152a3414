from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.lineages import (
    best_of,
    counts,
    diverged,
    finished,
    merged,
    nothing_better_for,
    value,
)

START = datetime(2025, 1, 1)
C, P, R, W, F = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAIL,
)


def row(number: int, state: TrialState, curve: dict[int, float], **attrs: Any) -> FrozenTrial:
    trial = create_trial(
        state=state,
        value=max(curve.values()) if state == C else None,
        params={"x": 0.1 * number},
        distributions={"x": FloatDistribution(0, 10)},
        user_attrs=attrs,
        intermediate_values=curve,
    )
    trial.number = number
    trial.datetime_start = START
    trial.datetime_complete = START + timedelta(minutes=number) if state.is_finished() else None
    return trial


def test_revivals_and_copies_do_not_count() -> None:
    rows = [
        row(0, C, {1: 0.5}),
        row(1, P, {1: 0.4}),
        row(2, C, {2: 0.6}, continues=1),
        row(3, C, {1: 0.9}, copied_from="old/3"),
        row(4, F, {1: 0.1}),
        row(5, R, {1: 0.1}),
    ]
    assert [counts(trial) for trial in rows] == [True, True, False, False, False, False]
    assert [trial.number for trial in finished(rows)] == [0, 1]


def test_a_lineage_is_one_trial_with_the_whole_curve() -> None:
    rows = [
        row(0, P, {1: 0.2, 2: 0.3}, seed=7, note="first"),
        row(1, C, {1: 0.5}),
        row(2, P, {3: 0.35}, continues=0, note="revived"),
        row(3, C, {4: 0.6}, continues=2),
    ]
    one, other = merged(rows)
    assert (one.number, one.state, one.value) == (0, C, 0.6)
    assert one.intermediate_values == {1: 0.2, 2: 0.3, 3: 0.35, 4: 0.6}
    assert one.params == rows[0].params
    assert one.user_attrs["note"] == "revived"
    assert one.user_attrs["seed"] == 7
    assert other is rows[1]


def test_a_lineage_keeps_its_best_epoch_from_before_the_revival() -> None:
    rows = [row(0, P, {1: 0.7}), row(1, C, {2: 0.6}, continues=0)]
    best = best_of(rows)
    assert best is not None
    assert (best.number, best.value) == (0, 0.7)


def test_rows_that_continue_each_other_or_nothing_do_not_hang() -> None:
    rows = [row(0, P, {1: 0.1}, continues=1), row(1, P, {1: 0.2}, continues=0)]
    assert len(merged(rows)) >= 1
    assert [trial.number for trial in merged([row(4, P, {1: 0.1}, continues=99)])] == [4]


def test_best_is_complete_and_the_earlier_of_equals() -> None:
    rows = [row(0, P, {1: 0.9}), row(1, C, {1: 0.5}), row(2, C, {1: 0.5})]
    best = best_of(rows)
    assert best is not None
    assert best.number == 1
    assert best_of([rows[0]]) is None


def test_a_revival_that_failed_leaves_its_trial_as_it_was_parked() -> None:
    parked = row(0, P, {1: 0.7})
    assert merged([parked, row(1, F, {2: 0.8}, continues=0)]) == [parked]
    again = [parked, row(1, P, {2: 0.5}, continues=0), row(2, F, {}, continues=1)]
    (one,) = merged(again)
    assert (one.state, one.intermediate_values) == (P, {1: 0.7, 2: 0.5})


def test_a_revival_of_a_lost_trial_stands_alone() -> None:
    lost, alone = merged([row(0, F, {}, lost="no files"), row(1, C, {2: 0.5}, continues=0)])
    assert (lost.number, alone.number, alone.params) == (0, 1, {"x": 0.1})


def test_how_an_earlier_row_ended_is_not_how_the_trial_did() -> None:
    rows = [row(0, P, {1: 0.7}, reason="pruned", seed=7), row(1, C, {2: 0.8}, continues=0)]
    assert merged(rows)[0].user_attrs == {"seed": 7, "continues": 0}


def test_a_copy_may_be_the_best() -> None:
    best = best_of([row(0, C, {1: 0.5}), row(1, C, {1: 0.8}, copied_from="old/1")])
    assert best is not None
    assert best.number == 1


def test_value_is_the_best_epoch() -> None:
    assert value(row(0, P, {1: 0.3, 2: 0.2})) == 0.3
    assert value(row(0, W, {})) is None


def test_divergence_is_a_constraint() -> None:
    trial = row(0, P, {1: 0.3})
    assert not diverged(trial)
    trial.system_attrs = {"constraints:diverged": 1.0}
    assert diverged(trial)


def test_counting_what_came_after_the_best() -> None:
    rows = [row(0, C, {1: 0.5}), row(1, C, {1: 0.9}), row(2, P, {1: 0.1}), row(3, F, {})]
    assert nothing_better_for(rows) == 1
    rows.append(row(4, C, {1: 0.8}))
    assert nothing_better_for(rows) == 2
    assert nothing_better_for([rows[2]]) == 0
