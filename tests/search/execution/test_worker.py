from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from search.execution.trial_runner import FAILURES_IN_A_ROW
from search.execution.worker_loop import work
from search.strategy.loading import load_study
from search.study.checkpoints import newest_checkpoint
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.setup import config_for, trial_seed
from search.study.shared_state import drain
from search.trainers import faces
from search.trainers.contract import Machine
from search.trainers.selection import trainer_of
from search.worker import main
from storage import LeasedStorage
from tests.support.shells import one_line
from tests.support.studies import context_at, fit_and, real_study, start_worker, store, wait_until
from trainer import checkpoint
from trainer.config import base_identity, config_from_dict, read_config, read_yaml, to_dict
from trainer.errors import DataError, Diverged
from trainer.fit import fit

LONG = {"epochs": 40}


def finished_well(worker: subprocess.Popen[str]) -> str:
    out, err = worker.communicate(timeout=120)
    assert (worker.returncode, err) == (0, "")
    return out


def epochs_of(storage: LeasedStorage, number: int = 0) -> int:
    trials = load_study(storage, "faces").get_trials(deepcopy=False)
    return len(trials[number].intermediate_values) if len(trials) > number else 0


def scores(curve: dict[int, float]) -> Any:
    """A stand-in for training that reports a curve and ends as it pleases."""

    def play(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        epochs = config.training.epochs
        for epoch, score in curve.items():
            report(faces.Progress(epoch, epochs, epoch, score, score, epoch, {}))
        raise Diverged("the loss is nan")

    return play


def test_a_worker_fills_the_budget_and_leaves_everything_behind(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    said = finished_well(start_worker(tmp_path))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert said.startswith("trial 0: COMPLETE")
    assert trial.value == max(trial.intermediate_values.values())
    attrs = trial.user_attrs
    assert attrs["seed"] == trial_seed(0, 0)
    assert attrs["runtime"]["threads"] == 1
    assert attrs["best_val_f"] == trial.value
    assert {"gap", "instability", "f_large", "f_small", "f_score_full"} <= attrs.keys()
    metas = {meta.filename for meta in get_all_artifact_meta(trial, storage=storage)}
    assert metas == {"config.yaml", "contact_sheet.png"}
    folder = trial_folder(tmp_path / "runs", "faces", 0)
    exported, notes = read_config(next(folder.glob("*/config.yaml")))
    assert notes == []
    wanted = config_for(
        load_setup(study), trial.params, seed=attrs["seed"], runtime=attrs["runtime"]
    )
    assert base_identity(exported, []) == base_identity(wanted, [])
    assert not storage.live_claims(study._study_id)
    # nothing is left to do
    assert finished_well(start_worker(tmp_path)) == ""
    assert len(study.get_trials()) == 1


def test_a_trial_killed_in_mid_training_is_finished_under_its_number(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    real_study(store(whole), total=1, config={"epochs": 8})
    finished_well(start_worker(whole))
    storage = store(tmp_path)
    study = real_study(storage, total=1, config={"epochs": 8})
    first = start_worker(tmp_path)
    wait_until(lambda: epochs_of(storage) >= 2, "the second epoch")
    first.kill()
    first.communicate()
    before = study.get_trials()[0]
    assert before.state == TrialState.RUNNING
    assert len(before.intermediate_values) < 8
    finished_well(start_worker(tmp_path))
    (after,) = study.get_trials()
    (unbroken,) = load_study(store(whole), "faces").get_trials()
    assert after.state == TrialState.COMPLETE
    assert after.params == unbroken.params
    # to the last digit
    assert after.intermediate_values == unbroken.intermediate_values
    assert after.value == unbroken.value
    tokens = sorted(path.name for path in trial_folder(tmp_path / "runs", "faces", 0).iterdir())
    assert len(tokens) == 2


def test_a_signal_puts_the_trial_back_in_the_queue(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=2, config=LONG)
    worker = start_worker(tmp_path)
    wait_until(lambda: epochs_of(storage) >= 1, "the first epoch")
    worker.send_signal(signal.SIGTERM)
    finished_well(worker)
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    assert not storage.live_claims(study._study_id)
    # the checkpoint of every reported epoch is there
    config = config_from_dict(
        to_dict(
            config_for(
                load_setup(study),
                trial.params,
                seed=trial.user_attrs["seed"],
                runtime=trial.user_attrs["runtime"],
            )
        )
    )
    start = newest_checkpoint(
        [trial_folder(tmp_path / "runs", "faces", 0)], config, load_setup(study).uid
    )
    assert start is not None
    assert start.epoch == max(trial.intermediate_values)
    stranger = newest_checkpoint(
        [trial_folder(tmp_path / "runs", "faces", 0)], config, "of a deleted study"
    )
    assert stranger is None
    # one of an earlier version has nothing that training could go on from
    older = checkpoint.read(start.path)
    del older["adamw"]
    for path in trial_folder(tmp_path / "runs", "faces", 0).glob("*/last.pt"):
        checkpoint.write(path, older)
    assert (
        newest_checkpoint(
            [trial_folder(tmp_path / "runs", "faces", 0)], config, load_setup(study).uid
        )
        is None
    )


@pytest.mark.long
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    storage = store(tmp_path)
    # an epoch of many seconds, on a quick machine too
    slow = {"image_size": 256, "width": 1.0, "synthetic_images": 120}
    study = real_study(storage, total=1, config=slow)
    worker = start_worker(tmp_path)
    wait_until(lambda: bool(study.get_trials(deepcopy=False)), "a trial")
    wait_until(lambda: "runtime" in study.get_trials()[0].user_attrs, "its start")
    time.sleep(0.5)
    worker.send_signal(signal.SIGINT)
    # a second one counts from a second after the first was heard, late on a busy machine
    time.sleep(3)
    assert worker.poll() is None
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=120)
    # one that had finished its epoch would leave with 0
    assert worker.returncode == 130
    assert study.get_trials()[0].state == TrialState.WAITING


@pytest.mark.long
def test_two_workers_keep_to_the_budget(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=5, config={"epochs": 2}, pruner="none")
    for worker in [start_worker(tmp_path) for _ in range(2)]:
        finished_well(worker)
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * 5


def test_a_drained_study_lets_its_workers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    monkeypatch.setattr(faces, "fit", fit_and(lambda: drain(study)))
    assert work(context_at(tmp_path, storage)) == 0
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    assert sorted(trial.intermediate_values) == [1]


def wait_for_beats(storage: LeasedStorage, study: optuna.Study) -> None:
    """Until the owner of the only claim has beaten twice: by then it has heard a request."""
    (claim,) = storage.live_claims(study._study_id)

    def twice() -> bool:
        return storage.live_claims(study._study_id)[0].beat >= claim.beat + 2

    wait_until(twice, "two beats")


def test_a_stopped_trial_is_pruned_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def stop() -> None:
        assert storage.ask_owners(study._study_id, "stop", 0) == 1
        wait_for_beats(storage, study)

    monkeypatch.setattr(faces, "fit", fit_and(stop))
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["stopped"] is True
    assert trial.user_attrs["epochs_trained"] == 1


def test_a_request_to_requeue_puts_the_trial_back_and_the_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def back() -> None:
        storage.ask_owners(study._study_id, "requeue")
        wait_for_beats(storage, study)

    monkeypatch.setattr(faces, "fit", fit_and(back))
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert len(list(trial_folder(tmp_path / "runs", "faces", 0).iterdir())) == 2


def test_a_trial_ended_in_the_dashboard_frees_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    # what the dashboard's tell does, from a process of its own
    other = store(tmp_path)

    def tell() -> None:
        trial_id = study.get_trials()[0]._trial_id
        other.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])

    monkeypatch.setattr(faces, "fit", fit_and(tell))
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.intermediate_values == {}
    # a store that is lost afterwards is made again with the person's verdict
    (place,) = trial_folder(tmp_path / "runs", "faces", 0).iterdir()
    record = read_yaml(place / "config.yaml")["search"]
    assert (record["row"]["state"], record["value"]) == ("COMPLETE", 0.5)
    assert not storage.live_claims(study._study_id)


