"""How long threads spin, set by every command before torch and numpy are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.studies import ROOT

BRIEF = {"GOMP_SPINCOUNT": "20000", "OPENBLAS_THREAD_TIMEOUT": "14"}
WAITING = (*BRIEF, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
HEAVY = ("torch", "numpy", "optuna", "sqlalchemy")
# what each command has to be told before it goes to work
COMMANDS = {
    "search.clean": [],
    "search.compare": ["a", "b"],
    "search.confirm": [],
    "search.dashboard": [],
    "search.export": [],
    "search.import_results": ["runs.json", "--study", "old"],
    "search.queue": ["list"],
    "search.rebuild": [],
    "search.report": [],
    "search.run": [],
    "search.worker": ["--storage", "sqlite:///x.db", "--study", "faces"],
    "trainer.check": ["--data", "faces"],
    "trainer.evaluate": ["--checkpoint", "best.pt"],
    "trainer.predict": ["--checkpoint", "best.pt", "--images", "faces", "--out", "masks"],
    "trainer.probe": ["--config", "trial.yaml"],
    "trainer.train": [],
}
# says how the first heavy package finds the environment, and how processes started so far do
AT_THE_FIRST = f"""
import json, os, runpy, sys, psutil

def environ_of(child):
    # at its very first moment a process shows none
    while not (found := child.environ()):
        pass
    return found

def waiting(environ):
    return {{name: environ[name] for name in {WAITING!r} if name in environ}}

class First:
    def find_spec(self, name, path=None, target=None):
        if name not in {HEAVY!r}:
            return None
        children = [waiting(environ_of(child)) for child in psutil.Process().children()]
        print(json.dumps({{"own": waiting(os.environ), "children": children}}), flush=True)
        sys.exit(0)

sys.meta_path.insert(0, First())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def at_the_first(command: str, folder: Path, **own: str) -> dict[str, Any]:
    """How long threads spin as a command begins to load; own: what the user has set."""
    environ = {name: text for name, text in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_FIRST, command, *COMMANDS[command]],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(ROOT), **own},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_no_command_is_forgotten() -> None:
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("search", "trainer")
        for path in (ROOT / room).glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    # a template that runs outside this project
    assert found - {"trainer.solution"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_of_a_command_spin_briefly_from_the_start(command: str, tmp_path: Path) -> None:
    said = at_the_first(command, tmp_path)
    assert said["own"] == BRIEF
    # a worker is started before the run itself has loaded anything
    first = command in ("search.run", "search.confirm")
    assert said["children"] == [BRIEF] * first


@pytest.mark.parametrize("name", WAITING)
def test_what_a_user_has_set_about_waiting_threads_stays(name: str, tmp_path: Path) -> None:
    own = {name: "PASSIVE" if name == "OMP_WAIT_POLICY" else "7"}
    assert at_the_first("search.run", tmp_path, **own) == {"own": own, "children": [own]}
    assert at_the_first("trainer.train", tmp_path, **own)["own"] == own
