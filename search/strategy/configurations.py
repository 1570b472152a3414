"""What a study has shown of each configuration: the evidence of sampler and answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.strategy.forecast.features import Array
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import Shown
from search.study import lineages
from search.study.repeats import repeated_scores
from search.study.search_space import Spec, Value, is_number, matching, value_at_share
from space import Choice

# how far `nearby` moves a number, in its range
_NEARBY = 0.1


@dataclass(frozen=True)
class Trained:
    """A configuration. complete: the trials that trained it to the end, the highest first."""

    shown: Shown
    complete: Sequence[FrozenTrial]


def evidence(
    rows: Sequence[FrozenTrial],
    specs: Mapping[str, Spec],
    study_forecast: StudyForecast,
    repeats: Mapping[int, Sequence[float]] | None = None,
) -> list[Trained]:
    """Each configuration that was trained, those with the highest scores first.

    A parked trial counts as its forecast end, with the doubt in it, and no lower than it stood;
    one that diverged as the lowest score. Left out is what lies outside the present ranges.

    rows: the study's, as they are. study_forecast: which has seen them. repeats: number of a trial
    -> scores of its configuration with fresh seeds in another study.
    """
    again: dict[int, list[float]] = repeated_scores(rows)
    for number, scores in (repeats or {}).items():
        again.setdefault(number, []).extend(scores)
    # the same configuration may have been enqueued with several seeds
    alike: dict[tuple[tuple[str, Value], ...], list[FrozenTrial]] = {}
    merged = lineages.merged(rows)
    ended = [one for one in merged if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    for one in [*lineages.best_first(ended), *ended]:
        params = inside_ranges(one.params, specs)
        if params is None or (lineages.value(one) is None and not lineages.diverged(one)):
            continue
        own = alike.setdefault(tuple(as_trained(params).items()), [])
        if one not in own:
            own.append(one)
    to_log = _scale_of(ended, study_forecast)
    trained = [
        _trained(dict(key), own, study_forecast, again, to_log) for key, own in alike.items()
    ]
    lowest = min([0.0, *(one.shown.value for one in trained if one is not None)])
    return [
        Trained(Shown(dict(key), lowest), ()) if one is None else one
        for key, one in zip(alike, trained, strict=True)
    ]


def _scale_of(
    ended: Sequence[FrozenTrial], study_forecast: StudyForecast
) -> Callable[[Array], float | Array]:
    """What brings scores to the scale of the forecast; to 0..1 where they have no place on it."""
    if study_forecast.fits:
        return study_forecast.scale.to_log
    scores = [score for one in ended for score in one.intermediate_values.values()]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    return lambda score: (score - low) / ((high - low) or 1.0)


def _trained(
    params: Mapping[str, Value],
    trials: Sequence[FrozenTrial],
    study_forecast: StudyForecast,
    repeats: Mapping[int, Sequence[float]],
    to_log: Callable[[Array], float | Array],
) -> Trained | None:
    """None for a configuration that diverged alone."""
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    if complete:
        scores = [one.value or 0.0 for one in complete]
        for one in complete:
            scores += repeats.get(one.number, ())
        value = float(np.mean(to_log(np.array(scores))))
        return Trained(Shown(params, value, len(scores)), complete)
    one = trials[0]
    if lineages.diverged(one):
        return None
    stood = float(to_log(np.array(max(one.intermediate_values.values()))))
    if not study_forecast.fits:
        return Trained(Shown(params, stood), ())
    end = study_forecast.end(one)
    return Trained(Shown(params, max(stood, end.mean), doubt=end.deviation**2), ())


def inside_ranges(
    params: Mapping[str, Value], specs: Mapping[str, Spec]
) -> dict[str, Value] | None:
    """The searched parameters; None where one is missing or lies outside its present range."""
    found: dict[str, Value] = {}
    for name, spec in specs.items():
        value = matching(params.get(name), spec)
        if value is None:
            return None
        found[name] = value
    return found


def as_trained(params: Mapping[str, Value]) -> dict[str, Value]:
    """A configuration without what does nothing in it: a ramp under a constant schedule."""
    trained = dict(params)
    if trained.get("dice_schedule") == "constant" and "dice_ramp" in trained:
        trained["dice_ramp"] = 0.0
    return trained


def nearby(params: Mapping[str, Value], specs: Mapping[str, Spec], rng: Random) -> dict[str, Value]:
    """A configuration like another one: about half of the parameters are moved a little."""
    return {
        name: _moved(spec, params[name], rng) if rng.random() < 0.5 else params[name]
        for name, spec in specs.items()
    }


def _moved(spec: Spec, value: Value, rng: Random) -> Value:
    if isinstance(spec, Choice):
        return rng.choice(spec.choices)
    assert is_number(value)
    low, high, at = (math.log(it) if spec.log else it for it in (spec.low, spec.high, value))
    place = (at - low) / (high - low) + rng.gauss(0, _NEARBY)
    return value_at_share(spec, min(max(place, 0.0), 1.0))
