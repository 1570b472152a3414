from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.execution.worker_loop import work
from search.queue import main
from search.strategy import loading
from search.strategy.loading import load_study
from search.study.verdicts import Verdict
from storage import open_storage
from tests.support.paths import ROOT
from tests.support.shells import one_line
from tests.support.studies import (
    EPOCHS,
    context_at,
    play,
    real_study,
    setup_of,
    start_worker,
    store,
    study_of,
    wait_until,
)

C, P, R, W, F = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAIL,
)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study `faces` with two finished trials and one that waits; only to be looked at."""
    there = tmp_path_factory.mktemp("queue")
    storage = store(there)
    study = study_of(storage)
    play(study, storage, setup_of(), 2)
    study.enqueue_trial({"dropout": 0.2}, user_attrs={"note": "more [dropout/]", "priority": 3})
    (there / "more.yaml").write_text("- params: {dropout: 0.1}\n")
    storage.close()
    return there


@pytest.fixture
def folder(untouched: Path, tmp_path: Path) -> Path:
    """A copy of that study, to change."""
    shutil.copytree(untouched, tmp_path, dirs_exist_ok=True)
    return tmp_path


def flags(folder: Path) -> list[str]:
    return ["--storage", f"sqlite:///{folder}/search.db"]


def told(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words, *flags(folder)]) == 0
    return capsys.readouterr().out


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of complaint, after which the queue is as it was."""
    before = states(folder)
    err = one_line(main, capsys, *words, "--study", "faces", *flags(folder))
    assert states(folder) == before
    return err


def states(folder: Path) -> list[TrialState]:
    return [trial.state for trial in load_study(store(folder), "faces").get_trials()]


# ------------------------------------------------------------------------------------------ list


def test_list_shows_studies_and_the_trials_of_the_latest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = study_of(store(folder), "other")
    other.enqueue_trial({"dropout": 0.1})
    out = told(folder, capsys, "list")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "* faces 2 40 2 0 0 1" in lines
    assert "other 0 40 0 0 0 1" in lines
    assert "Trials of faces (*)" in lines
    first = load_study(store(folder), "faces").get_trials()[0]
    assert any(line.startswith(f"0 complete {EPOCHS} {first.value:.4f} - ") for line in lines)
    # whatever brackets a note holds
    assert "2 waiting - - 3 more [dropout/]" in lines
    assert max(map(len, out.splitlines())) <= 80


