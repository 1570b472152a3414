from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.management.enqueue import Request, complete, enqueue, read_requests
from search.study.lookup import load_setup
from search.study.requests import planned_params
from tests.support.studies import EPOCHS, play, setup_of, store, study_of
from trainer.errors import ConfigError


def read(folder: Path, text: str) -> list[Request]:
    file = folder / "wanted.yaml"
    file.write_text(text, encoding="utf-8")
    return read_requests(file)


def test_a_file_is_read_with_everything_in_it(tmp_path: Path) -> None:
    first, second = read(
        tmp_path,
        """
        - params: {dice_weight: 3, weight_decay: 1e-3, dice_schedule: step, dice_ramp: -0.2}
          seed: 5
          note: why not higher
          priority: 2
          expect: [0.6, 0.7]
        - params: {}
        """,
    )
    assert first.params["weight_decay"] == 1e-3
    assert (first.seed, first.note, first.priority) == (5, "why not higher", 2)
    assert first.expect == (0.6, 0.7)
    assert second == Request({})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params: {}", "a list is needed"),
        ("- [1]", "needs `params"),
        ("- {parms: {}}", "unknown key parms: did you mean params"),
        ("- {params: [1]}", "is no mapping"),
        ("- {params: {}, seed: -1}", "seed"),
        ("- {params: {}, seed: 1.5}", "seed"),
        ("- {params: {}, priority: high}", "priority"),
        ("- {params: {}, priority: .nan}", "priority"),
        ("- {params: {}, note: [a]}", "note"),
        ("- {params: {}, expect: [0.7, 0.6]}", r"write \[low, high\]"),
        ("- {params: {}, expect: [60, 70]}", "scores from 0 to 1"),
        ("- {params: {}, expect: 0.6}", r"write \[low, high\]"),
        ("- params: {", "not YAML"),
        ("- params: {}\n  seed: 1\n  seed: 2", "line 3: key 'seed' stands there twice"),
        ("- params: {dropout: 0.1, dropout: 0.2}", "key 'params.dropout' stands there twice"),
        ("- {params: {}, seed: 1_000}", "seed: '1_000': a whole number"),
        ("- {params: {}, seed: 1e400}", "seed: '1e400': a whole number"),
        ("- {params: {}, priority: 1:30}", "priority: '1:30': a number is needed"),
        ('- {params: {}, note: "\\udcff"}', "not all in UTF-8"),
    ],
)
def test_a_file_amiss_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "wanted.yaml" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_requests(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"dice_wieght": 2}, "dice_weight"),
        ({"dice_weight": 9}, "outside 0.5..4: name a value inside, or widen it"),
        ({"dice_weight": "much"}, "not a number"),
        ({"dice_weight": True}, "not a number"),
        ({"dice_weight": None}, "not a number"),
        ({"dice_schedule": "up"}, "not one of constant"),
        ({"T_0": 7}, "not one of 12, 6, 4, 3, 2.4, 2"),
        ({"learning_rate": 1e-3}, "not searched in study faces"),
        ({"nonsense": 1}, "nonsense"),
        ({"dropout": "1:30"}, "dropout=1:30: not a number"),
        ({"dropout": "0.1_0"}, "not a number"),
        ({"dropout": 0.1, "model.dropout": 0.2}, "model.dropout and dropout are one parameter"),
    ],
)
def test_unknown_names_and_values_outside_are_refused(params: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        complete(Request(params), setup_of())


def test_all_are_checked_before_one_is_written(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    with pytest.raises(ConfigError, match="entry 2"):
        enqueue(study, setup_of(), [Request({}), Request({"dropout": 2.0})])
    assert study.get_trials() == []


def test_what_is_not_named_is_the_base_configs(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"fixes": ("weight_decay=1e-3",), "config": {"dropout": 0.3}}
    study = study_of(storage, **options)
    setup = load_setup(study)
    enqueue(study, setup, [Request({"loss.dice_weight": 2, "T_0": 2.4})])
    params = play(study, storage, setup, 1)[0]
    assert params == {
        "dice_weight": 2.0,
        "dice_schedule": "constant",
        "dice_ramp": 0.0,
        "label_smoothing": 0.0,
        "dropout": 0.3,
        "weight_decay": 1e-3,
        "T_0": 2.4,
    }


def test_an_enqueued_value_stands_before_a_fixed_one(tmp_path: Path) -> None:
    storage = store(tmp_path)
    options = {"fixes": ("dropout=0.1",)}
    study = study_of(storage, **options)
    enqueue(study, setup_of(**options), [Request({"dropout": 0.25})])
    played = play(study, storage, setup_of(**options), 2)
    assert [params["dropout"] for params in played] == [0.25, 0.1]


def test_the_same_command_enqueues_once_and_again_means_again(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    wanted = [Request({"dice_weight": 2.0}), Request({"dice_weight": 2.0}), Request({}, seed=3)]
    assert enqueue(study, setup_of(), wanted) == [0, 1, 2]
    assert enqueue(study, setup_of(), wanted) == []
    assert enqueue(study, setup_of(), wanted[:1], again=True) == [3]
    assert enqueue(study, setup_of(), wanted[:1], again=True) == [4]


def test_an_interrupted_run_enqueues_the_rest(tmp_path: Path) -> None:
    study = study_of(store(tmp_path))
    wanted = [Request({"dice_weight": 2.0}), Request({"dice_weight": 3.0})]
    enqueue(study, setup_of(), wanted[:1])
    assert enqueue(study, setup_of(), wanted) == [1]


def test_seed_note_priority_and_expectation_stay_with_the_trial(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    requests = [
        Request({"dice_weight": 1.0}, note="later"),
        Request({"dice_weight": 2.0}, seed=77, note="sooner", priority=3, expect=(0.5, 0.6)),
    ]
    enqueue(study, setup_of(), requests)
    sooner = study.get_trials()[1]
    assert sooner.state == TrialState.WAITING
    assert planned_params(sooner)["dice_weight"] == 2.0
    assert planned_params(sooner)["T_0"] == EPOCHS
    attrs = sooner.user_attrs
    assert (attrs["seed"], attrs["note"], attrs["priority"]) == (77, "sooner", 3)
    assert attrs["expect"] == [0.5, 0.6]
    assert [run["dice_weight"] for run in play(study, storage, setup_of(), 2)] == [2.0, 1.0]


def test_numbers_are_what_they_spell_and_notes_stay_text(tmp_path: Path) -> None:
    text = """
        - params: {dropout: '0.1', T_0: 012, dice_schedule: constant}
          seed: '010'
          note: 2024-01-01
          priority: "2"
          expect: ['0.5', 0.6]
        - {params: {}, note: no}
        """
    first, second = read(tmp_path, text)
    assert (first.seed, first.note, first.priority) == (10, "2024-01-01", 2)
    assert (first.expect, second.note) == ((0.5, 0.6), "no")
    params = complete(first, setup_of())
    assert (params["dropout"], params["T_0"]) == (0.1, 12)
