from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.results.answer import study_answer
from search.strategy.answers import LEAST, Answer, answer_of
from search.strategy.forecast.features import ConfigurationFeatures
from search.strategy.forecast.model import Forecast
from search.strategy.forecast.priors import shipped_priors
from search.strategy.forecast.study_forecast import StudyForecast
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


def study_forecast(epochs: int = EPOCHS) -> StudyForecast:
    return StudyForecast(Forecast(shipped_priors(), ConfigurationFeatures(epochs)), ())


def answer(
    rows: Sequence[FrozenTrial],
    repeats: Mapping[int, Sequence[float]] | None = None,
    *,
    specs: Mapping[str, Any] = SPECS,
    epochs: int = EPOCHS,
) -> Answer | None:
    return answer_of(rows, specs, study_forecast(epochs), repeats)


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
    assert answer([]) is None
    assert answer([parked]) is None


def test_of_few_trials_the_highest_is_the_answer_and_nothing_is_expected() -> None:
    rows = searched(LEAST - 1, 1)
    found = answer(rows)
    assert found is not None
    assert found.trial.value == max(one.value or 0.0 for one in rows)
    assert (found.expected, found.error) == (None, None)


def test_what_is_told_of_the_answer_is_near_its_true_mean_and_the_highest_score_is_not() -> None:
    told, highest, regrets = [], [], []
    for seed in range(20):
        rows = searched(30, seed)
        found = answer(rows)
        assert found is not None
        assert found.expected is not None
        top = max(rows, key=lambda one: one.value or 0.0)
        told.append((found.expected - truth(found.trial.params)) / NOISE)
        highest.append(((top.value or 0.0) - truth(top.params)) / NOISE)
        regrets.append((truth(found.trial.params) - truth(top.params)) / NOISE)
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
    found = answer(rows)
    assert found is not None
    assert found.trial.number != middling.number


def test_repeats_decide_where_they_contradict_the_search() -> None:
    rows = searched(30, 4)
    before = answer(rows)
    assert before is not None
    assert before.expected is not None
    number = before.trial.number
    low = [before.expected - 8 * NOISE] * 4
    after = answer(rows, {number: low})
    assert after is not None
    assert after.trial.number != number
    high = answer(rows, {number: [before.expected] * 4})
    assert high is not None
    assert before.error is not None
    assert high.error is not None
    assert high.trial.number == number
    assert high.error < before.error


def test_trials_outside_the_ranges_and_those_without_a_report_are_no_evidence() -> None:
    rows = searched(30, 5)
    outside = row(31, rows[0].params, 0.99)
    outside.params = {**outside.params, "dropout": 0.9}
    silent = row(30, rows[1].params, 0.99, TrialState.PRUNED)
    silent.intermediate_values = {}
    assert answer([*rows, silent, outside]) == answer(rows)


def test_parked_trials_speak_too_where_only_the_lucky_ones_were_trained_to_the_end() -> None:
    told: dict[str, list[float]] = {"all": [], "complete": []}
    for seed in range(12):
        rows = searched(40, seed)
        median = float(np.median([one.value or 0.0 for one in rows]))
        parked = [
            one
            if (one.value or 0.0) > median
            else row(one.number, one.params, one.value or 0.0, TrialState.PRUNED)
            for one in rows
        ]
        complete = [one for one in parked if one.state == TrialState.COMPLETE]
        for name, own in (("all", parked), ("complete", complete)):
            found = answer(own)
            assert found is not None
            assert found.expected is not None
            told[name].append((found.expected - truth(found.trial.params)) / NOISE)
    assert np.mean(told["all"]) < np.mean(told["complete"]) - 0.1
    assert np.mean(told["all"]) < 0.6


@pytest.mark.parametrize("order", [1, -1])
def test_a_configuration_with_several_seeds_counts_once(order: int) -> None:
    rows = searched(20, 6)
    params = rows[3].params
    scores = [0.79, 0.77, 0.78][::order]
    own = [row(20 + index, params, score) for index, score in enumerate(scores)]
    rows = [*rows[:3], *rows[4:], *own]
    found = answer(rows)
    assert found is not None
    if found.trial.params == params:
        # of several seeds of one configuration the best weights
        assert found.trial.value == 0.79
    again = answer([*rows[:-3], own[0]], {20: scores[1:]})
    assert again is not None
    assert found.expected == pytest.approx(again.expected, abs=1e-9)


def test_a_ramp_under_a_constant_schedule_is_no_difference() -> None:
    rows = searched(20, 7)
    for one in rows:
        one.params = {**one.params, "dice_schedule": "constant"}
    other = searched(20, 7)
    for place, one in enumerate(other):
        one.params = {**rows[place].params, "dice_ramp": 0.03 * place - 0.3}
    answers = [answer(it) for it in (rows, other)]
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
    found = study_answer(study)
    assert found is not None
    rows = study.get_trials()
    assert found == answer(rows, specs=concrete(SPACE, 12), epochs=12)
    # without it what it brings would pass for noise
    others = {name: it for name, it in concrete(SPACE, 12).items() if name != "dropout"}
    assert found.expected != getattr(answer(rows, specs=others, epochs=12), "expected", None)
