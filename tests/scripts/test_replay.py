"""Replayed studies: results that can be counted by hand, and errors that a simulation confirms."""

from __future__ import annotations

import json
import math
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.trial import TrialState
from PIL import Image

from scripts.benchmarks import pruners as bench
from scripts.benchmarks import replay
from scripts.benchmarks import replay_rules as rules
from search.strategy.forecast.curve_banks import Recorded, read_bank, seed_deviation, write_bank
from tests.support.paths import ROOT
from tests.support.scripts import python
from tests.support.shells import one_line


def curve(config: int, *val_f: float, seed: int = 0) -> Recorded:
    return Recorded(config, seed, {"x": config / 10}, val_f, (1e-3,) * len(val_f))


SHIPPED = read_bank(ROOT / "search" / "strategy" / "forecast" / "banks" / "real-faces-64.json")


def played(rule: Any, *curves: Recorded) -> Any:
    return replay.Replay(curves, rule, replay.distributions_of(curves)).run()


def bank(configs: int, epochs: int = 10, seeds: int = 2, seed: int = 0) -> tuple[Recorded, ...]:
    """Made-up curves: levels apart by far more than the seeds."""
    rng = np.random.default_rng(seed)
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / (epochs / 4))
    return tuple(
        Recorded(
            config,
            repeat,
            {"x": level, "kind": "ab"[config % 2]},
            tuple((level * rise + rng.normal(0, 0.002, epochs)).clip(0, 1).tolist()),
            (1e-3,) * epochs,
        )
        for config, level in enumerate(rng.uniform(0.6, 0.8, configs).tolist())
        for repeat in range(seeds)
    )


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.json"
    write_bank(path, bank(8))
    return path


# --------------------------------------------------------------------------------------- one study


def test_without_pruning_every_epoch_is_trained_and_the_best_epoch_wins() -> None:
    outcome = played(replay.Rule(NopPruner()), curve(0, 0.1, 0.5, 0.4), curve(1, 0.2, 0.3, 0.4))
    assert outcome == replay.Outcome(epochs=6, answer=0.5, whole=True)


def test_a_pruned_trial_costs_what_it_trained_and_is_no_answer() -> None:
    # the last is third of three at epoch 2, though it would have ended best
    early = [curve(0, 0.1, 0.5, 0.6), curve(1, 0.1, 0.4, 0.5), curve(2, 0.1, 0.3, 0.9)]
    outcome = played(replay.Rule(rules.OneCheck(2, keep=2)), *early)
    assert outcome == replay.Outcome(epochs=3 + 3 + 2, answer=0.6, whole=True)


