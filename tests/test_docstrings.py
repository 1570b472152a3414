"""The examples in the docstrings hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILES = [
    path.relative_to(ROOT).with_suffix("")
    for place in (
        "space.py",
        "search/**/*.py",
        "storage/**/*.py",
        "trainer/**/*.py",
        "scripts/**/*.py",
    )
    for path in sorted(ROOT.glob(place))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_examples_in_the_docstrings_hold(file: Path) -> None:
    module = importlib.import_module(".".join(file.parts).removesuffix(".__init__"))
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
