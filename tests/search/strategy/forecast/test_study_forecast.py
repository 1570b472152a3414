from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from search.strategy.forecast.features import ConfigurationFeatures, to_log
from search.strategy.forecast.model import End, Forecast, prior_from
from search.strategy.forecast.study_forecast import Competitors, StudyForecast
from tests.support.curves import EPOCHS, bank, by_epoch

BANK = bank()
START = prior_from(BANK)
C, P, R = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING


def end(mean, deviation, freedom=1e6):
    return End(np.array([1.0]), np.array([mean]), np.array([deviation]), np.array([freedom]))


def row(number, curve, state, epochs=None):
    values = by_epoch(curve.val_f, epochs)
    one = create_trial(
        state=state, value=max(values.values()) if state == C else None, intermediate_values=values
    )
    one.number, one.params = number, curve.params
    return one


def study_forecast():
    return StudyForecast(
        Forecast([START], ConfigurationFeatures(EPOCHS)), [curve.params for curve in BANK[:20]]
    )


def test_a_chance_against_the_best_alone_is_a_tail() -> None:
    competitors = Competitors(1.0, [], (0.0, 1.0), 0)
    assert competitors.chance(end(1.0, 0.1)) == pytest.approx(0.5)
    assert competitors.chance(end(0.9, 0.1)) == pytest.approx(0.1587, abs=1e-3)
    assert competitors.chance(end(0.9, 0.1), margin=0.1) == pytest.approx(0.0228, abs=1e-3)
    assert competitors.chance(end(0.9, 0.1, freedom=3.0)) > competitors.chance(end(0.9, 0.1))


def test_equal_rivals_share_the_chance() -> None:
    alike = end(0.5, 0.1)
    assert Competitors(None, [alike, alike], (0.0, 1.0), 0).chance(alike) == pytest.approx(
        1 / 3, abs=0.01
    )
    assert Competitors(None, [], (0.5, 0.1), 9).chance(alike) == pytest.approx(0.1, abs=0.01)


def test_chances_of_all_rivals_add_up_to_one() -> None:
    ends = [end(0.5, 0.1), end(0.6, 0.05), end(0.4, 0.3, freedom=5.0)]
    chances = [
        Competitors(None, [other for other in ends if other is not one], (0.0, 1.0), 0).chance(one)
        for one in ends
    ]
    assert sum(chances) == pytest.approx(1, abs=0.01)


def test_a_hopeless_end_has_no_chance_and_an_unbeaten_one_has_all() -> None:
    assert Competitors(1.0, [], (0.5, 0.1), 3).chance(end(0.0, 0.05)) == 0
    assert Competitors(0.0, [end(0.0, 0.05)], (0.0, 0.1), 3).chance(end(2.0, 0.05)) > 0.99


def test_a_narrow_part_of_a_wide_mixture_is_not_overlooked() -> None:
    parts = [end(0.5, 0.005), end(0.4, 0.5)]
    both = End(
        np.array([0.7, 0.3]), np.array([0.5, 0.4]), np.array([0.005, 0.5]), np.array([1e6, 1e6])
    )
    competitors = Competitors(0.49, [end(0.45, 0.02)], (0.4, 0.1), 5)
    apart = [competitors.chance(part) for part in parts]
    assert competitors.chance(both) == pytest.approx(0.7 * apart[0] + 0.3 * apart[1])
    assert competitors.chance(both) > 0.3


def test_every_trial_to_come_lowers_the_chance() -> None:
    chances = [Competitors(0.9, [], (0.8, 0.2), n).chance(end(1.0, 0.1)) for n in (0, 1, 5, 30)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] < 0.5 * chances[0]


def test_each_ended_trial_is_taken_in_once() -> None:
    seen = study_forecast()
    rows = [row(0, BANK[0], C), row(1, BANK[2], P, 8), row(2, BANK[4], R, 5)]
    seen.update(rows)
    first = seen.end(rows[2])
    seen.update(rows)
    assert seen.learned == 2
    assert seen.end(rows[2]) == first or seen.end(rows[2]).mean == first.mean


def test_a_trial_that_went_on_counts_once_with_all_that_it_has_shown() -> None:
    in_steps, at_once = study_forecast(), study_forecast()
    other = row(0, BANK[0], C)
    in_steps.update([other, row(1, BANK[2], P, 8)])
    more = row(2, BANK[2], P, 16)
    more.user_attrs = {"continues": 1}
    in_steps.update([other, row(1, BANK[2], P, 8), more])
    at_once.update([other, row(1, BANK[2], P, 16)])
    assert in_steps.learned == at_once.learned == 2
    probe = row(3, BANK[4], R, 8)
    assert in_steps.end(probe).mean == pytest.approx(at_once.end(probe).mean)
    assert in_steps.newcomer == pytest.approx(at_once.newcomer)


def test_a_diverged_trial_and_one_without_a_score_teach_nothing() -> None:
    seen = study_forecast()
    diverged = row(1, BANK[2], P, 8)
    empty = create_trial(state=P)
    empty.number = 3
    seen.update([diverged, empty])
    assert seen.learned == 1
    diverged.system_attrs = {"constraints:diverged": 1.0}
    seen = study_forecast()
    seen.update([diverged, empty])
    assert seen.learned == 0


def test_rivals_are_the_others() -> None:
    seen = study_forecast()
    rows = [
        row(0, BANK[0], C),
        row(1, BANK[2], R, 8),
        row(2, BANK[4], R, 10),
        row(3, BANK[6], P, 6),
    ]
    seen.update(rows)
    competitors = seen.competitors(but=1, to_come=2)
    assert competitors.best == pytest.approx(float(to_log(max(BANK[0].val_f))))
    assert [one.mean for one in competitors.running] == [seen.end(rows[2]).mean]
    assert competitors.to_come == 2
    assert seen.to_come(10) == 6


def test_a_newcomer_is_as_wide_as_the_space() -> None:
    seen = study_forecast()
    seen.update([row(n, curve, C) for n, curve in enumerate(BANK[:12])])
    ends = [float(to_log(max(curve.val_f))) for curve in BANK]
    mean, deviation = seen.newcomer
    assert mean == pytest.approx(np.mean(ends), abs=0.03)
    assert 0.5 * np.std(ends) < deviation < 2.5 * np.std(ends)
    assert math.isfinite(deviation)


def test_where_forecasts_were_wrong_none_is_as_sure_as_it_claims() -> None:
    alike, other = study_forecast(), study_forecast()
    curves = [row(number, curve, C) for number, curve in enumerate(BANK[20:32])]
    alike.update(curves)
    # no later reading can be told from an earlier one
    rng = np.random.default_rng(0)
    late = [
        create_trial(
            state=C,
            value=0.9 * float(share),
            params={},
            intermediate_values={
                epoch: 0.9 * float(share) if epoch > EPOCHS // 2 else 0.1
                for epoch in range(1, EPOCHS + 1)
            },
        )
        for share in rng.uniform(0.3, 1.0, 12)
    ]
    for number, one in enumerate(late):
        one.number, one.params = number, BANK[number].params
    other.update(late)
    assert 1.0 <= alike.doubt < 1.5
    assert other.doubt > 1.5
    assert other.doubt > alike.doubt + 0.5
    running = row(12, BANK[40], R, EPOCHS // 4)
    own = other.forecast.end(running.params, running.intermediate_values)
    assert other.end(running).deviations == pytest.approx(own.deviations * other.doubt)