class Parking(BasePruner):
    """Parks every trial after one epoch and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.asked.append((trial.number, trial.last_step))
        return trial.last_step == 1


def test_where_none_was_trained_to_its_end_the_best_that_was_reached_answers() -> None:
    outcome = played(replay.Rule(Parking()), curve(0, 0.1, 0.9), curve(1, 0.3, 0.2))
    assert outcome == replay.Outcome(epochs=2, answer=0.3, whole=False)


def test_a_revived_trial_goes_on_from_where_it_stood_and_its_epochs_count() -> None:
    studies: list[optuna.Study] = []
    asked: list[int] = []

    def revive(study: optuna.Study, total: int) -> int | None:
        studies[:] = [study]
        asked.append(len(study.trials))
        return 0 if len(study.trials) == 2 else None

    pruner = Parking()
    outcome = played(replay.Rule(pruner, revive), curve(0, 0.5, 0.3, 0.4), curve(1, 0.1, 0.2, 0.9))
    # the best epoch lies before the revival
    assert outcome == replay.Outcome(epochs=1 + 1 + 2, answer=0.5, whole=True)
    assert asked == [0, 1, 2, 3]
    assert pruner.asked == [(0, 1), (1, 1), (2, 2)]
    row = studies[0].trials[2]
    assert (row.user_attrs, row.intermediate_values) == ({"continues": 0}, {2: 0.3, 3: 0.4})
    assert (row.state, row.value, row.params) == (TrialState.COMPLETE, 0.5, {"x": 0.0})


def test_a_rule_is_asked_before_each_trial_and_after_the_last_until_it_names_none() -> None:
    asked: list[int] = []

    def revive(study: optuna.Study, total: int) -> int | None:
        assert total == 2
        asked.append(len(study.trials))
        return {2: 1, 3: 0}.get(len(study.trials))

    outcome = played(replay.Rule(Parking(), revive), curve(0, 0.1, 0.2), curve(1, 0.1, 0.3))
    assert asked == [0, 1, 2, 3, 4]
    assert outcome == replay.Outcome(epochs=4, answer=0.3, whole=True)


@pytest.mark.parametrize("number", [0, 7])
def test_reviving_what_is_not_parked_is_an_error(number: int) -> None:
    rule = replay.Rule(NopPruner(), lambda study, total: number if study.trials else None)
    with pytest.raises(ValueError, match=f"row {number} is revived"):
        played(rule, curve(0, 0.1, 0.2), curve(1, 0.1, 0.2))


def test_optunas_median_rule_decides_here_as_in_a_study_of_its_own() -> None:
    curves = list(bank(12, seeds=1))
    study = optuna.create_study(direction="maximize", pruner=MedianPruner())
    epochs = 0
    for one in curves:
        trial = study.ask()
        for epoch, score in enumerate(one.val_f, 1):
            trial.report(score, epoch)
            epochs += 1
            if epoch < len(one.val_f) and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, max(one.val_f))
    outcome = played(replay.Rule(MedianPruner()), *curves)
    assert 0 < sum(trial.state == TrialState.PRUNED for trial in study.trials) < 7
    assert (outcome.epochs, outcome.answer) == (epochs, study.best_value)


# ----------------------------------------------------------------------------------------- studies


def test_studies_are_the_same_for_the_same_seed_and_hold_each_configuration_once() -> None:
    curves = bank(8)
    drawn = replay.draw_studies(curves, size=5, count=40, seed=1)
    assert drawn == replay.draw_studies(curves, size=5, count=40, seed=1)
    assert drawn != replay.draw_studies(curves, size=5, count=40, seed=2)
    for study in drawn:
        assert len({one.config for one in study.curves}) == 5
    seeds = {(one.config, one.seed) for study in drawn for one in study.curves}
    assert len(seeds) == 16
    assert len({study.curves[0].config for study in drawn}) == 8


def test_the_prior_holds_no_seed_of_a_configuration_of_the_study() -> None:
    curves = bank(8)
    for study in replay.draw_studies(curves, size=5, count=10, seed=1):
        inside = {one.config for one in study.curves}
        assert {one.config for one in study.prior} == set(range(8)) - inside
        assert len(study.prior) == 6
    (given,) = replay.draw_studies(curves, size=5, count=1, seed=1, prior=curves[:2])
    assert given.prior == curves[:2]


def test_too_few_configurations_are_named() -> None:
    with pytest.raises(replay.UserError, match="--trials 9: 8 configurations"):
        replay.draw_studies(bank(8), size=9, count=1, seed=0)


def test_halves_share_no_configuration_and_do_not_depend_on_the_order_of_the_bank() -> None:
    curves = bank(9)
    parts = replay.halves(curves)
    configs = {name: set(replay.configurations(part)) for name, part in parts.items()}
    assert configs["a"] | configs["b"] == set(range(9))
    assert (len(configs["a"]), len(configs["b"])) == (5, 4)
    assert sum(map(len, parts.values())) == len(curves)
    turned = replay.halves(curves[::-1])
    assert {name: frozenset(map(id, part)) for name, part in turned.items()} == {
        name: frozenset(map(id, part)) for name, part in parts.items()
    }


def test_distributions_hold_every_value_of_the_bank() -> None:
    curves = [
        Recorded(n, 0, {"x": n / 10, "T_0": [24, 4.8][n % 2], "kind": "ab"[n % 2]}, (0.1,), (1.0,))
        for n in range(12)
    ]
    found = replay.distributions_of(curves)
    assert found["T_0"] == optuna.distributions.CategoricalDistribution((24, 4.8))
    assert found["kind"] == optuna.distributions.CategoricalDistribution(("a", "b"))
    assert found["x"] == optuna.distributions.FloatDistribution(0.0, 1.1)


def test_a_sample_of_the_space_mixes_what_configurations_have() -> None:
    curves = bank(12, seeds=1)
    drawn = replay.sample_of(curves, 50)
    assert drawn == replay.sample_of(curves, 50)
    seen = {(one["x"], one["kind"]) for one in drawn}
    own = {(one.params["x"], one.params["kind"]) for one in curves}
    assert {x for x, _ in seen} <= {x for x, _ in own}
    assert seen - own


# ----------------------------------------------------------------------------------------- figures


def test_figures_stand_beside_the_same_study_without_pruning() -> None:
    study = replay.Study((curve(0, 0.1, 0.5), curve(1, 0.3, 0.6)), ())
    outcomes = [
        replay.Outcome(4, 0.6, True),
        replay.Outcome(3, 0.595, True),
        replay.Outcome(3, 0.5, True),
        # as good as the best, but not trained to its end
        replay.Outcome(2, 0.6, False),
    ]
    figures = replay.figures_of(outcomes, [study] * 4, 0.01)
    assert figures["epochs_share"].tolist() == [1, 0.75, 0.75, 0.5]
    assert figures["p_worse"].tolist() == [0, 0, 1, 0]
    assert figures["p_lose_strict"].tolist() == [0, 1, 1, 1]
    assert figures["regret_sd"] == pytest.approx([0, 0.5, 10, 0])


def test_membership_has_a_column_for_each_configuration() -> None:
    curves = [curve(3, 0.1), curve(5, 0.1), curve(5, 0.1, seed=1), curve(9, 0.1)]
    studies = [replay.Study((curves[2], curves[0]), ()), replay.Study((curves[3],), ())]
    assert replay.membership(studies, curves).tolist() == [[1, 1, 0], [0, 0, 1]]


def sample(n: int, k: int, studies: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """The mean over each study's configurations of a number that each of them has."""
    drawn = np.argsort(rng.random((studies, n)), axis=1)[:, :k]
    member = np.zeros((studies, n))
    np.put_along_axis(member, drawn, 1, axis=1)
    return member @ rng.normal(size=n) / k, member


