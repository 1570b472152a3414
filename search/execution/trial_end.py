"""The end of a trial: metrics, artifacts, record and verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial, TrialState

from search.execution.worker_context import WorkerContext
from search.study.attributes import REASON, VERDICT
from search.study.run_records import trial_record
from search.study.training_metrics import metrics
from search.study.trial_notes import put_note, trial_note
from search.study.verdicts import verdict_of
from search.trainers.contract import Training
from storage.events import UNKNOWN, Cause, Kind
from storage.optuna_internals import id_of_trial
from trainer.files import atomic_write_text

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ends: its state, and as which event that is recorded, with its cause."""

    state: TrialState
    event: Kind
    cause: Cause = UNKNOWN


def finish(
    context: WorkerContext,
    trial: optuna.Trial,
    token: int,
    end: TrialEnd,
    training: Training,
    out: Path,
    value: float | None,
) -> None:
    """Attributes and artifacts first, then the verdict: a finished trial takes no more of them.

    value: its score, None where it did not come to its end.
    """
    left = training.leave(value is not None)
    kept = metrics(left.history) if left.history else {}
    for name, item in {**kept, **left.attributes}.items():
        trial.set_user_attr(name, item)
    row = context.storage.get_trial(id_of_trial(trial))
    # as the verdict below is to leave it: whoever dies in between leaves a record that is outdone
    # by the one of the trial's next owner
    row.state, row.datetime_complete = end.state, datetime.now()
    row.value = value
    write_config(context, row, training.config, out)
    _keep_artifacts(context, trial, [out / "config.yaml", *left.files])
    put_note(trial, trial_note(row, context.setup.epochs, context.setup.own_score))
    with context.storage.ending(end.event, end.cause):
        if value is None:
            context.study.tell(trial, state=end.state)
        else:
            context.study.tell(trial, value)
    if value is None:
        how = row.user_attrs.get(REASON) or "stopped"
        if verdict := verdict_of(row.user_attrs.get(VERDICT)):
            how += f": {verdict.text()}"
    else:
        how = f"{value:.4f} (epoch {kept['best_epoch']})"
    LOG.info(f"trial {trial.number}: {end.state.name}, {how}", extra={"trial": trial.number})
    context.storage.release(token)


def write_config(
    context: WorkerContext, row: FrozenTrial, config: Mapping[str, Any], out: Path
) -> None:
    events = context.storage.events_of([id_of_trial(row)])
    record = trial_record(context.setup, row, context.study.user_attrs, events)
    atomic_write_text(out / "config.yaml", context.trainer.text(config, record))


def _keep_artifacts(context: WorkerContext, trial: optuna.Trial, files: Sequence[Path]) -> None:
    """Give the dashboard the trial's config, pictures and logs."""
    where = context.runs / "artifacts"
    where.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(where)
    # an owner that died between upload and verdict has left its own
    present = {
        meta.filename
        for meta in get_all_artifact_meta(trial)
        if (where / meta.artifact_id).is_file()
    }
    for path in files:
        if path.is_file() and path.name not in present:
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
