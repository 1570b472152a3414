from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.reporting.tables import verdicts_table
from search.results.evidence import Evidence
from search.results.findings.every_finding import TOPICS, findings
from search.results.findings.next_search import next_command
from search.results.findings.pruning_and_queue import pruning_sentences
from search.results.reading import results_of
from search.results.statistics.estimates import rank_correlation
from search.results.trials import Outcome, Results
from search.study.lookup import load_setup
from search.study.search_space import distribution, drawn
from tests.support.curves import made
from tests.support.outcomes import (
    COMPLETE,
    FAIL,
    PRUNED,
    of_histories,
    run,
    said,
    searched,
    spread,
    study,
)
from tests.support.paths import HISTORIES
from tests.support.studies import EPOCHS, play, setup_of, store, study_of

Histories = list[dict[str, Any]]

# ------------------------------------------------------------------------------ the seed's runs


@pytest.fixture
def histories() -> list[dict[str, Any]]:
    return json.loads(HISTORIES.read_text(encoding="utf-8"))


def test_the_seeds_three_runs_cannot_be_told_apart(histories: Histories) -> None:
    text = said(of_histories(histories), "comparison")
    assert (
        "dice_weight 1.0, 1.5 and 2.0 cannot be told apart at one seed each: 0.6819, 0.6889 and"
        " 0.6702 (lmsa_v1, lmsa_enhanced_dice and lmsa_enhanced_dice_v2)" in text
    )
    assert "beat" not in text


def test_what_else_differed_between_the_seeds_runs_is_named(histories: Histories) -> None:
    text = said(of_histories(histories), "differences")
    first = text.split("\n")[0]
    assert "1.0 (lmsa_v1), dice_weight 1.5 (lmsa_enhanced_dice)" in first
    assert "training.epochs (200 / 300 / 200)" in first
    assert "training.early_stopping_patience (50 / none / 30)" in first
    assert "data.num_workers (16 / 16 / 4)" in first
    assert "output_dir" not in text
    assert "lmsa_continue_v2 (from lmsa_enhanced_dice)" in text
    rising = next(line for line in text.split("\n") if line.startswith("Still rising at the end"))
    for name in ("lmsa_dice2.5_aggressive", "lmsa_dice1.5_warm_restart"):
        assert name in rising


def test_never_above_two_is_neither_supported_nor_refuted_by_the_seeds_runs(
    histories: Histories,
) -> None:
    text = said(of_histories(histories), "dice")
    never = next(line for line in text.split("\n") if "Never above" in line)
    assert never.startswith('"Never above 2.0" is neither supported nor refuted')
    assert "dice_weight 2.5 reached 0.6827 and 2.0 0.6702" in never
    assert "the higher weight even scored higher" in never
    for key in (
        "model.dropout (0.15 / 0.2)",
        "training.weight_decay (0.0001 / 0.0002)",
        "training.learning_rate (0.0008 / 0.0006)",
    ):
        assert key in never
    assert "dice_weight 2.5 was still rising at its end" in never
    assert '"1.5 is the optimum" is neither supported nor refuted' in text
    assert "undetermined" in text


def test_the_seeds_warm_restarts_were_never_tried_to_their_end(histories: Histories) -> None:
    text = said(of_histories(histories), "restarts")
    assert text.startswith("Warm restarts were never tried to their end: of 2 trials")
    assert "lmsa_dice1.5_warm_restart stopped after 56 of 200 planned epochs" in text
    assert "cycles end at 25, 75, 175, 375) and ended while still rising" in text


def test_the_seeds_degradation_is_measured_at_a_common_wait(histories: Histories) -> None:
    text = said(of_histories(histories), "convergence")
    assert "Degradation 20 epochs after the best" in text
    assert "(they were trained on for 20, 20 and 30)" in text
    scores = histories[14]["val_f_score"]
    top = scores.index(max(scores))
    assert f"{scores[top] - scores[top + 20]:.4f}" in text
    assert "at one seed each, which decides nothing" in text


