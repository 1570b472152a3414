"""A search space in a file says what `space.py` says, and a mistake in it is named where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.trainers.space_files import SpaceFile, choice_of, read_space
from space import Choice, EpochShare, Float, Int
from trainer.errors import ConfigError

YAML = """\
loss.dice_weight: {low: .5, high: 4, log: true}
model:
  layers: {low: 1, high: 4}
  width: {low: 8.0, high: 64.0, int: true}
  share: {low: 0, high: 1, int: false}
optimizer.name: [AdamW, SGD]
optimizer.momentum: {low: .5, high: .99, only_if: {optimizer.name: SGD}}
optimizer.nesterov: {choices: [true, false], only_if: {optimizer.name: SGD, model.layers: 2}}
batch: [16, 32]
rate: {low: 1e-4, high: 1e-2}
"""
PYTHON = """\
from space import Choice, EpochShare, Float, Int

SPACE = {
    "optimizer.name": Choice(("AdamW", "SGD")),
    "momentum": Float(0.5, 0.99),
    "layers": Int(1, 4),
    "T_0": EpochShare((1, 2)),
    "batch": [16, 32],
}
ONLY_IF = {"momentum": {"optimizer.name": "SGD"}}
"""


def read(folder: Path, text: str, name: str = "own.yaml") -> SpaceFile:
    (folder / name).write_text(text)
    return read_space(folder / name)


def test_a_space_in_yaml_is_read_in_its_order(tmp_path: Path) -> None:
    found = read(tmp_path, YAML)
    assert list(found.specs.items()) == [
        ("loss.dice_weight", Float(0.5, 4.0, log=True)),
        ("model.layers", Int(1, 4)),
        ("model.width", Int(8, 64)),
        ("model.share", Float(0.0, 1.0)),
        ("optimizer.name", Choice(("AdamW", "SGD"))),
        ("optimizer.momentum", Float(0.5, 0.99)),
        ("optimizer.nesterov", Choice((True, False))),
        ("batch", Choice((16, 32))),
        ("rate", Float(1e-4, 1e-2)),
    ]
    assert found.only_if == {
        "optimizer.momentum": {"optimizer.name": "SGD"},
        "optimizer.nesterov": {"optimizer.name": "SGD", "model.layers": 2},
    }


def test_a_space_in_python_is_that_of_space_py(tmp_path: Path) -> None:
    found = read(tmp_path, PYTHON, "own.py")
    assert found.specs == {
        "optimizer.name": Choice(("AdamW", "SGD")),
        "momentum": Float(0.5, 0.99),
        "layers": Int(1, 4),
        "T_0": EpochShare((1, 2)),
        "batch": Choice((16, 32)),
    }
    assert found.only_if == {"momentum": {"optimizer.name": "SGD"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys with ranges are needed"),
        ("{}", "holds no parameter"),
        ("a: 1", "a: 1 is one value: {low: 0.1, high: 4} or a list of choices is needed; --fix"),
        ("a: {lo: 1, high: 4}", "a: no 'lo' in a range: did you mean low?"),
        ("a: {lo: 1, hi: 4}", "a: no 'lo' in a range: did you mean low?"),
        ("a: {low: 1}", "a: high is None, no number"),
        ("a: {low: x, high: 4}", "a: low is 'x', no number"),
        ("a: {low: 4, high: 1}", "a: low must be below high, got low=4, high=1"),
        ("a: {low: 0, high: 1, log: true}", "a: log scale needs low > 0, got low=0"),
        ("a: {low: 1, high: 4, log: please}", "a: log is 'please'; write true or false"),
        ("a: {low: .5, high: 4, int: true}", "a: 0.5 to 4 are no whole numbers; leave int out"),
        ("a: {low: .inf, high: 4, int: true}", "a: "),
        ("a: []", "a: Choice: choices must be there and differ, got ()"),
        ("a: [1, 1]", "choices must be there and differ"),
        ("a: [[1], 2]", "a: [1] cannot be a choice; take texts"),
        ("a: [null, 2]", "a: None cannot be a choice"),
        ("a: {choices: SGD}", "a: choices are 'SGD'; write a list"),
        ("a: {choices: [1], low: 1}", "a: choices have no low; leave it out"),
        ("a.b: [1, 2]\na: {b: [3, 4]}", "a.b stands there twice; keep one"),
        ("a: {low: 1, high: 2, only_if: 3}", "a: only_if is 3; write it as {optimizer.name: SGD}"),
        ("name: [x, y]\na: {low: 1, high: 2, only_if: {nmae: x}}", "did you mean name?"),
        (
            "name: [x, y]\na: {low: 1, high: 2, only_if: {name: z}}",
            "a: only_if names name: 'z', which it never is: one of x, y",
        ),
        (
            "a: {choices: [1, 2], only_if: {b: 1}}\nb: {choices: [1, 2], only_if: {a: 1}}",
            "a: only_if leads back to itself",
        ),
        ("a: {choices: [1, 2], only_if: {a: 1}}", "a: only_if leads back to itself"),
        ("a: [1, 2", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_the_fix(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "own.yaml"))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SPACE = {", "line 1: '{' was never closed; fix it"),
        ("SPACE = {'a': Flaot(1, 2)}", "NameError: name 'Flaot' is not defined; fix it"),
        ("SPAEC = {}", "no SPACE in it"),
        ("SPACE = [1]", "SPACE must be a dict, got [1]"),
        ("SPACE = {'a': 3}", "a: 3 is one value"),
        ("SPACE = {'name': [1, 2]}\nONLY_IF = {'nam': {'a': 1}}", "did you mean name?"),
        ("raise SystemExit('stop')", "SystemExit: stop"),
    ],
)
def test_a_mistake_in_python_is_named_too(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text, "own.py")
    assert str(refused.value).startswith(str(tmp_path / "own.py"))
    assert words in str(refused.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of \.py, \.yaml, \.yml"):
        read(tmp_path, "", "own.json")
    for name in ("none.py", "none.yaml"):
        with pytest.raises(ConfigError, match="name a file that can be read"):
            read_space(tmp_path / name)


def test_choices_on_the_command_line_are_values_of_yaml() -> None:
    assert choice_of("a.b = x, 'y,z' ,1e-3,2,true") == ("a.b", Choice(("x", "y,z", 1e-3, 2, True)))
    assert choice_of("amp=yes,no") == ("amp", Choice((True, False)))
    assert choice_of("amp=yes,auto") == ("amp", Choice(("yes", "auto")))
    for text in ("a", "a=", "=1,2"):
        with pytest.raises(ConfigError, match="it is not KEY=A,B"):
            choice_of(text)
    for text in ("a=1,1", "a=[1],2", "a=x: 1", "a=1]", "a=,"):
        with pytest.raises(ConfigError, match="--choice a="):
            choice_of(text)
