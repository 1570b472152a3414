from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.study.training_metrics import COLUMNS, metrics, ratio, row_of, rows, still_rising, text
from tests.support.paths import HISTORIES
from tests.support.studies import play, setup_of, store, study_of

# dice weight -> best F, best epoch, train F there, gap, final F, degradation, percent: as written
BY_HAND = {
    1.0: (0.6819, 80, 0.6802, -0.0018, 0.6503, 0.0316, 4.6),
    1.5: (0.6889, 92, 0.6987, 0.0098, 0.6544, 0.0344, 5.0),
    2.0: (0.6702, 68, 0.6783, 0.0080, 0.6203, 0.0500, 7.5),
}
RUNS = {
    1.0: "microsegformer_20251007_153857",
    1.5: "microsegformer_20251008_025917",
    2.0: "microsegformer_20251009_174443",
}


def history(val_f: list[float], train_f: list[float] | None = None) -> list[dict[str, float]]:
    train = train_f or val_f
    return [
        {"epoch": epoch, "val_f": val, "train_f": fit}
        for epoch, (val, fit) in enumerate(zip(val_f, train, strict=True), 1)
    ]


def test_figures_of_a_history_counted_by_hand() -> None:
    found = metrics(history([0.1, 0.5, 0.4], [0.2, 0.6, 0.7]), dice_weight=1.5)
    assert found == {
        "best_val_f": 0.5,
        "best_epoch": 2,
        "train_f_at_best": 0.6,
        "gap": pytest.approx(0.1),
        "final_val_f": 0.4,
        "degradation": pytest.approx(0.1),
        "degradation_pct": pytest.approx(20),
        # changes 0.4 and -0.1
        "instability": pytest.approx(0.5 / 2**0.5),
        "ce_dice_ratio": "40:60",
        "epochs_trained": 3,
        "still_rising": False,
    }
    assert list(found) == list(COLUMNS)


@pytest.mark.parametrize("dice_weight", sorted(BY_HAND))
def test_figures_agree_with_the_table_that_was_made_by_hand(dice_weight: float) -> None:
    runs = {run["run"]: run for run in json.loads(HISTORIES.read_text(encoding="utf-8"))}
    run = runs[RUNS[dice_weight]]
    found = metrics(history(run["val_f_score"], run["train_f_score"]), dice_weight=dice_weight)
    best, epoch, train, gap, final, lost, percent = BY_HAND[dice_weight]
    assert found["best_val_f"] == pytest.approx(best, abs=6e-5)
    assert found["best_epoch"] == epoch
    assert found["train_f_at_best"] == pytest.approx(train, abs=6e-5)
    assert found["gap"] == pytest.approx(gap, abs=6e-5)
    assert found["final_val_f"] == pytest.approx(final, abs=6e-5)
    assert found["degradation"] == pytest.approx(lost, abs=6e-5)
    assert found["degradation_pct"] == pytest.approx(percent, abs=0.06)
    assert found["still_rising"] is False


def test_one_epoch_has_no_instability() -> None:
    found = metrics(history([0.3]), dice_weight=1.0)
    assert found["instability"] is None
    assert found["still_rising"] is False
    assert json.loads(json.dumps(found)) == found


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="got an empty list"):
        metrics([], dice_weight=1.0)


def test_a_score_that_climbs_to_the_end_is_still_rising() -> None:
    climbing = [0.01 * epoch for epoch in range(40)]
    assert still_rising(climbing)
    flat = [*climbing, *[0.4 + 0.002 * (epoch % 2) for epoch in range(20)]]
    assert not still_rising(flat)


def test_the_ratio_is_written_in_shares() -> None:
    assert ratio(1.0, 2.0) == "33:67"
    assert ratio(0.0, 0.0) == "0:100"


@pytest.mark.long
def test_rows_put_complete_trials_first(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, pruner="median")
    play(study, storage, setup_of(), 12)
    table = rows(study, 30)
    states = [row["state"] for row in table]
    assert states == sorted(states)
    assert set(states) == {"COMPLETE", "PRUNED"}
    complete = [row["value"] for row in table if row["state"] == "COMPLETE"]
    assert complete == sorted(complete, reverse=True)
    assert len(rows(study, 3)) == 3
    # no metrics were kept: what the curve tells is there
    assert table[0]["best_val_f"] == table[0]["value"]
    assert table[0]["gap"] is None
    assert row_of(study.trials[0])["params"] == study.trials[0].params


def test_cells_are_text() -> None:
    row = metrics(history([0.1, 0.5, 0.4], [0.2, 0.6, 0.7]), dice_weight=1.5)
    assert [text(name, row[name]) for name in COLUMNS] == [
        *("0.5000", "2", "0.6000", "+0.1000", "0.4000", "0.1000", "20.0", "0.3536"),
        *("40:60", "3", "no"),
    ]
