"""Benchmarks and the like, as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SCRIPTS = ROOT / "scripts"


def python(*words: object) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, at the root of this project."""
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def figures_of(module: str, out: Path, *words: str) -> tuple[dict[str, Any], str]:
    """What one of them writes with --json, and what it prints."""
    done = python("-m", module, *words, "--json", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def loaded_by_help(module: str) -> tuple[str, set[str]]:
    """What `--help` of one of them prints, and which heavy libraries it has loaded by then."""
    code = (
        f"import sys, {module} as it\n"
        "try: it.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'optuna', 'sqlalchemy'} & set(sys.modules), file=sys.stderr)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())
