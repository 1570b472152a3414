from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.execution.worker_loop import work
from search.strategy.answers import LEAST
from search.strategy.forecast.priors import KeptForecast, make_study_forecast
from search.strategy.settling import Settling, settled
from search.study.lookup import load_setup
from search.study.search_space import Spec, distribution
from search.trainers import faces
from space import SPACE, Float, concrete
from tests.support.studies import context_at, real_study, setup_of, store
from trainer.errors import Diverged

ONE = {"dice_weight": Float(0.5, 4.0)}


def row(number: int, dice_weight: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    """One of a study of one parameter, whose best lies within."""
    luck = float(np.random.default_rng(number).normal())
    score = 0.7 - 0.01 * (dice_weight - 2.2) ** 2 + 0.004 * luck
    done = state == TrialState.COMPLETE
    one = create_trial(
        state=state,
        value=score if done else None,
        params={"dice_weight": dice_weight},
        distributions={"dice_weight": distribution(ONE["dice_weight"])},
        intermediate_values={4: score} if done else {},
    )
    one.number = number
    return one


def looked_at(count: int) -> list[FrozenTrial]:
    """Complete trials all along the range."""
    return [row(number, 0.5 + 3.5 * number / (count - 1)) for number in range(count)]


def asked(rows: list[FrozenTrial], specs: Mapping[str, Spec] = ONE) -> bool:
    return settled(rows, specs, make_study_forecast(setup_of(table=ONE)))


def test_a_study_that_has_seen_its_whole_space_has_settled() -> None:
    assert asked(looked_at(60))


def test_a_young_study_and_one_that_somebody_waits_for_have_not() -> None:
    rows = looked_at(60)
    assert not asked(rows[: LEAST - 1])
    assert not asked([*rows, row(60, 1.0, TrialState.WAITING)])
    # trials outside the ranges, or without a searched parameter, show nothing
    assert not asked(rows, concrete(SPACE, 4))


def test_a_settled_study_is_to_reach_what_has_begun(tmp_path: Path) -> None:
    study = real_study(store(tmp_path), total=80, table=ONE)
    setup, settling = load_setup(study), Settling(KeptForecast(study))
    rows = [*looked_at(60), row(60, 1.0, TrialState.RUNNING)]
    assert settling.total(rows, setup, 80) == 61
    assert settling.total(rows, setup, 61) == 61
    assert settling.total(looked_at(LEAST - 1), setup, 80) == 80


@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_ends_where_the_study_has_settled_if_it_is_asked_to(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=62, table=ONE, sampler="random", widen="off")
    assert list(load_setup(study).specs()) == ["dice_weight"]
    for one in looked_at(60):
        study.add_trial(one)

    def untrained(*_: Any, **__: Any) -> Any:
        raise Diverged("not trained")

    monkeypatch.setattr(faces, "fit", untrained)
    work(context_at(tmp_path, storage, stop_when_settled=asked))
    assert len(study.get_trials(deepcopy=False)) == (60 if asked else 62)