def test_the_standard_error_is_that_of_other_banks_and_not_of_other_orders() -> None:
    rng = np.random.default_rng(0)
    found = [replay.estimate(*sample(32, 16, 300, rng)) for _ in range(300)]
    true = np.std([one.mean for one in found])
    told = math.sqrt(np.mean([one.error**2 for one in found]))
    # a mean of 32 numbers of deviation 1
    assert true == pytest.approx(1 / math.sqrt(32), rel=0.15)
    assert told == pytest.approx(true, rel=0.15)
    orders = math.sqrt(np.mean([np.var(sample(32, 16, 300, rng)[0]) / 300 for _ in range(50)]))
    assert orders < true / 10


def test_no_standard_error_where_studies_hold_everything() -> None:
    values = np.array([0.0, 1.0])
    assert replay.estimate(values, np.ones((2, 4))) == replay.Estimate(0.5, None)
    assert replay.estimate(values[:1], np.eye(3)[:1]).error is None


# ------------------------------------------------------------------------------------------- rules


def test_one_check_keeps_the_best_three_so_far() -> None:
    scores = [0.5, 0.4, 0.3, 0.2, 0.45]
    outcome = played(
        replay.Rule(rules.OneCheck(1)), *(curve(n, s, s) for n, s in enumerate(scores))
    )
    # only 0.2 has three better ones before it; 0.45 is second
    assert outcome.epochs == 4 * 2 + 1


def test_stopping_at_a_rung_asks_what_came_before() -> None:
    asked: list[tuple[float, list[float]]] = []

    def goes_on(own: float, earlier: list[float]) -> bool:
        asked.append((own, sorted(earlier)))
        return own > 0.25

    rule = replay.Rule(rules.Stopping([2], goes_on))
    scores = [0.5, 0.2, 0.3]
    outcome = played(rule, *(curve(n, s, s, s) for n, s in enumerate(scores)))
    assert asked == [(0.2, [0.5]), (0.3, [0.2, 0.5])]
    assert outcome.epochs == 3 + 2 + 3


