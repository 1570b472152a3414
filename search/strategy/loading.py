"""A study with its sampler and pruner, which share one forecast."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import optuna

from search.strategy.forecast.priors import make_study_forecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.pruners import make_pruner
from search.strategy.samplers import make_sampler
from search.study.attributes import SETUP
from search.study.names import is_search
from storage.rdb import LeasedStorage

if TYPE_CHECKING:
    pass
from search.study.lookup import load_setup, named_study
from search.study.setup import Setup
from storage.optuna_internals import id_of_study, storage_of

# studies of a store that a new one looks at, the latest ones
_EARLIER = 12


def load_study(storage: LeasedStorage, name: str) -> optuna.Study:
    """An existing search, ready to ask and tell. Raises StudyError, with the nearest name."""
    study = named_study(storage, name)
    setup = load_setup(study)
    set_sampler_and_pruner(study, setup)
    return study


def set_sampler_and_pruner(study: optuna.Study, setup: Setup) -> None:
    """Give a study its sampler and pruner, which share what they know of it."""
    study_forecast = functools.cache(lambda: forecast_of_study(study, setup))
    study.sampler = make_sampler(setup, study_forecast)
    study.pruner = make_pruner(setup, study_forecast)


def forecast_of_study(study: optuna.Study, setup: Setup) -> StudyForecast:
    """A fresh forecast of a study, which starts from the latest other ones of its store too."""
    storage = storage_of(study)
    earlier = (
        (past, storage.get_all_trials(id_of_study(other), deepcopy=False))
        for other in storage.get_all_studies()[: -_EARLIER - 1 : -1]
        if other.study_name != setup.name
        and is_search(other.study_name, other.user_attrs)
        and (past := Setup.from_json(other.user_attrs[SETUP])).metric == setup.metric
    )
    return make_study_forecast(setup, earlier)
