"""A pair of tiny searches of the same trials, one pruned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.studies import TINY, environment, wait_until

BENCH = ("-m", "scripts.benchmarks.paired")


def paired(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *BENCH, "--folder", "pair", *flags],
        cwd=folder,
        env=environment(),
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


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_the_bench_ends_its_search_and_the_time_counts(
    tmp_path: Path, number: signal.Signals
) -> None:
    from trainer.config import Config, to_yaml, with_values

    (tmp_path / "tiny.yaml").write_text(to_yaml(with_values(Config(), {**TINY, "epochs": 500})))
    words = ("--folder", "pair", "--trials", "2", "--epochs", "500", "--config", "tiny.yaml")
    with subprocess.Popen(
        [sys.executable, *BENCH, *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as bench:
        begun = tmp_path / "pair" / "none" / "none" / "0"
        wait_until(lambda: any(begun.rglob("last.pt")), "the first epoch")
        children = psutil.Process(bench.pid).children(recursive=True)
        bench.send_signal(number)
        _, err = bench.communicate(timeout=120)
    assert (bench.returncode, err.splitlines()[-1]) == (
        130,
        "interrupted; the same command goes on",
    )
    assert len(children) >= 2
    assert not any(child.is_running() for child in children)
    assert json.loads((tmp_path / "pair" / "none.json").read_text())["seconds"] > 1


def test_what_the_bench_sets_itself_is_refused_in_one_line(tmp_path: Path) -> None:
    done = paired(tmp_path, "--pruner", "median")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--pruner" in done.stderr
    assert not (tmp_path / "pair").exists()
