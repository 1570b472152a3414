"""The repeats of a configuration as the store has them, and the looks that they allow."""

from __future__ import annotations

import itertools

import optuna
from optuna.trial import FrozenTrial

from search.results.statistics.sequential_plan import PlanState, plan_state
from search.study.attributes import JUDGED, REPEAT
from search.study.repeats import score_of
from search.study.requests import marked


def repeat_key(label: str, index: int) -> str:
    """What the attribute `REPEAT` of a configuration's repeat number `index` (from 0) holds."""
    return f"{label} #{index}"


def repeats_of(study: optuna.Study, label: str) -> list[FrozenTrial]:
    """The repeats of a configuration, by rising index."""
    found = marked(study, REPEAT)
    keys = (repeat_key(label, index) for index in itertools.count())
    return [found[key] for key in itertools.takewhile(found.__contains__, keys)]


def scores_by_repeat(study: optuna.Study, label: str) -> list[float | None]:
    """Score of each repeat before the first unfinished one; None for one that came to nothing."""
    ended = itertools.takewhile(lambda row: row.state.is_finished(), repeats_of(study, label))
    return [score_of(row) for row in ended]


def plan_state_of(study: optuna.Study) -> PlanState | None:
    """The looks at a study of repeats, as its latest run was to make them; None before a run."""
    how = study.user_attrs.get(JUDGED)
    if how is None:
        return None
    scores = {label: scores_by_repeat(study, label) for label in how["labels"]}
    return plan_state(scores, cap=how["cap"], first=how["first"], margin=how["margin"])
