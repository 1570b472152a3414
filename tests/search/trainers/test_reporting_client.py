"""What a program reports stands in the file at once, and the program may run without a search."""

from __future__ import annotations

import ast
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from search import reporting_client
from search.reporting_client import report
from search.trainers.score_reading import ReportFile
from tests.support.paths import ROOT


def test_a_report_is_read_as_soon_as_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.jsonl"
    monkeypatch.setenv("SEARCH_REPORT", str(path))
    file = ReportFile(path)
    report(1, 0.5, loss=2)
    (first,) = file.new()
    assert (first.epoch, first.score, first.figures) == (1, 0.5, {"loss": 2.0})
    report(epoch=np.int64(2), score=torch.tensor(0.25), train_f=np.float32(0.5))
    (second,) = file.new()
    assert (second.epoch, second.score, second.figures) == (2, 0.25, {"train_f": 0.5})
    report(3, math.nan)
    (third,) = file.new()
    assert math.isnan(third.score)


def test_without_a_search_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEARCH_REPORT", raising=False)
    monkeypatch.chdir(tmp_path)
    report(1, 0.5)
    assert list(tmp_path.iterdir()) == []


def test_the_file_may_be_copied_and_needs_the_standard_library_alone(tmp_path: Path) -> None:
    source = ROOT / "search" / "reporting_client.py"
    assert source == Path(str(reporting_client.__file__))
    nodes = ast.walk(ast.parse(source.read_text()))
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {str(name) for name in named} <= set(sys.stdlib_module_names)
    shutil.copy(source, tmp_path / "own_copy.py")
    code = "import own_copy; own_copy.report(1, 0.5)"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"SEARCH_REPORT": str(tmp_path / "report")},
        check=True,
    )
    assert (tmp_path / "report").read_text() == '{"epoch": 1, "score": 0.5}\n'