def altered(
    histories: Sequence[Mapping[str, Any]], shifts: Mapping[float, float], *, equal: bool = True
) -> list[dict[str, Any]]:
    """The run of dice 1.5 once more per weight and seed, shifted; equal: in nothing else."""
    one = next(h for h in histories if h["config"]["experiment"]["name"] == "lmsa_enhanced_dice")
    made = []
    for dice, shift in shifts.items():
        for seed in range(5):
            noise = 0.002 * math.sin(1 + 3 * seed + dice)
            config = json.loads(json.dumps(one["config"]))
            config["loss"]["dice_weight"] = dice
            config["training"]["seed"] = seed
            if not equal:
                config["model"]["dropout"] = 0.1 * dice
            made.append(
                {
                    **one,
                    "config": config,
                    "val_f_score": [v + shift + noise for v in one["val_f_score"]],
                    "train_f_score": [v + shift + noise for v in one["train_f_score"]],
                }
            )
    return made


def test_large_true_differences_over_several_seeds_flip_the_sentences(histories: Histories) -> None:
    text = said(of_histories(altered(histories, {1.0: -0.03, 1.5: 0.0, 2.0: -0.05, 2.5: -0.08})))
    assert "dice_weight 1.5 beats all others after 5 seeds" in text
    assert '"1.5 is the optimum" is supported within the tested values' in text
    assert '"Never above 2.0" is supported within the tested values: dice_weight 1.5 beats' in text
    assert "so higher is worse there" in text
    assert "cannot be told apart" not in text
    assert "differ in nothing else" in text


def test_reversed_differences_refute_the_claims(histories: Histories) -> None:
    text = said(of_histories(altered(histories, {1.0: -0.08, 1.5: -0.05, 2.0: -0.03, 2.5: 0.0})))
    assert '"1.5 is the optimum" is refuted: dice_weight 2.0 and 2.5 beat it' in text
    assert '"Never above 2.0" is refuted: dice_weight 2.5 beats 2.0' in text
    assert "edge of what was tested, so the optimum may lie beyond" in text


def test_differences_of_runs_that_differ_in_more_are_not_laid_to_the_dice_weight(
    histories: Histories,
) -> None:
    shifts = {1.0: -0.03, 1.5: 0.0, 2.0: -0.05, 2.5: -0.08}
    text = said(of_histories(altered(histories, shifts, equal=False)))
    assert "dice_weight 1.5 beats all others after 5 seeds" in text
    assert '"Never above 2.0" is neither supported nor refuted for the dice weight alone' in text
    assert '"1.5 is the optimum" is neither supported nor refuted' in text
    assert "model.dropout (0.15 / 0.25)" in text


# ------------------------------------------------------------------------- studies with little


def test_a_study_without_trials_says_so() -> None:
    text = said(study([], setup_of()))
    assert "Study old has no trial yet" in text
    assert "go on with the same study" in text


def test_one_trial_is_not_compared_with_anything() -> None:
    text = said(study([run(0, 0.5)], setup_of()))
    assert "The best is trial 0 with 0.5000 (val F), at epoch 8 of 10 planned." in text
    assert "its optimum is undetermined" in text
    assert "noise between seeds is unknown" in text
    assert "cannot be told apart" not in text


@pytest.mark.parametrize("count", [1, 12])
def test_only_failed_trials_make_no_answer(count: int) -> None:
    text = said(study([run(i, None, state=FAIL) for i in range(count)], setup_of()))
    assert f"{count} failed" in text
    assert "there is no answer yet" in text


@pytest.mark.parametrize("count", [1, 12])
def test_only_pruned_trials_make_no_answer(count: int) -> None:
    ones = [
        run(i, 0.3 + i / 100, 1.0 + i / 10, state=PRUNED, curve={1: 0.1, 2: 0.3 + i / 100})
        for i in range(count)
    ]
    text = said(study(ones, setup_of()))
    assert "there is no answer yet" in text
    assert f"The furthest is trial {count - 1}, pruned with" in text
    assert f"saved {8 * count} of {10 * count} epochs (80%)" in text


@pytest.mark.parametrize("count", [2, 3, 9, 11])
def test_a_few_trials_of_equal_score_are_judged_without_a_verdict(count: int) -> None:
    text = said(study([run(i, 0.5, 1.0 + i / 8) for i in range(count)], setup_of()))
    assert " is supported" not in text
    assert " is refuted" not in text


