"""An attribute of a study that several may change at the same moment: one of them does."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.claims import lock_study
from storage.optuna_internals import STUDY_USER_ATTRS


def swap(connection: Connection, study_id: int, key: str, before: Any, after: Any) -> bool:
    """Set a study's user attribute if it is still `before`; False where it is not.

    Runs inside a transaction. before, after: JSON values.
    """
    # as they come back from the store
    before, after = json.loads(json.dumps([before, after]))
    where = (STUDY_USER_ATTRS.c.study_id == study_id, STUDY_USER_ATTRS.c.key == key)
    lock_study(connection, study_id)
    query = sa.select(STUDY_USER_ATTRS.c.value_json).where(*where)
    stored = connection.execute(query).scalar_one_or_none()
    now = None if stored is None else json.loads(stored)
    if now == after:
        # an earlier attempt whose answer was lost
        return True
    if stored is None or now != before:
        return False
    change = sa.update(STUDY_USER_ATTRS).where(*where).values(value_json=json.dumps(after))
    connection.execute(change)
    return True
