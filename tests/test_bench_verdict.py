"""What a verdict costs, in a study small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.scripts import SCRIPTS


def test_both_rules_are_timed_in_one_store(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ("--trials", "12", "--epochs", "24", "--json", str(out))
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_verdict.py", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert 0 < figures["ours_mean_ms"] <= figures["ours_most_ms"] <= figures["ours_first_ms"]
    assert figures["median_mean_ms"] > 0
    ratio = figures["ours_mean_ms"] / figures["median_mean_ms"]
    assert f"ratio {ratio:.2f}" in done.stdout
