"""What a study's trials bear: which are repeats of one another, and what else differs in the rest.

Sentences (`search.results.findings`) and figures rest on the same evidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.results.statistics.estimates import Estimate, spread, without_others
from search.results.statistics.importance import importance_estimates
from search.results.statistics.intervals import Pair, compare, seed_deviation
from search.results.statistics.sequential_plan import STEP, look_at
from search.results.statistics.smoothing import Smooth, smooth
from search.results.trials import DICE, Outcome, Results
from search.results.wording import listed, number, setting
from search.study.attributes import CONFIGURATION, JUDGED
from search.study.repeats import repeated_scores
from search.study.search_space import as_number
from search.study.wording import counted

# what the hand-made runs were taken to show
OPTIMUM, CEILING = 1.5, 2.0
# of more trials an even sample is smoothed: the width is chosen by leaving out each in turn
_SMOOTHED = 300
# what a setting is where a run's config does not name it
_ABSENT = "not given"
# more dice weights than this are a sweep, of which a curve tells more than pairs
_MOST_LEVELS = 8
# names of a run and its files, and its seed: no part of how it was trained
_LABELS = ("experiment.", "output_dir")
# noted as a difference, yet without effect on what is learned
_INERT = frozenset({"data.num_workers"})


@dataclass(frozen=True, eq=False)
class Group:
    """Complete trials of one configuration, the best first: they differ in their seed alone.

    settings: how they were trained, by dotted name.
    """

    outcomes: tuple[Outcome, ...]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.outcomes[0].label

    @property
    def scores(self) -> list[float]:
        return [float(one.value) for one in self.outcomes if one.value is not None]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def weight(self) -> float | None:
        """The dice weight."""
        return self.outcomes[0].dice_weight

    @property
    def level(self) -> str:
        """The dice weight in words."""
        return number(self.weight or 0.0)

    @property
    def level_name(self) -> str:
        return f"dice_weight {self.level}"

    @property
    def settled(self) -> bool:
        """Trained from its first step on, until the score rose no more."""
        return not any(one.continued or one.still_rising for one in self.outcomes)


@dataclass(frozen=True)
class Evidence:
    """What a study's trials bear, each part computed once."""

    results: Results

    @cached_property
    def complete(self) -> list[Outcome]:
        """Trained to their end, with a score that is a number; the best first."""
        return [one for one in self.results.complete() if math.isfinite(one.value or 0.0)]

    @cached_property
    def ends(self) -> Mapping[int, NDArray[np.float64]]:
        """Scores that pruned trials may be expected to end with, see `Results.expected_ends`."""
        # without a complete trial there is nothing to set them beside
        made = self.results.expected_ends if self.complete else None
        return {} if made is None else made()

    @cached_property
    def judged(self) -> list[Outcome]:
        """The complete trials, the best first, then the pruned ones with an expected end."""
        having = [one for one in self.results.scored() if one.pruned and one.number in self.ends]
        return [*self.complete, *sorted(having, key=lambda one: -self.ends[one.number].mean())]

    def scores_of(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Scores of judged trials [M, N]: M draws where pruned ones are among them, else 1."""
        draws = max((len(self.ends[one.number]) for one in outcomes if not one.complete), default=1)
        columns = [
            np.full(draws, one.value) if one.complete else self.ends[one.number] for one in outcomes
        ]
        return np.array(columns, dtype=np.float64).reshape(len(outcomes), draws).T

    def counted_text(self, outcomes: Sequence[Outcome]) -> str:
        """How many judged trials there are, and how many of them are pruned ones."""
        pruned = sum(not one.complete for one in outcomes)
        if not pruned:
            return counted(len(outcomes), "complete trial")
        which = "one at its" if pruned == 1 else "ones at their"
        ends = "end" if pruned == 1 else "ends"
        return f"{len(outcomes)} trials, {pruned} pruned {which} forecast {ends},"

    @cached_property
    def left_out_text(self) -> str:
        """How many pruned trials are not judged; empty where all are."""
        count = sum(one.pruned and one.number not in self.ends for one in self.results.scored())
        return f"{counted(count, 'pruned trial')} left out, for they stopped early" if count else ""

    @cached_property
    def groups(self) -> list[Group]:
        """The complete trials by configuration, the highest mean first."""
        return groups_of(self.complete)

    @cached_property
    def levels(self) -> list[Group]:
        """One configuration for each dice weight, as alike as the study has them."""
        return _one_per_dice_weight(self.groups)

    @cached_property
    def core(self) -> list[Group]:
        """The level of the supposed optimum, or the nearest one, with its neighbours."""
        if not self.levels:
            return []
        weights = [group.weight or 0.0 for group in self.levels]
        middle = min(range(len(weights)), key=lambda i: abs(weights[i] - OPTIMUM))
        return self.levels[max(0, middle - 1) : middle + 2]

    @property
    def shown(self) -> list[Group]:
        """The levels that are compared: those with repeats where there are two, else `core`."""
        return self.repeated if len(self.repeated) > 1 else self.core

    @cached_property
    def repeated(self) -> list[Group]:
        """Those of `levels` that were trained with several seeds."""
        return [group for group in self.levels if len(group.scores) > 1]

    @cached_property
    def pairs(self) -> list[Pair]:
        """`repeated`, by their level names, all compared."""
        return self.pairs_of({group.level_name: group.scores for group in self.repeated})

    def pairs_of(self, scores: Mapping[str, Sequence[float]]) -> list[Pair]:
        """All pairs of what was repeated, compared. scores: name -> one for each repeat."""
        look, looks = self.looks
        return compare(scores, look=look, looks=looks)

    @cached_property
    def looks(self) -> tuple[int, int]:
        """Which look at the repeats this is, and of how many.

        The scores of a study of repeats decided whether it went on, see
        `search.results.statistics.sequential_plan`.
        """
        plan = self.results.attrs.get(JUDGED)
        if plan is None:
            return 1, 1
        most = max((len(group.scores) for group in self.groups), default=0)
        looks = look_at(plan["cap"], first=plan["first"], step=STEP)
        return min(look_at(most, first=plan["first"], step=STEP), looks), looks

    @cached_property
    def noise(self) -> float | None:
        """Standard deviation of the score between seeds; None where nothing was repeated."""
        return seed_deviation({str(i): own for i, own in enumerate(self.by_seed)})

    @cached_property
    def by_seed(self) -> list[Sequence[float]]:
        """The scores of each configuration that was trained with several seeds, here or again."""
        own = [group.scores for group in self.groups]
        # without the score for which a trial was chosen: that one is partly luck
        again = {label: [*scores] for label, scores in self.results.repeats.items()}
        for trial, scores in repeated_scores(self.results.rows).items():
            again.setdefault(f"trial {trial}", []).extend(scores)
        return [it for it in [*own, *again.values()] if len(it) > 1]

    @cached_property
    def curve(self) -> Smooth | None:
        """The score over the dice weight.

        None for too few trials, and for runs that somebody chose by hand: what they changed
        together no curve takes apart.
        """
        return (
            None if self.results.imported else smoothed(self.judged, "dice_weight", self.scores_of)
        )

    @cached_property
    def importance(self) -> dict[str, Estimate] | None:
        """Each parameter's share of the variance; None where the trials are too few."""
        return importance_estimates([one.row for one in self.judged], self.scores_of(self.judged))

    def beats(self, one: Group, other: Group) -> bool:
        """Whether the first of two repeated levels is better, by more than chance."""
        return (one.level_name, other.level_name) in [pair.ranked for pair in self.pairs]


def smoothed(
    outcomes: Sequence[Outcome],
    name: str,
    scores: Callable[[Sequence[Outcome]], NDArray[np.float64]],
    *,
    log: bool = False,
) -> Smooth | None:
    """The score along one searched number, others' linear effects taken out where there is enough.

    scores: see `Evidence.scores_of`. None where the trials are too few.
    """
    having = [
        one
        for one in outcomes
        if isinstance(one.params.get(name), (int, float)) and (not log or one.params[name] > 0)
    ]
    chosen = spread(having, _SMOOTHED)
    if not chosen:
        return None
    x = np.array([one.params[name] for one in chosen], dtype=np.float64)
    y = scores(chosen)
    others = sorted(
        set.intersection(*(set(one.params) for one in chosen)) - {name, "training.seed"}
    )
    columns = [[one.params[other] for one in chosen] for other in others]
    cleared, taken_out = without_others(y, np.log(x) if log else x, columns)
    found = smooth(x, cleared, log=log)
    return None if found is None else replace(found, cleared=taken_out)


# ------------------------------------------------------------------------------- configurations


def _settings_of(outcome: Outcome) -> dict[str, Any]:
    """How a run was trained, by dotted name: numbers as such, labels and seeds left out."""
    known: dict[str, Any] = {}
    for key, value in outcome.config.items():
        if key.startswith(_LABELS) or key.rpartition(".")[2] == "seed":
            continue
        number = as_number(value)
        # a list is no key of a group
        plain = value if value is None or isinstance(value, (bool, str)) else str(value)
        known[key] = plain if number is None else number
    if outcome.continued is not None:
        known["continued from"] = outcome.continued
    return known


def groups_of(outcomes: Sequence[Outcome]) -> list[Group]:
    """The trials by configuration, the highest mean first. outcomes: complete, with values."""
    found: dict[Any, list[tuple[Outcome, dict[str, Any]]]] = {}
    for one in outcomes:
        known = _settings_of(one)
        # repeats of search.confirm tell what they repeat
        key = one.attrs.get(CONFIGURATION) or frozenset(
            item for item in known.items() if item[0] not in _INERT
        )
        found.setdefault(key, []).append((one, known))
    groups = [Group(tuple(one for one, _ in own), own[0][1]) for own in found.values()]
    return sorted(groups, key=lambda group: -group.mean)


def differing_settings(
    groups: Sequence[Group], *, but: Sequence[str] = (DICE,)
) -> dict[str, list[Any]]:
    """Settings that are not the same in all groups -> the value in each, in order of their names.

    but: names that are left out.
    """
    names = sorted({name for group in groups for name in group.settings} - set(but))
    values = {name: [group.settings.get(name, _ABSENT) for group in groups] for name in names}
    return {name: own for name, own in values.items() if any(it != own[0] for it in own)}


def differ_in_dice_alone(groups: Sequence[Group]) -> bool:
    """Whether nothing that may matter differs between the groups besides the dice weight."""
    return not differing_settings(groups, but=(DICE, *_INERT))


def _one_per_dice_weight(groups: Sequence[Group]) -> list[Group]:
    """One group for each dice weight that was tried, such that they differ in little else.

    In the order of their weights. Empty where a single weight was tried, or so many that they are
    a sweep and no two of them are alike otherwise. Of a weight's groups one that was trained to
    its end comes first, then one that shares more settings with the others, then one with more
    seeds, then the better one.
    """
    known = [group for group in groups if group.weight is not None]
    if len(_levels(known)) > _MOST_LEVELS:
        known = _largest_family(known)
    levels = _levels(known)
    if len(levels) < 2:
        return []
    codes = _codes(known)
    order = {}
    for level in levels:
        own = [i for i, group in enumerate(known) if group.weight == level]
        order[level] = [i for i in own if known[i].settled] or own
    stars = []
    # the centre of the star: the group that all others are measured by
    for centre in sorted(itertools.chain.from_iterable(order.values())):
        apart = (codes != codes[centre]).sum(axis=1)
        chosen = [
            centre
            if known[centre].weight == level
            else min(own, key=lambda i: (apart[i], -len(known[i].scores), -known[i].mean))
            for level, own in order.items()
        ]
        rank = (
            sum(int(apart[i]) for i in chosen),
            -sum(len(known[i].scores) for i in chosen),
            -sum(known[i].mean for i in chosen),
        )
        stars.append((rank, chosen))
    _, best = min(stars, key=itemgetter(0))
    return [known[i] for i in best]


def _levels(groups: Sequence[Group]) -> list[float]:
    return sorted({weight for group in groups if (weight := group.weight) is not None})


def _codes(groups: Sequence[Group]) -> NDArray[np.int64]:
    """Settings that may matter as whole numbers [group, setting], equal where they are."""
    varying = differing_settings(groups, but=(DICE, *_INERT))
    columns = []
    for own in varying.values():
        seen: dict[Any, int] = {}
        columns.append([seen.setdefault(value, len(seen)) for value in own])
    return np.array(columns, dtype=np.int64).reshape(len(columns), len(groups)).T


def _largest_family(groups: Sequence[Group]) -> list[Group]:
    """The groups that differ in dice weight alone, of the most weights, most seeds, best score."""
    families: dict[bytes, list[Group]] = {}
    for group, code in zip(groups, _codes(groups), strict=True):
        families.setdefault(code.tobytes(), []).append(group)
    return max(
        families.values(),
        key=lambda own: (
            min(len(_levels(own)), 2),
            sum(len(group.scores) for group in own),
            max(group.mean for group in own),
        ),
    )[: 2 * _MOST_LEVELS]


def sides(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Those whose dice weight is not above the ceiling, and those above."""
    below = [group for group in groups if (group.weight or 0.0) <= CEILING]
    return below, [group for group in groups if group not in below]


def levels_text(groups: Sequence[Group]) -> str:
    """dice_weight 1.0, 1.5 and 2.0."""
    return f"dice_weight {listed([group.level for group in groups])}"


def other_differences(groups: Sequence[Group]) -> str:
    """What differs between configurations besides the dice weight, each key with all its values."""
    return settings_text(differing_settings(groups))


def settings_text(values: Mapping[str, Sequence[Any]]) -> str:
    """Settings, each with its value in each configuration."""
    return listed([f"{name} ({' / '.join(map(setting, own))})" for name, own in values.items()])


def confounders_text(groups: Sequence[Group]) -> str:
    """A sentence on what differs besides the dice weight; empty where that is nothing."""
    if differ_in_dice_alone(groups):
        return ""
    return (
        f" These configurations differ in {other_differences(groups)} too, so the dice weight alone"
        " need not be the cause."
    )
