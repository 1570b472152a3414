"""The forms in which search.export writes a trial, besides its YAML."""

from __future__ import annotations

import ast
import csv
import io
import json
import shlex
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.export import main
from search.results.export_formats import as_csv, train_words
from search.results.reading import results_of
from search.study.attributes import CONFIG, IMPORTED, RUN
from search.study.training_metrics import COLUMNS
from tests.support.repeated import repeated
from tests.support.shells import one_line
from tests.support.studies import play, setup_of, store, study_of
from trainer import train
from trainer.config import Config, compose, load_yaml, to_dict, with_values
from trainer.presets import PRESETS
from trainer.runtime import choose_runtime

EVIL = ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\n=1", "\u200b=1"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a study of four played trials, one of them with a note, and a waiting one."""
    folder = tmp_path_factory.mktemp("formats")
    with closing(store(folder)) as storage:
        study = study_of(storage)
        study.enqueue_trial({"dice_weight": 2.5}, user_attrs={"note": "plain\nnote; 1, 2"})
        play(study, storage, setup_of(), 4)
        study.enqueue_trial({"dropout": 0.2})
    return folder


@pytest.fixture
def folder(played: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    shutil.copytree(played, tmp_path, dirs_exist_ok=True)
    return tmp_path


def written(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What the command writes to standard output."""
    capsys.readouterr()
    assert main(["--storage", f"sqlite:///{folder}/search.db", *flags]) == 0
    return capsys.readouterr().out


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    url = f"sqlite:///{folder}/search.db"
    return one_line(main, capsys, "--storage", url, "--study", "faces", *flags)


def without_command(document: Any) -> Any:
    document["search"].pop("command")
    return document


# ------------------------------------------------------------------------------- the whole config


def test_json_and_a_python_literal_hold_what_the_yaml_holds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = without_command(load_yaml(written(folder, capsys), "yaml"))
    as_json = json.loads(written(folder, capsys, "--format", "json"))
    assert as_json["search"]["command"].endswith("--format json")
    assert without_command(as_json) == plain
    literal = ast.literal_eval(written(folder, capsys, "--format", "python-dict"))
    assert without_command(literal) == plain
    assert list(as_json) == list(literal) == list(plain)


def test_a_format_goes_to_a_file_as_it_goes_to_standard_output(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, what in (("cli", "trial "), ("csv", "5 trials of faces are")):
        out = tmp_path / "new" / form
        flags = ["--study", "faces", "--format", form]
        url = f"sqlite:///{folder}/search.db"
        assert main(["--storage", url, *flags, "--out", str(out)]) == 0
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(what)
        assert told.err.endswith(f" in {out}\n")
        assert out.read_text() == written(folder, capsys, *flags)


# --------------------------------------------------------------------------------- command line


def parsed(line: str) -> Config:
    """The config that trainer.train would train with."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "trainer.train"]
    config, _ = train._composed(train.parser().parse_args(words[3:]))
    return config


def test_the_command_line_gives_the_config_of_the_yaml(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("0", "1", "2", "3"):
        line = written(folder, capsys, "--trial", number, "--format", "cli")
        assert line.count("\n") == 1
        whole = load_yaml(written(folder, capsys, "--trial", number), "yaml")
        del whole["search"]
        assert to_dict(parsed(line)) == to_dict(choose_runtime(Config.model_validate(whole))) | {
            "search": None
        }


ODD: list[dict[str, Any]] = [
    {},
    {"experiment.name": "on", "experiment.description": 'it\'s "1e-5": {a, b} # c\n\tä \\ $HOME'},
    {"experiment.name": "1e-4", "data.root": "my faces/'a'"},
    {"data.root": "elsewhere", "seed": 7, "device": "cuda:1", "threads": 3, "channels_last": False},
    {"early_stopping_patience": None, "T_0": 10 / 3, "eta_min": 1e-7, "epochs": 150},
    {"scale_range": [0.5, 1.0], "dice_schedule": "step", "dice_ramp": -0.4, "dice_weight": 2.0},
    {"model.name": "package.module:factory", "brightness": 0.0, "weight_decay": 1.2345678901e-5},
    {"compile": True, "precision": "bfloat16", "micro_batch": 4, "width": 0.1},
]


@pytest.mark.parametrize("values", ODD)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_words_give_their_config_back_whatever_preset_the_machine_would_fill_in(
    values: dict[str, Any], preset: str
) -> None:
    config = with_values(Config(), values)
    line = shlex.join(train_words(config))
    args = train.parser().parse_args(shlex.split(line)[3:])
    flags = {"data.root": args.data, "training.seed": args.seed, "runtime.device": args.device}
    again = compose(sets=args.sets, flags=flags, default_preset=preset, train_images=123)
    assert again.config == config


def test_the_words_name_nothing_that_is_at_its_default_in_any_case() -> None:
    words = train_words(with_values(Config(), {"dice_weight": 2.5, "model.name": "a:b"}))
    named = [word.partition("=")[0] for word in words[3:] if word != "--set"]
    filled = ["width", "image_size", "batch_size", "synthetic_images", "learning_rate", "epochs"]
    assert sorted(named) == sorted([*filled, "model.name", "dice_weight"])


# ---------------------------------------------------------------------------------------- table


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_one_line_of_headings_and_a_line_a_trial_with_numbers_unrounded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written(folder, capsys, "--format", "csv")
    rows = rows_of(text)
    trials = study_of(store(folder)).get_trials()
    assert text.count("\n") == 1 + len(rows) == 1 + len(trials)
    params = list(setup_of().specs())
    heads = ["trial", "name", "state", "value", *COLUMNS, *params, "seed", "note"]
    assert text.partition("\n")[0] == ",".join(heads)
    for row, trial in zip(rows, trials, strict=True):
        assert (row["trial"], row["state"]) == (str(trial.number), trial.state.name)
        for name, value in trial.params.items():
            assert (row[name] if isinstance(value, str) else float(row[name])) == value
    assert float(rows[0]["value"]) == max(trials[0].intermediate_values.values())
    assert float(rows[0]["final_val_f"]) == trials[0].intermediate_values[12]
    assert rows[0]["note"] == "plain note; 1, 2"
    assert (rows[-1]["state"], rows[-1]["value"], rows[-1]["dice_weight"]) == ("WAITING", "", "")


@pytest.mark.parametrize("note", EVIL)
def test_no_note_becomes_a_formula(tmp_path: Path, note: str) -> None:
    study = study_of(store(tmp_path))
    study.enqueue_trial({"dropout": 0.2}, user_attrs={"note": note})
    (row,) = rows_of(as_csv(results_of(study)))
    assert row["note"].startswith("'")
    assert row["note"][1:] in note


def test_a_negative_number_stays_a_number(folder: Path) -> None:
    study = study_of(store(folder), "other")
    study.enqueue_trial({"dice_ramp": -0.5})
    play(study, store(folder), setup_of("other"), 1)
    assert rows_of(as_csv(results_of(study)))[0]["dice_ramp"] == "-0.5"


def test_the_csv_of_a_study_without_trials_is_its_line_of_headings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_of(store(tmp_path))
    text = written(tmp_path, capsys, "--format", "csv")
    assert text.startswith("trial,name,state,value,best_val_f,")
    assert text.count("\n") == 1


def imported_study(folder: Path) -> None:
    """What search.import_results makes, with a parameter that is called as one of the columns."""
    study = optuna.create_study(study_name="old", storage=store(folder), direction="maximize")
    study.set_user_attr(IMPORTED, {"metric": "F pooled per batch", "source": "old.json"})
    choice = optuna.distributions.CategoricalDistribution(("a", "=b"))
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=0.5,
            params={"model.name": "=b", "seed": 7},
            distributions={
                "model.name": choice,
                "seed": optuna.distributions.IntDistribution(0, 9),
            },
            intermediate_values={1: 0.4, 2: 0.5},
            user_attrs={RUN: "run one", CONFIG: {"model.name": "=b"}, "best_val_f": 0.5},
        )
    )


def test_an_imported_study_has_a_table_and_nothing_to_train_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported_study(tmp_path)
    study_of(store(tmp_path))
    (row,) = rows_of(written(tmp_path, capsys, "--study", "old", "--format", "csv"))
    assert (row["name"], row["model.name"]) == ("run one", "'=b")
    assert (row["value"], row["params_seed"], row["seed"]) == ("0.5", "7", "")
    for form in ("yaml", "json", "python-dict", "cli", "card"):
        line = refusal(tmp_path, capsys, "--study", "old", "--format", form)
        assert 'study "old" was imported' in line
        assert "--format csv gives its table" in line


# ------------------------------------------------------------------------------------ which trial


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--confirmed", "--trial", "1"], "--trial 1 and --confirmed each choose a trial"),
        (["--format", "csv", "--trial", "1"], "--format csv holds all trials; leave --trial 1 out"),
        (["--format", "csv", "--confirmed"], "leave --confirmed out"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert told in refusal(folder, capsys, *flags)


def test_an_unknown_format_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--format", "toml"])
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert told.count("\n") == 1
    assert "toml" in told
    assert "python-dict" in told


def test_a_study_that_was_not_repeated_has_no_confirmed_winner(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(folder, capsys, "--confirmed")
    assert "python -m search.confirm" in line
    assert "faces" in line


def test_the_confirmed_winner_is_exported_in_every_form_of_a_trial(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(folder)
    better, worse = (trial.params for trial in study_of(storage).get_trials()[:2])
    repeated(storage, {"good": (better, [0.7, 0.71, 0.72]), "bad": (worse, [0.4, 0.41, 0.42])})
    for flags in ([], ["--format", "json"]):
        text = written(folder, capsys, "--confirmed", "--study", "faces", *flags)
        document = load_yaml(text, "export")
        assert document["search"]["study"] == "faces-confirm"
        assert document["search"]["params"] == better
        assert document["training"]["seed"] == document["search"]["seed"] >= 100
    table = rows_of(written(folder, capsys, "--study", "faces-confirm", "--format", "csv"))
    assert [row["name"] for row in table] == ["good"] * 3 + ["bad"] * 3
    line = written(folder, capsys, "--confirmed", "--study", "faces-confirm", "--format", "cli")
    assert parsed(line).loss.dice_weight == better["dice_weight"]
