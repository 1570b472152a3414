"""The user's old files in today's layout."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.support.paths import HISTORIES
from trainer.config import Config, as_today, config_from_dict, read_config, to_dict
from trainer.errors import ConfigError

OLD = {
    "data": {"batch_size": 32, "num_workers": 8, "root": "data", "val_split": 0.1},
    "loss": {"ce_weight": 1.0, "dice_weight": 1.5, "use_focal": False},
    "model": {"dropout": 0.15, "name": "microsegformer", "num_classes": 19, "use_lmsa": True},
    "gpu_augmentation": {"horizontal_flip_prob": 0.4, "rotation_degrees": 12, "contrast": 0.3},
    "training": {
        "early_stopping_patience": 999,
        "epochs": 200,
        "learning_rate": "8e-4",
        "scheduler": "CosineAnnealingLR",
        "use_amp": False,
        "warmup_epochs": 5,
        "cutmix_prob": 0.3,
    },
    "output_dir": "checkpoints/x",
}


def test_an_old_config_is_read_with_every_value_that_still_means_something() -> None:
    config = config_from_dict(as_today(OLD)[0])
    assert config.model.name == "lmsa"
    assert config.training.learning_rate == 8e-4
    assert config.training.early_stopping_patience is None
    assert config.training.scheduler_params.T_0 is None
    assert config.runtime.precision == "float32"
    assert config.augmentation.horizontal_flip == 0.4
    assert config.augmentation.rotation == 12
    assert config.augmentation.color_jitter.contrast == 0.3
    assert config.augmentation.cutmix == 0.3


def test_each_key_touched_is_named_once() -> None:
    notes = as_today(OLD)[1]
    for key in (
        *("output_dir", "data.num_workers", "data.val_split", "model.num_classes"),
        *("model.use_lmsa", "model.name", "loss.use_focal", "training.use_amp"),
        *("gpu_augmentation.rotation_degrees", "training.cutmix_prob", "training.scheduler"),
        *("training.learning_rate", "training.early_stopping_patience"),
    ):
        assert sum(note.startswith((f"{key} ", f"{key}:")) for note in notes) == 1, key


def test_the_input_is_left_as_it_was() -> None:
    before = copy.deepcopy(OLD)
    as_today(OLD)
    assert before == OLD


def test_a_file_in_todays_layout_passes_untouched() -> None:
    today = to_dict(Config())
    assert as_today(today) == (today, [])


def test_an_unknown_key_of_an_old_file_is_still_refused() -> None:
    with pytest.raises(ConfigError, match="loss.dice_wieght"):
        config_from_dict(as_today({**OLD, "loss": {"dice_wieght": 1.0}})[0])


def test_all_nineteen_configs_of_the_user_load(tmp_path: Path) -> None:
    runs = json.loads(HISTORIES.read_text())
    assert len(runs) == 19
    for run in runs:
        file = tmp_path / "old.yaml"
        file.write_text(json.dumps(run["config"]))  # JSON is YAML
        config, notes = read_config(file)
        assert config.loss.dice_weight == run["config"]["loss"]["dice_weight"]
        assert config.training.epochs == run["config"]["training"]["epochs"]
        heads = [note.split(" ")[0].rstrip(":") for note in notes]
        assert len(heads) == len(set(heads))


def test_only_keys_that_take_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "experiment: {name: 2024, description: '1e-4'}\n"
        "output_dir: 2024-01-01\n"
        "data: {root: '1e5', batch_size: '8'}\n"
        "training: {learning_rate: '8e-4', use_amp: no, early_stopping_patience: '999'}\n"
    )
    config, notes = read_config(file)
    assert (config.experiment.name, config.experiment.description) == ("2024", "1e-4")
    assert (config.data.root, config.data.batch_size) == ("1e5", 8)
    assert config.training.learning_rate == 8e-4
    assert config.training.early_stopping_patience is None
    assert config.runtime.precision == "float32"
    assert "output_dir: '2024-01-01' is dropped: say --out instead" in notes


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("augmentation: 3\ngpu_augmentation: {contrast: 0.1}", "augmentation: keys and values"),
        ("runtime: 3\ntraining: {use_amp: true}", "runtime: keys and values"),
        ("training: {use_amp: maybe}", "training.use_amp"),
    ],
)
def test_a_section_or_switch_that_is_none_is_left_for_the_check(
    tmp_path: Path, more: str, says: str
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"output_dir: a\n{more}\n")
    with pytest.raises(ConfigError, match=says):
        read_config(file)