def test_a_trial_that_tells_neither_config_nor_epochs_is_no_obstacle() -> None:
    text = said(study([run(0, 0.5, None, curve={}), run(1, 0.6, None, curve={})]))
    assert "no complete trial tells its own" in text


def test_settings_of_any_kind_and_scores_that_are_no_numbers_are_no_obstacle() -> None:
    odd = {"a.list": [[1, 2], {"b": 3}], "a.none": None, "a.text": "nan", "a.number": "1e-4"}
    ones = [run(i, 0.5 + i / 100, 1.0 + i / 10, config=odd) for i in range(3)]
    ones += [run(3, 0.5, 1.0, config={**odd, "a.number": 1e-4})]
    ones += [run(4, math.inf, 1.5, config=odd, curve={1: 0.2})]
    text = said(study(ones))
    assert "2 trials of 1 configuration" in text


# ---------------------------------------------------------------------------------- comparison


def test_noise_between_seeds_is_named_where_something_was_repeated() -> None:
    ones = [run(0, 0.50, 1.0), run(1, 0.52, 1.0), run(2, 0.6, 2.0)]
    text = said(study(ones), "comparison")
    assert "The noise between seeds is 0.0141" in text
    assert "known too poorly" in text
    assert "cannot be told apart at so few seeds" in text


def test_repeats_of_other_settings_are_compared_by_their_names() -> None:
    ones = [
        run(i, value, 1.5, name=f"{drop} a", config={"model.dropout": drop})
        for i, (drop, value) in enumerate(
            [(0.1, 0.60), (0.1, 0.602), (0.1, 0.601), (0.3, 0.50), (0.3, 0.502), (0.3, 0.501)]
        )
    ]
    assert "0.1 a beats 0.3 a after 3 seeds" in said(study(ones), "comparison")


def test_a_setting_that_does_not_touch_learning_does_not_part_repeats() -> None:
    ones = [run(i, 0.5 + i / 1000, 1.5, config={"data.num_workers": i}) for i in range(2)]
    assert "2 trials of 1 configuration" in said(study(ones), "comparison")


def test_repeats_of_a_confirmation_are_grouped_by_their_label() -> None:
    ones = [
        run(i, value, 1.5, attrs={"configuration": label, "seed": i})
        for i, (label, value) in enumerate(
            [("trial 3", 0.6), ("trial 3", 0.602), ("trial 8", 0.5), ("trial 8", 0.502)]
        )
    ]
    results = study(ones, setup_of(), name="old-confirm")
    assert "trial 3" in said(results, "comparison")
    assert "give no ranges" in said(results, "advice")
    assert next_command(Evidence(results), "sqlite:///x.db", "runs") is None


# ------------------------------------------------------------------------ the curve over dice


def test_a_peak_far_below_the_limit_supports_it() -> None:
    text = said(searched(60, lambda d, p: 0.7 - 0.03 * (d - 1.0) ** 2 - 0.1 * p), "dice")
    assert '"Never above 2.0" is supported within the tested values' in text
    assert "linear effects of the other parameters taken out" in text


def test_a_peak_far_above_the_limit_refutes_it() -> None:
    text = said(searched(60, lambda d, p: 0.7 - 0.03 * (d - 3.0) ** 2), "dice")
    assert '"Never above 2.0" is refuted' in text
    assert '"1.5 is the optimum" is refuted' in text


@pytest.mark.parametrize("seed", range(8))
def test_scores_that_do_not_depend_on_dice_leave_both_claims_open(seed: int) -> None:
    text = said(searched(40, lambda d, p: 0.7, seed=seed), "dice")
    assert " is supported" not in text
    assert " is refuted" not in text


@pytest.mark.parametrize(
    # trials of twelve whose x is not that of the rest: all, one, two, three
    "others",
    [12, 1, 2, 3],
)
def test_a_rank_correlation_errs_as_seldom_as_it_says(others: int) -> None:
    rng = np.random.default_rng(0)
    x = [*range(others), *[9.0] * (12 - others)]
    found = [rank_correlation(x, [*rng.normal(size=12)]) for _ in range(200)]
    # 5 % less or more three standard errors
    assert sum(one is None or one.sign != 0 for one in found) <= 0.1 * len(found)


