"""Modules of scripts/, which is no package."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.paths import ROOT

SCRIPTS = ROOT / "scripts"


def script(name: str) -> ModuleType:
    """One of them, imported as it imports its neighbours."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


def figures_of(name: str, out: Path, *words: str) -> tuple[dict[str, Any], str]:
    """What one of them writes with --json, and what it prints, as a process of its own."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *words, "--json", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def loaded_by_help(name: str) -> tuple[str, set[str]]:
    """What `--help` of one of them prints, and which heavy libraries it has loaded by then."""
    code = (
        f"import sys, {name}\n"
        f"try: {name}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'optuna', 'sqlalchemy'} & set(sys.modules), file=sys.stderr)"
    )
    paths = os.pathsep.join(map(str, (SCRIPTS, SCRIPTS.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())
