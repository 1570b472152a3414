"""What a study has shown of each configuration: the evidence of sampler and answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import Belief, Shown
from search.study import lineages
from search.study.lineages import repeated_scores
from search.study.search_space import Spec, Value, matching


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
    return [_trained(dict(key), own, study_forecast, again) for key, own in alike.items()]


def _trained(
    params: Mapping[str, Value],
    trials: Sequence[FrozenTrial],
    study_forecast: StudyForecast,
    repeats: Mapping[int, Sequence[float]],
) -> Trained:
    scale = study_forecast.scale
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    if complete:
        scores = [one.value or 0.0 for one in complete]
        for one in complete:
            scores += repeats.get(one.number, ())
        value = float(np.mean(scale.to_log(np.array(scores))))
        return Trained(Shown(params, value, len(scores)), complete)
    one = trials[0]
    if lineages.diverged(one):
        return Trained(Shown(params, -math.inf), ())
    stood = float(scale.to_log(max(one.intermediate_values.values())))
    if not study_forecast.fits:
        # nothing can be forecast: it stands where it was stopped
        return Trained(Shown(params, stood), ())
    end = study_forecast.end(one)
    return Trained(Shown(params, max(stood, end.mean), doubt=end.deviation**2), ())


def in_training(
    rows: Sequence[FrozenTrial], specs: Mapping[str, Spec], but: int | None = None
) -> list[dict[str, Value]]:
    """The configurations that are being trained now. but: number of a trial that does not count."""
    return [
        as_trained(params)
        for one in lineages.merged(rows)
        if one.state == TrialState.RUNNING
        and one.number != but
        and (params := inside_ranges(one.params, specs)) is not None
    ]


def best_complete(trained: Sequence[Trained], beliefs: Mapping[int, Belief]) -> int:
    """The place, in `trained`, of the best mean of those that were trained to their end."""
    places = [place for place in beliefs if trained[place].complete]
    return max(places, key=lambda place: (beliefs[place].mean, -place))


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
