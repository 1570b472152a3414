"""Repeated seeds: intervals and verdicts counted by hand, and sentences that say what pairs say."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from scripts.benchmarks import pool
from scripts.benchmarks import repeats as bench
from search.results.statistics.intervals import (
    Interval,
    Pair,
    chance_best,
    compare,
    equal_pair_counts,
    interval,
    nominal_levels,
    over_images,
    seed_deviation,
)
from search.results.statistics.sequential_plan import look_at, next_seeds
from search.results.statistics.verdicts import sentence


def verdicts(scores: Mapping[str, Sequence[float]], **options: float) -> list[str | None]:
    return [pair.verdict for pair in compare(scores, **options)]  # type: ignore[arg-type]


def reach(it: Interval | Pair) -> float:
    return (it.high - it.low) / 2


# --------------------------------------------------------------------------------------- intervals


def test_an_interval_of_even_scores_is_almost_that_of_plain_t() -> None:
    # mean 2, standard deviation 1
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(2 - found.low)
    plain = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert 0.9 * plain < reach(found) <= plain
    often = interval([1.0, 2.0, 3.0], looks=8)
    assert often is not None
    assert reach(often) == pytest.approx(plain)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_interval_reaches_further_towards_the_long_tail(sign: int) -> None:
    # one training got stuck, or was lucky
    found = interval([sign * score for score in (1.0, 1.1, 1.2, 1.3, 3.0)])
    assert found is not None
    up, down = found.high - found.mean, found.mean - found.low
    long, short = (up, down) if sign > 0 else (down, up)
    assert 1.2 * short < long < 1.501 * short


def test_an_interval_needs_two_scores_and_follows_the_level() -> None:
    assert interval([]) is None
    assert interval([0.7]) is None
    narrow, wide = interval([0.7, 0.71], level=0.5), interval([0.7, 0.71], level=0.99)
    assert narrow is not None
    assert wide is not None
    assert reach(narrow) < reach(wide)


def test_scores_that_decided_when_to_stop_have_a_wider_interval() -> None:
    once, often = interval([1.0, 2.0, 3.0]), interval([1.0, 2.0, 3.0], looks=8)
    assert once is not None
    assert often is not None
    assert reach(once) < reach(often) < 2 * reach(once)


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_by_value(strange: float) -> None:
    with pytest.raises(ValueError, match=str(strange)):
        interval([0.7, strange])
    with pytest.raises(ValueError, match=str(strange)):
        compare({"a": [0.7, 0.8], "b": [strange]})


def test_over_images_takes_the_mean_over_seeds_first() -> None:
    # by image 1, 2, 3, whatever the seeds do
    found = over_images([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    assert found is not None
    assert (found.mean, reach(found)) == pytest.approx((2, stats.t.ppf(0.975, 2) / math.sqrt(3)))


def test_over_images_needs_two_images_and_the_same_ones_for_every_seed() -> None:
    assert over_images([[0.5], [0.6]]) is None
    assert over_images([]) is None
    with pytest.raises(ValueError, match=r"\[2, 3\] images"):
        over_images([[1.0, 2.0], [1.0, 2.0, 3.0]])


def test_the_deviation_between_seeds_is_pooled_over_configurations() -> None:
    # sums of squares 2 and 8 on 2 and 1 degrees of freedom; the single score adds none
    assert seed_deviation({"a": [1, 2, 3], "b": [0, 4], "c": [9]}) == pytest.approx(
        math.sqrt(10 / 3)
    )
    assert seed_deviation({"a": [1], "b": []}) is None


# ------------------------------------------------------------------------------------------- pairs


def test_a_pair_is_what_welch_makes_of_it() -> None:
    (pair,) = compare({"a": [1, 2, 3], "b": [11, 12, 13, 14]})
    assert (pair.first, pair.second, pair.difference) == ("a", "b", -10.5)
    test = stats.ttest_ind([1, 2, 3], [11, 12, 13, 14], equal_var=False)
    # verdicts spend less than they may, since skewness makes more of it
    wide, narrow = (test.confidence_interval(1 - error) for error in (0.01, 0.05))
    assert wide.low < pair.low < narrow.low < narrow.high < pair.high < wide.high
    assert pair.verdict == "second"


def test_a_configuration_with_a_noise_of_its_own_brings_its_own_degrees_of_freedom() -> None:
    # all noise is the first one's: a standard error of 1 from two scores, so t with one degree
    (pair,) = compare({"a": [0, 2], "b": [5, 5, 5]})
    assert stats.t.ppf(1 - 0.05 / 2, 1) < reach(pair) < stats.t.ppf(1 - 0.01 / 2, 1)
    assert pair.verdict is None


def test_the_error_is_shared_by_all_pairs_that_can_be_alike() -> None:
    scores: dict[str, list[float]] = {"a": [1, 2, 3], "b": [2, 3, 4]}
    (alone,) = compare(scores)
    near, far = ({**scores, "c": [middle, middle + 1, middle + 2]} for middle in (1.5, 100))
    among = compare(near)
    assert [(pair.first, pair.second) for pair in among] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert among[0] == compare(scores, alpha=0.05 / 3)[0]
    # c is told apart from both, so only one pair can still mislead
    assert compare(far)[0] == alone


def test_an_early_look_asks_for_more_than_the_last() -> None:
    scores = {"a": [1, 2, 3], "b": [9, 10, 11]}
    assert verdicts(scores, look=8, looks=8) == ["second"]
    assert verdicts(scores, look=1, looks=8) == [None]


@pytest.mark.parametrize(("look", "looks"), [(0, 3), (4, 3)])
def test_a_look_that_was_not_planned_is_refused(look: int, looks: int) -> None:
    with pytest.raises(ValueError, match=f"look {look} of {looks}"):
        compare({"a": [1, 2], "b": [1, 2]}, look=look, looks=looks)


def test_equal_means_that_the_whole_interval_is_within_the_margin() -> None:
    scores = {"a": [1, 2, 3], "b": [1, 2, 3]}
    (equal,) = compare(scores, margin=9)
    assert equal.verdict == "equal"
    assert verdicts(scores, margin=1.01 * equal.high) == ["equal"]
    assert verdicts(scores, margin=0.99 * equal.high) == [None]
    # two tests on one side each, of a chance of 0.05
    assert reach(equal) == pytest.approx(stats.t.ppf(0.95, 4) * math.sqrt(2 / 3))


def test_the_margin_is_one_deviation_between_seeds_unless_given() -> None:
    few, many = [0.0, 1.0] * 3, [0.0, 1.0] * 12
    assert verdicts({"a": few, "b": few}) == [None]
    assert verdicts({"a": many, "b": many}) == ["equal"]
    assert verdicts({"a": many, "b": many}, margin=0.01) == [None]


def test_a_difference_that_is_sure_is_told_even_within_the_margin() -> None:
    scores = {"a": [1.0, 1.1] * 5, "b": [2.0, 2.1] * 5}
    assert verdicts(scores, margin=5) == ["second"]


def test_one_score_is_undecided_and_none_is_left_out() -> None:
    pairs = compare({"a": [1, 2, 3], "b": [9], "c": []})
    assert pairs == [Pair("a", "b", -7, -math.inf, math.inf, None)]
    assert compare({"a": [1], "b": [2]})[0].verdict is None
    assert compare({"a": [1, 2]}) == compare({}) == []


def test_trainings_without_any_noise_are_compared_as_they_are() -> None:
    scores = {"a": [1, 1], "b": [1, 1], "c": [2, 2]}
    assert verdicts(scores) == ["equal", "second", "second"]
    assert chance_best(scores) == {"a": 0, "b": 0, "c": 1}


def test_the_order_of_the_configurations_changes_nothing() -> None:
    scores: dict[str, list[float]] = {"a": [1, 2, 3], "b": [2.5, 3, 7], "c": [15, 16, 17]}
    mirrored = {"first": "second", "second": "first"}
    there = {(pair.first, pair.second): pair for pair in compare(scores)}
    for pair in compare(dict(reversed(scores.items()))):
        other = there[pair.second, pair.first]
        assert (pair.low, pair.high) == pytest.approx((-other.high, -other.low))
        assert pair.verdict == mirrored.get(other.verdict or "", other.verdict)


# ------------------------------------------------------------------------------------------- looks


def test_the_levels_of_the_looks_begin_small_and_a_single_look_has_all() -> None:
    assert nominal_levels(1, 0.05) == pytest.approx((0.05,))
    levels = nominal_levels(4, 0.05)
    assert levels[0] == pytest.approx(0.05 / 16)
    assert list(levels) == sorted(levels)
    # correlated looks: less is lost than if the errors added up
    assert 0.05 * 7 / 16 < levels[-1] < 0.05


def test_all_looks_together_err_as_often_as_allowed() -> None:
    sums = np.random.default_rng(0).normal(size=(100_000, 5)).cumsum(axis=1)
    values = np.abs(sums) / np.sqrt(np.arange(1, 6))
    bounds = stats.norm.ppf(1 - np.array(nominal_levels(5, 0.05)) / 2)
    by_then = (np.maximum.accumulate(values > bounds, axis=1)).mean(axis=0)
    # 0.0007 is one standard error
    assert by_then == pytest.approx(0.05 * (np.arange(1, 6) / 5) ** 2, abs=0.002)


def test_only_whole_groups_can_be_alike() -> None:
    # of three configurations one pair, or all three, never two
    assert equal_pair_counts(3) == {0, 1, 3}
    assert equal_pair_counts(4) == {0, 1, 2, 3, 6}
    assert max(equal_pair_counts(6)) == 15


def test_who_cannot_be_told_apart_gets_seeds_and_who_is_decided_gets_none() -> None:
    scores = {"a": [1, 2, 3], "b": [1, 2, 4], "c": [91, 92, 93]}
    pairs = compare(scores)
    assert [pair.verdict for pair in pairs] == [None, "second", "second"]
    assert next_seeds(scores, pairs, cap=10, step=2) == {"a": 2, "b": 2}
    assert next_seeds(scores, pairs, cap=4, step=2) == {"a": 1, "b": 1}
    assert next_seeds(scores, pairs, cap=3, step=2) == {}


def test_all_decided_or_equal_is_finished() -> None:
    scores = {"a": [1, 2, 3], "b": [91, 92, 93]}
    assert next_seeds(scores, compare(scores), cap=10, step=1) == {}
    alike = {"a": [1, 2, 3], "b": [1, 2, 3]}
    assert next_seeds(alike, compare(alike, margin=9), cap=10, step=1) == {}


def test_who_rejoins_catches_up_at_once() -> None:
    scores = {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0, 4.0, 1.0]}
    assert next_seeds(scores, compare(scores), cap=10, step=1) == {"a": 4, "b": 1}


def test_a_configuration_without_scores_gets_some() -> None:
    scores: dict[str, list[float]] = {"a": [1, 2, 3], "b": []}
    assert next_seeds(scores, compare(scores), cap=10, step=1) == {"b": 4}
    assert next_seeds({"a": [1, 2]}, [], cap=10, step=1) == {}


def test_the_number_of_a_look_follows_from_the_seeds() -> None:
    assert [look_at(seeds, first=3, step=2) for seeds in (1, 3, 4, 5, 9, 10)] == [1, 1, 2, 2, 4, 5]


# ------------------------------------------------------------------------------------- who is best


def test_chances_of_being_best_are_shared_by_equals() -> None:
    same = [1.0, 2.0, 3.0]
    assert chance_best({"a": same, "b": same, "c": same}) == pytest.approx(
        dict.fromkeys("abc", 1 / 3)
    )
    assert chance_best({"a": [1.0], "b": [2.0]}) == {"a": 0.5, "b": 0.5}
    assert chance_best({"a": same}) == {"a": 1.0}
    assert chance_best({"a": []}) == {}


def test_with_many_seeds_the_chance_is_that_of_normal_means() -> None:
    up, down = [1.0, -1.0] * 100, [0.9, -1.1] * 100
    variance = 2 * (200 / 199) / 200
    wanted = stats.norm.cdf(0.1 / math.sqrt(variance))
    assert chance_best({"a": up, "b": down})["a"] == pytest.approx(wanted, abs=0.003)


def test_a_single_score_is_judged_by_the_noise_of_the_others() -> None:
    chances = chance_best({"a": [1.0, 2.0, 3.0, 2.0], "b": [2.0]})
    assert chances == pytest.approx({"a": 0.5, "b": 0.5})
    assert chance_best({"a": [1.0, 2.0, 3.0, 2.0], "b": [9.0]})["b"] > 0.9


# ------------------------------------------------------------------------------------- the sentence


def paired(relations: str) -> list[Pair]:
    """Pairs from words such as "a>b c~d e=f"."""
    kinds = {">": "first", "~": None, "=": "equal"}
    return [
        Pair(word[0], word[2], 0.0, -1.0, 1.0, kinds[word[1]])  # type: ignore[arg-type]
        for word in relations.split()
    ]


def falling(names: str, seeds: int = 6) -> dict[str, list[float]]:
    """Scores with the best configuration first."""
    return {name: [float(-place)] * seeds for place, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "relations", "said"),
    [
        ("ab", "a~b", "a and b cannot be told apart after 6 seeds"),
        ("ab", "a>b", "a beats b after 6 seeds"),
        ("ab", "a=b", "a and b are equal for practical purposes after 6 seeds"),
        ("abc", "a~b a>c b>c", "a and b cannot be told apart after 6 seeds; both beat c"),
        ("abc", "a>b a>c b~c", "a beats b and c after 6 seeds; b and c cannot be told apart"),
        ("abc", "a>b a>c b>c", "a beats b and c after 6 seeds; b beats c"),
        ("abc", "a~b a~c b~c", "a, b and c cannot be told apart after 6 seeds"),
        # c is below a, yet nothing follows for b
        (
            "abc",
            "a~b b~c a>c",
            "a and b cannot be told apart after 6 seeds; a beats c; b and c cannot be told apart",
        ),
        (
            "abc",
            "a=b b~c a~c",
            "a and c cannot be told apart after 6 seeds; a and b are equal for practical purposes;"
            " b and c cannot be told apart",
        ),
        (
            "abcd",
            "a~b a~c b~c a>d b>d c>d",
            "a, b and c cannot be told apart after 6 seeds; all three beat d",
        ),
        (
            "abcd",
            "a>b a>c a>d b~c b>d c>d",
            "a beats all others after 6 seeds; b and c cannot be told apart; both beat d",
        ),
    ],
)
def test_a_sentence_reads_well(names: str, relations: str, said: str) -> None:
    assert sentence(falling(names), paired(relations)) == said


def test_a_sentence_names_the_range_of_seeds() -> None:
    pair = paired("a~b")
    assert "after 4 to 8 seeds" in sentence({"a": [1.0] * 4, "b": [0.0] * 8}, pair)
    assert "after 1 seed" in sentence({"a": [1.0], "b": [0.0]}, pair) + ";"
    assert "1 seeds" not in sentence({"a": [1.0], "b": [0.0]}, pair)


def test_a_sentence_on_one_configuration_or_none() -> None:
    assert sentence({"a": [1.0, 2.0]}, []) == "only a was repeated, with 2 seeds"
    assert sentence({"a": []}, []) == sentence({}, []) == "nothing was repeated"


def read(said: str, names: str) -> set[str]:
    """The pairs that a sentence tells of, as in `paired`, both ways round where it has no order."""
    found: set[str] = set()
    before: list[str] = []
    for clause in re.split(r"; |, (?=nor can)", said.replace(" after 6 seeds", "")):
        words = re.match(
            r"(?:nor can )?(.+?)( cannot be told apart| are equal for practical purposes"
            r"| beats? |$)(.*)",
            clause,
        )
        assert words is not None, clause
        who = re.findall(r"\b[a-f]\b", words[1]) if words[1][:4] not in ("both", "all ") else before
        assert who, clause
        if "beat" in words[2]:
            whom = re.findall(r"\b[a-f]\b", words[3])
            if words[3] == "all others":
                whom = [name for name in names if name not in who]
            found |= {f"{one}>{other}" for one in who for other in whom}
        else:
            sign = "=" if "equal" in words[2] else "~"
            found |= {f"{one}{sign}{other}" for one in who for other in who if one != other}
        before = who
    return found


@pytest.mark.parametrize("seed", range(40))
def test_a_sentence_says_what_every_pair_says_and_no_more(seed: int) -> None:
    rng = random.Random(seed)
    names = "abcdef"[: rng.randint(2, 6)]
    words = [f"{one}{rng.choice('>~=')}{other}" for one, other in combinations(names, 2)]
    wanted = {*words} | {word[::-1] for word in words if word[1] in "~="}
    said = sentence(falling(names), paired(" ".join(words)))
    assert read(said, names) == wanted
    assert said.count("after 6 seeds") == 1


# ---------------------------------------------------------------------------------- in the long run


def test_looking_often_misleads_a_plain_test_and_not_this_one() -> None:
    tied = bench.Scenario("gamma, left", 2, bench.TIED)
    table = bench.simulated(tied, 400, 0, pool.BANK)
    # 0.05 with two standard errors of 400 studies
    assert table["sequential"]["wrong"].mean <= 0.05 + 2 * 0.011
    assert table["Welch at every look"]["wrong"].mean > 0.12
    assert table["sequential"]["covered"].mean >= 0.94 - 3 * 0.0079


def test_a_fixed_number_of_seeds_covers_as_promised() -> None:
    picked = bench.Scenario("gamma, left", 3, bench.PICKED)
    table = bench.simulated(picked, 300, 0, pool.BANK)
    for seeds in bench.FIXED:
        # of 900 intervals
        assert 0.94 - 3 * 0.0079 <= table[f"fixed {seeds}"]["covered"].mean <= 0.96 + 3 * 0.0065
        assert table[f"fixed {seeds}"]["wrong"].mean <= 0.05 + 3 * 0.0126
