"""What a search is asked for when it is begun, or gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyOptions:
    """The flags of search.run that make or change a study; None: as study, config or data say.

    config: YAML of what is not searched. fix: `name=value` each. ranges: `name=low:high[:log]`
    each. enqueue: YAML list of configurations to run first. old: study to take over from. priors:
    whether the first trials of `space.py` are enqueued. beat_s, grace_s: of its workers' lease.
    """

    study: str | None = None
    config: Path | None = None
    preset: str | None = None
    data: str | None = None
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    fix: Sequence[str] = ()
    ranges: Sequence[str] = ()
    seed: int | None = None
    sampler: str | None = None
    pruner: str | None = None
    prune_risk: float | None = None
    revive: int | str | None = None
    enqueue: Path | None = None
    old: str | None = None
    priors: bool = True
    beat_s: float | None = None
    grace_s: float | None = None
