"""What a search has changed of its own ranges, as its setup keeps it: see `Setup.widened`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import space
from search.study.ranges import Range
from search.study.search_space import describe
from search.study.setup import Setup


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
