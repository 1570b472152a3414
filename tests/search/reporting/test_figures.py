"""Figures show what the trials say, and stand for studies of any kind."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.reporting.figures import curves
from search.reporting.figures.curves import curves_figure, restarts, schedules_figure, thinned
from search.reporting.figures.drawing import name_tags
from search.reporting.figures.every_figure import figures, repeats_figure
from search.reporting.figures.parameters import dice_figure, dice_share
from search.results.evidence import Evidence
from search.results.reading import results_of
from search.results.statistics.smoothing import smooth
from search.study.attributes import CONFIG, IMPORTED, RUN, SERIES
from search.study.lookup import load_setup
from search.study.search_space import distribution
from space import Float
from tests.support import outcomes
from tests.support.simulated import BEST_DICE, empty, row, simulated, write_histories
from tests.support.studies import setup_of
from trainer import dice_schedule


def drawing(figure: Any) -> dict[str, Any]:
    """The figure as the browser gets it."""
    return dict(json.loads(figure.to_json()))


def points_of(figure: Any) -> int:
    return sum(len(trace.get("x", ())) for trace in drawing(figure)["data"])


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    return simulated(60)


# ------------------------------------------------------------------------------- the local mean


def test_the_local_mean_finds_the_top_and_its_band_holds_the_truth() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(0.5, 4.0, 200)
    y = 0.7 - 0.03 * (x - 2.0) ** 2 + rng.normal(0, 0.005, 200)
    curve = smooth(x, y)
    assert curve is not None
    assert curve.best == pytest.approx(2.0, abs=0.25)
    assert curve.best_span[0] <= 2.0 <= curve.best_span[1]
    truth = 0.7 - 0.03 * (curve.x - 2.0) ** 2
    inside = (curve.low <= truth) & (truth <= curve.high)
    assert inside.mean() > 0.7
    assert curve.flat[0] <= curve.best <= curve.flat[1]
    assert curve.flat[1] - curve.flat[0] < 1.5


def test_a_score_that_does_not_depend_on_a_parameter_is_flat_all_along() -> None:
    rng = np.random.default_rng(4)
    curve = smooth(rng.uniform(0, 1, 100), rng.normal(0.7, 0.01, 100))
    assert curve is not None
    assert curve.flat[1] - curve.flat[0] > 0.8


def test_few_trials_have_no_band() -> None:
    assert smooth(np.arange(9.0), np.arange(9.0)) is None
    assert smooth(np.array([1.0, 2.0] * 10), np.arange(20.0)) is None


def test_a_parameter_over_decades_is_seen_by_its_order_of_magnitude() -> None:
    x = np.geomspace(1e-5, 1e-2, 40)
    y = 0.7 - 0.01 * (np.log10(x) + 4) ** 2
    curve = smooth(x, y, log=True)
    assert curve is not None
    assert curve.best == pytest.approx(1e-4, rel=0.3)


# ------------------------------------------------------------------------------- each figure


def test_every_topic_with_something_to_show_has_a_figure(
    study: optuna.Study, tmp_path: Path
) -> None:
    setup = load_setup(study)
    write_histories(study, setup, tmp_path)
    found = figures(Evidence(results_of(study, tmp_path)))
    expected = {"standing", "dice", "optimisation", "balance", "convergence", "restarts"}
    expected |= {"schedules", "importances", "classes", "pruning"}
    assert set(found) == expected | {f"parameter {name}" for name in setup.specs()}
    for figure in found.values():
        assert points_of(figure) > 0
        assert figure.layout.title.text


def test_the_dice_curve_marks_its_optimum_and_says_how_flat_it_is(study: optuna.Study) -> None:
    figure = dice_figure(Evidence(results_of(study)))
    assert figure is not None
    lines = [shape for shape in drawing(figure)["layout"]["shapes"] if shape["type"] == "line"]
    assert lines[0]["x0"] == pytest.approx(BEST_DICE, abs=0.5)
    assert "highest at 2." in figure.layout.title.subtitle.text
    assert "cannot be told from it" in figure.layout.title.subtitle.text


def test_pruned_trials_are_drawn_apart_and_carry_no_band(study: optuna.Study) -> None:
    results = results_of(study)
    (pruned, *_) = drawing(figures(Evidence(results))["parameter dropout"])["data"]
    names = [one.name for one in results.scored() if one.state == TrialState.PRUNED]
    assert pruned["marker"]["symbol"] == "circle-open"
    assert pruned["text"] == names


def test_choices_are_told_apart_by_name_with_an_interval_each(study: optuna.Study) -> None:
    figure = drawing(figures(Evidence(results_of(study)))["parameter dice_schedule"])
    means = figure["data"][-1]
    assert set(means["x"]) == {"constant", "step", "linear", "cosine"}
    assert all(reach > 0 for reach in means["error_y"]["array"])
    assert figure["layout"]["xaxis"]["type"] == "category"


def test_restarts_are_marked_where_each_trial_has_them() -> None:
    setup = setup_of(config={"epochs": 12})
    study = empty(setup)
    rng = random.Random(0)
    study.add_trials([row(setup, rng) for _ in range(3)])
    for one in results_of(study).outcomes:
        t_0 = one.params["T_0"]
        count = round(12 / t_0)
        assert restarts(one) == pytest.approx([t_0 * n for n in range(1, count)], abs=1e-3)
    figure = curves_figure(results_of(study).scored())
    assert figure is not None
    marks = [t for t in drawing(figure)["data"] if t["mode"] == "markers"]
    wanted = [one for one in results_of(study).outcomes if restarts(one)]
    assert len(marks) == len(wanted) > 0


@pytest.mark.long
def test_many_curves_are_thinned_to_what_a_screen_shows() -> None:
    figure = curves_figure(results_of(simulated(400, epochs=150)).scored())
    assert figure is not None
    traces = drawing(figure)["data"]
    assert len(traces) < 20
    assert points_of(figure) < 10_000
    assert len(figure.to_json()) < 300_000


def test_a_thinned_curve_keeps_its_ends_and_its_extremes() -> None:
    curve = {epoch: random.Random(epoch).random() for epoch in range(1, 151)}
    kept = thinned(curve, 40)
    assert len(kept) <= 42
    assert {1, 150, max(curve, key=curve.__getitem__), min(curve, key=curve.__getitem__)} <= set(
        kept
    )


def test_schedules_are_drawn_as_they_were_trained() -> None:
    setup = setup_of(fixes=("dice_schedule=step", "dice_weight=1.5", "dice_ramp=0.4"))
    study = empty(setup)
    good = row(setup, random.Random(0))
    good.params |= {"dice_schedule": "step", "dice_weight": 1.5, "dice_ramp": 0.4}
    study.add_trial(good)
    figure = schedules_figure(results_of(study).scored())
    assert figure is not None
    (trace,) = drawing(figure)["data"]
    assert trace["y"] == [1.3, 1.5, 1.7, 1.7]
    assert trace["line"]["dash"] == "dash"


def test_any_number_of_schedules_is_told_apart_by_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(dice_schedule.SCHEDULES)
    more = known | {f"linear {number}": known["linear"] for number in range(8)}
    for module in (dice_schedule, curves):
        monkeypatch.setattr(module, "SCHEDULES", more)
    trials = [
        outcomes.run(number, 0.7, config={"loss.dice_schedule": name, "loss.dice_ramp": 0.4})
        for number, name in enumerate(more)
    ]
    figure = schedules_figure(trials)
    assert figure is not None
    dashes = {line.name.split(": ")[1].split(",")[0]: line.line.dash for line in figure.data}
    assert dashes.keys() == more.keys()
    assert len(set(dashes.values())) == len(more)


def test_constant_schedules_alone_are_not_drawn() -> None:
    setup = setup_of()
    study = empty(setup)
    rng = random.Random(0)
    constant = [row(setup, rng) for _ in range(3)]
    for trial in constant:
        trial.params["dice_schedule"] = "constant"
    study.add_trials(constant)
    assert schedules_figure(results_of(study).scored()) is None


def test_importances_have_intervals(study: optuna.Study) -> None:
    (bars,) = drawing(figures(Evidence(results_of(study)))["importances"])["data"]
    # the first of a horizontal chart stands at its foot
    assert bars["x"] == sorted(bars["x"])
    assert any(reach > 0 for reach in bars["error_x"]["array"])
    assert any(reach > 0 for reach in bars["error_x"]["arrayminus"])


@pytest.mark.parametrize(
    ("decisive", "other", "score"),
    [
        ("dropout", "dice_weight", lambda dice, drop: 0.7 - 0.1 * drop),
        # a peak inside the range, along which no line rises
        ("dice_weight", "dropout", lambda dice, drop: 0.7 - 0.01 * (dice - 2.25) ** 2),
    ],
)
def test_importances_name_first_what_the_scores_were_made_of(
    decisive: str, other: str, score: Callable[[float, float], float]
) -> None:
    (bars,) = drawing(figures(Evidence(outcomes.searched(60, score)))["importances"])["data"]
    assert bars["y"] == [other, decisive]
    least, most = bars["x"]
    assert most > 0.8
    assert least < 0.1


def test_the_share_of_dice_is_read_from_the_config(study: optuna.Study) -> None:
    (one, *_) = results_of(study).outcomes
    weight = one.params["dice_weight"]
    assert dice_share(one) == pytest.approx(100 * weight / (1 + weight))


def test_repeats_are_drawn_with_their_intervals() -> None:
    figure = repeats_figure({"dice_weight 1.5": [0.7, 0.71, 0.72], "<b>": [0.6], "none": []})
    assert figure is not None
    traces = drawing(figure)["data"]
    assert [len(trace["x"]) for trace in traces] == [1, 3, 1]
    assert traces[0]["y"] == ["&lt;b&gt;"]
    assert repeats_figure({}) is None


# ------------------------------------------------------------------------------- strange studies


def imported(*runs: dict[str, Any]) -> optuna.Study:
    """A study of somebody else's runs."""
    study = optuna.create_study(study_name="old", direction="maximize")
    study.set_user_attr(IMPORTED, {"metric": "F pooled per batch of 32", "source": "old.json"})
    for number, run in enumerate(runs):
        curve = {1: 0.3, 2: 0.5, 3: 0.6 + 0.01 * number, 4: 0.55}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=max(curve.values()),
                params={"dice_weight": run["dice_weight"]},
                distributions={"dice_weight": distribution(Float(0.5, 4.0))},
                intermediate_values=curve,
                user_attrs={
                    RUN: run["name"],
                    CONFIG: {
                        "training.scheduler": run.get("scheduler", "CosineAnnealingLR"),
                        "training.scheduler_params.T_0": "1",
                        "training.scheduler_params.T_mult": 2,
                        "training.epochs": 6,
                        "training.weight_decay": "1e-4",
                    },
                    SERIES: {"train_f": [0.2, 0.4, 0.5, 0.6]},
                    "train_f_at_best": 0.5,
                },
            )
        )
    return study