def test_the_re_stated_rules_keep_the_best_quarter_and_the_best_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "_imported", lambda module, name: None)
    setting = replay.Setting(epochs=5, total=9, prior=())
    earlier = [0.1, 0.2, 0.3, 0.4, 0.5]
    ray = rules._ray(setting, 0.0).pruner._goes_on
    assert (ray(0.4, earlier), ray(0.39, earlier)) == (True, False)
    syne = rules._syne(setting, 0.0).pruner._goes_on
    # of six, itself included, a third may be better: two
    assert (syne(0.35, earlier), syne(0.25, earlier)) == (True, False)
    assert [name for name in rules.rules() if "ASHA (re-stated after" in name]


def test_promotion_pauses_at_each_rung_and_promotes_the_best_third() -> None:
    pruner = rules.Promotion([1, 3], eta=3)
    scores = [0.1, 0.2, 0.6, 0.3, 0.4, 0.5]
    outcome = played(
        replay.Rule(pruner, pruner.promote), *(curve(n, *[s] * 4) for n, s in enumerate(scores))
    )
    # six at epoch 1, the best two of them to epoch 3, of which none is a third
    assert outcome == replay.Outcome(epochs=6 + 2 * 2, answer=0.6, whole=False)


def test_the_extrapolator_learns_where_curves_end_and_how_sure_that_is() -> None:
    curves = np.array([one.val_f for one in bank(30, epochs=12, seeds=1)])
    model = rules.Extrapolator(12, curves[:20])
    model.learn([])
    early = [model.ahead(one[:2]) for one in curves[20:]]
    late = [model.ahead(one[:9]) for one in curves[20:]]
    ends = curves[20:, -1]
    assert np.corrcoef([mean[-1] for mean, _ in late], ends)[0, 1] > 0.95
    off = [
        (mean[-1] - end) / sd[-1]
        for (mean, sd), end in zip(early + late, [*ends, *ends], strict=True)
    ]
    assert np.sqrt(np.mean(np.square(off))) < 2
    assert late[0][1][-1] < early[0][1][-1]
    blind = rules.Extrapolator(12, curves[:0])
    blind.learn([])
    assert blind.ahead(np.empty(0))[1].min() > 0.2


def test_predictive_stopping_gives_up_the_hopeless_and_spares_the_best() -> None:
    good, bad = bank(1, seed=1)[0], bank(1, seed=1)[1]
    hopeless = Recorded(9, 0, bad.params, tuple(0.5 * score for score in bad.val_f), bad.lr)
    prior = np.array([one.val_f for one in bank(20, seed=3)])
    rule = replay.Rule(rules.PredictiveStopping(rules.Extrapolator(10, prior)))
    outcome = played(rule, good, hopeless)
    assert 10 < outcome.epochs < 20
    assert played(rule, hopeless, good).epochs == 20


def test_freeze_thaw_keeps_to_its_budget_and_moves_on_with_the_best() -> None:
    curves = bank(8, seeds=1, seed=5)
    setting = replay.Setting(10, 8, bank(12, seed=6))
    outcome = played(
        rules.rules()["freeze-thaw (plain, after ifBO), 42 %, with the prior"](setting), *curves
    )
    assert outcome.epochs <= math.floor(0.42 * 80)
    assert outcome.whole
    best = sorted((max(one.val_f) for one in curves), reverse=True)
    assert outcome.answer in best[:2]


@pytest.mark.parametrize("name", rules.rules())
def test_every_rule_runs_and_is_deterministic(name: str) -> None:
    curves = bank(12, seeds=1)
    (study,) = replay.draw_studies(curves, size=8, count=1, seed=0)
    make = rules.rules()[name]
    outcomes = [
        played(make(replay.Setting(10, 8, study.prior, replay.sample_of(curves))), *study.curves)
        for _ in range(2)
    ]
    assert outcomes[0] == outcomes[1]
    assert 8 <= outcomes[0].epochs <= 80
    if name == "no pruning":
        assert outcomes[0].epochs == 80


