"""What a study's forecast starts from: the recorded curves that ship, and earlier studies."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.strategy.forecast.curve_banks import read_bank
from search.strategy.forecast.features import KNOWN, ConfigurationFeatures, Scale, knots_by
from search.strategy.forecast.model import Forecast, Prior, prior_from, without_effects
from search.strategy.forecast.study_forecast import StudyForecast
from search.study import lineages
from search.study.attributes import SETUP
from search.study.drawing import drawn
from search.study.identity import differing_facts
from search.study.lookup import is_search
from search.study.setup import Setup
from storage.optuna_internals import id_of_study, storage_of

BANKS = tuple(
    Path(__file__).parent / "banks" / f"{name}.json" for name in ("real-faces-64", "built-in-64")
)
# of the same store: so many, the latest ones, with at least so many ended trials
_EARLIER, _LEAST_ENDED = 3, 5
# studies of a store that a new one looks at, the latest ones
_LOOKED_AT = 12
# a sample of the space, for what a trial not yet begun may come to
_CONFIGURATIONS = 48


def forecast_of_study(study: optuna.Study, setup: Setup) -> StudyForecast:
    """A fresh forecast of a study, which starts from the latest other ones of its store too."""
    storage = storage_of(study)
    earlier = (
        (past, storage.get_all_trials(id_of_study(other), deepcopy=False))
        for other in storage.get_all_studies()[: -_LOOKED_AT - 1 : -1]
        if other.study_name != setup.name
        and is_search(other.study_name, other.user_attrs)
        and not differing_facts(
            past := Setup.from_json(other.user_attrs[SETUP]), setup, "metric", "program"
        )
    )
    return make_study_forecast(setup, earlier)


class KeptForecast:
    """The forecast of a study for all that decide beside sampler and pruner, made when first asked
    for, and anew where the study's space is another by now."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._space: object = None
        self._made: StudyForecast | None = None

    def of(self, setup: Setup) -> StudyForecast:
        """Under the present setup of the study."""
        if self._made is None or self._space != (setup.space, setup.fixed):
            self._made = forecast_of_study(self._study, setup)
            self._space = (setup.space, setup.fixed)
        return self._made


def make_study_forecast(
    setup: Setup, earlier: Iterable[tuple[Setup, Sequence[FrozenTrial]]] = ()
) -> StudyForecast:
    """A fresh forecast of a study. earlier: other studies of the store, the latest first."""
    priors = [*_recorded(setup), *_priors_of_earlier(earlier)]
    return StudyForecast(Forecast(priors, features_of(setup)), _configurations(setup))


def expected_ends(
    setup: Setup, rows: Sequence[FrozenTrial], count: int
) -> dict[int, NDArray[np.float64]]:
    """Scores that pruned trials may be expected to end with: number -> [count], drawn together.

    rows: the study's. Nothing is taken over of what recorded curves tell of configurations, only
    how a curve goes on: what a report says of a parameter must come from its own trials. A trial
    that was parked before its first reading (see `features.KNOTS`) has shown nothing of an end and
    has none here; nor has one that diverged. One draw is one assumption for all trials, the same
    for the same rows. None ends below what it has shown.
    """
    priors = [without_effects(prior) for prior in _recorded(setup)]
    seen = StudyForecast(Forecast(priors, features_of(setup)), ())
    seen.update(rows)
    pruned = [
        one
        for one in lineages.merged(rows)
        if one.state == TrialState.PRUNED
        and knots_by(max(one.intermediate_values, default=0), setup.epochs)
        and not lineages.diverged(one)
    ]
    if not pruned:
        return {}
    drawn_ends = seen.forecast.drawn_ends(
        [(one.params, one.intermediate_values) for one in pruned], count, np.random.default_rng(0)
    )
    if not seen.fits:
        return {}
    scores = -np.exp(-drawn_ends) if scale_of(setup).loss else -np.expm1(-drawn_ends)
    return {
        one.number: np.maximum(scores[:, place], max(one.intermediate_values.values()))
        for place, one in enumerate(pruned)
    }


def _recorded(setup: Setup) -> Sequence[Prior]:
    """What recorded curves say of a study: of another program's nothing is recorded."""
    return shipped_priors() if setup.program is None else ()


def scale_of(setup: Setup) -> Scale:
    """On what the scores of a study are forecast."""
    return Scale(loss=setup.program is not None and setup.program.minimize)


def features_of(setup: Setup) -> ConfigurationFeatures:
    """A study's configurations as features."""
    specs = setup.specs()
    if setup.program is not None:
        return ConfigurationFeatures(setup.epochs, others=specs, known=False, scale=scale_of(setup))
    schedule = setup.base["training"].get("scheduler_params") or {}
    known: dict[str, Any] = {
        **setup.base["loss"],
        "dropout": setup.base["model"].get("dropout"),
        "weight_decay": setup.base["training"].get("weight_decay"),
        "T_0": schedule.get("T_0"),
    }
    return ConfigurationFeatures(
        setup.epochs,
        defaults={name: known[name] for name in KNOWN if known.get(name) is not None},
        others={name: spec for name, spec in specs.items() if name not in KNOWN},
        t_mult=schedule.get("T_mult", 1),
    )


@functools.cache
def shipped_priors() -> tuple[Prior, ...]:
    """Of the recorded curves that ship."""
    return tuple(prior_from(read_bank(path)) for path in BANKS)


def _priors_of_earlier(earlier: Iterable[tuple[Setup, Sequence[FrozenTrial]]]) -> list[Prior]:
    """What the latest earlier studies came to."""
    found: list[Prior] = []
    for setup, trials in earlier:
        seen = StudyForecast(Forecast(_recorded(setup), features_of(setup)), ())
        seen.update(trials)
        if seen.learned >= _LEAST_ENDED:
            found.append(seen.forecast.prior())
        if len(found) == _EARLIER:
            break
    return found


def _configurations(setup: Setup) -> list[dict[str, Any]]:
    specs, rng = setup.specs(), random.Random(0)
    return [{**drawn(specs, rng.random), **setup.fixed} for _ in range(_CONFIGURATIONS)]
