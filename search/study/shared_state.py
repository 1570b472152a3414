"""What all who work on a study share: target, lease times, drain mark."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass

import optuna

from search.study.attributes import DRAIN, LEASE, TOTAL
from search.study.lookup import study_or_none
from search.study.names import BEAT_S, GRACE_S
from storage.rdb import LeasedStorage
from trainer.errors import UserError


def set_total(study: optuna.Study, total: int) -> None:
    """How many finished trials the study should reach."""
    study.set_user_attr(TOTAL, total)


@dataclass(frozen=True)
class Lease:
    """Beat and grace period, in seconds, of all who work on a study: each judges the others."""

    beat_s: float = BEAT_S
    grace_s: float = GRACE_S

    def changed(self, beat_s: float | None, grace_s: float | None) -> Lease:
        """With what the user gave instead. Raises UserError unless beats fit into the grace."""
        lease = Lease(beat_s or self.beat_s, grace_s or self.grace_s)
        if lease.beat_s > lease.grace_s / 2:
            raise UserError(
                f"--beat-s {lease.beat_s:g} with --grace-s {lease.grace_s:g}: a worker that misses"
                " one beat would count as dead; make --grace-s at least twice --beat-s"
            )
        return lease


def lease_of(storage: LeasedStorage, name: str) -> Lease:
    """What the study's workers keep to; the default for a study that is not there yet."""
    study = study_or_none(storage, name)
    return Lease(**({} if study is None else study.user_attrs.get(LEASE, {})))


def set_lease(study: optuna.Study, lease: Lease) -> None:
    """What workers that start from now on keep to."""
    study.set_user_attr(LEASE, dataclasses.asdict(lease))


def total_of(study: optuna.Study) -> int | None:
    """The target number of finished trials; None where no run has set it."""
    return study.user_attrs.get(TOTAL)


def drain(study: optuna.Study) -> None:
    """Ask every worker and supervisor of the study to put its trial back and to end."""
    study.set_user_attr(DRAIN, uuid.uuid4().hex)


def drain_mark(study: optuna.Study) -> str | None:
    """A mark that changes with each `drain`."""
    return study.user_attrs.get(DRAIN)
