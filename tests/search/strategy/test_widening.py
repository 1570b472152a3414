from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.execution.worker_loop import work
from search.results.evidence import Evidence
from search.results.findings.next_search import advice_sentences
from search.results.reading import results_of
from search.strategy.forecast.priors import make_study_forecast
from search.strategy.widening import next_widening, widen
from search.study.drawing import drawn
from search.study.identity import resolved_setup
from search.study.lookup import load_setup
from search.study.search_space import distribution
from search.study.setup import Setup
from search.study.widenings import Widening, widenings_of
from search.trainers import faces
from space import Float
from tests.support.studies import context_at, real_study, setup_of, store, study_of
from trainer.errors import Diverged

Truth = Callable[[Mapping[str, Any]], float]


def rising(params: Mapping[str, Any]) -> float:
    """The higher the dice weight, the better."""
    return float(0.7 + 0.02 * params["dice_weight"])


def flat(params: Mapping[str, Any]) -> float:
    return 0.78


def searched(setup: Setup, truth: Truth, count: int = 30, seed: int = 2) -> list[FrozenTrial]:
    """Complete trials all over the space, with noise between seeds."""
    rng, luck, rows = random.Random(seed), np.random.default_rng(seed), []
    for number in range(count):
        params = drawn(setup.specs(), rng.random)
        score = truth(params) + 0.004 * float(luck.normal())
        one = create_trial(
            value=score,
            params=dict(params),
            distributions={name: distribution(spec) for name, spec in setup.specs().items()},
            intermediate_values={setup.epochs: score},
        )
        one.number = number
        rows.append(one)
    return rows


def asked(rows: list[FrozenTrial], setup: Setup) -> Widening | None:
    return next_widening(rows, setup, make_study_forecast(setup))


# ------------------------------------------------------------------------------- which, and when


def test_a_range_is_widened_where_the_score_rises_towards_its_edge() -> None:
    setup = setup_of()
    found = asked(searched(setup, rising), setup)
    assert found is not None
    assert (found.name, found.before) == ("dice_weight", Float(0.5, 4.0))
    assert found.after == Float(0.5, 5.75)
    assert (found.chance >= 0.95, found.finished) == (True, 30)
    assert asked(searched(setup, rising), setup) == found


def test_nothing_is_widened_where_nothing_rises_or_little_is_known() -> None:
    setup = setup_of()
    assert asked(searched(setup, flat), setup) is None
    assert asked(searched(setup, rising, count=9), setup) is None


def test_a_range_ends_where_training_does() -> None:
    setup = setup_of()

    def falling(params: Mapping[str, Any]) -> float:
        return 0.8 - 0.1 * float(params["dropout"])

    # there is no dropout below 0
    assert asked(searched(setup, falling), setup) is None


@pytest.mark.parametrize(
    "held",
    [
        {"ranges": ("dice_weight=0.5:4",)},
        {"fixes": ("dice_weight=3.9",)},
        {"widen": "off"},
    ],
)
def test_what_the_user_asked_for_holds(held: dict[str, Any]) -> None:
    setup = setup_of(**held)
    assert asked(searched(setup, rising), setup) is None


def test_a_study_widens_twice_at_most() -> None:
    setup = setup_of()
    found = asked(searched(setup, rising), setup)
    assert found is not None
    for count in (1, 2):
        done = dataclasses.replace(setup, widened=count * [found.as_dict()])
        assert (asked(searched(setup, rising), done) is None) == (count == 2)


def test_a_study_of_before_widens_nothing() -> None:
    stored = setup_of().to_json()
    for key in ("widen", "given", "widened"):
        del stored[key]
    setup = Setup.from_json(stored)
    assert (setup.widen, setup.given, setup.widened) == ("off", [], [])


# ------------------------------------------------------------------------------------- is kept


def test_of_two_workers_one_widens_and_who_and_when_is_kept(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = load_setup(study)
    found = asked(searched(setup, rising), setup)
    assert found is not None
    assert widen(storage, study, setup, found, "worker a")
    assert not widen(storage, study, setup, found, "worker b")
    now = load_setup(study)
    assert now.specs()["dice_weight"] == found.after
    (kept,) = widenings_of(now)
    assert (kept.worker, kept.before, kept.after) == ("worker a", found.before, found.after)
    said = advice_sentences(Evidence(results_of(study)))
    assert said  # few trials: no advice on ranges
    for row in searched(setup, rising):
        study.add_trial(row)
    said = advice_sentences(Evidence(results_of(study)))
    text = (
        "The search itself changed a range: dice_weight widened from 0.5..4 to 0.5..5.75 after 30"
    )
    assert any(it.startswith(text) and "(worker a, 20" in it for it in said)


def test_the_same_command_keeps_what_was_widened_and_a_range_of_the_user_does_not(
    tmp_path: Path,
) -> None:
    storage = store(tmp_path)
    study = study_of(storage)
    setup = load_setup(study)
    found = asked(searched(setup, rising), setup)
    assert found is not None
    widen(storage, study, setup, found, "worker")
    again = resolved_setup(study, setup_of(), explicit=())
    assert again.specs()["dice_weight"] == found.after
    assert again.widened == load_setup(study).widened
    given = resolved_setup(study, setup_of(ranges=("dice_weight=1:2",)), explicit=())
    assert given.specs()["dice_weight"] == Float(1.0, 2.0)


def test_a_worker_draws_from_the_widened_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=32, spend_saved=0.0, sampler="random")
    for row in searched(load_setup(study), rising):
        study.add_trial(row)

    def untrained(*_: Any, **__: Any) -> Any:
        raise Diverged("not trained")

    monkeypatch.setattr(faces, "fit", untrained)
    caplog.set_level("INFO", "search")
    work(context_at(tmp_path, storage))
    assert caplog.text.count("dice_weight widened from 0.5..4 to 0.5..5.75 after 30 trials") == 1
    made = study.get_trials(deepcopy=False)[30:]
    assert [one.state for one in made] == [TrialState.PRUNED] * 2
    assert {one.distributions["dice_weight"].high for one in made} == {5.75}  # type: ignore[attr-defined]
