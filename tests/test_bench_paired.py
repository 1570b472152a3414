"""A pair of tiny searches of the same trials, one pruned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.studies import ROOT, TINY, environment

SCRIPT = ROOT / "scripts" / "bench_paired.py"


def paired(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--folder", "pair", *flags],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )


@pytest.mark.proof
def test_both_searches_train_the_same_trials_and_time_is_not_counted_twice(tmp_path: Path) -> None:
    from trainer.config import Config, to_yaml, with_values

    (tmp_path / "tiny.yaml").write_text(to_yaml(with_values(Config(), TINY)))
    words = ("--trials", "3", "--epochs", "4", "--config", "tiny.yaml", "--json", "out.json")
    first = paired(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    arms = json.loads((tmp_path / "out.json").read_text())["arms"]
    assert arms["none"]["finished"] == arms["restart-aware"]["finished"] == 3
    assert (arms["none"]["pruned"], arms["none"]["epochs"]) == (0, 12)
    assert arms["restart-aware"]["epochs"] <= 12
    assert arms["restart-aware"]["answer"] <= arms["none"]["answer"]
    entries = yaml.safe_load((tmp_path / "pair" / "trials.yaml").read_text())
    assert len({entry["seed"] for entry in entries}) == 3
    again = paired(tmp_path, *words)
    assert again.returncode == 0
    assert json.loads((tmp_path / "out.json").read_text())["arms"] == arms


def test_what_the_bench_sets_itself_is_refused_in_one_line(tmp_path: Path) -> None:
    done = paired(tmp_path, "--pruner", "median")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--pruner" in done.stderr
    assert not (tmp_path / "pair").exists()
