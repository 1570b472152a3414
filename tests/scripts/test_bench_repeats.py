"""Simulated repeats: noise of a known shape, fair rivals, figures counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scripts.benchmarks import pool
from scripts.benchmarks import repeats as bench
from search import confirm
from search.results.statistics import sequential_plan
from search.results.statistics.intervals import Interval, Pair
from search.strategy.forecast.curve_banks import Recorded, write_bank
from tests.support.shells import one_line


def curve(config: int, seed: int, best: float) -> Recorded:
    return Recorded(config, seed, {}, (0.1, best), (1e-3, 1e-4))


@pytest.mark.parametrize("name", bench.NOISES)
def test_noise_is_standard_whatever_its_shape(name: str) -> None:
    values = bench.noises(pool.BANK)[name](np.random.default_rng(0), (200_000,))
    assert values.mean() == pytest.approx(0, abs=0.015)
    assert values.std() == pytest.approx(1, abs=0.02)
    assert not name.endswith("left") or stats.skew(values) < -0.8


def test_recorded_noise_is_that_of_repeats_alone(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    # config 1 was trained once
    write_bank(path, [curve(0, 0, 0.7), curve(0, 1, 0.8), curve(1, 0, 0.2)])
    assert sorted(bench.recorded(path)) == pytest.approx([-1, 1])


def test_the_studies_are_looked_at_as_search_confirm_looks_at_its_own() -> None:
    assert (bench.FIRST, bench.STEP) == (sequential_plan.FIRST, sequential_plan.STEP)
    assert confirm.parser().parse_args([]).seeds == bench.CAP


def test_picked_configurations_are_those_that_looked_best() -> None:
    rng = np.random.default_rng(0)
    draw = bench.noises(pool.BANK)["normal"]
    picked = bench.Scenario("normal", 3, bench.PICKED)
    means = [bench.truths(picked, draw, rng)[0] for _ in range(300)]
    assert np.shape(means) == (300, 3)
    # the three best of 20 normal numbers average 1.4; seen through noise it is less
    assert 0.7 < np.mean(means) < 1.3


def test_the_noise_is_three_times_as_large_in_one_configuration_as_in_another() -> None:
    rng = np.random.default_rng(0)
    draw = bench.noises(pool.BANK)["normal"]
    tied, deviations = bench.truths(bench.Scenario("normal", 2, bench.TIED), draw, rng)
    assert tied.tolist() == [0, 0]
    assert deviations.max() == pytest.approx(3 * deviations.min())
    led, deviations = bench.truths(bench.Scenario("normal", 4, bench.LED), draw, rng)
    assert led.tolist() == [0, 0, -2, -2]
    assert deviations.max() == pytest.approx(3 * deviations.min())


def test_figures_are_what_a_hand_counts() -> None:
    pairs = [
        Pair("a", "b", 1, 0.5, 1.5, "first"),
        Pair("a", "c", 0, -1, 1, "equal"),
        Pair("b", "c", 0, -9, 9, None),
    ]
    intervals = {"a": Interval(0, -1, 1), "b": Interval(0, -2, 2), "c": Interval(0, -1, 3)}
    scores = {"a": [0.0, 1.0], "b": [0.0, 0.0, 1.0], "c": [0.0, 0.0, 0.0, 1.0]}
    ended = bench.Ended(scores, pairs, intervals)
    plain = [bench.t_interval(own) for own in scores.values()]
    wider = 10 / sum(it.high - it.low for it in plain)
    sds = {"a": 1.0, "b": 2.0, "c": 4.0}
    # widths 2, 4 and 4 in deviations of 1, 2 and 4
    right = bench.figures(ended, {"a": 1.0, "b": 0.0, "c": 1.0}, sds)
    assert right == pytest.approx([1, 5 / 3, wider, False, False, 2 / 3, 3])
    # b is better than a, c is far from a and outside its own interval
    wrong = bench.figures(ended, {"a": 0.0, "b": 1.0, "c": 9.0}, sds)
    assert wrong == pytest.approx([2 / 3, 5 / 3, wider, True, True, 2 / 3, 3])


def test_the_rival_is_the_textbooks() -> None:
    scores = {"a": [1.0, 2.0, 4.0], "b": [11.0, 12.0, 13.0], "c": [1.0, 2.0, 3.0]}
    for pair in bench.welch(scores, 1, 8):
        test = stats.ttest_ind(scores[pair.first], scores[pair.second], equal_var=False)
        there = test.confidence_interval(0.95)
        assert (pair.low, pair.high) == pytest.approx((there.low, there.high))
        assert (pair.verdict in ("first", "second")) == (test.pvalue < 0.05)
    it = bench.t_interval(scores["c"])
    assert it.high - 2 == pytest.approx(stats.t.ppf(0.975, 2) / 3**0.5)


def test_the_same_seed_draws_the_same_studies() -> None:
    tied = bench.Scenario("gamma", 3, bench.TIED)
    once, again, other = (bench.simulated(tied, 3, seed, pool.BANK) for seed in (0, 0, 1))
    assert once == again != other


def test_a_small_run_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["--studies", "2", "--configurations", "2", "--noise", "t of 5", "stuck"]
    assert bench.main([*words, "--workers", "1", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert len(written["scenarios"]) == 4
    first = written["scenarios"][0]
    assert f"{first['noise']} noise, 2 configurations, {first['truth']}" in said
    row = first["ways"]["sequential"]
    assert set(row) == set(bench.FIGURES)
    assert f"| sequential | {100 * row['covered']['mean']:.1f} ± " in said
    assert 3 <= row["seeds"]["mean"] <= bench.CAP
    assert written["command"].startswith("scripts/bench repeats --studies 2")


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--configurations", "1"], "--configurations 1"), (["--bank", "none.json"], "none.json")],
)
def test_a_mistake_is_one_line(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in one_line(bench.main, capsys, *words, "--workers", "1")


def test_a_bank_without_repeats_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bank.json"
    write_bank(path, [curve(0, 0, 0.7), curve(1, 0, 0.8)])
    said = one_line(bench.main, capsys, "--bank", path, "--workers", "1")
    assert "no configuration has two seeds" in said
