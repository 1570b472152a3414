from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.strategy.answers import LEAST, answer_of
from search.study.search_space import distribution, drawn
from space import SPACE, concrete

EPOCHS = 24
SPECS = concrete(SPACE, EPOCHS)
DISTRIBUTIONS = {name: distribution(spec) for name, spec in SPECS.items()}
# of a score between seeds
NOISE = 0.004


def row(
    number: int,
    params: Mapping[str, Any],
    value: float,
    state: TrialState = TrialState.COMPLETE,
    **attrs: Any,
) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=dict(params),
        distributions=DISTRIBUTIONS,
        intermediate_values={EPOCHS: value},
        user_attrs=attrs,
    )
    made.number = number
    return made


def truth(params: Mapping[str, Any]) -> float:
    """One parameter matters."""
    return float(0.78 - 0.05 * params["dropout"])


def searched(count: int, seed: int) -> list[FrozenTrial]:
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    drawings = [drawn(SPECS, rng.random) for _ in range(count)]
    return [
        row(number, params, truth(params) + NOISE * float(noise.normal()))
        for number, params in enumerate(drawings)
    ]


def test_without_a_complete_trial_there_is_no_answer() -> None:
    parked = row(0, searched(1, 0)[0].params, 0.7, TrialState.PRUNED)
    assert answer_of([], SPECS) is None
    assert answer_of([parked], SPECS) is None


def test_of_few_trials_the_highest_is_the_answer_and_nothing_is_expected() -> None:
    rows = searched(LEAST - 1, 1)
    answer = answer_of(rows, SPECS)
    assert answer is not None
    assert answer.trial.value == max(one.value or 0.0 for one in rows)
    assert (answer.expected, answer.error) == (None, None)


def test_what_is_told_of_the_answer_is_near_its_true_mean_and_the_highest_score_is_not() -> None:
    told, highest, regrets = [], [], []
    for seed in range(20):
        rows = searched(30, seed)
        answer = answer_of(rows, SPECS)
        assert answer is not None
        assert answer.expected is not None
        top = max(rows, key=lambda one: one.value or 0.0)
        told.append((answer.expected - truth(answer.trial.params)) / NOISE)
        highest.append(((top.value or 0.0) - truth(top.params)) / NOISE)
        regrets.append((truth(answer.trial.params) - truth(top.params)) / NOISE)
    assert np.mean(highest) > 1
    assert abs(np.mean(told)) < 0.5
    # and it is the better configuration, too
    assert np.mean(regrets) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_lucky_seed_where_all_neighbours_are_worse_is_passed_over(seed: int) -> None:
    rows = searched(40, seed)
    middling = min(rows, key=lambda one: abs(one.params["dropout"] - 0.25))
    best = max(one.value or 0.0 for one in rows)
    rows[middling.number] = row(middling.number, middling.params, best + 0.1 * NOISE)
    answer = answer_of(rows, SPECS)
    assert answer is not None
    assert answer.trial.number != middling.number


def test_repeats_decide_where_they_contradict_the_search() -> None:
    rows = searched(30, 4)
    before = answer_of(rows, SPECS)
    assert before is not None
    assert before.expected is not None
    number = before.trial.number
    low = [before.expected - 8 * NOISE] * 4
    after = answer_of(rows, SPECS, {number: low})
    assert after is not None
    assert after.trial.number != number
    high = answer_of(rows, SPECS, {number: [before.expected] * 4})
    assert high is not None
    assert before.error is not None
    assert high.error is not None
    assert high.trial.number == number
    assert high.error < before.error


def test_pruned_trials_and_those_outside_the_ranges_are_no_evidence() -> None:
    rows = searched(30, 5)
    outside = row(31, rows[0].params, 0.99)
    outside.params = {**outside.params, "dropout": 0.9}
    beside = [row(30, rows[0].params, 0.99, TrialState.PRUNED), outside]
    assert answer_of([*rows, *beside], SPECS) == answer_of(rows, SPECS)


@pytest.mark.parametrize("order", [1, -1])
def test_a_configuration_with_several_seeds_counts_once(order: int) -> None:
    rows = searched(20, 6)
    params = rows[3].params
    scores = [0.79, 0.77, 0.78][::order]
    own = [row(20 + index, params, score) for index, score in enumerate(scores)]
    rows = [*rows[:3], *rows[4:], *own]
    answer = answer_of(rows, SPECS)
    assert answer is not None
    if answer.trial.params == params:
        # of several seeds of one configuration the best weights
        assert answer.trial.value == 0.79
    again = answer_of([*rows[:-3], own[0]], SPECS, {20: scores[1:]})
    assert again is not None
    assert answer.expected == pytest.approx(again.expected, abs=1e-9)
