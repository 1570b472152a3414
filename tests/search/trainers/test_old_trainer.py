"""The old trainer of the tests is read in each way that reads a program which is not changed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search.trainers.config_files import put_values, read_config, written
from search.trainers.score_reading import History, OutputPattern, Reading
from tests.support.old_trainer import CONFIG, PROGRAM, score_after

HISTORY = "checkpoints/*/history.json"


def started(folder: Path, changes: Mapping[str, Any], *words: object) -> subprocess.Popen[bytes]:
    config = folder / "its config.yaml"
    config.write_text(written(put_values(CONFIG, changes), "yaml"))
    command = [sys.executable, str(PROGRAM), "--config", str(config), *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)


def scores(changes: Mapping[str, Any], seed: int, epochs: range) -> list[tuple[int, float]]:
    config = put_values(CONFIG, changes)
    return [(epoch, score_after(config, seed, epoch)) for epoch in epochs]


def told(readings: list[Reading]) -> list[tuple[int, float]]:
    return [(one.epoch, one.score) for one in readings]


@pytest.mark.parametrize(
    "pattern",
    ["Val F-Score: {score}", "Epoch {epoch}/{any} Val F-Score: {score}", "| Val F-Score: {score}"],
)
def test_both_its_history_and_its_output_tell_each_epoch_once(pattern: str, tmp_path: Path) -> None:
    changes = {"training.epochs": 4, "loss.dice_weight": 2.0, "training.learning_rate": 1e-3}
    output = OutputPattern(pattern)
    printed: list[Reading] = []
    kept: list[Reading] = []
    with History([tmp_path], HISTORY, "val_f_score", time.time()) as history:
        with started(tmp_path, changes, "--seed", 7) as program:
            assert program.stdout is not None
            while piece := program.stdout.read1(100):
                printed += output.feed(piece)
                kept += history.new()
        assert program.returncode == 0
        printed += output.end()
        kept += history.new(ended=True)
    expected = scores(changes, 7, range(1, 5))
    assert told(kept) == expected
    assert told(printed) == [(epoch, pytest.approx(score, abs=1e-6)) for epoch, score in expected]
    assert kept[0].figures.keys() == {"train_loss", "val_loss"}


def test_it_ends_on_sigterm_and_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    changes = {"training.epochs": 30}
    with History([tmp_path], HISTORY, "val_f_score", time.time()) as history:
        first: list[Reading] = []
        with started(tmp_path, changes) as program:
            while len(first) < 2:
                time.sleep(0.005)
                first += history.new()
            program.send_signal(signal.SIGTERM)
        assert program.returncode == -signal.SIGTERM
        first += history.new(ended=True)
    done = len(first)
    assert told(first) == scores(changes, 42, range(1, done + 1))
    newest = max(tmp_path.glob("checkpoints/*/checkpoint_*"), key=lambda path: path.stat().st_mtime)
    shorter = {"training.epochs": 30, "training.epoch_s": 0.0}
    with History([tmp_path], HISTORY, "val_f_score", time.time(), after=done) as history:
        with started(tmp_path, shorter, "--resume", newest) as program:
            program.communicate()
        whole = history.new(ended=True)
    assert told(whole) == scores(changes, 42, range(1, 31))


def test_its_config_in_a_file_is_the_one_that_is_put_in(tmp_path: Path) -> None:
    with started(tmp_path, {"training.epochs": 1, "training.optimizer": "SGD"}) as program:
        program.communicate()
    (kept,) = tmp_path.glob("checkpoints/*/config.yaml")
    assert read_config(kept) == read_config(tmp_path / "its config.yaml")
    assert read_config(kept).values["training"]["learning_rate"] == "8e-4"
