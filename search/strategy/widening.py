"""Ranges that turn out too short: widened within a study, as far as the parameter can be trained.

A range of `space.py` is a guess. Where the configuration with the best expected mean lies at its
edge, and the landscape likely still rises towards that edge, it is stretched there; one that the
user gave with `--range`, or holds with `--fix`, never is. `next_widening` depends on the trials and
the setup alone. What was widened stays with the study, see `Setup.widened`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import space
from search.strategy.configurations import best_complete, evidence
from search.strategy.forecast.priors import KeptForecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import TrueMeans
from search.study import lineages
from search.study.attributes import SETUP
from search.study.drawing import drawn
from search.study.ranges import SIDES, Range, Side, is_at_edge, longer
from search.study.search_space import Value
from search.study.setup import Setup
from search.study.widenings import Widening
from storage.optuna_internals import id_of_study
from storage.rdb import LeasedStorage

# ranges widened in a study at most; fewer complete trials say nothing of an edge
_MOST, _LEAST = 2, 10
# probability that the score rises towards the edge, and over which share of the range
_SURE, _OVER = 0.95, 0.25


def next_widening(
    rows: Sequence[FrozenTrial], setup: Setup, study_forecast: StudyForecast
) -> Widening | None:
    """The range to widen now; None for none. rows: the study's, as they are."""
    if setup.widen != "auto" or setup.program is not None or len(setup.widened) >= _MOST:
        # a program's ranges are the user's own, and what it can train nobody knows here
        return None
    specs = setup.specs()
    study_forecast.update(rows)
    trained = evidence(rows, specs, study_forecast)
    if sum(len(one.complete) for one in trained) < _LEAST:
        return None
    means = TrueMeans(specs, [one.shown for one in trained])
    best = trained[best_complete(trained, means.beliefs())].shown.params
    found = []
    for name, spec in specs.items():
        if isinstance(spec, space.Choice) or name in setup.fixed or name in setup.given:
            continue
        for side in SIDES:
            # a value of the base config does not show where the search was drawn to
            if best[name] == setup.defaults.get(name) or not is_at_edge(spec, best[name], side):
                continue
            chance = means.chance_of_rise(*_towards(best, name, spec, side))
            wider = longer(setup, name, spec, side) if chance >= _SURE else None
            if wider is not None:
                finished = len(lineages.finished(rows))
                found.append(Widening(name, spec, wider, chance, finished))
    return max(found, key=lambda one: one.chance, default=None)


def _towards(
    params: Mapping[str, Any], name: str, spec: Range, side: Side
) -> tuple[dict[str, Value], dict[str, Value]]:
    """A configuration with one parameter within its range, and at the edge."""
    place = _OVER if side == "lower" else 1 - _OVER
    edge = spec.low if side == "lower" else spec.high
    return {**params, **drawn({name: spec}, lambda: place)}, {**params, name: edge}


class Widenings:
    """Looks for the next widening of a study."""

    def __init__(self, kept: KeptForecast) -> None:
        self._kept = kept

    def next(self, rows: Sequence[FrozenTrial], setup: Setup) -> Widening | None:
        """See `next_widening`."""
        if setup.widen != "auto" or len(setup.widened) >= _MOST:
            return None
        if sum(row.state == TrialState.COMPLETE for row in rows) < _LEAST:
            # not worth a forecast
            return None
        return next_widening(rows, setup, self._kept.of(setup))


def widen(
    storage: LeasedStorage, study: optuna.Study, setup: Setup, widening: Widening, worker: str
) -> bool:
    """Keep a widening with the study; False where its setup is another by now, as when another
    worker was quicker.

    setup: as the widening was decided by.
    """
    done = dataclasses.replace(widening, worker=worker, at=datetime.now(UTC).isoformat())
    after = dataclasses.replace(
        setup,
        space={**setup.space, widening.name: space.to_json(widening.after)},
        widened=[*setup.widened, done.as_dict()],
    )
    return storage.swap_study_attr(id_of_study(study), SETUP, setup.to_json(), after.to_json())
