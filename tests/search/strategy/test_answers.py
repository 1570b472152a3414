from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.results.answer import study_answer
from search.strategy.answers import LEAST, answer_of
from search.study.search_space import distribution, drawn
from space import SPACE, concrete
from tests.support.studies import store, study_of

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


def test_a_ramp_under_a_constant_schedule_is_no_difference() -> None:
    rows = searched(20, 7)
    for one in rows:
        one.params = {**one.params, "dice_schedule": "constant"}
    other = searched(20, 7)
    for place, one in enumerate(other):
        one.params = {**rows[place].params, "dice_ramp": 0.03 * place - 0.3}
    answers = [answer_of(it, SPECS) for it in (rows, other)]
    assert answers[0] is not None
    assert answers[1] is not None
    assert answers[0].trial.number == answers[1].trial.number
    assert answers[0].expected == answers[1].expected


def test_a_parameter_that_was_held_later_still_tells_earlier_trials_apart(tmp_path: Path) -> None:
    study = study_of(store(tmp_path), fixes=("dropout=0.2",))
    distributions = {**DISTRIBUTIONS, "T_0": distribution(concrete(SPACE, 12)["T_0"])}
    for one in searched(20, 8):
        study.add_trial(
            create_trial(
                value=one.value,
                params={**one.params, "T_0": 12},
                distributions=distributions,
                intermediate_values={12: one.value or 0.0},
            )
        )
    answer = study_answer(study)
    assert answer is not None
    rows = study.get_trials()
    assert answer == answer_of(rows, dict(concrete(SPACE, 12)))
    # without it what it brings would pass for noise
    others = {name: it for name, it in concrete(SPACE, 12).items() if name != "dropout"}
    assert answer.expected != getattr(answer_of(rows, others), "expected", None)