@pytest.mark.parametrize("true", [0.0, 0.6, -0.9])
def test_a_rank_correlations_interval_holds_the_truth(true: float) -> None:
    rng = np.random.default_rng(1)
    # of normal pairs, whose rank correlation follows from the plain one
    rho = 6 / np.pi * np.arcsin(true / 2)
    pairs = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], size=(300, 20))
    found = [rank_correlation([*pair[:, 0]], [*pair[:, 1]]) for pair in pairs]
    held = [one.low <= rho <= one.high for one in found if one is not None]
    assert sum(held) >= 0.91 * 300


def test_a_perfect_order_has_an_interval_that_ends_at_it() -> None:
    found = rank_correlation(range(8), range(8))
    assert found is not None
    assert found.value == found.high == 1
    assert 0.8 < found.low < 1


def test_an_optimum_that_could_lie_anywhere_is_called_undetermined() -> None:
    text = said(searched(30, lambda d, p: 0.7, seed=3), "dice")
    assert "the optimum is undetermined" in text


def test_an_optimum_at_an_edge_is_called_so() -> None:
    text = said(searched(60, lambda d, p: 0.5 + 0.05 * d), "dice")
    assert "reaches the edge of what was tried" in text


def test_flatness_is_measured_in_noise_between_seeds_where_that_is_known() -> None:
    results = searched(60, lambda d, p: 0.7 - 0.03 * (d - 1.0) ** 2)
    assert "noise between seeds is unknown" in said(results, "dice")
    twice = [
        run(100 + i, 0.6 + 0.01 * i, 1.2, params={"dice_weight": 1.2, "dropout": 0.1})
        for i in range(3)
    ]
    with_noise = study([*results.outcomes, *twice], results.setup)
    assert "within one standard deviation between seeds (0.0100)" in said(with_noise, "dice")


def test_runs_chosen_by_hand_are_given_no_curve() -> None:
    results = searched(60, lambda d, p: 0.7 - 0.03 * (d - 1.0) ** 2)
    text = said(study(results.outcomes), "dice")
    assert "neither supported nor refuted" in text
    assert "undetermined" in text


# -------------------------------------------------------- optimisation, balance, convergence


def trained(means: Mapping[float, tuple[float, float]]) -> Results:
    """Five seeds for each dice weight. means: val F, train F."""
    ones: list[Outcome] = []
    for dice, (val, train) in means.items():
        for seed in range(5):
            noise = 0.002 * math.sin(1 + 3 * seed + dice)
            ones.append(
                run(
                    len(ones),
                    val + noise,
                    dice,
                    train_f_at_best=train + noise,
                    gap=train - val + noise / 4,
                )
            )
    return study(ones)


def test_a_weight_that_trains_worse_points_to_the_optimisation() -> None:
    text = said(trained({1.5: (0.69, 0.70), 2.0: (0.66, 0.67)}), "optimisation")
    assert "dice_weight 2.0 against 1.5: train F -0.030" in text
    assert "points to the optimisation" in text


def test_a_weight_with_a_wider_gap_points_to_generalisation() -> None:
    text = said(trained({1.5: (0.69, 0.70), 2.0: (0.66, 0.71)}), "optimisation")
    assert "points to generalisation" in text


def test_equal_weights_point_to_neither() -> None:
    text = said(trained({1.5: (0.69, 0.70), 2.0: (0.6901, 0.7001)}), "optimisation")
    assert "not decided" in text
    assert "points to" not in text


@pytest.mark.parametrize(
    ("slope_large", "slope_small", "verdicts"),
    [
        (0.3, -0.3, ("supported", "supported")),
        (-0.3, 0.3, ("refuted", "refuted")),
        (0.0, 0.0, ("neither supported nor refuted",) * 2),
    ],
)
def test_shares_of_the_loss_are_set_against_large_and_small_parts(
    slope_large: float, slope_small: float, verdicts: tuple[str, str]
) -> None:
    rng = np.random.default_rng(1)
    ones = []
    for number in range(40):
        dice = float(rng.uniform(0.5, 4.0))
        share = 1 / (1 + dice)
        attrs = {
            "f_large": 0.8 + slope_large * share + float(rng.normal(0, 0.01)),
            "f_small": 0.6 + slope_small * share + float(rng.normal(0, 0.01)),
        }
        ones.append(run(number, 0.6, dice, attrs=attrs))
    text = said(study(ones, setup_of()), "balance")
    assert f'"CE\'s share serves large parts" is {verdicts[0]}' in text
    assert f'"Dice\'s share serves small parts" is {verdicts[1]}' in text


