"""When there are enough repeats: looks at the scores, with more seeds for whom they do not decide.

Every look follows from the scores alone, so a run that was ended makes the same ones again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.results.statistics.intervals import Pair, compare, seed_deviation

# seeds of each configuration at the first look, and how many more at each later one; what
# `scripts/bench repeats` tries out
FIRST, STEP = 3, 1


@dataclass(frozen=True)
class PlanState:
    """What is known after the looks that could be made.

    look: how many were made, of `looks` that were planned. scores: what the last one saw, label ->
    scores in [0, 1]. pairs: its verdicts. wanted: label -> repeats that the next look needs; empty
    when there is none.
    """

    look: int
    looks: int
    scores: Mapping[str, Sequence[float]]
    pairs: Sequence[Pair]
    wanted: Mapping[str, int]


def plan_state(
    scores: Mapping[str, Sequence[float | None]], *, cap: int, first: int, margin: float
) -> PlanState:
    """Make all looks again that the scores allow.

    scores: label -> score of each repeat up to the first that has not ended, None for one that
    failed. cap: repeats of a configuration at most. first: repeats of each at the first
    look. margin: differences that count as none, in standard deviations between seeds.
    """
    looks = look_at(cap, first=first, step=STEP)
    wanted = dict.fromkeys(scores, first)
    seen: dict[str, list[float]] = {}
    pairs: list[Pair] = []
    for look in range(1, looks + 1):
        if any(len(scores[label]) < count for label, count in wanted.items()):
            return PlanState(look - 1, looks, seen, pairs, wanted)
        seen = {
            label: [score for score in scores[label][:count] if score is not None]
            for label, count in wanted.items()
        }
        deviation = seed_deviation(seen)
        within = None if deviation is None else margin * deviation
        pairs = compare(seen, margin=within, look=look, looks=looks)
        more = next_seeds(seen, pairs, cap=cap, step=STEP)
        then = {label: min(cap, count + more.get(label, 0)) for label, count in wanted.items()}
        if then == wanted:
            break
        wanted = then
    return PlanState(look, looks, seen, pairs, {})


def look_at(seeds: int, *, first: int, step: int) -> int:
    """Number of the look at which configurations have so many seeds, counted from 1.

    first: seeds of each at look 1; step: added at each look; the last may add fewer.

    >>> [look_at(seeds, first=3, step=2) for seeds in (3, 5, 6)]
    [1, 2, 3]
    """
    return 1 + max(0, math.ceil((seeds - first) / step))


def next_seeds(
    scores: Mapping[str, Sequence[float]], pairs: Iterable[Pair], *, cap: int, step: int
) -> dict[str, int]:
    """How many more seeds each configuration gets before the next look; empty when finished.

    pairs: as `compare` gives them. A configuration that is told apart from all others gets none.
    The rest come to `step` more than any has, at most to `cap`, so that one that rejoins catches
    up at once. Where one has `cap` already, the planned looks are over.
    """
    reached = max(map(len, scores.values()), default=0)
    if reached >= cap:
        return {}
    unclear = {name for pair in pairs if pair.verdict is None for name in (pair.first, pair.second)}
    if len(scores) > 1:
        unclear |= {name for name, own in scores.items() if not own}
    goal = min(cap, reached + step)
    return {name: goal - len(own) for name, own in scores.items() if name in unclear}
