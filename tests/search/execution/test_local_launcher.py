from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from search.execution.launchers.launcher import MAX_DEATHS
from search.execution.launchers.local import (
    LocalLauncher,
    PrewarmedWorker,
    WorkerPlan,
    plan_workers,
)
from search.study.names import owner_name
from tests.support.studies import wait_until
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def _every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "search")


@contextmanager
def crew_that(code: str, folder: Path, workers: int = 1) -> Iterator[LocalLauncher]:
    """Real processes of a search.worker that does nothing but `code`."""
    package = folder / "search"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(f"import os, sys, time\n{code}\n")
    plans = [WorkerPlan("cpu", 1)] * workers
    # `python -m` looks in the present folder first
    with chdir(folder), LocalLauncher(["--study", "faces"], plans, folder / "logs") as launcher:
        yield launcher


def pid_of(owner: str) -> int:
    return int(owner.rpartition(":")[2])


def look_until_error(launcher: LocalLauncher) -> str:
    errors: list[str] = []

    def refused() -> bool:
        try:
            launcher.look(lambda: True)
        except UserError as error:
            errors.append(str(error))
        return bool(errors)

    wait_until(refused, "the end of the run")
    return errors[0]


def test_a_cpu_gets_one_worker_a_core() -> None:
    assert plan_workers(None, device="auto", cores=4, gpus=0) == [WorkerPlan("cpu", 1)] * 4
    assert plan_workers(None, device="cpu", cores=2, gpus=8) == [WorkerPlan("cpu", 1)] * 2


def test_cores_are_shared_evenly() -> None:
    assert plan_workers(2, device="cpu", cores=5, gpus=0) == [WorkerPlan("cpu", 2)] * 2
    assert plan_workers(3, device="cpu", cores=2, gpus=0) == [WorkerPlan("cpu", 1)] * 3


def test_threads_that_a_person_gave_are_not_shared_out() -> None:
    assert plan_workers(2, device="cpu", cores=8, gpus=0, threads=3) == [WorkerPlan("cpu", 3)] * 2


def test_every_gpu_gets_a_worker() -> None:
    assert plan_workers(None, device="auto", cores=8, gpus=2) == [
        WorkerPlan("cuda:0", 4),
        WorkerPlan("cuda:1", 4),
    ]


def test_more_workers_than_gpus_take_turns() -> None:
    devices = [plan.device for plan in plan_workers(3, device="cuda", cores=6, gpus=2)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]


def test_a_named_gpu_gets_all_workers() -> None:
    plans = plan_workers(2, device="cuda:1", cores=4, gpus=2)
    assert plans == [WorkerPlan("cuda:1", 2)] * 2
    assert len(plan_workers(None, device="cuda:1", cores=4, gpus=2)) == 1


def test_each_gpu_gets_the_workers_that_it_carries() -> None:
    plans = plan_workers(None, device="auto", cores=8, gpus=2, per_device=2)
    assert plans == [WorkerPlan("cuda:0", 2), WorkerPlan("cuda:1", 2)] * 2
    assert (
        plan_workers(None, device="cuda:1", cores=8, gpus=2, per_device=4)
        == [WorkerPlan("cuda:1", 2)] * 4
    )


def test_a_cpu_is_one_device() -> None:
    assert (
        plan_workers(None, device="cpu", cores=8, gpus=2, per_device=2)
        == [WorkerPlan("cpu", 4)] * 2
    )


def test_a_worker_is_told_where_to_compute_and_whom_to_outlive(tmp_path: Path) -> None:
    code = "print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    with crew_that(code, tmp_path) as launcher:
        assert launcher.wait(20)
        assert not launcher.look(lambda: True)
    flags = ["--study", "faces", "--device", "cpu", "--threads", "1", "--parent", str(os.getpid())]
    assert (tmp_path / "logs" / "1.log").read_text() == f"{flags} 1 1\n"


def test_a_worker_started_ahead_becomes_the_first_of_the_crew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans = [WorkerPlan("cpu", 1)] * 2
    # argparse asks the environment for the width of its help
    wide = {"COLUMNS": "150"}
    with (
        PrewarmedWorker() as ahead,
        LocalLauncher(["--help"], plans, tmp_path, ahead, wide) as launcher,
    ):
        assert owner_name(ahead._process.pid) in launcher.owners
        assert len(launcher.owners) == 2
        assert launcher.wait(60)
        assert not launcher.look(lambda: True)
        assert caplog.messages == []
    said = [(tmp_path / f"{number}.log").read_text() for number in (1, 2)]
    assert said[0] == said[1]
    # what their environment is to hold besides reaches both
    assert 100 < max(map(len, said[0].splitlines())) <= 150
    assert "usage: python -m search.worker" in said[0]


def test_a_worker_started_in_vain_ends_with_the_run() -> None:
    with PrewarmedWorker() as ahead:
        process = ahead._process
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_a_worker_that_died_ahead_is_replaced(tmp_path: Path) -> None:
    with PrewarmedWorker() as ahead:
        ahead._process.kill()
        ahead._process.wait()
        with LocalLauncher(["--help"], [WorkerPlan("cpu", 1)], tmp_path, ahead) as launcher:
            assert owner_name(ahead._process.pid) not in launcher.owners
            assert launcher.wait(60)
            assert not launcher.look(lambda: True)
    assert "usage: python -m search.worker" in (tmp_path / "1.log").read_text()


def test_a_worker_ahead_of_a_killed_run_leaves_by_itself() -> None:
    with PrewarmedWorker() as ahead:
        assert ahead._process.stdin is not None
        ahead._process.stdin.close()
        assert ahead._process.wait(60) == 0


