"""The report and its rival, on a study small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.scripts import SCRIPTS, loaded_by_help


def test_both_pages_are_timed_and_weighed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ("--trials", "12", "--epochs", "24", "--json", str(out))
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_report.py", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    ratio = [written[what]["ours"] / written[what]["rival"] for what in ("seconds", "size_mb")]
    assert f"ratio {ratio[0]:.2f} in time, {ratio[1]:.2f} in size" in done.stdout
    # both hold plotly.js, ours compressed
    assert 1 < written["size_mb"]["ours"] < written["size_mb"]["rival"]


def test_help_waits_for_no_library() -> None:
    said, loaded = loaded_by_help("bench_report")
    assert loaded == set()
    assert "--trials" in said
