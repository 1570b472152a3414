"""Find the trials whose owner died, and put them back in the queue.

A claim is judged by its beat counter over this process's own monotonic clock, never by a wall
clock: nobody is reaped, or spared, because a clock was set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from storage.background import BackgroundThread
from storage.errors import StorageError
from storage.events import Cause

if TYPE_CHECKING:
    from storage.claims import Claim
    from storage.rdb import LeasedStorage


@dataclass(frozen=True)
class ReapedClaim:
    """What the reaper did.

    kind: "reaped" (its owner was silent: the trial waits again), "adopted" (nobody claimed it: the
    same), or "freed" (a silent claim without a running trial).
    """

    kind: Literal["reaped", "adopted", "freed"]
    trial_id: int | None
    number: int | None
    owner: str | None


class Reaper:
    """Call `look` about every second, at least three times in each grace period.

    Time between two looks counts for a third of the grace period at most: after the reaper itself
    was away (a stopped terminal, an unreachable store), the living have time to beat again.
    claims: those of the study, as the last look saw them.
    """

    def __init__(
        self,
        storage: LeasedStorage,
        study_id: int,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self.grace_s = grace_s
        self._clock = clock
        self._looked_at: float | None = None
        self.claims: Sequence[Claim] = ()
        # token of a claim, or id of a trial without one -> its beat, and for how long it has stood
        self._watched: dict[tuple[str, int], tuple[int, float]] = {}

    def look(self) -> list[ReapedClaim]:
        """One look at the store; what was done. Raises StorageError where it cannot be read."""
        claims, orphans = self._storage.survey(self._study_id)
        self.claims = claims
        now = self._clock()
        away_s = 0.0 if self._looked_at is None else now - self._looked_at
        step_s = min(away_s, self.grace_s / 3)
        self._looked_at = now
        beats = {("claim", claim.token): claim.beat for claim in claims}
        beats |= {("trial", trial_id): 0 for trial_id, _ in orphans}
        before = self._watched
        self._watched = {
            key: (
                beat,
                before[key][1] + step_s if key in before and before[key][0] == beat else 0.0,
            )
            for key, beat in beats.items()
        }
        reaped_claims = []
        for claim in claims:
            _, silent_s = self._watched["claim", claim.token]
            if silent_s < self.grace_s:
                continue
            put_back = self._storage.reap(claim, _silence("silent", silent_s))
            if put_back is not None:
                kind: Literal["reaped", "freed"] = "reaped" if put_back else "freed"
                reaped_claims.append(ReapedClaim(kind, claim.trial_id, claim.number, claim.owner))
        for trial_id, number in orphans:
            _, silent_s = self._watched["trial", trial_id]
            if silent_s < self.grace_s:
                continue
            if self._storage.adopt(trial_id, _silence("unclaimed", silent_s)):
                reaped_claims.append(ReapedClaim("adopted", trial_id, number, None))
        return reaped_claims


def _silence(text: str, silent_s: float) -> Cause:
    return Cause(text, {"silent_s": round(silent_s, 1)})


class ReaperThread(BackgroundThread):
    """A thread that looks with `reaper` about every second while the block runs.

    A worker in the middle of a long epoch finds the dead as soon as an idle one.
    """

    def __init__(self, reaper: Reaper) -> None:
        super().__init__("reaper")
        self._reaper = reaper
        # often enough for a short grace period, never oftener than makes sense
        self._every_s = min(1.0, reaper.grace_s / 6)

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._reaper.look()
            except StorageError:
                # the worker itself meets the same trouble and knows what to do; a store that
                # comes back needs its reaper again
                continue
