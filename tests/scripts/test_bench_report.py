"""The report and its rival, on a study small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import figures_of


@pytest.mark.proof
def test_both_pages_are_timed_and_weighed(tmp_path: Path) -> None:
    words = ("--trials", "12", "--epochs", "24")
    written, said = figures_of("scripts.benchmarks.report", tmp_path / "out.json", *words)
    ratio = [written[what]["ours"] / written[what]["rival"] for what in ("seconds", "size_mb")]
    assert f"ratio {ratio[0]:.2f} in time, {ratio[1]:.2f} in size" in said
    # both hold plotly.js, ours compressed
    assert 1 < written["size_mb"]["ours"] < written["size_mb"]["rival"]
