"""What a store holds, counted: trials by state, and studies by their latest activity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from storage.optuna_internals import STUDIES, TRIALS


@dataclass(frozen=True)
class StudyActivity:
    """latest: when a trial of the study last started or ended (UTC); None without any."""

    study_id: int
    name: str
    latest: datetime | None


def count_states(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """Number of rows in each state, zeros included."""
    query = (
        sa.select(TRIALS.c.state, sa.func.count())
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    rows = [(row[0], row[1]) for row in connection.execute(query)]
    return dict.fromkeys(TrialState, 0) | dict(rows)


def studies_by_activity(connection: Connection) -> list[StudyActivity]:
    """All studies, the one with the latest start or end of a trial first."""
    query = (
        sa.select(
            STUDIES.c.study_id,
            STUDIES.c.study_name,
            sa.func.max(TRIALS.c.datetime_start),
            sa.func.max(TRIALS.c.datetime_complete),
        )
        .select_from(STUDIES.outerjoin(TRIALS, TRIALS.c.study_id == STUDIES.c.study_id))
        .group_by(STUDIES.c.study_id, STUDIES.c.study_name)
    )
    found = []
    for study_id, name, started, ended in connection.execute(query):
        moments = [moment.replace(tzinfo=UTC) for moment in (started, ended) if moment]
        found.append(StudyActivity(study_id, name, max(moments, default=None)))
    nothing = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda study: (study.latest or nothing, study.study_id), reverse=True)
