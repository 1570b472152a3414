"""The examples run alone, as functions and as commands, and go on from what they left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.examples import sklearn_partial_fit, torch_digits
from search.trainers.config_files import put_values, read_config, value_at, written
from search.trainers.score_reading import ReportFile
from search.trainers.space_files import read_space
from tests.support.paths import ROOT

EXAMPLES = ROOT / "scripts" / "examples"
Train = Callable[..., None]
EACH = pytest.mark.parametrize(
    ("name", "train", "epochs", "kept"),
    [
        ("torch_digits", torch_digits.train, "training.epochs", "checkpoint.pt"),
        ("sklearn_partial_fit", sklearn_partial_fit.train, "epochs", "model.pickle"),
    ],
)


def config_of(name: str, epochs: str, number: int) -> dict[str, Any]:
    values = read_config(EXAMPLES / f"{name}.yaml").values
    quick = {"training.learning_rate": 0.01} if name == "torch_digits" else {"model.units": 64}
    return put_values(values, {epochs: number, **quick})


class Reports(list[tuple[int, float]]):
    """What a training reports; it may be stopped at an epoch."""

    stop_at: int | None = None

    def __call__(self, epoch: int, score: float, **_: float) -> None:
        self.append((epoch, float(score)))
        if epoch == self.stop_at:
            raise InterruptedError


@EACH
def test_a_training_that_was_stopped_goes_on_to_the_same_scores(
    name: str, train: Train, epochs: str, kept: str, tmp_path: Path
) -> None:
    config = config_of(name, epochs, 4)
    whole, first, second, other = (Reports() for _ in range(4))
    train(config, report=whole, out=None, seed=3)
    first.stop_at = 2
    with pytest.raises(InterruptedError):
        train(config, report=first, out=tmp_path, seed=3)
    train(config, report=second, out=tmp_path, seed=3, resume_from=tmp_path / kept)
    assert [epoch for epoch, _ in whole] == [1, 2, 3, 4]
    assert [*first, *second] == whole
    assert whole[-1][1] > 0.3
    train(config, report=other, out=None, seed=4)
    assert other != whole


@EACH
def test_a_command_reports_what_the_function_does(
    name: str, train: Train, epochs: str, kept: str, tmp_path: Path
) -> None:
    config = config_of(name, epochs, 2)
    (tmp_path / "config.yaml").write_text(written(config, "yaml"))
    words = ["--config", "config.yaml", "--out", ".", "--seed", "3"]
    subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SEARCH_REPORT": str(tmp_path / "report")},
        check=True,
    )
    reports = Reports()
    train(config, report=reports, out=None, seed=3)
    found = ReportFile(tmp_path / "report").new()
    assert [(one.epoch, one.score) for one in found] == reports
    assert (tmp_path / kept).exists()


@EACH
def test_its_space_is_of_its_config_and_it_is_a_start_to_read(
    name: str, train: Train, epochs: str, kept: str
) -> None:
    values = read_config(EXAMPLES / f"{name}.yaml").values
    for key in read_space(EXAMPLES / f"{name}_space.yaml").specs:
        value_at(values, key)
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") < 80
    assert f"--resume-file {kept}" in " ".join(text.split())
