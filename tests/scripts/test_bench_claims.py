"""Made-up searches: every claim is recognised, and where nothing matters few are made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmarks import claims as bench
from search.results.evidence import Evidence
from search.results.findings.every_finding import findings
from search.results.reading import results_of
from search.results.trials import Results
from tests.support.outcomes import run, searched, study
from tests.support.studies import setup_of


def everything_follows_dice(count: int = 60) -> Results:
    """Score, train F, parts, best epoch, instability, restarts and schedules all do."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        dice = float(rng.uniform(0.5, 4.0))
        value, top = 0.7 - 0.05 * dice, round(10 + 8 * dice)
        rough = 0.002 * dice
        curve = {e: value - 0.001 * abs(e - top) - rough * (e % 2) for e in range(1, 51)}
        config = {
            "loss.dice_schedule": "constant" if dice < 2 else "step",
            "training.scheduler_params.T_0": 25.0 if dice > 3 else 50.0,
        }
        made.append(
            run(
                number,
                value + 0.0005 * rng.normal(),
                dice,
                config=config,
                curve=curve,
                budget=50,
                attrs={"f_large": 0.9 - 0.02 * dice, "f_small": 0.5 + 0.02 * dice},
                params={"dice_weight": dice, "dropout": float(rng.uniform(0, 0.4))},
                train_f_at_best=value,
                gap=0.01 + 0.001 * rng.normal(),
            )
        )
    return study(made, setup_of())


def peak_at(weight: float) -> Callable[[], Results]:
    return lambda: searched(80, lambda d, p: 0.7 - 0.3 * (d - weight) ** 2)


def test_every_claim_is_recognised_where_it_is_made() -> None:
    made = set[str]()
    for results in (everything_follows_dice(), peak_at(1.5)(), peak_at(3.0)(), peak_at(1.0)()):
        said = bench.claimed(findings(Evidence(results)))
        made |= {name for name, it in zip(bench.CLAIMS, said, strict=True) if it}
    assert made == set(bench.CLAIMS)


@pytest.mark.parametrize("way", ["random", "tpe"])
def test_a_search_is_the_same_for_the_same_seed_and_pruned_only_where_it_should_be(
    way: str,
) -> None:
    once, again = (results_of(bench.searched(bench.PEAK, way, 16, 5)) for _ in range(2))
    assert [one.curve for one in once.outcomes] == [one.curve for one in again.outcomes]
    states = {one.state.name for one in once.outcomes}
    assert states == ({"COMPLETE"} if way == "random" else {"COMPLETE", "PRUNED"})


def test_a_small_run_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["--studies", "2", "--trials", "12", "--way", "random", "--workers", "1"]
    assert bench.main([*words, "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "| | nothing matters, random, every trial |" in said
    assert "| trials complete | 12.0 |" in said
    assert "| dropout: dropout matters most |" in said
    columns = json.loads(out.read_text())["columns"]
    assert tuple(column["truth"] for column in columns) == bench.TRUTHS
    assert set(columns[0]["said"]) == {*bench.CLAIMS, "trials complete"}


def test_of_pruned_searches_the_complete_trials_are_set_beside_all() -> None:
    row = bench.one_search(bench.DROPOUT, "tpe", 12, 0)
    names = bench.names_of(bench.DROPOUT)
    assert len(row) == 2 * len(names)
    complete = row[names.index("trials complete")]
    assert complete == row[len(names) + names.index("trials complete")] < 12
