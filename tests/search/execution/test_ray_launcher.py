"""A search on a real Ray cluster of three nodes, all on this machine.

Ray stays outside of the tests' own process: the cluster and the searches are processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from search.execution.launchers.ray import RayWorker
from search.execution.options import RunOptions
from search.strategy.loading import load_study
from storage import Claim, LeasedStorage, open_storage
from tests.support.paths import ROOT
from tests.support.studies import wait_until
from trainer.errors import UserError

NAME = "synthetic-demo-16"
EPOCHS = 20
TINY = f"""\
model: {{width: 0.1}}
data: {{image_size: 16, batch_size: 8, synthetic_images: 40}}
training: {{epochs: {EPOCHS}, ema: 0.2, warmup_epochs: 0.2}}
runtime: {{device: cpu, threads: 1}}
"""
CLUSTER = """\
import json, sys
import psutil
from ray.cluster_utils import Cluster

size = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=size)
nodes = [cluster.add_node(**size) for _ in range(2)]
print(json.dumps(cluster.address), flush=True)

def node_of(worker):
    above = {process.pid for process in psutil.Process(worker).parents()}
    return next((n for n in nodes if n.all_processes["raylet"][0].process.pid in above), None)

for line in sys.stdin:
    # never the head node: the search would end with it
    worker = next(worker for worker in json.loads(line) if node_of(worker))
    cluster.remove_node(node_of(worker), allow_graceful=False)
    print(json.dumps(worker), flush=True)
cluster.shutdown()
"""
# as `python -m search.run`, but impatient where the cluster has no room
RUN = """\
import sys
import search.execution.launchers.ray
from search.run import main

search.execution.launchers.ray._ROOM_S = 0.5
sys.exit(main())
"""

has_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)"
)


@dataclass
class RayCluster:
    """Three nodes of one CPU each, as a process."""

    process: subprocess.Popen[str]
    address: str = field(init=False)

    def __post_init__(self) -> None:
        self.address = self._hear()

    def remove_node_of_one(self, workers: list[int]) -> int:
        """Take away a node on which one of these processes runs; that process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(workers)}\n")
        self.process.stdin.flush()
        return int(self._hear())

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return str(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    # its sockets need a short path; the usual one would be taken from a cluster that runs here
    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        with subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            # by default its workers have niceness 15, and starve beside whatever else computes
            env={**environment(), "RAY_TMPDIR": folder, "RAY_worker_niceness": "0"},
        ) as process:
            yield RayCluster(process)
            process.communicate(timeout=120)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment() -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own}


@dataclass
class Search:
    """A search as a process, in a folder of its own."""

    folder: Path
    process: subprocess.Popen[str]
    said: IO[str]

    # opened once: looking ten times a second must not cost the searching its cores
    @cached_property
    def storage(self) -> LeasedStorage:
        return open_storage(f"sqlite:///{self.folder}/runs/search.db", create=False)

    @cached_property
    def _study(self) -> optuna.Study:
        return load_study(self.storage, NAME)

    def study(self) -> optuna.Study:
        return self._study

    def claims(self) -> list[Claim]:
        return self.storage.live_claims(self._study._study_id)

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study().get_trials()]

    def workers(self) -> dict[int, int]:
        """Process id -> number of the trial that it trains."""
        return {
            int(claim.owner.rpartition(":")[2]): claim.number
            for claim in self.claims()
            if claim.number is not None
        }

    def wait_for_epochs(self, trials: int, epochs: int) -> None:
        """Until so many trials run that have reported so many epochs."""

        def there() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.output())
            if not (self.folder / "runs" / NAME / "workers").is_dir():
                return False
            running = self.study().get_trials(states=(TrialState.RUNNING,))
            return sum(len(t.intermediate_values) >= epochs for t in running) >= trials

        wait_until(there, f"{trials} trials of {epochs} epochs", timeout_s=120)

    def output(self) -> str:
        self.said.seek(0)
        return self.said.read()