def test_list_shows_another_study_and_what_a_waiting_trial_will_take(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_of(store(folder), "other").enqueue_trial({"dropout": 0.1})
    out = told(folder, capsys, "list", "--study", "other")
    assert "Trials of other (*)" in out
    assert "0      waiting  -       -     -     dropout 0.1" in out


def test_list_shows_whose_work_a_trial_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    token = storage.take_slot(study._study_id, None, "host:17")
    assert token is not None
    assert storage.pop_waiting(study._study_id, token) is not None
    assert "running (host:17)" in told(folder, capsys, "list")


# ------------------------------------------------------------------------------------------- add


def test_a_set_trial_takes_the_rest_from_the_base_config(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--set", "dice_weight=2.5", "--set", "T_0=4", "--note", "a guess", "--priority", "2")
    assert told(folder, capsys, "add", *words) == "enqueued: trial 3\n"
    added = load_study(store(folder), "faces").get_trials()[3]
    assert added.state == W
    planned = added.system_attrs["fixed_params"]
    assert (planned["dice_weight"], planned["T_0"], planned["dropout"]) == (2.5, 4, 0.15)
    assert set(planned) == set(setup_of().specs())
    assert (added.user_attrs["note"], added.user_attrs["priority"]) == ("a guess", 2)


def test_the_same_trial_may_be_added_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (3, 4):
        said = told(folder, capsys, "add", "--set", "dropout=0.1")
        assert said == f"enqueued: trial {number}\n"


def test_a_file_is_added_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.yaml").write_text("- params: {dropout: 0.1}\n- {params: {}, seed: 7}\n")
    assert told(folder, capsys, "add", str(folder / "more.yaml")) == "enqueued: trial 3, 4\n"
    assert load_study(store(folder), "faces").get_trials()[4].user_attrs["seed"] == 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "dropout=0.9"), "dropout=0.9: outside 0..0.4"),
        (("--set", "dropuot=0.1"), "did you mean dropout"),
        (("--set", "learning_rate=1e-3"), "learning_rate is not searched in study faces"),
        (("--set", "T_0=24"), "T_0=24: not one of 12, 6, 4, 3, 2.4, 2"),
        (("--set", "dropout"), "not key=value"),
        (("--set", "dice_schedule=stepp"), "not one of constant, step, linear, cosine"),
        (("--set", "dropout=0.1", "--priority", "nan"), "priority: nan: a number is needed"),
        ((), "give a YAML file, or --set name=value, one of the two"),
        (("more.yaml", "--set", "dropout=0.1"), "one of the two"),
        (("more.yaml", "--note", "a guess"), "--note and --priority go with --set"),
        (("more.yaml", "--priority", "0"), "--note and --priority go with --set"),
        (("nothing.yaml",), "nothing.yaml: No such file"),
    ],
)
def test_a_mistake_in_what_is_added_is_one_line(
    untouched: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(untouched)
    assert says in refusal(untouched, capsys, "add", *words)


def test_a_cycle_longer_than_the_budget_is_refused_where_t_0_is_a_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_of(store(tmp_path), ranges=("T_0=2:12",))
    line = refusal(tmp_path, capsys, "add", "--set", "T_0=13")
    assert "T_0=13: outside 2..12" in line


# ------------------------------------------------------------------------------ stop and cancel


def test_a_waiting_trial_is_cancelled_and_not_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(folder, capsys, "cancel", "2").startswith("trial 2 is withdrawn")
    assert states(folder) == [C, C, F]
    study = load_study(store(folder), "faces")
    assert study.get_trials()[2].user_attrs["cancelled"] is True
    assert store(folder).count_finished(study._study_id) == 2
    assert "fail, cancelled" in told(folder, capsys, "list")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stop", "0"), "trial 0 is COMPLETE, not RUNNING"),
        (("stop", "2"), "trial 2 is WAITING, not RUNNING; a waiting one is withdrawn with"),
        (("stop", "17"), "study faces has no trial 17; it has 3, counted from 0"),
        (("stop", "best"), "has no trial best"),
        (("cancel",), "which trial? give its number"),
        (("cancel", "0"), "trial 0 is COMPLETE, not WAITING"),
        (("cancel", "-1"), "has no trial -1"),
        (("cancel", "2", "--note", "why"), "queue cancel: --note goes with queue add only"),
        (("stop", "--set", "dropout=0.1"), "queue stop: --set goes with queue add only"),
        (("list", "2"), "queue list: 2: it takes nothing but"),
        (("show",), "queue show: which trial? give its number"),
        (("show", "17"), "study faces has no trial 17; it has 3, counted from 0"),
        (("show", "2", "--note", "why"), "queue show: --note goes with queue add only"),
    ],
)
def test_a_mistake_in_what_is_ended_is_one_line(
    untouched: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert says in refusal(untouched, capsys, *words)


def test_a_running_trial_without_an_owner_cannot_be_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    storage.set_trial_state_values(study.get_trials()[2]._trial_id, R)
    assert "nobody is at work on trial 2" in refusal(folder, capsys, "stop", "2")


def test_the_study_that_is_meant_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel", "2", *flags(folder)]) == 0
    assert capsys.readouterr().err == "study faces (the latest; another: --study NAME)\n"


def test_a_missing_store_and_an_unknown_study_are_one_line(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert main(["list", *flags(empty)]) == 2
    assert "search.db does not exist" in capsys.readouterr().err
    assert main(["list", "--study", "fasec", *flags(folder)]) == 2
    assert "did you mean faces" in capsys.readouterr().err
    store(empty)
    assert main(["list", *flags(empty)]) == 2
    assert "no search yet" in capsys.readouterr().err


def test_an_unknown_action_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pause"])
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------ show


class PrunesOnce(BasePruner):
    """Prunes the first trial that comes to epoch 4."""

    verdict: Verdict | None = None

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if self.verdict is not None or trial.last_step != 4:
            return False
        numbers = {"forecast": 0.771, "deviation": 0.006, "against": 0.79}
        self.verdict = Verdict(
            "restart-aware", 4, 6, 0.7, **numbers, to_come=0, chance=0.003, needed=0.021
        )
        return True


def test_show_tells_of_a_trial_that_was_killed_resumed_pruned_and_revived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    real_study(storage, total=1, pruner="none", revive=1, config={"epochs": 6})
    worker = start_worker(tmp_path)
    wait_until(lambda: epochs(tmp_path, 0) >= 2, "two epochs of trial 0")
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    pruner = PrunesOnce()
    monkeypatch.setattr(loading, "make_pruner", lambda *_: pruner)
    work(context_at(tmp_path, storage))
    assert pruner.verdict is not None
    out = told(tmp_path, capsys, "show", "0", "--study", "faces")
    head, *lines = out.splitlines()
    assert head == "trial 0 of study faces: complete, gone on with as row 1; times in UTC"
    # date, time, then what happened
    steps = [line.split(maxsplit=2)[2] for line in lines]
    assert [" ".join(step.split()[:3]) for step in steps] == [
        "row 0 claimed",
        "row 0 started",
        "row 0 reaped",
        "row 0 claimed",
        "row 0 resumed",
        "row 0 pruned",
        "row 1 revived",
        "row 1 resumed",
        "row 1 finished",
    ]
    first, second, third = (f"claim {token}]" for token in (1, 2, 3))
    assert [step.rpartition(", ")[2] for step in steps] == [
        *[first] * 3,
        *[second] * 3,
        *[third] * 3,
    ]
    assert f":{worker.pid}, claim 1]" in steps[2]
    assert re.search(r"silent for \d+\.?\d* s  \[", steps[2])
    assert re.search(r"resumed    after epoch [2-4]  \[", steps[4])
    assert "at epoch 4 of 6, forecast 0.7710 ± 0.0060 against 0.7900, chance 0.3 %" in steps[5]
    assert "asked for at least 2.1 %" in steps[5]
    assert "from row 0" in steps[6]
    assert "after epoch 4" in steps[7]
    # by the number of either row
    assert told(tmp_path, capsys, "show", "1", "--study", "faces") == out


def test_show_tells_what_a_store_of_an_earlier_version_knows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(f"{folder}/search.db")) as file:
        file.execute("DROP TABLE search_trial_events")
    value = load_study(open_storage(f"sqlite:///{folder}/search.db", read_only=True), "faces")
    lines = told(folder, capsys, "show", "0").splitlines()
    assert lines[0] == "trial 0 of study faces: complete; times in UTC"
    assert lines[1].startswith("not recorded: by an earlier version")
    assert [line.split()[4] for line in lines[2:]] == ["started", "finished"]
    assert f"not recorded {value.get_trials()[0].value:.4f}" in lines[3]
    # one that waits has no life yet
    assert told(folder, capsys, "show", "2").count("\n") == 1


def test_show_tells_who_withdrew_a_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(folder, capsys, "cancel", "2")
    line = told(folder, capsys, "show", "2").splitlines()[-1]
    assert line.endswith("row 2  cancelled  queue cancel")


# --------------------------------------------------------------------------------- a real run


def epochs(folder: Path, number: int) -> int:
    """How many epochs are in the store, straight from the file: opening a storage takes long."""
    query = (
        "SELECT COUNT(*) FROM trial_intermediate_values JOIN trials USING (trial_id)"
        " WHERE number = ?"
    )
    try:
        with closing(sqlite3.connect(f"file:{folder}/search.db?mode=ro", uri=True)) as file:
            return int(file.execute(query, (number,)).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@contextmanager
def real_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A search of long trainings, which does not outlive the block."""
    (folder / "tiny.yaml").write_text(
        "model: {width: 0.1}\n"
        "data: {image_size: 16, batch_size: 8, synthetic_images: 40}\n"
        "training: {epochs: 300, ema: 0.2}\n"
    )
    command = [sys.executable, "-m", "search.run", "--config", str(folder / "tiny.yaml")]
    command += [*flags(folder), "--runs", str(folder / "runs"), "--study", "faces"]
    command += ["--workers", "1", "--trials", "3", "--no-priors", "--device", "cpu"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def test_a_run_is_ended_before_its_workers_have_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with real_run(tmp_path) as run:
        assert run.stdout is not None
        assert any("1 worker on cpu" in line for line in run.stdout)
        # a worker still loads its libraries, and will take this for a mark of earlier days
        told(tmp_path, capsys, "stop", "--study", "faces")
        run.communicate(timeout=120)
    assert run.returncode == 0
    # one that was quick enough has begun a trial, and put it back
    assert set(states(tmp_path)) <= {TrialState.WAITING}


@pytest.mark.long
def test_running_trials_are_stopped_and_the_run_is_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with real_run(tmp_path) as run:
        wait_until(lambda: epochs(tmp_path, 0) >= 2, "two epochs of trial 0")
        assert told(tmp_path, capsys, "stop", "0").startswith("trial 0 is asked to stop")
        wait_until(lambda: epochs(tmp_path, 1) >= 1, "an epoch of trial 1")
        stopped = load_study(store(tmp_path), "faces").get_trials()[0]
        assert (stopped.state, stopped.user_attrs["stopped"]) == (P, True)
        assert told(tmp_path, capsys, "stop").startswith("the run is asked to end")
        out, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (0, "")
    assert "trial 0 PRUNED" in out
    assert "asked to end: running trials finish their epoch and wait" in out
    assert "1 finished trial, 1 pruned (100%)" in out
    assert "1 trial waits in the queue; to go on: " in out
    assert states(tmp_path) == [P, W]
    storage = store(tmp_path)
    study = load_study(storage, "faces")
    assert storage.live_claims(study._study_id) == []
    assert storage.count_finished(study._study_id) == 1
    # what was begun and waits can be withdrawn as well
    assert told(tmp_path, capsys, "cancel", "1").startswith("trial 1 is withdrawn")
    assert states(tmp_path) == [P, F]
    assert storage.count_finished(study._study_id) == 1
    # the stopped one is never taken up again
    token = storage.take_slot(study._study_id, 3, "host:1")
    assert token is not None
    assert storage.pop_waiting(study._study_id, token) is None


def test_a_revived_trial_is_stopped_by_its_first_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    parked = create_trial(state=P, intermediate_values={1: 0.3})
    study.add_trial(parked)
    number = study.get_trials()[-1].number
    token = storage.take_slot(study._study_id, None, "test")
    assert token is not None
    row = create_trial(state=R, user_attrs={"continues": number})
    assert storage.extra_trial(study._study_id, token, row, 0) is not None
    assert f"running, goes on from {number}" in told(folder, capsys, "list")
    told(folder, capsys, "stop", str(number))
    assert storage.beat(token).request == "stop"
