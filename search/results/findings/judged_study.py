"""A study as its claims are judged: the trials that count, and what of them is alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.results.findings.wording import listed, number, setting
from search.results.statistics.evidence import without_others
from search.results.statistics.groups import (
    Group,
    alike_but_for_dice,
    by_dice_weight,
    differences,
    groups_of,
)
from search.results.statistics.intervals import Pair, compare, look_at, seed_deviation
from search.results.statistics.sequential_plan import STEP
from search.results.statistics.smoothing import Smooth, smooth
from search.results.trials import Outcome, Results
from search.study.attributes import JUDGED

# what the hand-made runs were taken to show
OPTIMUM, CEILING = 1.5, 2.0
# of more trials an even sample is smoothed: the width is chosen by leaving out each in turn
_SMOOTHED = 300


@dataclass(frozen=True)
class Evidence:
    """A study as its claims are judged."""

    results: Results

    @cached_property
    def complete(self) -> list[Outcome]:
        """Trained to their end, with a score that is a number; the best first."""
        return [one for one in self.results.complete() if math.isfinite(one.value or 0.0)]

    @cached_property
    def groups(self) -> list[Group]:
        """The complete trials by configuration, the highest mean first."""
        return groups_of(self.complete)

    @cached_property
    def levels(self) -> list[Group]:
        """One configuration for each dice weight, as alike as the study has them."""
        return by_dice_weight(self.groups)

    @cached_property
    def repeated(self) -> list[Group]:
        """Those of `levels` that were trained with several seeds."""
        return [group for group in self.levels if len(group.scores) > 1]

    @cached_property
    def pairs(self) -> list[Pair]:
        """`repeated`, by their names as `level_name` gives them, all compared."""
        return self.compared(by_level(self.repeated))

    def compared(self, scores: Mapping[str, Sequence[float]]) -> list[Pair]:
        """All pairs, by their repeats."""
        look, looks = self.looks
        return compare(scores, look=look, looks=looks)

    @cached_property
    def looks(self) -> tuple[int, int]:
        """Which look at the repeats this is, and of how many.

        The scores of a study of repeats decided whether it went on, see
        `search.results.statistics.sequential_plan`.
        """
        how = self.results.attrs.get(JUDGED)
        if how is None:
            return 1, 1
        most = max((len(group.scores) for group in self.groups), default=0)
        looks = look_at(how["cap"], first=how["first"], step=STEP)
        return min(look_at(most, first=how["first"], step=STEP), looks), looks

    @cached_property
    def noise(self) -> float | None:
        """Standard deviation of the score between seeds; None where nothing was repeated."""
        return seed_deviation({str(i): own for i, own in enumerate(self.by_seed)})

    @cached_property
    def by_seed(self) -> list[Sequence[float]]:
        """The scores of each configuration that was trained with several seeds, here or again."""
        own = [group.scores for group in self.groups]
        return [it for it in [*own, *self.results.repeats.values()] if len(it) > 1]

    @cached_property
    def curve(self) -> tuple[Smooth, bool] | None:
        """The score over the dice weight, and whether other parameters were taken out of it.

        None for too few trials, and for runs that somebody chose by hand: what they changed
        together no curve takes apart.
        """
        return None if self.results.imported else smoothed(self.complete, "dice_weight")

    def beats(self, one: Group, other: Group) -> bool:
        """Whether the first of two repeated levels is better, by more than chance."""
        names = level_name(one), level_name(other)
        return any(
            (pair.verdict == "first" and (pair.first, pair.second) == names)
            or (pair.verdict == "second" and (pair.second, pair.first) == names)
            for pair in self.pairs
        )


def smoothed(
    outcomes: Sequence[Outcome], name: str, *, log: bool = False
) -> tuple[Smooth, bool] | None:
    """The score along one searched number, others' linear effects taken out where there is enough.

    outcomes: complete. Also whether they were taken out; None where the trials are too few.
    """
    having = [
        one
        for one in outcomes
        if isinstance(one.params.get(name), (int, float)) and (not log or one.params[name] > 0)
    ]
    picked = np.linspace(0, len(having) - 1, min(len(having), _SMOOTHED)).astype(int)
    chosen = [having[at] for at in picked]
    if not chosen:
        return None
    x = np.array([one.params[name] for one in chosen], dtype=np.float64)
    y = np.array([one.value for one in chosen], dtype=np.float64)
    others = sorted(
        set.intersection(*(set(one.params) for one in chosen)) - {name, "training.seed"}
    )
    columns = [[one.params[other] for one in chosen] for other in others]
    cleared, taken_out = without_others(y, np.log(x) if log else x, columns)
    found = smooth(x, cleared, log=log)
    return None if found is None else (found, taken_out)


# ---------------------------------------------------------------------------------------- naming


def level(group: Group) -> str:
    return number(group.weight or 0.0)


def level_name(group: Group) -> str:
    return f"dice_weight {level(group)}"


def by_level(groups: Sequence[Group]) -> dict[str, list[float]]:
    """Name -> scores."""
    return {level_name(group): group.scores for group in groups}


def levels_text(groups: Sequence[Group]) -> str:
    """dice_weight 1.0, 1.5 and 2.0."""
    return f"dice_weight {listed([level(group) for group in groups])}"


def core(groups: Sequence[Group]) -> list[Group]:
    """The claimed optimum's level, or the nearest one, with its neighbours."""
    if not groups:
        return []
    middle = min(range(len(groups)), key=lambda i: abs((groups[i].weight or 0.0) - OPTIMUM))
    return list(groups[max(0, middle - 1) : middle + 2])


def apart_text(groups: Sequence[Group]) -> str:
    """What differs between configurations besides the dice weight, each key with all its values."""
    parts = [
        f"{key} ({' / '.join(setting(value) for value in values)})"
        for key, values in differences(groups).items()
    ]
    return listed(parts)


def not_alike(groups: Sequence[Group]) -> str:
    if alike_but_for_dice(groups):
        return ""
    return (
        f" These configurations differ in {apart_text(groups)} too, so the dice weight alone need"
        " not be the cause."
    )
