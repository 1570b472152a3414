"""What goes wrong around a running search: a line each, and nothing that was finished is lost."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.strategy.loading import load_study
from search.study.setup import StudyError
from storage import StorageError, open_storage
from tests.support import postgres as servers
from tests.support.studies import ROOT, started, wait_until

NAME = "synthetic-demo-16"
TINY = """\
model: {width: 0.1}
data: {image_size: 16, batch_size: 8, synthetic_images: 40}
training: {epochs: 6, ema: 0.2, warmup_epochs: 0.2}
runtime: {device: cpu, threads: 1}
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@contextmanager
def search(
    room: Path,
    trials: int,
    *flags: str,
    url: str | None = None,
    runs: Path | None = None,
    workers: int = 1,
    before: tuple[str, ...] = (),
    **environment: str,
) -> Iterator[subprocess.Popen[str]]:
    """A run, which does not outlive the block."""
    words = ["--storage", url or url_of(room), "--runs", str(runs or room / "runs")]
    words += ["--trials", str(trials), "--workers", str(workers), "--no-priors", "--pruner", "none"]
    with started(room, *words, *flags, before=before, **environment) as process:
        yield process


def url_of(room: Path) -> str:
    return f"sqlite:///{room}/search.db"


def study(url: str) -> optuna.Study:
    return load_study(open_storage(url, create=False), NAME)


# opened once: looking ten times a second must not cost the searching its cores
looked_at = functools.cache(study)


def complete(url: str) -> list[FrozenTrial]:
    """The complete trials of the one store that a test looks at while it is used."""
    try:
        return looked_at(url).get_trials(states=(TrialState.COMPLETE,))
    except (StorageError, StudyError):
        # not there yet
        return []


