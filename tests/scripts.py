"""Modules of scripts/, which is no package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def script(name: str) -> ModuleType:
    """One of them, imported as it imports its neighbours."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


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