def test_imported_runs_have_figures_without_intervals() -> None:
    names = [{"name": f"run {n}", "dice_weight": w} for n, w in enumerate((1.0, 1.5, 2.0))]
    found = figures(Evidence(results_of(imported(*names))))
    assert {"dice", "parameter dice_weight", "optimisation", "convergence"} <= set(found)
    assert "fewer than 3 at each value: no intervals" in found["dice"].layout.title.subtitle.text
    labelled = drawing(found["convergence"])["data"][-1]
    assert labelled["mode"] == "markers+text"
    assert labelled["text"] == ["run 2", "run 1", "run 0"]


def test_no_name_covers_another() -> None:
    trials = results_of(simulated(9)).complete()
    heights = [one.value or 0.0 for one in trials]
    # all in one place but the last
    alike = [dataclasses.replace(one, value=max(heights)) for one in trials[:-1]]
    last = dataclasses.replace(trials[-1], value=min(heights) - 0.1)
    tags = name_tags([*alike, last], [5.0] * len(trials))
    assert list(tags.text) == [alike[0].name, last.name]
    assert list(name_tags(alike, [100.0 * n for n in range(len(alike))]).text) == [
        one.name for one in alike[:6]
    ]


def test_a_recorded_learning_rate_tells_when_it_restarted() -> None:
    warm = {"name": "warm", "dice_weight": 1.5, "scheduler": "CosineAnnealingWarmRestarts"}
    study = imported(warm)
    (trial,) = study.get_trials()
    # a warm-up of one epoch comes before the first cycle of two
    trial.user_attrs[SERIES] = {"lr": [0.5, 1.0, 0.1, 1.0]}
    study.add_trial(trial)
    assert [restarts(one) for one in results_of(study).outcomes] == [[1.0, 3.0], [3.0]]