def one_line(process: subprocess.Popen[str], timeout_s: float = 90) -> str:
    """How the run said that it could not go on."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 2, out + err
    assert re.fullmatch(r"error: [^\n]+\n", err)
    return err


def kept(before: list[FrozenTrial], url: str) -> bool:
    """Whether trials that were complete are still what they were, and none is left running."""
    rows = {row.number: row for row in study(url).get_trials()}
    assert TrialState.FAIL not in {row.state for row in rows.values()}
    assert TrialState.RUNNING not in {row.state for row in rows.values()}
    return bool(before) and all(rows[row.number] == row for row in before)


def goes_on(room: Path, trials: int, **options: Any) -> None:
    """The same command, with the trouble over, ends with exactly the trials asked for."""
    with search(room, trials, **options) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), out
    url = options.get("url") or url_of(room)
    assert [row.state for row in study(url).get_trials()] == [TrialState.COMPLETE] * trials


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; the test is skipped, with the reason, where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.proof
def test_a_full_disk_is_one_line_and_with_room_again_the_search_goes_on(room: Path) -> None:
    with small_disk(room / "disk", 40) as disk:
        runs, url = disk / "runs", f"sqlite:///{disk}/search.db"
        with search(room, 6, url=url, runs=runs, workers=2) as process:
            wait_until(lambda: len(complete(url)) >= 1, "a finished trial")
            with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(b"x" * 4096)
            line = one_line(process)
        assert re.search("No space left|disk is full|full, unplugged", line)
        (disk / "filler").unlink(missing_ok=True)
        before = complete(url)
        goes_on(room, 6, url=url, runs=runs)
        assert kept(before, url)


@pytest.mark.long
def test_a_runs_folder_that_becomes_read_only_is_one_line(room: Path) -> None:
    # root may write anywhere unless it gives that right up
    obeying = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    as_root = os.geteuid() == 0
    if as_root and shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing, and root may write anywhere")
    with search(room, 3, before=obeying if as_root else ()) as process:
        wait_until(lambda: len(complete(url_of(room))) >= 1, "a finished trial")
        for folder in (room / "runs").rglob("*"):
            if folder.is_dir():
                folder.chmod(0o555)
        try:
            line = one_line(process)
        finally:
            for folder in (room / "runs").rglob("*"):
                if folder.is_dir():
                    folder.chmod(0o755)
    assert "Permission denied" in line
    before = complete(url_of(room))
    goes_on(room, 3)
    assert kept(before, url_of(room))


@pytest.mark.long
def test_a_store_deleted_in_mid_run_is_made_again_from_the_runs_folder(room: Path) -> None:
    url = url_of(room)
    finished: list[FrozenTrial] = []

    def two() -> bool:
        finished[:] = complete(url)
        return len(finished) >= 2

    with search(room, 4) as process:
        wait_until(two, "two finished trials")
        for file in room.glob("search.db*"):
            file.unlink()
        line = one_line(process)
    assert "search.db is gone" in line
    assert "search.rebuild" in line
    assert not (room / "search.db").exists()
    # a new study would write over what the lost one has left
    with search(room, 4) as process:
        assert "holds trials of a study that is not in this store" in one_line(process)
    rebuild = [sys.executable, "-m", "search.rebuild", "--storage", url]
    done = subprocess.run(
        [*rebuild, "--runs", str(room / "runs")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row.number: row for row in study(url).get_trials()}
    for row in finished:
        again = rows[row.number]
        assert (again.state, again.value, again.params) == (row.state, row.value, row.params)
        assert again.intermediate_values == row.intermediate_values
    goes_on(room, 4)


def clock_library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is missing: apt-get install libfaketime")
    return found[0]


@pytest.mark.proof
def test_a_clock_set_back_and_forward_an_hour_changes_nothing(room: Path) -> None:
    clock = room / "clock"
    clock.write_text("+0\n")
    # libfaketime 0.9.10 makes Python's sleep fail where the monotonic clock is to be left alone
    mend = "import select, time\ntime.sleep = lambda s: select.select([], [], [], s) and None\n"
    (room / "mend").mkdir()
    (room / "mend" / "sitecustomize.py").write_text(mend)
    faked = {
        "LD_PRELOAD": str(clock_library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        # it reads the file again after a second
        "FAKETIME_CACHE_DURATION": "1",
        # the wall clock alone: nobody sets the other one
        "DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join((str(room / "mend"), str(ROOT))),
    }
    lease = ("--beat-s", "0.3", "--grace-s", "3")
    with search(room, 12, *lease, workers=2, **faked) as process:
        for hours in (-1, 1, 0):
            seen = len(complete(url_of(room)))
            wait_until(
                lambda seen=seen: len(complete(url_of(room))) > seen,  # type: ignore[misc]
                "a finished trial",
            )
            clock.write_text(f"{hours:+d}h\n")
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "lost its worker" not in out
    rows = study(url_of(room)).get_trials()
    assert [row.state for row in rows] == [TrialState.COMPLETE] * 12
    ends = [row.datetime_complete for row in rows if row.datetime_complete is not None]
    # the clock was really another one
    assert (max(ends) - min(ends)).total_seconds() > 3000


@pytest.mark.proof
def test_a_server_that_is_away_for_a_while_costs_only_time(room: Path) -> None:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(servers.server())
        except Exception as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error!r}")
        url = servers.new_schema(server)
        lease = ("--beat-s", "0.3", "--grace-s", "2")
        said: list[str] = []
        with search(room, 4, *lease, url=url, workers=2) as process:
            assert process.stdout is not None
            out = process.stdout
            reader = threading.Thread(target=lambda: said.extend(out))
            reader.start()
            wait_until(lambda: len(complete(url)) >= 1, "a finished trial")
            before = complete(url)
            server.stop()
            # longer than the grace: the living must not be taken for dead afterwards
            time.sleep(6)
            server.ensure_postgres_running()
            assert process.wait(120) == 0, process.stderr.read() if process.stderr else ""
            reader.join()
        told = [line for line in said if line.startswith("store ")]
        assert len(told) == 2, said
        assert "; waiting for it up to 120 s" in told[0]
        assert "answers again" in told[1]
        assert not [line for line in said if "lost its worker" in line]
        assert kept(before, url)
        assert [row.state for row in study(url).get_trials()] == [TrialState.COMPLETE] * 4
