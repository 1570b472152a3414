from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmarks import families, truth
from scripts.benchmarks.families import FRESH_FROM, Training, family
from scripts.benchmarks.pool import Estimate
from scripts.benchmarks.truth import ARMS, END, EXPECTED, HIGHEST, WHOLE, Batch, Scored, rows_of
from scripts.benchmarks.truth_studies import NONE, Arm, play, true_scores
from search.strategy.forecast.features import Array

TABLE = "HPOBench: car"


class Rising:
    """Trainings that end at their x, known from the first epoch on."""

    epochs, fresh = 12, 2

    def __init__(self) -> None:
        self.specs = family(TABLE, "tuning").specs
        self.asked: list[Training] = []

    def curves(self, trainings: Sequence[Training]) -> Array:
        self.asked.extend(trainings)
        first = next(iter(self.specs))
        top = np.array([0.5 + 0.02 * float(one.params[first]) for one in trainings])
        return top[:, None] * (1 - 2.0 ** -np.arange(1, self.epochs + 1))


def test_studies_side_by_side_are_those_played_alone() -> None:
    made = family(TABLE, "tuning")
    together = play(made, Arm("tpe"), total=12, seeds=[3, 4])
    alone = [play(made, Arm("tpe"), total=12, seeds=[seed])[0] for seed in (3, 4)]
    assert together == alone
    assert together[0] != together[1]
    assert together[0].epochs == 12


def test_an_answer_is_noted_with_the_epochs_that_it_took() -> None:
    one = play(family(TABLE, "tuning"), Arm("random", NONE), total=20, seeds=[5])[0]
    told = [it.told for it in one.highest]
    assert told == sorted(told)
    assert [it.epochs for it in one.highest] == sorted({it.epochs for it in one.highest})
    assert one.highest[0].epochs == 1
    # the expected mean of the answer lies below the highest score
    assert one.expected[-1].told < one.highest[-1].told


def test_a_pruner_saves_epochs_and_no_training_has_a_seed_that_tells_the_truth() -> None:
    made = Rising()
    whole = play(made, Arm("random", NONE), total=16, seeds=[1])[0]
    pruned = play(made, Arm("random", "median"), total=16, seeds=[1])[0]
    assert whole.epochs == 16 * 12
    assert pruned.epochs < whole.epochs
    assert all(one.seed < FRESH_FROM for one in made.asked)
    # both begin with the same trainings
    assert made.asked[:16] == made.asked[16:32]
    made.asked.clear()
    true_scores(made, [whole.highest[-1].params])
    assert all(one.seed >= FRESH_FROM for one in made.asked)


def scored(number: int, true: float, told: float, epochs: float = 1.0) -> Scored:
    shares = dict.fromkeys((*truth.SHARES_OF_WHOLE, END), true)
    rules = dict.fromkeys((HIGHEST, EXPECTED), shares)
    return Scored("f", number, epochs, rules, {rule: {END: told} for rule in rules})


def about(one: Estimate | None) -> tuple[float, float]:
    assert one is not None
    assert one.error is not None
    return round(one.mean, 9), round(one.error, 9)


def test_what_no_study_tells_is_left_open() -> None:
    none = dict.fromkeys((*truth.SHARES_OF_WHOLE, END), math.nan)
    rules = dict.fromkeys((HIGHEST, EXPECTED), none)
    one = Scored("f", 0, 1.0, rules, rules)
    rows = rows_of([Batch(WHOLE, [one], 0.7, 0.01**2)])
    assert rows[WHOLE].early is None
    assert "| no pruning | 1.00 | - | - |" in truth.group_text(rows)


def test_figures_are_in_deviations_between_seeds_and_paired_by_study() -> None:
    whole = Batch(WHOLE, [scored(0, 0.70, 0.72), scored(1, 0.72, 0.74)], 0.72, 0.01**2)
    arm = Batch("arm", [scored(0, 0.72, 0.72, 0.4), scored(1, 0.70, 0.70, 0.4)], 0.74, 0.01**2)
    rows = rows_of([whole, arm])
    assert about(rows[WHOLE].regret[HIGHEST]) == (3.0, 1.0)
    assert about(rows[WHOLE].too_high[EXPECTED]) == (2.0, 0.0)
    assert rows["arm"].epochs == Estimate(0.4, 0.0)
    assert about(rows["arm"].score) == (0.71, 0.01)
    assert about(rows["arm"].whole) == (0.0, 2.0)
    assert about(rows["arm"].worse) == (0.5, 0.5)
    assert rows[WHOLE].worse == Estimate(0.0, 0.0)


def test_whole_trials_ended_early_are_looked_up_between_two_shares() -> None:
    shares = {share: share for share in truth.SHARES_OF_WHOLE}
    one = Scored("f", 0, 1.0, {EXPECTED: {**shares, END: 1.0}}, {})
    assert truth._at_share(one, 0.45) == pytest.approx(0.45)
    late = {**shares, 0.2: math.nan}
    assert math.isnan(truth._at_share(Scored("f", 0, 1.0, {EXPECTED: late}, {}), 0.25))


def test_the_command_prints_a_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "truth.json"
    words = ["--family", "tables, HPOBench", "--half", "tuning", "--studies", "4", "--trials", "10"]
    flags = ["--arm", "random", "--workers", "1", "--json", str(out)]
    assert truth.main([*words, *flags]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tables, HPOBench\n")
    assert "| no pruning | 1.00 |" in text
    rows = json.loads(out.read_text())["tables"]["tables, HPOBench"]
    assert list(rows) == [WHOLE, "random"]
    assert rows["random"]["regret"][EXPECTED]["mean"] >= 0


def test_where_nothing_can_be_pruned_each_sampler_is_played_once() -> None:
    names = list(ARMS)
    assert truth._telling(names, family(TABLE, "tuning")) == [
        WHOLE,
        "Optuna's TPE, median",
        "Optuna's GP, median",
        "random",
    ]
    assert truth._telling(names, family("digits", "tuning")) == names


def test_what_the_help_names_is_what_there_is() -> None:
    assert all(tuple(families.groups(half)) == families.GROUPS for half in families.HALVES)
