"""The options of a study, and the plan that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.management.enqueue import Request
from search.study.setup import Setup
from trainer.data.dataset import DataSummary


@dataclass(frozen=True)
class StudyOptions:
    """The flags of search.run that make or change a study; None: as study, config or data say.

    config: YAML of what is not searched. fix: `name=value` each. ranges: `name=low:high[:log]`
    each. enqueue: YAML list of configurations to run first. old: study to take over from. priors:
    whether first trials are enqueued. beat_s, grace_s: of its workers' lease. command or function:
    what trains instead of our own trainer; the fields from there on say how, as the flags of
    search.run do.
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
    spend_saved: float | None = None
    enqueue: Path | None = None
    old: str | None = None
    priors: bool = True
    beat_s: float | None = None
    grace_s: float | None = None
    command: str | None = None
    function: str | None = None
    history: str | None = None
    score_key: str | None = None
    pattern: str | None = None
    resume_file: str | None = None
    stop_grace_s: float | None = None
    epoch_timeout_s: float | None = None
    space_file: Path | None = None
    choices: Sequence[str] = ()
    new_key: bool = False
    direction: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class FacesPlan:
    """What our own trainer is to train on. parameters: of its network."""

    summary: DataSummary
    preset: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What the command line and the config came to, before the store is touched.

    faces: None where another program trains.
    """

    setup: Setup
    notes: Sequence[str]
    requests: Sequence[Request]
    faces: FacesPlan | None = None