def test_a_worker_that_lost_its_lease_drops_the_trial_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    other = store(tmp_path)
    seen: list[dict[int, float]] = []

    def reaped() -> None:
        if not seen:
            other.requeue(study.get_trials()[0]._trial_id)
        seen.append(study.get_trials()[0].intermediate_values)

    monkeypatch.setattr(faces, "fit", fit_and(reaped))
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.value == max(trial.intermediate_values.values())
    assert "exceptions" not in trial.user_attrs
    # the refused report was not lost: its checkpoint was there, so the next owner told it
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert seen == [{}]


def test_an_orphaned_worker_leaves(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    assert work(context_at(tmp_path, storage, parent=os.getpid())) == 0
    assert study.get_trials() == []


def test_an_exception_is_tried_once_more_and_then_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    calls = 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise IndexError("a bug")
        return fit(*args, **kwargs)

    monkeypatch.setattr(faces, "fit", broken)
    assert work(context_at(tmp_path, storage)) == 0
    failed, good = study.get_trials()
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["exceptions"] == 2
    assert "IndexError: a bug" in failed.user_attrs["traceback"]
    assert good.state == TrialState.COMPLETE
    assert calls == 3


def test_many_failures_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=9)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise IndexError("a bug")

    monkeypatch.setattr(faces, "fit", broken)
    with pytest.raises(Exception, match="3 trials in a row failed, the last with IndexError"):
        work(context_at(tmp_path, storage))
    assert len(study.get_trials()) == FAILURES_IN_A_ROW
    # the next run may try again
    monkeypatch.setattr(faces, "fit", scores({1: 0.1}))
    assert work(context_at(tmp_path, storage)) == 0


