"""What a worker has at hand: store, study, trainer, signals."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.execution.stop_requests import WorkerSignals
from search.study.identity import refuse_direction
from search.study.lookup import load_setup
from search.study.names import owner_name
from search.study.setup import Setup
from search.study.shared_state import Lease, drain_mark
from search.trainers.contract import Trainer
from storage import Cause, LeasedStorage
from storage.optuna_internals import id_of_study


@dataclass
class WorkerContext:
    """What a worker has at hand.

    trainer: of the study, on this machine. stop_after: end when so many trials brought nothing
    better. stop_when_settled: end when no trial may be expected to. parent: process whose end ends
    the worker.
    """

    storage: LeasedStorage
    study: optuna.Study
    runs: Path
    signals: WorkerSignals
    lease: Lease
    trainer: Trainer
    stop_after: int | None = None
    stop_when_settled: bool = False
    parent: int | None = None
    owner: str = field(default_factory=lambda: owner_name(os.getpid()))
    setup: Setup = field(init=False)
    failed_before: frozenset[int] = field(init=False)
    _drain_mark: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.signals.busy = self.storage.at_work
        self.setup = load_setup(self.study)
        refuse_direction(self.study)
        self._drain_mark = drain_mark(self.study)
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        self.failed_before = frozenset(trial.number for trial in failed)

    @property
    def study_id(self) -> int:
        return id_of_study(self.study)

    def leaving(self) -> Cause | None:
        """Why the worker is asked to end: a signal, a drain, the parent's end; else None."""
        if self.signals.asked.is_set():
            return Cause("signal", {"signal": self.signals.name})
        if self.parent is not None and os.getppid() != self.parent:
            return Cause("parent gone", {"parent": self.parent})
        if drain_mark(self.study) != self._drain_mark:
            return Cause("drained")
        return None
