"""What a verdict costs, in a study small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import figures_of


@pytest.mark.long
def test_both_rules_are_timed_in_one_store(tmp_path: Path) -> None:
    words = ("--trials", "12", "--epochs", "24")
    figures, said = figures_of("scripts.benchmarks.verdict", tmp_path / "out.json", *words)
    assert 0 < figures["ours_mean_ms"] <= figures["ours_most_ms"] <= figures["ours_first_ms"]
    assert figures["median_mean_ms"] > 0
    ratio = figures["ours_mean_ms"] / figures["median_mean_ms"]
    assert f"ratio {ratio:.2f}" in said