@pytest.mark.parametrize(
    "error",
    [DataError("faces/1.jpg: truncated"), OSError(28, "No space left on device", "last.pt")],
)
def test_a_mistake_of_the_machine_is_no_trials_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=2)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(faces, "fit", broken)
    with pytest.raises(Exception, match=r"truncated|last\.pt: No space left on device"):
        work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    assert "exceptions" not in trial.user_attrs
    assert not storage.live_claims(study._study_id)


def test_divergence_is_pruned_with_its_constraint_and_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    monkeypatch.setattr(faces, "fit", scores({1: 0.3}))
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"diverged": 1.0}
    assert trial.user_attrs["reason"] == "diverged: the loss is nan"


def test_nothing_better_for_a_while_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=50, config={"epochs": 1})
    post = context_at(tmp_path, storage, stop_after=2)
    assert work(post) == 0
    done = study.get_trials()
    best = max(range(len(done)), key=lambda n: done[n].value or 0)
    assert len(done) == best + 3


def test_a_gpu_out_of_memory_halves_the_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def hungry(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.runtime.micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit(config, *args, **kwargs)

    monkeypatch.setattr(faces, "fit", hungry)
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["micro_batch"] == 2
    assert trial.user_attrs["runtime"]["micro_batch"] == 2


def test_an_epoch_on_disk_and_not_in_the_store_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def dies(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        def unheard(progress: Any) -> None:
            if progress.epoch == 2:
                raise KeyboardInterrupt
            report(progress)

        return fit(config, data, out=out, report=unheard, resume_from=resume_from)

    monkeypatch.setattr(faces, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        work(context_at(tmp_path, storage))
    assert sorted(study.get_trials()[0].intermediate_values) == [1]
    monkeypatch.setattr(faces, "fit", fit)
    work(context_at(tmp_path, storage))
    assert sorted(study.get_trials()[0].intermediate_values) == [1, 2, 3, 4]
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE]


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def killed(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        fit(config, data, out=out, report=report, resume_from=resume_from, last_epoch=2)
        torn = (out / name).read_bytes()[:1000]
        (out / name).write_bytes(torn)
        raise KeyboardInterrupt

    monkeypatch.setattr(faces, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        work(context_at(tmp_path, storage))
    monkeypatch.setattr(faces, "fit", fit)
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]


def test_an_owner_that_wakes_and_writes_its_next_epoch_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    folder = trial_folder(tmp_path / "runs", "faces", 0)
    further = tmp_path / "further"

    def killed(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        fit(config, data, out=out, report=report, resume_from=resume_from, last_epoch=1)
        # what this owner will have written once it wakes
        fit(config, data, out=further, resume_from=out / "last.pt", last_epoch=2)
        raise KeyboardInterrupt

    def wakes(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        (asleep,) = (path for path in folder.iterdir() if path != out)
        for name in ("best.pt", "last.pt", "history.json"):
            (further / name).replace(asleep / name)
        return fit(config, data, out=out, report=report, resume_from=resume_from)

    monkeypatch.setattr(faces, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        work(context_at(tmp_path, storage))
    monkeypatch.setattr(faces, "fit", wakes)
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert trial.value == max(trial.intermediate_values.values())


@pytest.mark.long
def test_a_requeued_trial_keeps_its_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    used = []

    def watched(config: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(config.runtime)
        if len(used) == 1:
            raise ValueError("once")
        return fit(config, *args, **kwargs)

    monkeypatch.setattr(faces, "fit", watched)
    post = context_at(tmp_path, storage)

    def fewer() -> bool:
        # by the second attempt the worker is another one, with one thread
        post.trainer = trainer_of(post.setup, Machine("cpu", 1 if used else 2))
        return False

    monkeypatch.setattr(post, "leaving", fewer)
    work(post)
    assert [runtime.threads for runtime in used] == [2, 2]
    assert "runtime_changed" not in study.get_trials()[0].user_attrs


def test_a_gpu_trial_that_must_go_on_without_one_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    setup = load_setup(study)
    study.enqueue_trial(
        setup.defaults,
        user_attrs={
            "runtime": {
                **setup.runtime,
                "device": "cuda",
                "precision": "bfloat16",
                "threads": 3,
                "channels_last": True,
                "micro_batch": 8,
            }
        },
    )
    work(context_at(tmp_path, storage))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert "begun on cuda" in trial.user_attrs["runtime_changed"]
    assert trial.user_attrs["runtime"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--study", "fases"), "did you mean faces"),
        (("--storage", "sqlite:////nowhere/x.db"), "nowhere"),
        (("--device", "cuda:7"), "cuda:7"),
    ],
)
def test_a_mistake_gives_one_line_and_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], says: str
) -> None:
    study = real_study(store(tmp_path), total=1)
    given = ["--storage", f"sqlite:///{tmp_path}/search.db", "--study", "faces"]
    given += ["--runs", str(tmp_path / "runs"), "--beat-s", "0.2", "--grace-s", "2"]
    assert says in one_line(main, capsys, *given, *flags)
    assert all(trial.state == TrialState.WAITING for trial in study.get_trials())


def test_a_flag_out_of_range_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--storage", "sqlite:///x.db", "--study", "faces", "--grace-s", "0"])
    assert ended.value.code == 2
    assert "above 0" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "import search.worker\n"
        "try: search.worker.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--grace-s" in done.stdout


def test_a_trial_whose_row_is_deleted_while_it_trains_is_dropped_and_another_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    deleted = []

    def delete() -> None:
        if not deleted:
            with storage.engine.begin() as connection:
                deleted.extend(connection.exec_driver_sql("SELECT trial_id FROM trials"))
                connection.exec_driver_sql("DELETE FROM trials")

    monkeypatch.setattr(faces, "fit", fit_and(delete))
    caplog.set_level("INFO", "search")
    assert work(context_at(tmp_path, storage)) == 0
    dropped, *_, made = caplog.messages
    assert dropped == "a trial's row (trial_id 1) was deleted: its training is dropped"
    assert made.startswith("trial 0: COMPLETE")
    (trial,) = load_study(store(tmp_path), "faces").get_trials()
    assert (trial._trial_id, trial.state) == (2, TrialState.COMPLETE)
    assert storage.live_claims(study._study_id) == []
