"""Which trials are repeats of one another, and what else differs between those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.results.trials import Outcome
from search.study.attributes import CONFIGURATION
from search.study.search_space import is_number
from trainer.notation import decimal

DICE = "loss.dice_weight"
# what a setting is where a run's config does not name it
ABSENT = "not given"
# more dice weights than this are a sweep, of which a curve tells more than pairs
MOST_LEVELS = 8
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
        return dice_weight(self.outcomes[0])

    @property
    def settled(self) -> bool:
        """Trained from its first step on, until the score rose no more."""
        return not any(one.continued or rising(one) for one in self.outcomes)


def dice_weight(outcome: Outcome) -> float | None:
    """The mean level over training; None where it is not known."""
    return as_number(outcome.config.get(DICE))


def as_number(value: object) -> float | None:
    """A finite number, also one that an old YAML reader took for text; None for all else."""
    number = decimal(value) if isinstance(value, str) else value
    return float(number) if is_number(number) else None


def rising(outcome: Outcome) -> bool:
    """Whether the score was still going up when training ended."""
    return bool(outcome.metrics.get("still_rising"))


def settings_of(outcome: Outcome) -> dict[str, Any]:
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
        known = settings_of(one)
        # repeats of search.confirm say themselves what they repeat
        key = one.attrs.get(CONFIGURATION) or frozenset(
            item for item in known.items() if item[0] not in _INERT
        )
        found.setdefault(key, []).append((one, known))
    groups = [Group(tuple(one for one, _ in own), own[0][1]) for own in found.values()]
    return sorted(groups, key=lambda group: -group.mean)


def differences(groups: Sequence[Group], *, but: Sequence[str] = (DICE,)) -> dict[str, list[Any]]:
    """Settings that are not the same in all groups -> the value in each, in order of their names.

    but: names that are left out.
    """
    names = sorted({name for group in groups for name in group.settings} - set(but))
    values = {name: [group.settings.get(name, ABSENT) for group in groups] for name in names}
    return {name: own for name, own in values.items() if any(it != own[0] for it in own)}


def alike_but_for_dice(groups: Sequence[Group]) -> bool:
    """Whether nothing that may matter differs between the groups besides the dice weight."""
    return not differences(groups, but=(DICE, *_INERT))


def by_dice_weight(groups: Sequence[Group]) -> list[Group]:
    """One group for each dice weight that was tried, such that they differ in little else.

    In the order of their weights. Empty where a single weight was tried, or so many that they are
    a sweep and no two of them are alike otherwise. Of a weight's groups one that was trained to
    its end comes first, then one that shares more settings with the others, then one with more
    seeds, then the better one.
    """
    known = [group for group in groups if group.weight is not None]
    if len(_levels(known)) > MOST_LEVELS:
        known = _largest_family(known)
    levels = _levels(known)
    if len(levels) < 2:
        return []
    codes = _codes(known)
    order = {
        level: [i for i, group in enumerate(known) if group.weight == level] for level in levels
    }
    for level, own in order.items():
        order[level] = [i for i in own if known[i].settled] or own
    best: tuple[Any, list[int]] | None = None
    # the centre of the star: the group that all others are measured by
    for centre in range(len(known)):
        if not any(centre in own for own in order.values()):
            continue
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
        if best is None or rank < best[0]:
            best = rank, chosen
    assert best is not None
    return [known[i] for i in best[1]]


def _levels(groups: Sequence[Group]) -> list[float]:
    return sorted({weight for group in groups if (weight := group.weight) is not None})


def _codes(groups: Sequence[Group]) -> NDArray[np.int64]:
    """Settings that may matter as whole numbers [group, setting], equal where they are."""
    varying = differences(groups, but=(DICE, *_INERT))
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
    )[: 2 * MOST_LEVELS]
