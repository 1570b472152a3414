"""Studies and claimed trials in a bare store."""

from __future__ import annotations

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
