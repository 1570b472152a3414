"""When there are enough repeats: looks at the scores, with more seeds for whom they do not decide.

Every look follows from the scores alone, so a run that was ended makes the same ones again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.results.statistics.intervals import Pair, compare, look_at, next_seeds, seed_deviation

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