def test_runs_chosen_by_hand_carry_no_curve() -> None:
    weights = [0.5 + 0.2 * number for number in range(12)]
    runs = [{"name": f"run {n}", "dice_weight": w} for n, w in enumerate(weights)]
    found = figures(Evidence(results_of(imported(*runs))))
    assert "chosen by hand" in found["parameter dice_weight"].layout.title.subtitle.text
    for topic in ("parameter dice_weight", "dice", "optimisation"):
        assert {trace["mode"] for trace in drawing(found[topic])["data"]} == {"markers"}


def test_of_many_runs_the_best_with_restarts_are_shown_by_name_too() -> None:
    warm = "CosineAnnealingWarmRestarts"
    runs: list[dict[str, Any]] = [{"name": "warm", "dice_weight": 1.0, "scheduler": warm}]
    runs += [{"name": f"cold {n}", "dice_weight": 1.5} for n in range(12)]
    figure = curves_figure(results_of(imported(*runs)).scored())
    assert figure is not None
    names = [trace["name"] for trace in drawing(figure)["data"] if "name" in trace]
    assert names[0] == "cold 11, no restart"
    assert names[-1] == "warm, T_0 1"


def test_a_restart_is_marked_only_where_the_run_got_so_far() -> None:
    warm = {"name": "warm", "dice_weight": 1.5, "scheduler": "CosineAnnealingWarmRestarts"}
    cold = {"name": "cold", "dice_weight": 1.5}
    first, second = results_of(imported(warm, cold)).outcomes
    # cycles end after 1, 3 and 7 epochs; four were trained
    assert restarts(first) == [1.0, 3.0]
    assert restarts(second) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_studies_have_the_figures_they_can_have(count: int) -> None:
    found = figures(Evidence(results_of(simulated(count))))
    assert (found == {}) == (count == 0)
    assert "importances" not in found


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING])
def test_a_study_without_a_score_has_no_figures(state: TrialState) -> None:
    study = empty(setup_of())
    study.add_trial(create_trial(state=state))
    assert figures(Evidence(results_of(study))) == {}


def test_pruned_trials_alone_are_shown_as_such() -> None:
    setup = setup_of()
    study = empty(setup)
    rng = random.Random(1)
    study.add_trials([row(setup, rng, pruned=True) for _ in range(4)])
    found = figures(Evidence(results_of(study)))
    assert "only pruned ones" in found["parameter dropout"].layout.title.subtitle.text
    assert {"restarts", "pruning", "dice"} <= set(found)
    assert not {"convergence", "importances", "classes"} & set(found)


def test_names_in_figures_are_text_and_no_markup() -> None:
    bad = "<b onclick=x>%{x}</b>"
    found = figures(Evidence(results_of(imported({"name": bad, "dice_weight": 1.0}))))
    written = found["restarts"].to_json()
    assert "<b onclick" not in written.encode().decode("unicode_escape")
    assert "&lt;b onclick" in written.encode().decode("unicode_escape")
