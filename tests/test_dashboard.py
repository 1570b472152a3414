from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search.closing import command
from search.dashboard import main
from search.shift import work
from search.study import load_study
from tests.studies import post_at, real_study, store, wait_until

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one trained trial, and its artifacts."""
    there = tmp_path_factory.mktemp("dashboard")
    storage = store(there)
    real_study(storage, total=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACE_PARSING_CACHE", str(there / "cache"))
        work(post_at(there, storage))
    return there


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the dashboard of that store is served, by the command that a run prints."""
    url = f"sqlite:///{folder}/search.db"
    shown = command("search.dashboard", storage=url, runs=str(folder / "runs"))
    with subprocess.Popen(f"exec {shown} --port 0", shell=True, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        line = server.stdout.readline().decode()
        try:
            yield re.sub(r"^optuna-dashboard: (http://127\.0\.0\.1:\d+)/\n$", r"\1", line)
        finally:
            server.terminate()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def browsed(url: str, folder: Path) -> str:
    """The page as a browser has built it; the test is skipped, with the reason, without one."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(BROWSERS)}")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    done = subprocess.run(
        [
            *(browser, *flags, f"--user-data-dir={folder / 'browser'}"),
            *("--virtual-time-budget=8000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    return html.unescape(done.stdout)


def test_a_browser_shows_a_trial_with_its_parameters_and_contact_sheet(
    folder: Path, address: str, tmp_path: Path
) -> None:
    page = browsed(f"{address}/dashboard/studies/1/trials?numbers=0", tmp_path)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S))
    (trial,) = load_study(store(folder), "faces").get_trials()
    assert "Trial 0 (trial_id=1)" in text
    for name, value in trial.params.items():
        assert f"{name} {value}" in text
    for epoch, score in trial.intermediate_values.items():
        assert f"{epoch} {score}" in text
    (picture,) = re.findall(r'<img[^>]*alt="contact_sheet.png"[^>]*>', page)
    (source,) = re.findall(r'src="([^"]+)"', picture)
    assert read(address + source).startswith(b"\x89PNG")


def test_only_this_machine_is_served(address: str) -> None:
    port = int(address.rpartition(":")[2])
    assert b"studies" not in read(address)
    assert json.loads(read(f"{address}/api/studies"))["study_summaries"][0]["study_name"] == "faces"
    # a server for every network would answer at each address of the loopback
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_the_plain_optuna_dashboard_works_on_the_store(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    flags = ["--artifact-dir", str(folder / "runs" / "artifacts"), "--port", str(port)]
    command = [str(program), f"sqlite:///{folder}/search.db", *flags]
    answer: dict[str, Any] = {}

    def answered() -> bool:
        try:
            answer.update(json.loads(read(f"http://127.0.0.1:{port}/api/studies/1")))
        except urllib.error.URLError:
            return False
        return True

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(answered, "optuna-dashboard")
            (trial,) = answer["trials"]
            sheet = next(it for it in trial["artifacts"] if it["filename"] == "contact_sheet.png")
            picture = read(f"http://127.0.0.1:{port}/artifacts/1/1/{sheet['artifact_id']}")
        finally:
            server.terminate()
    assert trial["state"] == "Complete"
    assert picture.startswith(b"\x89PNG")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    url = f"sqlite:///{folder}/search.db"
    assert main(["--storage", url, "--runs", str(folder / "runs"), *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_port_in_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with taken_port() as port:
        line = refusal(folder, capsys, "--port", str(port))
    assert line == f"error: --port {port}: Address already in use; name another port\n"


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_a_port_that_does_not_exist_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    line = refusal(folder, capsys, "--port", port)
    assert line == f"error: --port {port}: a number from 0 to 65535 is needed\n"


def test_a_port_that_is_no_number_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", "web"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_does_not_exist_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "search.db does not exist" in refusal(tmp_path, capsys, "--port", "0")
    assert list(tmp_path.iterdir()) == []


def test_a_dashboard_ends_with_its_parent(folder: Path) -> None:
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--runs", str(folder / "runs")]
    # a process that is not its parent, as a supervisor that was killed no longer is
    flags += ["--port", "0", "--parent", str(os.getppid())]
    done = subprocess.run([sys.executable, "-m", "search.dashboard", *flags], timeout=60)
    assert done.returncode == 0
