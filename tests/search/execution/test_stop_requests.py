from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection

from search.execution.stop_requests import SupervisorSignals, WorkerSignals
from storage import LeasedStorage, open_storage


def store(folder: Path) -> LeasedStorage:
    storage = open_storage(f"sqlite:///{folder}/search.db", patience_s=0.0)
    if not storage.get_all_studies():
        storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    return storage


@contextmanager
def interrupted_by(number: int, storage: LeasedStorage) -> Iterator[None]:
    """Each transaction is interrupted right after it has taken the lock."""

    def interrupt(connection: Any) -> None:
        os.kill(os.getpid(), number)

    sa.event.listen(storage.engine, "begin", interrupt)
    try:
        yield
    finally:
        sa.event.remove(storage.engine, "begin", interrupt)


def test_a_supervisor_interrupted_in_a_transaction_keeps_no_lock(tmp_path: Path) -> None:
    storage, other = store(tmp_path), store(tmp_path)
    with SupervisorSignals(storage) as signals, interrupted_by(signal.SIGTERM, storage):
        storage.set_study_user_attr(1, "epoch", 1)
        assert signals.asked.is_set()
        # nor one that is told to hurry
        storage.set_study_user_attr(1, "epoch", 2)
        assert signals.times == 2
    other.set_study_user_attr(1, "other", True)
    assert other.get_study_user_attrs(1) == {"epoch": 2, "other": True}


def test_a_worker_told_twice_in_a_transaction_keeps_no_lock(tmp_path: Path) -> None:
    storage, other = store(tmp_path), store(tmp_path)
    with WorkerSignals() as signals:
        signals.busy = storage.at_work
        os.kill(os.getpid(), signal.SIGINT)
        # a second one counts from a second later
        time.sleep(1.1)
        with interrupted_by(signal.SIGINT, storage):
            storage.set_study_user_attr(1, "epoch", 1)
        assert signals.asked.is_set()
    other.set_study_user_attr(1, "other", True)
    assert other.get_study_user_attrs(1) == {"epoch": 1, "other": True}


def test_somebody_who_cannot_wait_for_an_absent_store_need_not(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/search.db")
    with SupervisorSignals(storage):
        os.kill(os.getpid(), signal.SIGINT)
        assert storage.patience_s > 0
        os.kill(os.getpid(), signal.SIGINT)
        assert storage.patience_s == 0
