"""Pruned trials in the report: at the ends that they may be expected to have, and marked so."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from search.reporting.figures.every_figure import figures
from search.results.evidence import Evidence
from search.results.findings.every_finding import findings
from search.results.findings.parameters import restart_gain
from search.results.reading import results_of
from search.results.statistics.estimates import mean_difference, pooled, rank_correlation
from search.results.statistics.importance import importance_estimates
from search.results.statistics.smoothing import smooth
from search.results.trials import cycles_of
from search.strategy.forecast.priors import expected_ends
from search.study.drawing import drawn
from search.study.search_space import distribution
from tests.support.outcomes import PRUNED, run, said, searched, study
from tests.support.simulated import simulated
from tests.support.studies import setup_of


def test_one_draw_gives_the_plain_interval_and_draws_that_differ_a_wider_one() -> None:
    same = pooled(np.full(20, 1.0), np.full(20, 0.04), 10.0)
    assert same == pytest.approx(pooled(np.array([1.0]), np.array([0.04]), 10.0))
    apart = pooled(1 + 0.5 * np.array([-1.0, 1.0] * 10), np.full(20, 0.04), 10.0)
    assert apart[0] == pytest.approx(1.0)
    assert apart[2] - apart[1] > 2 * (same[2] - same[1])


def test_what_is_not_known_widens_every_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=40)
    y = 0.7 + 0.01 * x + 0.003 * rng.normal(size=40)
    draws = y + 0.02 * rng.normal(size=(30, 1)) * (x > 0.5)
    once, often = rank_correlation(x, y), rank_correlation(x, draws)
    assert once is not None
    assert often is not None
    assert once.sign == 1
    assert often.high - often.low > once.high - once.low
    high, low = x > 0.5, x <= 0.5
    once = mean_difference(y[high], y[low])
    often = mean_difference(draws[:, high], draws[:, low])
    assert once is not None
    assert often is not None
    assert once.sign == 1
    assert often.sign == 0
    narrow, wide = smooth(x, y), smooth(x, draws)
    assert narrow is not None
    assert wide is not None
    assert (wide.high - wide.low)[-10:].min() > (narrow.high - narrow.low)[-10:].max()


def test_the_parameter_that_explains_the_scores_comes_first_with_its_share() -> None:
    setup, rng = setup_of(), np.random.default_rng(0)
    rows = []
    for _ in range(40):
        params = drawn(setup.specs(), rng.random)
        value = 0.7 - 0.1 * params["dropout"] + 0.003 * rng.normal()
        kinds = {name: distribution(spec) for name, spec in setup.specs().items()}
        rows.append(create_trial(params=params, distributions=kinds, value=value))
    found = importance_estimates(rows, np.array([row.value for row in rows]))
    assert found is not None
    first, *others = found.values()
    assert next(iter(found)) == "dropout"
    assert first.value > 0.7
    assert all(own.high < first.low for own in others)


def test_a_pruned_trial_ends_no_lower_than_it_stood_and_the_same_trials_say_the_same() -> None:
    made = simulated(30)
    rows = made.get_trials()
    setup = results_of(made).setup
    assert setup is not None
    once, again = (expected_ends(setup, rows, 10) for _ in range(2))
    assert set(once) == {row.number for row in rows if row.state == TrialState.PRUNED}
    for number, ends in once.items():
        assert (ends == again[number]).all()
        assert ends.shape == (10,)
        assert (ends >= max(rows[number].intermediate_values.values())).all()
        assert (ends < 1).all()


def test_the_configuration_alone_says_nothing_before_the_study_has_shown_anything() -> None:
    made = simulated(30)
    setup = results_of(made).setup
    assert setup is not None
    pruned = next(row for row in made.get_trials() if row.state == TrialState.PRUNED)
    ends = []
    for dice in (0.5, 4.0):
        pruned.params = {**pruned.params, "dice_weight": dice}
        ends.append(expected_ends(setup, [pruned], 400)[pruned.number].mean())
    assert abs(ends[0] - ends[1]) < 0.002


def test_sentences_and_figures_rest_on_every_trial_and_say_so() -> None:
    results = results_of(simulated(40))
    evidence = Evidence(results)
    pruned = sum(one.pruned for one in results.outcomes)
    assert len(evidence.judged) == 40
    assert evidence.scores_of(evidence.judged).shape[1] == 40
    marked = f"40 trials, {pruned} pruned ones at their forecast ends"
    found = findings(evidence)
    for topic in ("dice", "schedules", "importances", "parameters", "advice", "answer"):
        assert any("forecast ends" in text for text in found[topic]), topic
    assert any(marked in text for text in found["importances"])
    drawn_figures = figures(evidence)
    for topic in ("importances", "dice", "parameter dropout"):
        assert "forecast ends" in drawn_figures[topic].layout.title.subtitle.text, topic


def test_without_a_forecast_the_complete_trials_speak_as_before() -> None:
    results = dataclasses.replace(results_of(simulated(40)), expected_ends=None)
    evidence = Evidence(results)
    assert evidence.judged == evidence.complete
    assert not any("forecast ends" in text for own in findings(evidence).values() for text in own)


def test_the_answer_is_five_lines_and_imported_results_and_empty_studies_have_none() -> None:
    lines = findings(Evidence(results_of(simulated(40))))["answer"]
    starts = ("Use trial", "It is worth", "What mattered", "What was not shown", "What next")
    assert len(lines) == 5
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert said(study([run(0, 0.7), run(1, 0.6)]), "answer") == ""
    assert "answer" not in findings(Evidence(study([run(0, 0.7, state=PRUNED)], setup_of())))


def test_the_answer_names_what_other_sections_show_though_no_line_rises() -> None:
    peak = searched(80, lambda dice, drop: 0.7 - 0.01 * (dice - 2.25) ** 2)
    assert "higher dice_weight" not in said(peak, "parameters")
    assert re.search(
        r"What mattered: dice_weight \(best near 2\.[123]\d*\); dice_weight most",
        (said(peak, "answer")),
    )
    assert "What was not shown to matter: dropout" in said(peak, "answer")


def test_the_answer_says_what_it_leaves_out() -> None:
    results = dataclasses.replace(results_of(simulated(40)), expected_ends=None)
    pruned = sum(one.pruned for one in results.outcomes)
    assert f"{pruned} pruned trials left out" in findings(Evidence(results))["answer"][2]


def test_forecasts_alone_do_not_tell_what_restarts_bring() -> None:
    results = results_of(simulated(40))
    assert restart_gain(Evidence(results)) is not None
    cut = [one for one in results.outcomes if one.pruned or cycles_of(one) is None]
    assert restart_gain(Evidence(dataclasses.replace(results, outcomes=cut))) is None
