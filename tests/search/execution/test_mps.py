"""Workers that share a GPU by NVIDIA's MPS, where that can be had; none is needed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from search.execution.launchers import local_plans
from search.execution.launchers import mps as mps_module
from search.execution.launchers.capacity import Device
from search.execution.launchers.local import LocalLauncher, WorkerPlan
from search.execution.launchers.mps import SharedGpus
from search.execution.options import RunOptions
from tests.support.mps import Mps
from tests.support.paths import ROOT
from tests.support.studies import setup_of, wait_until
from trainer.config import Config

TWO = ("cuda:0", "cuda:0")
WITHOUT = "workers on one GPU take turns, without NVIDIA's MPS: "


@pytest.fixture(autouse=True)
def _every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "search")


@pytest.fixture
def mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mps:
    return Mps(tmp_path / "mps", monkeypatch)


def folder_of(start: str) -> Path:
    """The pipe directory of a line of the journal."""
    return Path(start.split()[1])


def test_two_workers_on_a_gpu_share_it_by_a_server_that_ends_with_the_run(
    mps: Mps, caplog: pytest.LogCaptureFixture
) -> None:
    with SharedGpus() as shared:
        shared.start_for(TWO)
        (start,) = mps.journal
        folder = folder_of(start)
        assert folder.stat().st_mode & 0o077 == 0
        # a path of a socket may have 108 characters
        assert len(str(folder / "control_privileged")) < 108
        assert start == f"start {folder} {folder}/log GPU-uuid0-1"
        assert shared.environment == {
            "CUDA_MPS_PIPE_DIRECTORY": str(folder),
            "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log",
            "CUDA_VISIBLE_DEVICES": "GPU-uuid0-1",
        }
        assert shared.served
        # another question about the same GPUs starts nothing
        shared.start(["cuda:0"])
    assert mps.journal == [start, f"quit {folder}"]
    assert not folder.exists()
    assert caplog.messages == [
        "workers on one GPU compute at the same time, by NVIDIA's MPS (started for this run)"
    ]


def test_the_environment_reaches_the_workers(mps: Mps, tmp_path: Path) -> None:
    package = tmp_path / "search"
    package.mkdir()
    (package / "__init__.py").touch()
    code = "import os; print(os.environ['CUDA_MPS_PIPE_DIRECTORY'])"
    (package / "worker.py").write_text(code)
    plans = [WorkerPlan("cuda:0", 1)] * 2
    with SharedGpus() as shared:
        shared.start_for([plan.device for plan in plans])
        folder = shared.environment["CUDA_MPS_PIPE_DIRECTORY"]
        environment = shared.environment
        with (
            chdir(tmp_path),
            LocalLauncher(
                ["--study", "faces"], plans, tmp_path / "logs", environment=environment
            ) as launcher,
        ):
            assert launcher.wait(20)
    said = [(tmp_path / "logs" / f"{number}.log").read_text() for number in (1, 2)]
    assert said == [f"{folder}\n"] * 2


@pytest.mark.parametrize(
    "devices", [("cuda:0",), ("cuda:0", "cuda:1"), ("cpu", "cpu"), ("cpu",)], ids=str
)
def test_nothing_is_started_where_no_gpu_is_shared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    devices: tuple[str, ...],
) -> None:
    mps = Mps(tmp_path / "mps", monkeypatch, gpus=2)
    with SharedGpus() as shared:
        shared.start_for(devices)
        assert (shared.environment, shared.served) == ({}, False)
    assert mps.journal == []
    assert caplog.messages == []


def test_what_measuring_has_started_ends_where_one_worker_a_gpu_is_best(mps: Mps) -> None:
    with SharedGpus() as shared:
        shared.start(["cuda:0"])
        assert shared.served
        shared.start_for(["cuda:0"])
        assert (shared.environment, shared.served) == ({}, False)
        assert [line.split()[0] for line in mps.journal] == ["start", "quit"]


def test_all_gpus_of_the_run_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mps(tmp_path / "mps", monkeypatch, gpus=3)
    # numbers would be counted anew by the daemon, and once more by its clients
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2,7")
    with SharedGpus() as shared:
        shared.start_for(["cuda:1", "cuda:1"])
        assert shared.environment["CUDA_VISIBLE_DEVICES"] == "GPU-uuid0-1,GPU-uuid1-1,GPU-uuid2-1"


@pytest.mark.parametrize(("carried", "left"), [(2, {"start"}), (1, {"start", "quit"})])
def test_what_a_gpu_carries_is_measured_as_its_workers_will_compute(
    mps: Mps, monkeypatch: pytest.MonkeyPatch, carried: int, left: set[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(config: Config, device: Device, **options: Any) -> int:
        asked.append({"device": device.name, **options, **options["environment"]})
        return carried

    monkeypatch.setattr(local_plans, "workers_per_device", measured)
    options = RunOptions("sqlite:///search.db", "runs", per_device="auto")
    with SharedGpus() as shared:
        plans = local_plans.local_plans(options, setup_of(), 9, shared)
        assert [plan.device for plan in plans] == ["cuda:0"] * carried
        assert {line.split()[0] for line in mps.journal} == left
        assert shared.served == (carried > 1)
    (said,) = asked
    assert (said["device"], said["by_mps"]) == ("cuda:0", True)
    assert said["CUDA_MPS_PIPE_DIRECTORY"] == str(folder_of(mps.journal[0]))


def without(shared: SharedGpus, caplog: pytest.LogCaptureFixture) -> str:
    """Why two workers take turns; nothing is left behind and nothing is asked of them."""
    shared.start_for(TWO)
    assert (shared.environment, shared.served) == ({}, False)
    (line,) = caplog.messages
    assert line.startswith(WITHOUT)
    return line.removeprefix(WITHOUT)


def test_a_daemon_that_does_not_start_is_said_and_harmless(
    mps: Mps, caplog: pytest.LogCaptureFixture
) -> None:
    (mps.folder / "refuses").write_text("MPS is not supported on this platform\n")
    with SharedGpus() as shared:
        why = without(shared, caplog)
    assert why == "it did not start (MPS is not supported on this platform)"
    assert not folder_of(mps.journal[0]).exists()


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        (
            "STAND_IN_CLIENT_FAILS",
            "a process cannot use it (cuInit: CUDA_ERROR_MPS_CONNECTION_FAILED)",
        ),
        # CUDA goes on without a word
        ("STAND_IN_UNSERVED", "a process cannot use it (it is not served)"),
    ],
)
def test_no_worker_depends_on_a_server_that_serves_nobody(
    mps: Mps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    why: str,
) -> None:
    monkeypatch.setenv(variable, "1")
    with SharedGpus() as shared:
        assert without(shared, caplog) == why
        assert [line.split()[0] for line in mps.journal] == ["start", "quit"]


def test_a_daemon_that_hangs_is_not_waited_for(
    mps: Mps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = mps.folder / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), os.environ["PATH"]]))
    monkeypatch.setattr(mps_module, "_PATIENCE_S", 0.2)
    with SharedGpus() as shared:
        assert without(shared, caplog) == "it did not answer within 0.2 s"


def test_where_the_program_is_missing_the_run_goes_on(
    mps: Mps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(mps.folder))
    with SharedGpus() as shared:
        assert without(shared, caplog) == "nvidia-cuda-mps-control is not to be found"


def test_cards_before_volta_take_turns(
    mps: Mps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with SharedGpus() as shared:
        assert without(shared, caplog) == "Fake GPU is older than Volta"
    assert mps.journal == []


def test_an_environment_that_turns_it_off_is_respected(
    mps: Mps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/dev/null")
    with SharedGpus() as shared:
        assert without(shared, caplog) == "none answers in CUDA_MPS_PIPE_DIRECTORY=/dev/null"
    assert mps.journal == []


@pytest.mark.parametrize(
    ("named", "whose"),
    [(True, "the one of CUDA_MPS_PIPE_DIRECTORY"), (False, "the one that runs here")],
)
def test_a_server_that_runs_already_is_used_and_left_running(
    mps: Mps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: bool,
    whose: str,
) -> None:
    folder = mps.folder / "default"
    if named:
        monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(folder))
    # this process is the daemon
    (folder / "control.pid").write_text(str(os.getpid()))
    with SharedGpus() as shared:
        shared.start_for(TWO)
        assert (shared.environment, shared.served) == ({}, True)
    assert mps.journal == []
    (line,) = caplog.messages
    assert line.endswith(f"by NVIDIA's MPS ({whose})")


def test_an_error_in_the_run_ends_the_server_too(mps: Mps) -> None:
    with suppress(KeyboardInterrupt), SharedGpus() as shared:
        shared.start_for(TWO)
        raise KeyboardInterrupt
    assert [line.split()[0] for line in mps.journal] == ["start", "quit"]


KILLED = """
import os, signal, torch
from types import SimpleNamespace
from search.execution.launchers.mps import SharedGpus
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda device: (9, 0)
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="uuid0-1")
with SharedGpus() as shared:
    shared.start(["cuda:0"])
    print(shared.environment["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_does_not_outlive_a_run_that_is_killed(mps: Mps) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, env=environment
    )
    folder = Path(killed.stdout.strip())
    wait_until(lambda: not folder.exists(), "the end of the daemon", 20)
    assert mps.journal[-1] == f"quit {folder}"
