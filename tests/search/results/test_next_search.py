from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from search.commands import options_of
from search.management.opening import open_study
from search.management.options import StudyOptions
from search.management.planning import planned
from search.management.transfer import transfer_trials
from search.results.evidence import Evidence
from search.results.findings.next_search import advice_sentences, next_command, unsearched
from search.results.reading import results_of
from search.run import parser
from search.study.identity import identity_differences, resolved_setup
from search.study.lookup import load_setup, study_or_none
from search.study.setup import Setup, config_for
from space import Float
from tests.support.marks import long
from tests.support.outcomes import COMPLETE, run, said, searched, spread, study
from tests.support.studies import setup_of, store
from trainer.config import to_yaml
from trainer.data.dataset import describe


def peak_at(dice: float) -> Any:
    return lambda d, p: 0.7 - 0.03 * (d - dice) ** 2


def test_a_best_at_an_edge_asks_for_a_wider_range() -> None:
    text = said(searched(60, lambda d, p: 0.5 + 0.05 * d), "advice")
    assert "widen dice_weight from 0.5..4 to 0.5..5.75" in text
    assert "of the best 6 trials lie in its upper tenth" in text


def test_an_edge_is_judged_on_the_scale_of_the_range() -> None:
    setup = setup_of()
    rng = np.random.default_rng(0)
    ones = []
    for number in range(40):
        decay = float(10 ** rng.uniform(-5, -2))
        value = 0.6 - 0.02 * math.log10(decay)
        ones.append(run(number, value, params={"weight_decay": decay}))
    text = said(study(ones, setup), "advice")
    # on a plain scale nine tenths of the trials would lie in the lowest tenth
    assert "widen weight_decay from 1e-05..0.01 log to 3.16e-07..0.01 log" in text


def test_a_natural_end_is_not_widened() -> None:
    ones = [
        run(
            i,
            0.6 - i / 1000,
            params={"dropout": 0.4 * i / 40, "dice_weight": 1 + (i * 7 % 40) / 20},
        )
        for i in range(40)
    ]
    assert "widen dropout" not in said(study(ones, setup_of()), "advice")


def test_a_part_that_is_shown_to_be_worse_is_cut_off() -> None:
    results = searched(80, peak_at(1.2))
    text = said(results, "advice")
    found = re.search(r"narrow dice_weight from 0.5..4 to ([\d.]+?)\.\.([\d.]+): ", text)
    assert found is not None
    assert float(found[1]) < 0.9
    assert 1.5 < float(found[2]) < 2.5
    assert "widen" not in text


@pytest.mark.parametrize("seed", range(5))
def test_ranges_stay_where_nothing_depends_on_them(seed: int) -> None:
    assert "narrow" not in said(searched(40, lambda d, p: 0.7, seed=seed), "advice")


def test_imported_results_are_advised_to_be_repeated() -> None:
    results = study([run(0, 0.5, 1.0), run(1, 0.6, 1.5)])
    assert "python -m search.confirm --compare dice_weight=1.0,1.5" in said(results, "advice")
    assert next_command(Evidence(results), "sqlite:///x.db", "runs") is None


def filled(folder: Path, setup: Setup, count: int = 40) -> tuple[Any, optuna.Study]:
    """A study of trials whose score rises with the dice weight."""
    storage = store(folder)
    made = open_study(storage, setup)
    rng = np.random.default_rng(0)
    for number in range(count):
        dice = float(rng.uniform(0.5, 4.0))
        value = 0.4 + 0.05 * dice
        made.add_trial(
            create_trial(
                state=COMPLETE,
                value=value,
                params={**setup.defaults, "dice_weight": dice},
                distributions=spread(setup),
                intermediate_values={e: value - 0.01 * (12 - e) for e in range(1, 13)},
                user_attrs={"seed": number},
            )
        )
    return storage, made


