"""A study with its sampler and pruner, which share one forecast."""

from __future__ import annotations

import functools

import optuna

from search.strategy.forecast.priors import forecast_of_study
from search.strategy.pruners import make_pruner
from search.strategy.samplers import make_sampler
from search.study.lookup import load_setup, named_study
from search.study.setup import Setup
from storage.rdb import LeasedStorage


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