def test_parts_that_were_not_scored_cannot_be_balanced() -> None:
    assert "cannot be tested" in said(study([run(0, 0.5), run(1, 0.6)]), "balance")


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.002, "supported"), (-0.002, "refuted"), (0.0, "undecided")]
)
def test_fast_is_not_better_is_judged_by_rank(slope: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    ones = []
    for number in range(40):
        top = int(rng.integers(5, 46))
        value = 0.6 + slope * top + float(rng.normal(0, 0.005))
        curve = {e: value - 0.001 * abs(e - top) for e in range(1, 51)}
        ones.append(run(number, value, 1.5 + number / 100, curve=curve, budget=50))
    assert f'"Fast is not better" is {verdict}' in said(study(ones), "convergence")


def test_a_run_that_was_not_trained_past_its_peak_is_left_out_of_the_degradation() -> None:
    fall = {e: 0.6 - 0.01 * abs(e - 4) for e in range(1, 11)}
    ones = [
        run(0, 0.6, 1.0, curve=fall),
        run(1, 0.6, 1.5, curve={e: fall[e] for e in range(1, 9)}),
        run(2, 0.6, 2.0, curve={1: 0.2, 2: 0.6}),
    ]
    text = said(study(ones), "convergence")
    assert "Degradation 4 epochs after the best" in text
    assert "dice_weight 1.0 and 1.5 fell by 0.0400 and 0.0400" in text


def test_an_unsteady_weight_is_called_so_where_seeds_show_it() -> None:
    def shaken(seed: int, size: float) -> dict[int, float]:
        rng = np.random.default_rng(seed)
        return {e: 0.5 + float(rng.normal(0, size)) for e in range(1, 41)}

    ones = [
        run(i, 0.6, dice, curve=shaken(i, 0.01 if dice < 2 else 0.03), budget=40)
        for i, dice in enumerate([1.5] * 6 + [2.0] * 6)
    ]
    text = said(study(ones), "convergence")
    assert "dice_weight 2.0 is less stable than dice_weight 1.5, by more than chance" in text


# ------------------------------------------------------------------------ restarts and schedules


def cycles(t_0: float, t_mult: float = 1) -> dict[str, Any]:
    return {"training.scheduler_params.T_0": t_0, "training.scheduler_params.T_mult": t_mult}


def test_restarts_that_end_with_the_plan_were_tried_to_their_end() -> None:
    ones = [run(i, 0.60 + i / 1000, config=cycles(10 / 3)) for i in range(4)]
    ones += [run(4 + i, 0.50 + i / 1000, config=cycles(10)) for i in range(4)]
    text = said(study(ones), "restarts")
    assert "4 of 4 trials with warm restarts were trained to the end" in text
    assert "Restarts score higher: 4 complete trials with them less 4 without" in text


@pytest.mark.parametrize(
    ("t_0", "t_mult", "trained"),
    [(5, 1, 8), (3, 2, 10)],  # stopped early; a plan that ends within a cycle
)
def test_restarts_cut_short_were_not_tried_to_their_end(
    t_0: float, t_mult: float, trained: int
) -> None:
    curve = {e: e / 20 for e in range(1, trained + 1)}
    one = run(0, trained / 20, curve=curve, config=cycles(t_0, t_mult))
    text = said(study([one]), "restarts")
    assert "never tried to their end" in text
    assert "still rising" in text


def test_restarts_that_were_pruned_are_counted() -> None:
    ones = [
        run(
            n,
            0.4,
            curve=dict.fromkeys(range(1, n + 3), 0.4),
            state=TrialState.PRUNED,
            config=cycles(5),
        )
        for n in range(3)
    ]
    text = said(study([*ones, run(3, 0.5, config=cycles(10))]), "restarts")
    assert "of 3 trials with them none was trained to the end" in text
    assert text.endswith("3 were pruned after 2 to 4 epochs.")


def test_one_cycle_is_no_restart() -> None:
    assert "No trial that ended had warm restarts" in said(study([run(0, 0.5, config=cycles(10))]))


def test_a_moving_dice_weight_is_compared_with_a_constant_one() -> None:
    ones = [
        run(i, (0.6 if kind == "step" else 0.5) + i / 1000, config={"loss.dice_schedule": kind})
        for i, kind in enumerate(["constant"] * 4 + ["step"] * 4)
    ]
    assert "Moving scores higher" in said(study(ones), "schedules")
    assert "not tested" in said(study(ones[:4]), "schedules")


# ---------------------------------------------------------------------- importances and classes


def test_the_parameter_that_decides_is_named_first() -> None:
    text = said(searched(80, lambda d, p: 0.7 - 0.05 * d), "importances")
    assert "dice_weight matters most." in text
    text = said(searched(30, lambda d, p: 0.7), "importances")
    assert "is not decided" in text
    assert "ten are needed" in said(searched(9, lambda d, p: 0.7), "importances")


def test_the_best_trials_classes_stand_beside_the_median() -> None:
    ones = [
        run(i, 0.5 + i / 100, per_class={"skin": 0.9, "hat": 0.1 * i, "nose": None})
        for i in range(4)
    ]
    text = said(study(ones), "classes")
    assert "Lowest classes of trial 3: hat 0.300" in text
    assert "gains most in hat (+0.150)" in text
    assert "loses most in none" in text


# -------------------------------------------------------------------------- pruned and enqueued


def test_revived_trials_tell_what_they_brought(tmp_path: Path) -> None:
    storage = store(tmp_path)
    made = study_of(storage)
    setup = load_setup(made)
    params: dict[str, Any] = {"params": setup.defaults, "distributions": spread(setup)}
    seeded = {"seed": 1}
    made.add_trial(
        create_trial(state=PRUNED, intermediate_values={1: 0.3}, user_attrs=seeded, **params)
    )
    made.add_trial(
        create_trial(
            state=COMPLETE,
            value=0.7,
            intermediate_values={2: 0.7},
            user_attrs={**seeded, "continues": 0},
            **params,
        )
    )
    text = said(results_of(made), "pruning")
    assert "1 pruned trial went on later (0) for 1 epoch" in text
    assert "1 became complete, the highest with 0.7000, which is the best of the study" in text


def test_verdicts_are_told_in_numbers() -> None:
    def verdict(chance: float) -> dict[str, Any]:
        numbers = {"best": 0.3, "forecast": 0.5, "deviation": 0.01, "against": 0.6, "to_come": 2}
        where = {"rule": "restart-aware", "epoch": 4, "epochs": 10}
        return {"verdict": {**where, **numbers, "chance": chance, "needed": 0.02}}

    ones = [run(0, 0.6), run(1, 0.3, state=PRUNED, curve={4: 0.3}, attrs=verdict(0.003))]
    ones.append(run(2, 0.3, state=PRUNED, curve={4: 0.3}, attrs=verdict(0.015)))
    text = said(study(ones), "pruning")
    assert "gave 2 trials a chance of 0.9 % (median)" in text
    nearest = (
        "trial 2: at epoch 4 of 10, forecast 0.5000 ± 0.0100 against 0.6000 and 2 trials to come"
    )
    assert nearest in text
    table = verdicts_table(study(ones))
    assert table is not None
    assert [row[0] for row in table.rows] == ["1", "2"]
    assert table.rows[0][1:] == (
        *("4 of 10", "0.3000", "0.5000", "0.0100", "0.6000", "0.3 %", "2 %"),
    )
    assert verdicts_table(study([run(0, 0.6)])) is None


def test_each_forecast_is_set_beside_what_came() -> None:
    expect = {"expect": [0.5, 0.6], "note": "more dropout"}
    ones = [
        run(0, 0.55, attrs=expect),
        run(1, 0.48, 1.6, attrs=expect),
        run(2, 0.61, 1.7, attrs=expect),
        run(3, 0.3, 1.8, attrs=expect, state=PRUNED, curve={1: 0.3}),
        run(4, None, 1.9, attrs=expect, state=TrialState.WAITING),
        run(5, None, 2.0, attrs=expect, state=FAIL),
    ]
    text = said(study(ones, setup_of()), "enqueued")
    assert text.startswith("1 of 3 forecasts that can be judged held")
    assert "trial 0, more dropout: 0.5 to 0.6 expected, 0.5500 came: held" in text
    assert "0.4800 came: 0.0200 below" in text
    assert "0.6100 came: 0.0100 above" in text
    assert "pruned after epoch 1 with 0.3000: cannot be judged" in text
    assert "it has not ended yet" in text
    assert "it failed or was cancelled" in text


def test_the_gains_of_first_trials_stand_beside_their_forecast() -> None:
    ones = [
        run(0, 0.70, attrs={"first": 1, "note": "dice 1.5", "prediction": "0.6889 measured"}),
        run(1, 0.71, 1.6, attrs={"first": 2, "note": "restarts", "prediction": "0.690-0.695, own"}),
        run(2, 0.69, 1.7, attrs={"first": 4, "note": "moving", "prediction": "may be better"}),
        run(3, 0.72, 1.8, attrs={"first": "old/3", "note": "from study old"}),
    ]
    text = said(study(ones, setup_of()), "enqueued")
    assert "restarts: +0.0011 to +0.0061 expected, +0.0100 came" in text
    assert "moving: -0.0100 came" in text
    assert "old/3" not in text
    assert "none of these gains is decided" in text


def test_what_cannot_be_tested_is_named() -> None:
    text = said(study([run(0, 0.5)]), "untestable")
    assert "local optimum cannot be tested" in text


# -------------------------------------------------------------------------------------- speed


@pytest.mark.long
def test_a_thousand_trials_of_150_epochs_have_every_finding() -> None:
    setup = setup_of(config={"epochs": 150})
    rng = np.random.default_rng(0)
    base = {f"section.key_{i}": i for i in range(40)}
    specs = {name: distribution(spec) for name, spec in setup.specs().items()}
    ones = []
    for number in range(1000):
        params = drawn(setup.specs(), rng.random)
        dice = float(params["dice_weight"])
        top = 0.7 - 0.03 * (dice - 2) ** 2 + float(rng.normal(0, 0.005))
        steps = rng.normal(0, 0.003, 150)
        curve = {e: top * (1 - 2 ** (-e / 20)) + float(steps[e - 1]) for e in range(1, 151)}
        attrs = {"f_large": 0.8 + top / 10, "f_small": 0.6}
        one = run(number, max(curve.values()), dice, config=base, curve=curve, attrs=attrs)
        row = create_trial(
            state=COMPLETE, value=one.value, params=params, distributions=specs, user_attrs=attrs
        )
        row.number = number
        ones.append(
            Outcome(
                **{
                    **vars(one),
                    "params": params,
                    "row": row,
                    "config": {**one.config, **{f"x.{k}": v for k, v in params.items()}},
                    "metrics": {**one.metrics, "train_f_at_best": top + 0.01, "gap": 0.01},
                }
            )
        )
    results = study(ones, setup)
    assert tuple(findings(Evidence(results))) == TOPICS


# ---------------------------------------------------------------------------------- forecasts


@pytest.mark.parametrize("foretold", [True, False])
def test_forecasts_that_were_wrong_are_told(tmp_path: Path, foretold: bool) -> None:
    storage = store(tmp_path)
    study = study_of(storage, seed=1)
    rng = np.random.default_rng(0)
    study.pruner = optuna.pruners.NopPruner()
    for end in rng.uniform(0.3, 0.9, 8):
        late = [0.1] * (EPOCHS // 2) + [float(end)] * (EPOCHS // 2)
        curves: list[Sequence[float]] = [] if foretold else [late]

        def score(params: Mapping[str, Any], epoch: int, own: Any = curves) -> float:
            if not own:
                own.append(made(params, rng, epochs=EPOCHS))
            return float(own[0][epoch - 1])

        play(study, storage, setup_of(seed=1), 1, score)
    text = "\n".join(pruning_sentences(Evidence(results_of(study))))
    assert "No trial was pruned." in text
    assert ("Forecasts of these trainings erred by" in text) != foretold
