"""Repeats: trainings of one configuration with other seeds.

`search.confirm` makes them in a study of their own, each with the label of its configuration; a
search makes some of its leading trials within itself, each a row with the attribute `repeats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study import lineages
from search.study.attributes import CONFIGURATION, REPEATS
from search.study.identity import differing_facts
from search.study.lookup import load_setup
from search.study.names import repeats_name
from search.study.setup import Setup, StudyError
from search.study.wording import counted
from storage.optuna_internals import storage_of


def score_of(row: FrozenTrial) -> float | None:
    """A repeat's score, in [0, 1]; None where it was not trained to its end.

    One whose loss stopped being a number counts with its best epoch: that is what this
    configuration gave with this seed.
    """
    if row.state == TrialState.COMPLETE or lineages.diverged(row):
        return lineages.value(row)
    return None


def repeated_scores(rows: Iterable[FrozenTrial]) -> dict[int, list[float]]:
    """Scores of the repeats within a search: number of a trial -> in the order of their rows."""
    found: dict[int, list[float]] = {}
    for row in lineages.repeats(rows):
        if (score := score_of(row)) is not None:
            found.setdefault(row.user_attrs[REPEATS], []).append(score)
    return found


def repeats_text(rows: Sequence[FrozenTrial]) -> str:
    """What was repeated within a search, what it cost, and what came."""
    spent = sum(len(row.intermediate_values) for row in rows)
    scores = repeated_scores(rows)
    told = [
        f"trial {number} {', '.join(f'{score:.4f}' for score in own)}"
        for number, own in sorted(scores.items())
    ]
    return (
        f"{counted(len(rows), 'repeat')} of leading trials with fresh seeds for"
        f" {counted(spent, 'epoch')}: {'; '.join(told) or 'none has come to its end'}"
    )


def confirmed_scores(study: optuna.Study) -> dict[str, list[float]]:
    """The scores of each configuration in a study of repeats, in the order of its seeds."""
    return scores_by_label(study.get_trials(deepcopy=False))


def scores_by_label(rows: Iterable[FrozenTrial]) -> dict[str, list[float]]:
    """The scores of each configuration among repeats, in their order."""
    found: dict[str, list[float]] = {}
    for row in rows:
        label, score = row.user_attrs.get(CONFIGURATION), score_of(row)
        if label is not None and score is not None:
            found.setdefault(label, []).append(score)
    return found


def scores_of_repeats(study: optuna.Study, setup: Setup) -> dict[str, list[float]]:
    """The scores in the study that `search.confirm` made of a search, where they compare."""
    name = repeats_name(study.study_name)
    if name == study.study_name:
        return {}
    try:
        other = optuna.Study(study_name=name, storage=storage_of(study))
        there = load_setup(other)
    except (KeyError, StudyError):
        return {}
    return {} if differing_facts(there, setup, "data", "epochs") else confirmed_scores(other)
