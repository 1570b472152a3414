"""The model card says what the study knows, and where that ends."""

from __future__ import annotations

import html
import json
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from search.confirmation.scores import IMAGES
from search.export import main
from search.reporting import model_card
from search.results.statistics.intervals import interval, over_images
from search.study.run_folders import trial_folder
from storage import LeasedStorage, open_storage
from tests.support.paths import ROOT
from tests.support.repeated import repeated
from tests.support.studies import FACES, play, setup_of, store, study_of
from trainer.config import Config, with_values
from trainer.data.classes import NAMES
from trainer.data.dataset import DataSummary
from trainer.model import model_of, parameter_count

REAL = DataSummary("my <script> faces", 683, 100, 67, "fedcba9876543210")


def plain(markdown: str) -> str:
    """Markdown as its reader sees it, on one line."""
    return " ".join(html.unescape(re.sub(r"\\([^0-9A-Za-z\s])", r"\1", markdown)).split())


def raw(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    url = f"sqlite:///{folder}/search.db"
    given = ["--storage", url, "--runs", str(folder / "runs"), "--format", "card", *flags]
    assert main(given) == 0
    return capsys.readouterr().out


def told(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    return plain(raw(folder, capsys, *flags))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a study of four trials, played on 40 faces."""
    folder = tmp_path_factory.mktemp("card")
    with closing(store(folder)) as opened:
        play(study_of(opened), opened, setup_of(), 4)
    return folder


@pytest.fixture
def storage(played: Path, tmp_path: Path) -> LeasedStorage:
    """A copy of it, to change."""
    shutil.copytree(played, tmp_path, dirs_exist_ok=True)
    return store(tmp_path)


def history(folder: Path, number: int, per_class: dict[str, Any], epoch: int) -> None:
    """A file as the trainer leaves it."""
    place = trial_folder(folder / "runs", "faces", number) / "1"
    place.mkdir(parents=True)
    rows = [{"epoch": at, "val_f": 0.1, "val_f_per_class": {"hair": 0.0}} for at in (1, 2)]
    rows.append({"epoch": epoch, "val_f": 0.9, "val_f_per_class": per_class})
    (place / "history.json").write_text(json.dumps(rows))


def test_the_card_names_network_data_score_and_versions(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(tmp_path, capsys, "--study", "faces")
    best = study_of(storage).best_trial
    count = parameter_count(model_of(with_values(Config(), {"dropout": best.params["dropout"]})))
    assert f"lmsa at width 1, {count:,} parameters (1,821,085 are allowed)" in text
    assert "synthetic: 40 pictures to train, 8 to validate" in text
    assert FACES.fingerprint in text
    assert f"| f_score (its value) | {best.value:.4f} |" in text
    assert f"seed {best.user_attrs['seed']}" in text
    for name, version in setup_of().versions.items():
        assert f"{name} {version}" in text
    assert "python -m trainer.train --set" in text
    assert re.search("python -m search.export --storage '?sqlite:///", text)
    assert f"| dice_weight | {best.params['dice_weight']:g} |" in text


def test_the_metric_is_defined_as_in_the_readme(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = plain((ROOT / "README.md").read_text(encoding="utf-8"))
    for text in (
        model_card.F_SCORE,
        model_card.F_SCORE_FULL,
        model_card.F_PER_CLASS,
        model_card.MIRRORED,
    ):
        assert text in readme
    written = told(tmp_path, capsys, "--study", "faces")
    assert model_card.F_SCORE in written
    assert model_card.F_SCORE_FULL in written


def test_one_seed_has_no_interval_and_the_card_says_so(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(tmp_path, capsys, "--study", "faces")
    assert "One seed, so there is no interval" in text
    assert "95 %" not in text
    assert re.search("python -m search.confirm --study faces --storage '?sqlite:///", text)


def test_repeats_of_the_same_configuration_give_mean_and_interval(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study_of(storage).best_trial
    scores = [0.61, 0.64, 0.62]
    other = {**best.params, "dropout": 0.399}
    repeated(storage, {"trial 1": (other, [0.1, 0.2]), "trial 3": (best.params, scores)})
    span = interval(scores, looks=2)
    assert span is not None
    text = told(tmp_path, capsys, "--study", "faces")
    assert (
        f"With 3 fresh seeds (study faces-confirm): mean f_score {span.mean:.4f}, 95 % interval"
        f" {span.low:.4f} to {span.high:.4f}; they reached 0.6100, 0.6200, 0.6400."
    ) in text
    assert "new seeds on this split; it says nothing of other pictures" in text
    assert "One seed" not in text


def test_repeats_of_another_configuration_or_on_other_data_are_not_taken_for_it(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study_of(storage).best_trial
    repeated(storage, {"trial 1": ({**best.params, "dropout": 0.399}, [0.61, 0.62])})
    assert "One seed, so there is no interval" in told(tmp_path, capsys, "--study", "faces")
    play(study_of(storage, "b"), storage, setup_of("b"), 1)
    params = study_of(storage, "b").best_trial.params
    elsewhere = DataSummary("synthetic", 40, 8, 8, "ffff")
    repeated(storage, {"same": (params, [0.6, 0.7])}, "b-confirm", data=elsewhere)
    assert "One seed, so there is no interval" in told(tmp_path, capsys, "--study", "b")


def test_the_card_of_the_confirmed_winner_speaks_of_the_repeats(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study_of(storage).best_trial
    other = {**best.params, "dropout": 0.399}
    repeated(storage, {"one": (best.params, [0.5, 0.51]), "two": (other, [0.6, 0.62, 0.64])})
    text = told(tmp_path, capsys, "--study", "faces", "--confirmed")
    assert "# Face parsing: two, repeated with seed 103, study faces-confirm" in text
    assert "With 3 fresh seeds (study faces-confirm): mean f_score 0.6200" in text
    assert "two is one of 2 configurations that were repeated with fresh seeds" in text
    assert "| dropout | 0.399 |" in text
    assert "Of 4 trials" not in text
    repeated(storage, {"one": (best.params, [0.9, 0.91])})
    text = told(tmp_path, capsys, "--study", "faces", "--confirmed")
    assert "Of 4 trials of the search faces" in text
    assert "one is one of 2 configurations" in text


def test_scores_by_image_give_an_interval_over_pictures(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study_of(storage).best_trial
    repeated(storage, {"one": (best.params, [0.5, 0.52])})
    seeds = {0: [0.5, 0.7, 0.6], 1: [0.6, 0.6, 0.6]}
    for number, scores in seeds.items():
        place = trial_folder(tmp_path / "runs", "faces-confirm", number) / "1"
        place.mkdir(parents=True)
        part = {"f_score": scores, "f_score_full": [score / 2 for score in scores]}
        (place / IMAGES).write_text(json.dumps({"test": part}))
    span = over_images(list(seeds.values()))
    assert span is not None
    text = told(tmp_path, capsys, "--study", "faces")
    assert f"| test | 3 | 0.6000 | {span.low:.4f} to {span.high:.4f} | 0.3000 |" in text


def test_the_value_is_called_the_best_of_so_many(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(storage)
    play(study, storage, setup_of(), 8)
    study.enqueue_trial({"dropout": 0.2})
    states = [trial.state for trial in study.get_trials()]
    complete, pruned = states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)
    assert complete > 1
    text = told(tmp_path, capsys, "--study", "faces")
    assert (
        f"Of 13 trials of the search faces 12 were scored: {complete} trained to their end,"
        f" {pruned} pruned before."
    ) in text
    assert f"This one has the best expected score of {complete}, from its own" in text
    last = max(
        (trial for trial in study.get_trials() if trial.state == TrialState.COMPLETE),
        key=lambda trial: -(trial.value or 0),
    )
    text = told(tmp_path, capsys, "--study", "faces", "--trial", str(last.number))
    assert f"its value is number {complete} of {complete}." in text
    assert "optimistic" not in text


def test_a_trial_that_was_cut_short_says_so(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = study_of(storage).best_trial
    study_of(storage, "cut").add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params=whole.params,
            distributions=whole.distributions,
            intermediate_values={1: 0.1, 2: 0.3, 3: 0.2},
            user_attrs={"seed": 5},
        )
    )
    text = told(tmp_path, capsys, "--study", "cut", "--trial", "0")
    assert "This one was not trained to its end: 3 epochs of 12." in text


def test_scores_by_class_are_those_of_the_best_epoch(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study_of(storage).best_trial
    epoch = max(best.intermediate_values, key=lambda at: best.intermediate_values[at])
    per_class: dict[str, Any] = dict.fromkeys(NAMES, 0.51239) | {"hat": None}
    history(tmp_path, best.number, per_class, epoch)
    text = told(tmp_path, capsys, "--study", "faces")
    assert "| l_eye | 0.5124 |" in text
    assert "| hat | in neither |" in text
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert "| l_eye |" not in told(tmp_path, capsys, "--study", "faces")
    assert "no history of this trial" in told(tmp_path, capsys, "--study", "faces")


def test_the_limits_are_those_of_the_data(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = told(tmp_path, capsys, "--study", "faces")
    assert "Built-in, drawn faces: neither scores nor values transfer" in drawn
    assert "non-commercial" not in drawn
    given: dict[str, Any] = {"config": {"data.root": "my faces", "image_size": 128}, "data": REAL}
    play(study_of(storage, "real", **given), storage, setup_of("real", **given), 1)
    real = told(tmp_path, capsys, "--study", "real")
    assert "trained and scored at 128 x 128 pixels" in real
    assert "non-commercial research only" in real
    assert model_card.MIRRORED in real
    assert "chosen on 100 validation pictures" in real
    assert "transfer" not in real


def test_names_stay_text(
    tmp_path: Path, storage: LeasedStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "<script>alert(1)</script>|*x*"
    given: dict[str, Any] = {"config": {"data.root": "faces"}, "data": REAL}
    play(study_of(storage, name, **given), storage, setup_of(name, **given), 1)
    best = study_of(storage, name, **given).best_trial
    place = trial_folder(tmp_path / "runs", name, best.number) / "1"
    place.mkdir(parents=True)
    rows = [
        {"epoch": epoch, "val_f": 0.1, "val_f_per_class": {"<b>|hair": 0.5}}
        for epoch in best.intermediate_values
    ]
    (place / "history.json").write_text(json.dumps(rows))
    text = raw(tmp_path, capsys, "--study", name)
    # within a fenced block nothing is markup
    prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    assert "<" not in prose
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\*x\\*" in prose
    assert "my &lt;script&gt; faces" in prose
    assert "&lt;b&gt;\\|hair" in prose


def test_no_password_stands_in_a_card(postgres_url: str, tmp_path: Path) -> None:
    opened = open_storage(postgres_url)
    play(study_of(opened), opened, setup_of(), 1)
    out = tmp_path / "CARD.md"
    secret = postgres_url.replace("postgres:@", "postgres:hunter2@")
    assert secret != postgres_url
    assert main(["--storage", secret, "--format", "card", "--out", str(out)]) == 0
    text = out.read_text()
    assert text.count("postgres:***@") == 2
    assert "hunter2" not in text