def test_a_worker_that_dies_again_and_again_ends_the_run_with_its_last_words(
    tmp_path: Path,
) -> None:
    with crew_that("print('one')\nraise IndexError('a bug')", tmp_path) as launcher:
        said = look_until_error(launcher)
    log = tmp_path / "logs" / "1.log"
    assert said == (
        f"worker 1 ended {MAX_DEATHS + 1} times in a row without training an epoch; it ended with"
        f" exit code 1 at last: IndexError: a bug; the whole log is {log}"
    )
    assert log.read_text().count("IndexError: a bug") == MAX_DEATHS + 1


def test_a_worker_that_said_nothing_is_told_as_such(tmp_path: Path) -> None:
    with crew_that("os._exit(7)", tmp_path) as launcher:
        assert "it ended with exit code 7 at last: no output;" in look_until_error(launcher)


def test_a_worker_that_trains_in_between_may_die_as_often_as_it_likes(tmp_path: Path) -> None:
    with crew_that("os._exit(7)", tmp_path, workers=2) as launcher:

        def look() -> bool:
            # the first one trains each time, the second one never does; which is which no number of
            # a process says, for these are used again
            launcher.trained.add(owner_name(launcher._workers[0].process.pid))
            launcher.look(lambda: False)
            return False

        with pytest.raises(UserError, match=f"worker 2 ended {MAX_DEATHS + 1} times in a row"):
            wait_until(look, "the end of the run")


def test_a_workers_complaint_is_passed_on_as_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "print('trial 0: COMPLETE')\nprint('error: faces: gone')\nprint('bye')\nsys.exit(2)"
    with crew_that(code, tmp_path) as launcher:
        assert look_until_error(launcher) == "faces: gone"
        assert caplog.messages == []


def test_the_words_of_an_earlier_run_are_not_taken_for_the_last_ones(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "1.log").write_text("error: of yesterday\n")
    with crew_that("sys.exit(2)", tmp_path) as launcher:
        assert look_until_error(launcher) == "no output"


def test_a_killed_worker_is_started_again_and_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with crew_that("time.sleep(60)", tmp_path, workers=2) as launcher:
        before = launcher.owners
        victim = min(before)
        os.kill(pid_of(victim), signal.SIGKILL)
        wait_until(lambda: launcher.alive() == 1, "its end")
        assert launcher.look(lambda: False)
        assert launcher.alive() == 2
        (line,) = caplog.messages
        assert "ended by SIGKILL; it is started again (log: " in line
        # the trials of the dead one are still to be put back
        assert launcher.lost == {victim}
        assert before - launcher.owners == {victim}


def test_a_worker_that_lost_its_gpu_says_so_and_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with crew_that("print('CUDA error: unspecified launch failure')\nsys.exit(3)", tmp_path) as one:
        assert one.wait(20)
        assert one.look(lambda: False)
        (line,) = caplog.messages
    lost = "worker 1 lost its GPU (CUDA error: unspecified launch failure); it is started again"
    assert line.startswith(lost)


def test_lost_gpus_are_for_their_trials_to_count(tmp_path: Path) -> None:
    # a batch of 64 is halved more often than a worker may die
    lost = 7
    code = f"""
from pathlib import Path
ends = Path({str(tmp_path / "ends")!r})
ends.open("a").write("x")
sys.exit(3 if len(ends.read_text()) <= {lost} else 7)"""
    with crew_that(code, tmp_path) as launcher:
        said = look_until_error(launcher)
    # what dies otherwise does not get further by that
    assert said.startswith(f"worker 1 ended {MAX_DEATHS + 1} times in a row without")
    assert len((tmp_path / "ends").read_text()) == lost + MAX_DEATHS + 1


def test_a_worker_that_left_with_nothing_to_do_is_not_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with crew_that("pass", tmp_path) as launcher:
        assert launcher.wait(20)
        assert not launcher.look(lambda: True)
        assert caplog.messages == []


def test_a_worker_that_somebody_else_sent_away_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with crew_that("pass", tmp_path) as launcher:
        assert launcher.wait(20)
        left = launcher.owners
        launcher.look(lambda: False)
        (line,) = caplog.messages
        assert line.startswith("worker 1 was asked to leave by somebody else; it is started again")
        assert launcher.lost == left


def test_a_worker_that_ends_while_it_is_looked_at_is_heard_of_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with crew_that("print('error: faces: gone')\nsys.exit(2)", tmp_path) as launcher:
        with monkeypatch.context() as patch:
            # heard just before its end
            patch.setattr(launcher, "_hear", lambda: None)
            launcher._workers[0].process.wait()
            assert launcher.look(lambda: False)
        assert look_until_error(launcher) == "faces: gone"


def test_no_worker_outlives_its_crew(tmp_path: Path) -> None:
    with crew_that("time.sleep(60)", tmp_path, workers=2) as launcher:
        assert not launcher.wait(0.1)
        owners = launcher.owners
    for owner in owners:
        with pytest.raises(ProcessLookupError):
            os.kill(pid_of(owner), 0)


def test_workers_are_asked_before_they_are_killed(tmp_path: Path) -> None:
    code = (
        "import signal\n"
        "def leave(*_):\n    print('asked', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    log = tmp_path / "logs" / "1.log"
    with crew_that(code, tmp_path) as launcher:
        wait_until(lambda: "ready" in log.read_text(), "the worker")
        launcher.ask_to_end()
        assert launcher.wait(20)
        assert not launcher.look(lambda: True)
    assert log.read_text() == "ready\nasked\n"
