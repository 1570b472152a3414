"""Ranges that turn out too short: widened within a study, as far as the parameter can be trained.

A range of `space.py` is a guess. Where the configuration with the best expected mean lies at its
edge, and the landscape likely still rises towards that edge, it is stretched there; one that the
user gave with `--range`, or holds with `--fix`, never is. `next_widening` depends on the trials and
the setup alone. What was widened stays with the study, see `Setup.widened`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial

import space
from search.strategy.answers import evidence
from search.strategy.forecast.true_means import TrueMeans
from search.study import lineages
from search.study.attributes import SETUP
from search.study.ranges import SIDES, Range, Side, is_at_edge, longer
from search.study.search_space import Value, describe, drawn
from search.study.setup import Setup
from storage.optuna_internals import id_of_study
from storage.rdb import LeasedStorage

# ranges widened in a study at most; fewer complete trials say nothing of an edge
_MOST, _LEAST = 2, 10
# probability that the score rises towards the edge, and over which share of the range
_SURE, _OVER = 0.95, 0.25


@dataclass(frozen=True)
class Widening:
    """A range that was, or is to be, longer. chance: that the score rises towards its edge.

    finished: trials until then. worker, at: who did it, and when (UTC); None before.
    """

    name: str
    before: Range
    after: Range
    chance: float
    finished: int
    worker: str | None = None
    at: str | None = None

    @property
    def text(self) -> str:
        """In one line."""
        return (
            f"{self.name} widened from {describe(self.before)} to {describe(self.after)} after"
            f" {self.finished} trials: the best lies at the edge, and the score rises towards it"
            f" with a chance of {self.chance:.0%}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For the setup; the inverse is `widenings_of`."""
        ends = {"before": space.to_json(self.before), "after": space.to_json(self.after)}
        return {**vars(self), **ends}


def widenings_of(setup: Setup) -> list[Widening]:
    """What a study has widened, the first one first."""
    found = []
    for kept in setup.widened:
        before, after = (space.from_json(kept[end]) for end in ("before", "after"))
        assert isinstance(before, Range)
        assert isinstance(after, Range)
        found.append(Widening(**{**kept, "before": before, "after": after}))
    return found


def next_widening(rows: Sequence[FrozenTrial], setup: Setup) -> Widening | None:
    """The range to widen now; None for none. rows: the study's, as they are."""
    if setup.widen != "auto" or len(setup.widened) >= _MOST:
        return None
    specs = setup.specs()
    trained = evidence(rows, specs)
    if sum(len(one.trials) for one in trained) < _LEAST:
        return None
    means = TrueMeans(specs, [one.shown for one in trained])
    beliefs = means.beliefs()
    best = trained[max(beliefs, key=lambda place: (beliefs[place].mean, -place))].shown.params
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
