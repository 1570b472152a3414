"""One layout, strictly read; who wins when several say something."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import (
    Config,
    base_identity,
    compose,
    config_from_dict,
    get,
    is_integer,
    is_numeric,
    key_path,
    leaf_keys,
    read_config,
    to_yaml,
    with_values,
)
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"loss": {"dice_wieght": 1}}, ["'loss.dice_wieght'", "loss.dice_weight"]),
        ({"lss": {"dice_weight": 1}}, ["'lss'"]),
        ({"dice_weight": 1}, ["'dice_weight'", "loss.dice_weight"]),
        ({"augmentation": {"color_jitter": {"hue": 1}}}, ["augmentation.color_jitter.hue"]),
        ({"loss": {"dice_weight": "high"}}, ["loss.dice_weight", "'high'"]),
        ({"loss": {"dice_weight": True}}, ["loss.dice_weight", "True"]),
        ({"loss": {"dice_weight": float("nan")}}, ["loss.dice_weight", "nan"]),
        ({"loss": {"dice_weight": -1}}, ["loss.dice_weight", "-1"]),
        ({"training": {"learning_rate": float("inf")}}, ["training.learning_rate", "inf"]),
        ({"training": {"epochs": 1.5}}, ["training.epochs", "1.5"]),
        ({"training": {"epochs": 10, "scheduler_params": {"T_0": 20}}}, ["T_0", "20", "10"]),
        ({"training": {"scheduler_params": {"T_0": 0}}}, ["T_0"]),
        ({"augmentation": {"scale_range": [2, 1]}}, ["scale_range", "upside down"]),
        ({"loss": {"dice_ramp": 0.4}}, ["dice_ramp", "constant"]),
        (
            {"loss": {"dice_weight": 0.1, "dice_ramp": -0.4, "dice_schedule": "step"}},
            ["dice_ramp", "negative"],
        ),
        ({"loss": {"dice_schedule": "steps"}}, ["loss.dice_schedule", "'steps'", "step"]),
        ({"runtime": {"device": "gpu"}}, ["runtime.device", "'gpu'"]),
        ({"model": 3}, ["model", "3"]),
        ({"training": {"optimizer": "SGD"}}, ["training.optimizer", "'SGD'", "AdamW"]),
        ({"training": {"early_stopping_patience": "never"}}, ["early_stopping_patience"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_key_and_value(data, words) -> None:
    with pytest.raises(ConfigError) as told:
        config_from_dict(data, "my.yaml")
    text = str(told.value)
    assert "\n" not in text
    assert text.startswith("my.yaml: ")
    for word in words:
        assert word in text


def test_a_config_survives_yaml(tmp_path: Path) -> None:
    values = {"weight_decay": 1e-5, "T_0": 2.5, "experiment.name": "é <b>"}
    config = with_values(Config(), values)
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config, {"trial": 3}), encoding="utf-8")
    again, notes = read_config(file)
    assert notes == []
    assert again.search == {"trial": 3}
    assert again.model_copy(update={"search": None}) == config


@pytest.mark.parametrize("content", ["a: [", "- 1", "\xff"])
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_config(file)


def test_a_key_is_found_by_its_last_name_unless_there_are_two() -> None:
    assert key_path("T_0") == ("training", "scheduler_params", "T_0")
    assert key_path("model.name") == ("model", "name")
    with pytest.raises(ConfigError, match=r"experiment\.name or model\.name"):
        key_path("name")
    with pytest.raises(ConfigError, match="learning_rate"):
        key_path("learning_rat")


def test_which_keys_take_numbers() -> None:
    assert [is_numeric(k) for k in ("learning_rate", "T_0", "dice_schedule", "compile")] == [
        *(True, True, False, False)
    ]
    assert [is_integer(k) for k in ("epochs", "T_mult", "T_0", "dropout")] == [
        *(True, True, False, False)
    ]


def test_every_leaf_key_can_be_got() -> None:
    keys = leaf_keys()
    assert len(keys) == len(set(keys)) > 40
    for key in keys:
        get(Config(), key)


def test_identity_leaves_out_what_does_not_change_a_score() -> None:
    identity = base_identity(Config(), ["dice_weight", "T_0"])
    assert "runtime" not in identity
    assert "experiment" not in identity
    assert "dice_weight" not in identity["loss"]
    assert identity["loss"]["ce_weight"] == 1.0
    assert identity["training"]["scheduler_params"] == {"T_mult": 1, "eta_min": 1e-6}


FILE = """
model: {width: 0.5, dropout: 0.3}
data: {image_size: 32, batch_size: 4}
loss: {dice_weight: 1.7}
training: {learning_rate: 1e-3, epochs: 12, scheduler_params: {T_0: 2}}
runtime: {threads: 3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_an_absent_flag_never_overrides_the_file(file: Path) -> None:
    config = compose(file=file, flags={"data.image_size": None, "training.epochs": None}).config
    assert config.data.image_size == 32
    assert config.training.epochs == 12


def test_flags_and_set_go_before_a_preset_and_the_file(file: Path) -> None:
    config = compose(
        file=file,
        preset="small",
        sets=["dice_weight=2", "width=0.2"],
        flags={"data.image_size": 48},
        train_images=400,
    ).config
    assert (config.data.image_size, config.model.width, config.loss.dice_weight) == (48, 0.2, 2)


def test_a_named_preset_replaces_its_keys_and_keeps_the_rest(file: Path) -> None:
    found = compose(file=file, preset="small", train_images=400)
    config = found.config
    assert (config.data.image_size, config.data.batch_size) == (64, 8)
    assert config.loss.dice_weight == 1.7
    assert config.model.dropout == 0.3
    assert config.runtime.threads is None
    # 2,000 steps of 50 an epoch; T_0 keeps its six cycles
    assert config.training.epochs == 40
    assert pytest.approx(40 / 6) == config.training.scheduler_params.T_0
    told = "\n".join(found.notes)
    for old_new in ("image_size: 32 -> 64", "epochs: 12 -> 40", "T_0: 2 ->", "runtime"):
        assert old_new in told


def test_a_preset_without_epochs_yet_leaves_t_0_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {scheduler_params: {T_0: 8}}\n")
    # search.run asks so before it has looked at the data
    first = compose(file=path, preset="small").config.training
    assert (first.epochs, first.scheduler_params.T_0) == (Config().training.epochs, 8)
    # 2,000 steps of 50 an epoch: a third of the budget still
    then = compose(file=path, preset="small", train_images=400).config.training
    assert (then.epochs, then.scheduler_params.T_0) == (40, pytest.approx(40 / 3))


def test_a_searched_key_stays_the_files_under_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "export.yaml"
    path.write_text(FILE + "search: {searched: [learning_rate, T_0], fixed: {}}\n")
    found = compose(file=path, preset="full", train_images=400)
    assert found.config.training.learning_rate == 1e-3
    assert not any("learning_rate" in note for note in found.notes)
    assert found.config.model.width == 1.0


def test_a_default_preset_fills_only_what_the_file_leaves_open(file: Path) -> None:
    config = compose(file=file, default_preset="small", train_images=400).config
    assert (config.data.image_size, config.training.epochs) == (32, 12)
    assert config.runtime.threads == 3


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="demo, small, full"):
        compose(preset="huge")


@pytest.mark.parametrize("text", ["dice_weight", "=3", "dice_weight=[", "dice_wight=3"])
def test_set_refuses_what_is_no_key_and_value(text: str) -> None:
    with pytest.raises(ConfigError):
        compose(sets=[text])
