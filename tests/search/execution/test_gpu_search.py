"""A search on a GPU that is not there: real store, real worker, real training; scores are given."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from optuna.trial import TrialState

from search.execution.worker_loop import work
from search.study.lineages import best_of
from search.study.run_folders import trial_folder
from search.trainers.contract import Machine
from search.trainers.selection import trainer_of
from tests.support.fake_training import fake_training
from tests.support.studies import context_at, real_study, store
from trainer import checkpoint
from trainer.fit import _Training

# the second is the worst after one epoch, where it is judged, and would be the best in the end
CURVES = [
    [0.20, 0.30, 0.40, 0.50],
    [0.10, 0.75, 0.80, 0.85],
    [0.30, 0.40, 0.50, 0.60],
    [0.40, 0.50, 0.60, 0.70],
]
EPOCHS = 4


def test_a_trial_that_is_pruned_on_a_gpu_goes_on_at_the_end(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"pruner": "successive-halving", "revive": 1}
    study = real_study(storage, total=len(CURVES), config={"epochs": EPOCHS}, **options)
    context = context_at(tmp_path, storage)
    context.trainer = trainer_of(context.setup, Machine("cuda:0", 1))
    seeds: list[int] = []

    def score(training: _Training) -> float:
        seed = training.config.training.seed
        if seed not in seeds:
            seeds.append(seed)
        return CURVES[seeds.index(seed)][len(training.history)]

    with (
        fake_training(scores=score) as seen,
        mock.patch("search.trainers.faces.final_scores", return_value={"f_score_full": 0.5}),
        mock.patch("search.trainers.faces.contact_sheet"),
    ):
        assert work(context) == 0
    rows = study.get_trials()
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [row.state for row in rows] == [complete, pruned, complete, complete, complete]
    parked, revived = rows[1], rows[4]
    assert revived.user_attrs["continues"] == 1
    assert (sorted(parked.intermediate_values), sorted(revived.intermediate_values)) == (
        [1],
        [2, 3, 4],
    )
    answer = best_of(rows)
    assert answer is not None
    assert (answer.number, answer.value) == (1, max(CURVES[1]))
    assert {row.user_attrs["runtime"]["device"] for row in rows} == {"cuda:0"}
    # it went on from its checkpoint
    (folder,) = trial_folder(tmp_path / "runs", "faces", 4).glob("[0-9]*")
    last = checkpoint.read(folder / "last.pt")
    assert [row["val_f"] for row in last["history"]] == CURVES[1]
    steps = [row["step"] for row in last["history"]]
    assert steps == [steps[0] * epoch for epoch in range(1, EPOCHS + 1)]
    assert last["adamw"]["steps"] == last["ema_updates"] == steps[-1]
    # four trainings, and the revived one's second part
    assert seen.events.count("capture ends") == 5
    assert all(devices == {"cpu"} for _, devices in seen.written)
    # nothing is left to do
    assert storage.live_claims(study._study_id) == []
    assert work(context) == 0
    assert len(study.get_trials()) == 5
