"""A program reads of its config what it read before, but for the values that were put in."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.trainers.config_files import put_values, read_config, value_at, written
from trainer.errors import ConfigError

YAML = """\
experiment: {name: old, date: 2024-01-01, quoted: '2024-01-01', at: 2024-01-01 10:00:00}
data: &data
  root: C:\\faces
  shuffle: yes
  size: 0x10
  limit: 1_000
training:
  <<: *data
  learning_rate: 1e-4
  weight_decay: 2.0e-05
  text: '1'
  betas: [0.9, 0.999]
  weights: {0: 1.0, 1: 2.5, true: x}
  nothing: null
  empty: {}
  none: []
  far: [.inf, -.inf]
layers:
- {width: 8}
- {width: 16, name: "ü \\u2028"}
note: |
  two
  lines
"""
TOML = """\
name = "a\\u007f\\n\\"b\\""
day = 2024-01-01
at = 10:00:00
when = 2024-01-01T10:00:00+02:00
far = [inf, -inf]
"a key" = 1e-7
empty = []
[model]
width = 8
deep = true
[model.head.inner]
rates = [0.1, 2]
[nothing]
[[layers]]
width = 1
[[layers]]
width = 2
extra = {a = 1, b = "x"}
"""


def read(folder: Path, name: str, text: str) -> dict[str, Any]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_config(folder / name).values


def through_a_store(values: dict[str, Any]) -> dict[str, Any]:
    kept = json.loads(json.dumps(values))
    assert isinstance(kept, dict)
    return kept


def test_a_yaml_config_passes_as_it_was(tmp_path: Path) -> None:
    values = read(tmp_path, "c.yaml", YAML)
    text = written(through_a_store(values), "yaml")
    assert yaml.safe_load(text) == yaml.safe_load(YAML)
    # readers of YAML 1.2 see a number in it as before
    assert "learning_rate: 1e-4\n" in text
    assert list(yaml.safe_load(text)) == list(yaml.safe_load(YAML))


def test_a_toml_config_passes_as_it_was(tmp_path: Path) -> None:
    values = read(tmp_path, "c.toml", TOML)
    assert tomllib.loads(written(through_a_store(values), "toml")) == tomllib.loads(TOML)


def test_a_json_config_passes_as_it_was(tmp_path: Path) -> None:
    data = {"a": [1, 1.0, None, True, "ü"], "b": {"c": 1e-07}, "d": {}}
    values = read(tmp_path, "c.json", json.dumps(data))
    text = written(values, "json")
    assert json.loads(text) == data
    assert "1.0" in text


def test_values_are_put_at_dotted_keys_and_nothing_else_changes(tmp_path: Path) -> None:
    values = read(tmp_path, "c.yml", YAML)
    changes = {
        "training.learning_rate": 3e-05,
        "training.betas.1": 0.99,
        "layers.0.width": 32.0,
        "data.limit": 2000.0,
        "training.weight_decay": 0,
        "data.shuffle": "no",
        "experiment.name": "new",
        "training.nothing": 2.5,
    }
    before = json.dumps(values)
    made = put_values(values, changes)
    assert json.dumps(values) == before
    expected = yaml.safe_load(YAML)
    expected["training"] |= {"learning_rate": 3e-05, "betas": [0.9, 0.99], "weight_decay": 0.0}
    expected["training"]["nothing"] = 2.5
    expected["layers"][0]["width"] = 32
    expected["data"] |= {"limit": 2000, "shuffle": False}
    expected["experiment"]["name"] = "new"
    found = yaml.safe_load(written(made, "yaml"))
    assert found == expected
    assert type(found["layers"][0]["width"]) is int
    assert type(found["training"]["weight_decay"]) is float
    assert value_at(made, "training.betas.1") == 0.99
    assert value_at(values, "training.learning_rate") == 1e-4
    assert value_at(values, "training.text") == "1"
    assert put_values({"a.b": 1, "a": {"c": 2}}, {"a.b": 3, "a.c": 4}) == {"a.b": 3, "a": {"c": 4}}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("loss.dice_wieght", "did you mean loss.dice_weight? --new-key adds it"),
        ("dice_weight", "did you mean loss.dice_weight?"),
        ("dice_wieght", "did you mean loss.dice_weight?"),
        ("qqq", "there are loss.dice_weight, loss.ce, layers.0.width, name; --new-key adds it"),
        ("layers.1.width", "did you mean layers.0.width?"),
        ("layers.x", "no such key"),
        ("name.inner", "no such key"),
        ("loss", "holds more than one value; name one of them, such as loss.dice_weight"),
        ("layers", "holds more than one value; name one of them, such as layers.0.width"),
        ("", "no such key"),
    ],
)
def test_a_key_that_is_not_there_is_refused_with_the_nearest(key: str, words: str) -> None:
    values = {"loss": {"dice_weight": 1.5, "ce": 1}, "layers": [{"width": 8}], "name": "a"}
    with pytest.raises(ConfigError) as refused:
        put_values(values, {key: 1})
    assert str(refused.value).startswith(f"{key}: ")
    assert words in str(refused.value)
    if not key:
        return
    with pytest.raises(ConfigError) as refused:
        value_at({}, key)
    assert "there are none" in str(refused.value)


def test_new_keys_are_added_where_they_are_asked_for() -> None:
    values = {"loss": {"ce": 1}, "layers": [1], "name": "a"}
    made = put_values(values, {"loss.dice": 0.5, "a.b.c": 2, "d": 3}, new_keys=True)
    expected = {"loss": {"ce": 1, "dice": 0.5}, "layers": [1], "name": "a", "a": {"b": {"c": 2}}}
    assert made == {**expected, "d": 3}
    for key in ("layers.1", "name.inner", "loss..x", ""):
        with pytest.raises(ConfigError, match="no such key"):
            put_values(values, {key: 1}, new_keys=True)
    assert values == {"loss": {"ce": 1}, "layers": [1], "name": "a"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.ini", "", "its name ends in none of .yaml, .yml, .json, .toml"),
        ("c.yaml", "a: [", "line 1"),
        ("c.yaml", "a: 1\n---\nb: 2", "but found another document"),
        ("c.yaml", "!!python/object:os.system {}", "could not determine a constructor"),
        ("c.yaml", "- 1", "keys with values are needed"),
        ("c.yaml", "a: !!binary aGk=", "is a bytes"),
        ("c.json", '{"a": }', "not JSON: "),
        ("c.toml", "a = ", "not TOML: "),
    ],
)
def test_what_is_no_config_is_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, name, text)
    assert str(refused.value).startswith(str(tmp_path / name))
    assert words in str(refused.value)


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: TOML has no None"):
        written({"a": {"b": None}}, "toml")