@contextmanager
def searching(folder: Path, *flags: str) -> Iterator[Search]:
    (folder / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-c", RUN, "--config", "tiny.yaml", "--pruner", "none"]
    command += ["--launcher", "ray", "--beat-s", "0.2", "--grace-s", "3", *flags]
    with (
        (folder / "said.txt").open("w+") as said,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            yield Search(folder, process, said)
        finally:
            process.kill()


@pytest.mark.proof
@has_ray
def test_a_node_that_is_removed_costs_no_trial(cluster: RayCluster, tmp_path: Path) -> None:
    flags = ("--ray-address", cluster.address, "--workers", "3", "--trials", "6", "--no-priors")
    with searching(tmp_path, *flags) as search:
        search.wait_for_epochs(3, 3)
        workers = search.workers()
        before = {trial.number: trial for trial in search.study().get_trials()}
        gone = cluster.remove_node_of_one(list(workers))
        code = search.process.wait(120)
        said = search.output()
    assert code == 0, said
    trials = search.study().get_trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4, 5]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert search.claims() == []
    number = workers[gone]
    after = trials[number].intermediate_values
    assert list(after) == list(range(1, EPOCHS + 1))
    assert after.items() >= before[number].intermediate_values.items()
    # another owner went on with it, in a folder of its own
    assert len(list((tmp_path / "runs" / NAME / str(number)).iterdir())) == 2
    assert said.count("ended with its node on") == 1, said
    assert "raylet" not in said
    assert "waits for room in the cluster: it needs 1 CPU\n" in said
    wait_until(lambda: not psutil.pid_exists(gone), "the end of the worker without a node")


@pytest.mark.proof
@has_ray
def test_a_killed_worker_is_replaced_and_sigterm_requeues(
    cluster: RayCluster, tmp_path: Path
) -> None:
    flags = ("--ray-address", cluster.address, "--workers", "2", "--trials", "40", "--no-priors")
    with searching(tmp_path, *flags) as search:
        search.wait_for_epochs(2, 1)
        killed, number = search.workers().popitem()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "ended by SIGKILL; it is started again" in search.output(), "its end")
        search.wait_for_epochs(2, 2)
        # Ray would like to have this signal: the supervisor must keep it
        search.process.send_signal(signal.SIGTERM)
        assert search.process.wait(60) == 130, search.output()
    assert set(search.states()) <= {TrialState.COMPLETE, TrialState.WAITING}
    assert len(search.study().get_trials()[number].intermediate_values) >= 1
    assert search.claims() == []


@pytest.mark.proof
@has_ray
def test_workers_of_a_killed_supervisor_leave_the_cluster(
    cluster: RayCluster, tmp_path: Path
) -> None:
    flags = ("--ray-address", cluster.address, "--workers", "2", "--trials", "40", "--no-priors")
    with searching(tmp_path, *flags) as search:
        search.wait_for_epochs(2, 1)
        workers = search.workers()
        search.process.kill()
        wait_until(lambda: not any(map(psutil.pid_exists, workers)), "the end of the workers")


@pytest.mark.long
@has_ray
def test_a_mistake_that_a_worker_finds_ends_the_run_with_its_own_line(
    cluster: RayCluster, tmp_path: Path
) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from search.execution.launchers.ray import RayLauncher\n"
        "from search.execution.options import RunOptions\n"
        "from trainer.cli import guarded\n"
        f"own = {{'workers': 1, 'ray_address': {cluster.address!r}}}\n"
        "options = RunOptions('sqlite:///none.db', 'runs', **own)\n"
        "def run():\n"
        "    with RayLauncher(options, 'faces', Path('logs')) as launcher:\n"
        "        while launcher.look(lambda: False): time.sleep(0.05)\n"
        "sys.exit(guarded(run))"
    )
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: store {tmp_path}/none.db")
    assert done.stderr.count("\n") == 1


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(folder: Path, address: str, first: str = "") -> str:
    """The one line with which a launcher is not entered."""
    code = (
        f"import sys\n{first}\nfrom pathlib import Path\n"
        "from search.execution.launchers.ray import RayLauncher\n"
        "from search.execution.options import RunOptions\n"
        "from trainer.cli import guarded\n"
        f"options = RunOptions('sqlite:///a.db', 'runs', workers=1, ray_address={address!r})\n"
        "sys.exit(guarded(RayLauncher(options, 'faces', Path('logs')).__enter__))"
    )
    done = python(code, folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@has_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "local", "nonsense"])
def test_without_a_cluster_none_is_started(tmp_path: Path, address: str) -> None:
    said = refused(tmp_path, address)
    assert said.startswith(f"error: --launcher ray: cannot join a Ray cluster at {address} (")
    assert "`ray start --head`" in said


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    said = refused(tmp_path, "127.0.0.1:1", "sys.modules['ray'] = None")
    assert "pip install 'face-parsing-search[ray]'" in said


def test_a_node_that_does_not_share_the_runs_folder_is_refused(tmp_path: Path) -> None:
    ray_worker = RayWorker(1, [], tmp_path / "elsewhere", tmp_path, 1)
    with pytest.raises(UserError, match=r"elsewhere on node \S+: No such file or directory; share"):
        ray_worker.start()


@pytest.mark.long
def test_relative_paths_are_made_absolute_before_they_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = RunOptions("sqlite:///runs/a.db", "r", log="l").absolute().worker_words("x")
    at = str(tmp_path)
    assert words[:6] == [
        "--storage",
        f"sqlite:///{at}/runs/a.db",
        "--study",
        "x",
        "--runs",
        f"{at}/r",
    ]
    assert words[6:8] == ["--log", f"{at}/l"]