def test_the_grid_holds_what_ships_and_other_thresholds_decide_otherwise() -> None:
    halves = replay.halves(SHIPPED)
    curves = halves["a"]
    (study,) = replay.draw_studies(curves, size=12, count=1, seed=0, prior=halves["b"])
    epochs = len(curves[0].val_f)
    setting = replay.Setting(epochs, 12, study.prior, replay.sample_of(curves))
    outcomes = {name: played(make(setting), *study.curves) for name, make in rules.grid().items()}
    shipped = played(rules.restart_aware(setting), *study.curves)
    assert outcomes["park 5, again 0.5, from 10 %"] == shipped
    assert len({outcome.epochs for outcome in outcomes.values()}) > 1


# ------------------------------------------------------------------------------- the command line


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return python("-m", "scripts.benchmarks.pruners", *words)


@pytest.mark.proof
def test_the_bench_prints_the_table_and_writes_it_with_a_picture(
    bank_file: Path, tmp_path: Path
) -> None:
    table, picture = tmp_path / "table.json", tmp_path / "front.png"
    words = ["--bank", bank_file, "--prior", bank_file, "--trials", 4, 6, "--studies", 12]
    words += ["--only", "median", "restart-aware", "one check at 25 %, top 3"]
    done = run(*words, "--workers", 2, "--json", table, "--picture", picture)
    assert (done.returncode, done.stderr) == (0, "")
    assert "studies of 4 trials" in done.stdout
    assert "| no pruning | 1.000 ± 0.000 | 0.000 ± 0.000 |" in done.stdout
    assert "Wilcoxon is left out" in done.stdout
    assert "fewer epochs and a lower p_worse than restart-aware" in done.stdout
    written = json.loads(table.read_text())
    assert set(written["tables"]) == {"4", "6"}
    assert list(written["tables"]["6"]) == [
        *("no pruning", "restart-aware", "median", "one check at 25 %, top 3")
    ]
    for row in written["tables"]["6"].values():
        assert list(row) == list(replay.FIGURES)
        assert 0 < row["epochs_share"]["mean"] <= 1
    assert written["tables"]["6"]["one check at 25 %, top 3"]["epochs_share"]["mean"] < 1
    assert {"command", "commit", "date", "seed_sd", "left_out"} <= set(written)
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


@pytest.mark.proof
def test_one_process_and_two_come_to_the_same_table(bank_file: Path) -> None:
    words = ["--bank", bank_file, "--prior", "none", "--trials", 4, "--studies", 7]
    words += ["--only", "freeze-thaw (plain, after ifBO), 42 %"]
    one, two = (run(*words, "--workers", workers).stdout for workers in (1, 2))
    assert one == two
    assert "freeze-thaw" in one


def sources(*words: object) -> Any:
    return bench.read_sources(bench.parser().parse_args(list(map(str, words))))


def test_of_a_half_the_other_half_is_the_prior(bank_file: Path) -> None:
    curves, prior, _ = sources("--bank", bank_file, "--half", "b")
    parts = replay.halves(bank(8))
    assert (curves, prior) == (parts["b"], parts["a"])
    assert sources("--bank", bank_file, "--half", "a", "--prior", "none")[1] == ()
    assert sources("--bank", bank_file, "--prior", bank_file)[1] == bank(8)


