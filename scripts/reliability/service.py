"""What torture, soak and the bench of the store share: searches as processes, and their figures."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.benchmarks.common import ROOT, positive, record, tell
from trainer.errors import UserError

# in the environment of every process that a measure started, with the measure's folder
MARK = "FACE_PARSING_MEASURE"


def tiny(folder: Path, epochs: int, images: int) -> Path:
    """A config of the smallest trainings, in `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(
        "model: {width: 0.1}\n"
        f"data: {{image_size: 16, batch_size: 8, synthetic_images: {images}}}\n"
        f"training: {{epochs: {epochs}, ema: 0.2, warmup_epochs: 0.2}}\n"
        "runtime: {device: cpu, threads: 1}\n",
        encoding="utf-8",
    )
    return path


def environment(folder: Path) -> dict[str, str]:
    """For a process that works in `folder` and uses no cache of the person's."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FACE_PARSING_CACHE": str(folder / "cache"),
        MARK: str(folder),
    }


def search(folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """`search.run --config tiny.yaml` in `folder`; what it says goes to search.log there."""
    with (folder / "search.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "search.run", "--config", "tiny.yaml", "--plain", *flags],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # a Ctrl-C for the measure must not reach what it measures
            start_new_session=True,
        )


def last_line(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def living(folder: Path) -> list[Any]:
    """Every process that was started for `folder` and still runs, as psutil.Process."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == str(folder)
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def workers(supervisor: int) -> list[Any]:
    """The worker processes of a supervisor, as psutil.Process; empty once it has ended."""
    import psutil

    found = []
    try:
        for child in psutil.Process(supervisor).children():
            if "search.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    except psutil.NoSuchProcess:
        pass
    return found


def end_all(folder: Path) -> None:
    """Kill whatever was started for `folder` and still runs."""
    for process in living(folder):
        process.kill()
    until = time.monotonic() + 30
    while living(folder) and time.monotonic() < until:
        time.sleep(0.1)


def new_work(prefix: str) -> str:
    """A new folder for what several calls work on."""
    # a server may run as another user, who must be able to enter
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return str(folder)


def earlier_work(folder: str, kept: Path) -> Path:
    """The folder of earlier calls, whose figures are in `kept`. Raises UserError if it is gone."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: the work of earlier calls is gone; remove {kept}")
    return Path(folder)


@contextmanager
def store_at(store: str, folder: Path) -> Iterator[str]:
    """The URL of a store: a SQLite file or a server of one's own in `folder`, or the one given."""
    if store == "sqlite":
        yield f"sqlite:///{folder}/search.db"
    elif store == "postgresql":
        from scripts.reliability.own_postgres import server

        with server(folder / "postgresql") as running:
            yield str(running.get_uri())
    else:
        yield store


def kind_of(store: str) -> str:
    """`sqlite` or `postgresql`, for a name or a URL."""
    return store.partition(":")[0].partition("+")[0]


def about(script: str, words: Sequence[str]) -> dict[str, Any]:
    """Hardware, versions, command, commit and date of a measurement; no password.

    The machine and the versions are shown, too.
    """
    from storage import redact_words

    packages = ("torch", "optuna", "sqlalchemy", "psycopg", "psutil")
    facts = record(script, redact_words(words), packages)
    machine = facts["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    tell(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {versions};"
        f" commit {facts['commit']}"
    )
    return facts


def add_pieces(it: argparse.ArgumentParser, file: str) -> None:
    """The flags of a measure that is done in several calls. file: in build/."""
    it.add_argument(
        "--json",
        type=Path,
        default=ROOT / "build" / file,
        metavar="FILE",
        help=f"figures, and what the next call needs (default: build/{file})",
    )
    it.add_argument(
        "--minutes",
        type=positive,
        default=7.0,
        metavar="M",
        help="end after that; the same command goes on (default: 7)",
    )
