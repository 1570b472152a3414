"""The end of a trial: metrics, artifacts, record and verdict."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial, TrialState

from search.execution.worker_context import WorkerContext, load_data
from search.study.attributes import F_LARGE, F_SCORE_FULL, F_SMALL, REASON, VERDICT
from search.study.run_folders import read_history
from search.study.run_records import trial_record
from search.study.training_metrics import metrics
from search.study.trial_notes import put_note, trial_note
from search.study.verdicts import verdict_of
from storage.events import UNKNOWN, Cause, Kind
from storage.optuna_internals import id_of_trial
from trainer.config import Config, to_yaml
from trainer.files import atomic_write_text
from trainer.fit import FitResult
from trainer.pictures import contact_sheet
from trainer.runtime import applied
from trainer.scoring import final_scores

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
    config: Config,
    out: Path,
    result: FitResult | None,
) -> None:
    """Attributes and artifacts first, then the verdict: a finished trial takes no more of them."""
    history = read_history(out) if result is None else result.history
    weights = out / "best.pt" if result is None else result.best_checkpoint
    if history:
        kept = metrics(
            history, ce_weight=config.loss.ce_weight, dice_weight=config.loss.dice_weight
        )
        best_row = next(entry for entry in history if entry["epoch"] == kept["best_epoch"])
        kept |= {name: best_row.get(name) for name in (F_LARGE, F_SMALL)}
        if result is not None:
            with applied(config.runtime) as device:
                full = final_scores(weights, load_data(context).val, device=device)
            # of the best epoch, against the untouched masks
            kept[F_SCORE_FULL] = float(full["f_score_full"])
        for name, value in kept.items():
            trial.set_user_attr(name, value)
    row = context.storage.get_trial(id_of_trial(trial))
    # as the verdict below is to leave it: whoever dies in between leaves a record that is outdone
    # by the one of the trial's next owner
    row.state, row.datetime_complete = end.state, datetime.now()
    row.value = None if result is None else result.best_f_score
    write_config(context, row, config, out)
    _keep_artifacts(context, trial, out, weights, config)
    put_note(trial, trial_note(row, config.training.epochs))
    with context.storage.ending(end.event, end.cause):
        if result is None:
            context.study.tell(trial, state=end.state)
        else:
            context.study.tell(trial, result.best_f_score)
    if result is None:
        how = row.user_attrs.get(REASON) or "stopped"
        if verdict := verdict_of(row.user_attrs.get(VERDICT)):
            how += f": {verdict.text()}"
    else:
        assert result.best_f_score is not None, "a trial trains on the train part, so it is scored"
        how = f"{result.best_f_score:.4f} (epoch {result.best_epoch})"
    LOG.info(f"trial {trial.number}: {end.state.name}, {how}", extra={"trial": trial.number})
    context.storage.release(token)


def write_config(context: WorkerContext, row: FrozenTrial, config: Config, out: Path) -> None:
    events = context.storage.events_of([id_of_trial(row)])
    record = trial_record(context.setup, row, context.study.user_attrs, events)
    atomic_write_text(out / "config.yaml", to_yaml(config, search=record))


def _keep_artifacts(
    context: WorkerContext, trial: optuna.Trial, out: Path, weights: Path, config: Config
) -> None:
    """Give the dashboard the trial's config, curves' history and contact sheet."""
    if weights.is_file():
        with applied(config.runtime) as device:
            sheet = out / "contact_sheet.png"
            contact_sheet(weights, load_data(context).val, sheet, device=device)
    where = context.runs / "artifacts"
    where.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(where)
    # an owner that died between upload and verdict has left its own
    present = {
        meta.filename
        for meta in get_all_artifact_meta(trial)
        if (where / meta.artifact_id).is_file()
    }
    for name in ("config.yaml", "contact_sheet.png"):
        if (out / name).is_file() and name not in present:
            upload_artifact(artifact_store=store, file_path=str(out / name), study_or_trial=trial)
