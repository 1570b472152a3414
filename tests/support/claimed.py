"""Studies and claimed trials in a bare store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection

from storage import LeasedStorage


def new_study(storage: LeasedStorage, name: str = "faces") -> int:
    return storage.create_new_study([StudyDirection.MAXIMIZE], name)


def start(storage: LeasedStorage, study_id: int = 1, owner: str = "test") -> tuple[int, int]:
    """A running trial under a claim, a waiting one before a new one: (token, trial_id)."""
    token = storage.take_slot(study_id, None, owner)
    assert token is not None
    trial_id = storage.pop_waiting(study_id, token)
    return token, storage.new_trial(study_id, token) if trial_id is None else trial_id


def statements(storage: LeasedStorage, act: Callable[[], object]) -> list[str]:
    """The SQL that a call sends, but for the start of a transaction."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sa.event.listen(storage.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        sa.event.remove(storage.engine, "before_cursor_execute", note)
    return [statement for statement in sent if not statement.startswith("BEGIN")]
