"""A study of repeats as search.confirm leaves it, without training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from search.management.opening import open_study
from search.study.setup import distributions
from storage import LeasedStorage
from tests.support.studies import setup_of


def repeated(
    storage: LeasedStorage,
    scores: Mapping[str, tuple[Mapping[str, Any], Sequence[float]]],
    name: str = "faces-confirm",
    **options: Any,
) -> optuna.Study:
    """scores: label -> parameters, and the score of each seed; seeds count from 100."""
    setup = setup_of(name, **options)
    study = open_study(storage, setup)
    seeds = itertools.count(100)
    for label, (params, reached) in scores.items():
        for slot, score in enumerate(reached):
            attrs = {"configuration": label, "seed": next(seeds), "repeat": f"{label} #{slot}"}
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=score,
                    params=dict(params),
                    distributions=distributions(setup),
                    intermediate_values={1: score / 2, 2: score},
                    user_attrs=attrs,
                )
            )
    return study