@pytest.mark.parametrize(
    "options",
    [
        {},
        long({"config": {"model.width": 0.2, "loss.lovasz_weight": 0.5}}),
        long({"fixes": ("dropout=0.2",), "ranges": ("learning_rate=1e-4:5e-3:log", "T_0=3:12")}),
    ],
)
def test_the_command_starts_the_search_that_the_advice_describes(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setup = setup_of("faces", data=describe("synthetic", 500), preset="demo", **options)
    storage, made = filled(tmp_path, setup)
    words = next_command(Evidence(results_of(made)), f"sqlite:///{tmp_path}/search.db", "runs")
    assert words is not None
    assert words[1:3] == ["-m", "search.run"]
    args = parser().parse_args(words[3:])
    assert args.old == "faces"
    assert args.study == "faces-2"
    plan = planned(options_of(StudyOptions, args))
    assert identity_differences(load_setup(made), plan.setup) == []
    assert plan.setup.fixed == setup.fixed
    assert plan.setup.sampler == setup.sampler
    wider = plan.setup.specs()["dice_weight"]
    assert isinstance(wider, Float)
    assert wider.high > 4.0
    new = open_study(storage, plan.setup)
    assert transfer_trials(new, storage, "faces") == [
        "--from faces: 40 trials taken over with their values and curves"
    ]


def test_without_another_range_the_command_goes_on_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setup = setup_of("faces", data=describe("synthetic", 500), preset="demo")
    storage, made = filled(tmp_path, setup, count=5)
    words = next_command(Evidence(results_of(made)), f"sqlite:///{tmp_path}/search.db", "runs")
    assert words is not None
    args = parser().parse_args(words[3:])
    assert (args.study, args.old, args.trials) == ("faces", None, 25)
    new = planned(options_of(StudyOptions, args))
    assert resolved_setup(study_or_none(storage, setup.name), new.setup).uid == setup.uid


def test_keys_that_were_not_searched_and_likely_matter_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setup = setup_of("faces", data=describe("synthetic", 500), preset="demo")
    storage, made = filled(tmp_path, setup)
    evidence, url = Evidence(results_of(made)), f"sqlite:///{tmp_path}/search.db"
    assert "likely to matter: learning_rate (" in advice_sentences(evidence)[-1]
    words = next_command(evidence, url, "runs", more=True)
    assert words is not None
    args = parser().parse_args(words[3:])
    assert args.old == "faces"
    plan = planned(options_of(StudyOptions, args))
    specs = plan.setup.specs()
    rate = config_for(setup, setup.defaults, seed=0).training.learning_rate
    assert specs["learning_rate"] == Float(rate / 4, 4 * rate, log=True)
    assert specs["rotation"] == Float(0.0, 10.0)
    # the score compares no more, so the best come first and are trained again
    new = open_study(storage, plan.setup)
    assert transfer_trials(new, storage, "faces")[0].startswith("--from faces: ")
    # what was searched, or held on purpose, is not named again
    own = setup_of(ranges=("learning_rate=1e-3:1e-2:log",), fixes=("rotation=0",))
    assert unsearched(own) == {}


def test_a_config_that_flags_cannot_tell_is_taken_from_a_trials_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"synthetic_images": 40, "augmentation.scale_range": [0.8, 1.2]}
    setup = setup_of("faces", data=describe("synthetic", 40), preset="demo", config=config)
    _, made = filled(tmp_path, setup)
    results, url = results_of(made), f"sqlite:///{tmp_path}/search.db"
    assert next_command(Evidence(results), url, "runs") is None
    file = tmp_path / "runs" / "faces" / "3" / "1" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(to_yaml(config_for(setup, setup.defaults, seed=3)), encoding="utf-8")
    words = next_command(Evidence(results), url, "runs")
    assert words is not None
    assert words[words.index("--config") + 1] == "runs/faces/3/1/config.yaml"
    plan = planned(options_of(StudyOptions, parser().parse_args(words[3:])))
    assert identity_differences(setup, plan.setup) == []


def test_the_command_shows_no_password(tmp_path: Path) -> None:
    _, made = filled(tmp_path, setup_of("faces", preset="demo"))
    words = next_command(
        Evidence(results_of(made)), "postgresql://ann:secret@db/faces", str(tmp_path)
    )
    assert words is not None
    assert "secret" not in " ".join(words)
