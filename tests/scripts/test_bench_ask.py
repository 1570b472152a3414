"""What an ask and a verdict cost, in a study small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.ask import OPTUNAS, OURS
from tests.support.scripts import figures_of


@pytest.mark.long
def test_asks_and_verdicts_are_timed_beside_optunas(tmp_path: Path) -> None:
    words = ("--trials", "40", "44", "--epochs", "24", "--asks", "1")
    figures, said = figures_of("scripts.benchmarks.ask", tmp_path / "out.json", *words)
    for trials in ("40", "44"):
        assert f"{trials} trials" in said
        one = figures[trials]
        assert 0 < one["verdict_ms"] <= one["verdict_most_ms"]
        assert one["median_ms"] > 0
        assert f"{one['verdict_ms']:.2f}" in said
        for name in (*OURS, *OPTUNAS):
            assert 0 < one[name]["median_s"] <= one[name]["most_s"]
            assert f"{one[name]['median_s']:.3f}" in said
