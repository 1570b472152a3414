"""Studies that a program of the user's trains, in a folder with its config."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from search.management.opening import open_study
from search.management.options import StudyOptions
from search.management.planning import planned
from search.study.shared_state import set_total
from storage import LeasedStorage

# how a command names this Python
PYTHON = sys.executable
RANGES = ("x=0:1",)


def program_at(folder: Path, text: str, name: str = "main.py") -> None:
    """Write a program beside a config with one number to search, `x`, and a seed."""
    (folder / name).write_text(text)
    (folder / "base.yaml").write_text("x: 0.5\nepochs: 4\nseed: 1\nname: kept\n")


def command_study(
    storage: LeasedStorage,
    folder: Path,
    *,
    total: int,
    command: str = f"{PYTHON} main.py {{config}} {{out}}",
    ranges: Sequence[str] = RANGES,
    **options: Any,
) -> optuna.Study:
    """A study of a command that runs in `folder`."""
    if "function" not in options:
        options["command"] = command
    options = {"sampler": "random", "pruner": "none", "study": "own", **options}
    before = os.getcwd()
    os.chdir(folder)
    try:
        plan = planned(StudyOptions(config=folder / "base.yaml", ranges=ranges, **options))
    finally:
        os.chdir(before)
    study = open_study(storage, plan.setup)
    set_total(study, total)
    return study


def processes_that_say(mark: str) -> list[int]:
    """Living processes with a text among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark in words and state != "Z" and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