def test_a_foreign_bank_starts_from_the_shipped_one(
    bank_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped.json"
    write_bank(shipped, bank(3, seed=9))
    monkeypatch.setattr(bench, "BANK", shipped)
    assert sources("--bank", bank_file)[1] == bank(3, seed=9)
    # of the shipped one itself each study leaves out its own configurations
    assert sources("--bank", shipped)[1] is None


def test_the_seed_deviation_is_measured_or_asked_for(bank_file: Path, tmp_path: Path) -> None:
    *_, measured = sources("--bank", bank_file, "--prior", "none")
    assert 0 < measured < 0.01
    assert sources("--bank", bank_file, "--prior", "none", "--seed-sd", 0.5)[2] == 0.5
    single = tmp_path / "single.json"
    write_bank(single, bank(8, seeds=1))
    with pytest.raises(bench.UserError, match="give the seeds' standard deviation with --seed-sd"):
        sources("--bank", single, "--prior", "none")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trials", "9"], "--trials 9"),
        (["--only", "luck"], "--only luck"),
        (["--prior", "nowhere.json"], "nowhere.json"),
        (["--half", "a"], "--trials 16: 4 configurations"),
        (["--bank", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    bank_file: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--bank", str(bank_file), "--workers", "1", "--prior", "none"]
    assert named in one_line(bench.main, capsys, *common, *words)


def test_rules_ahead_of_ours_are_named_and_ties_said_so() -> None:
    rng = random.Random(0)
    member = np.array([[rng.sample([1, 1, 0, 0], 4)] for _ in range(200)]).reshape(200, 4)
    ones, worse = np.ones(200), (np.arange(200) % 10 == 0).astype(float)
    hardly = worse.copy()
    hardly[np.flatnonzero(worse)[0]] = 0
    figures = {
        "ours": {"epochs_share": 0.5 * ones, "p_worse": worse},
        "clear": {"epochs_share": 0.4 * ones, "p_worse": 0 * ones},
        "tie": {"epochs_share": 0.4 * ones, "p_worse": hardly},
        "dearer": {"epochs_share": 0.6 * ones, "p_worse": 0 * ones},
    }
    found = bench.ahead_of("ours", figures, member.astype(float))
    assert found == {"clear": False, "tie": True}


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(0.5, 0.2), (0.3, 0.4), (0.6, 0.3), (1.0, 0.0)]
    assert bench._front(points) == [(0.3, 0.4), (0.5, 0.2), (1.0, 0.0)]


# ---------------------------------------------------------------------------------- what it shows


def means(
    name: str, curves: tuple[Recorded, ...], prior: tuple[Recorded, ...], *, size: int, count: int
) -> dict[str, float]:
    """The figures of a rule over studies that are the same for every rule."""
    studies = replay.draw_studies(curves, size=size, count=count, seed=0, prior=prior)
    make, space = rules.rules()[name], replay.distributions_of(curves)
    sample = replay.sample_of(curves)
    outcomes = [
        replay.Replay(
            study.curves,
            make(replay.Setting(len(curves[0].val_f), size, study.prior, sample, study.seed)),
            space,
        ).run()
        for study in studies
    ]
    noise = seed_deviation(SHIPPED)
    assert noise is not None
    figures = replay.figures_of(outcomes, studies, noise)
    return {figure: float(values.mean()) for figure, values in figures.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "share", "risk", "regret"),
    [("restart-aware", 0.6, 0.01, 0.1), ("restart-aware, risk 0.05", 0.52, 0.05, 0.35)],
)
@pytest.mark.parametrize(("half", "other"), ["ab", "ba"])
def test_the_winner_is_kept_on_curves_that_the_prior_has_not_seen(
    half: str, other: str, name: str, share: float, risk: float, regret: float
) -> None:
    halves = replay.halves(SHIPPED)
    ours = means(name, halves[half], halves[other], size=16, count=40)
    assert ours["epochs_share"] < share
    assert ours["p_worse"] <= risk
    assert ours["regret_sd"] < regret


@pytest.mark.long
def test_on_curves_without_restarts_it_does_no_worse_than_one_check() -> None:
    epochs = len(SHIPPED[0].val_f)
    plain = tuple(curve for curve in SHIPPED if curve.params["T_0"] == epochs)
    others = tuple(curve for curve in SHIPPED if curve.params["T_0"] != epochs)
    ours = means("restart-aware", plain, others, size=8, count=40)
    for check in ("epoch 1", "25 %", "40 %"):
        theirs = means(f"one check at {check}, top 3", plain, others, size=8, count=40)
        assert ours["p_worse"] <= theirs["p_worse"]
        assert ours["regret_sd"] <= theirs["regret_sd"]
        assert ours["epochs_share"] <= theirs["epochs_share"]
