"""Records of trials in the runs folder: written beside each trial, read to rebuild its study."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import ArtifactMeta
from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study import lineages
from search.study.attributes import JUDGED, LOST, REBUILT, TOTAL, attributes_of
from search.study.lineages import curve_of, rows_of
from search.study.run_folders import read_history, token_folders, trial_folder
from search.study.setup import Setup
from search.study.verdicts import end_of
from storage.events import ENDS, TrialEvent
from trainer.cli import one_line
from trainer.config import read_yaml
from trainer.errors import ConfigError
from trainer.history import best_epoch, f_scores
from trainer.presets import DEMO_WARNING

ARTIFACTS = "artifacts"


def search_record(setup: Setup, row: FrozenTrial) -> dict[str, Any]:
    """The `search` section that goes with a trial's config: where it came from."""
    attrs = attributes_of(row.user_attrs)
    score, epoch = _best_epoch(row)
    return {
        "study": setup.name,
        "study_uid": setup.uid,
        "trial": row.number,
        "value": score,
        "f_score_full": attrs.f_score_full,
        "epoch": epoch,
        "metric": setup.metric,
        "seed": attrs.seed,
        "data": {key: setup.data[key] for key in ("name", "fingerprint", "train", "val")},
        "preset": setup.preset,
        **({"note": DEMO_WARNING} if setup.preset == "demo" else {}),
        "versions": dict(setup.versions),
        "searched": list(setup.space),
        "fixed": dict(setup.fixed),
        "params": dict(row.params),
    }


def _best_epoch(row: FrozenTrial) -> tuple[float | None, int | None]:
    """Score and number of the best epoch of a row's whole training."""
    attrs = attributes_of(row.user_attrs)
    if row.state.is_finished() and attrs.best_epoch is not None:
        # of a revived trial it may lie in an earlier row
        return attrs.best_val_f, attrs.best_epoch
    return lineages.value(row), best_epoch(row.intermediate_values)


def trial_record(
    setup: Setup,
    row: FrozenTrial,
    study_attrs: Mapping[str, Any],
    events: Sequence[TrialEvent] = (),
) -> dict[str, Any]:
    """`search_record` with all that makes the row and its study again: see `search.rebuild`.

    row: as it is, or as it is about to end. study_attrs: of its study. events: of the row so far.
    The setup is whole: a config under a constant schedule does not say the ramp of its base.
    """
    return search_record(setup, row) | {
        "row": {
            "state": row.state.name,
            "started": _utc_text(row.datetime_start),
            "ended": _utc_text(row.datetime_complete),
            "written": datetime.now(UTC).isoformat(),
            "curve": dict(row.intermediate_values),
            "distributions": {
                name: optuna.distributions.distribution_to_json(known)
                for name, known in row.distributions.items()
            },
            "user_attrs": dict(row.user_attrs),
            "system_attrs": {
                # the file is one of the artifacts, so it cannot name them
                key: item
                for key, item in row.system_attrs.items()
                if not key.startswith("artifacts:")
            },
            "events": [event.as_dict() for event in events],
        },
        "setup": setup.to_json(),
        TOTAL: study_attrs.get(TOTAL),
        JUDGED: study_attrs.get(JUDGED),
    }


def _utc_text(moment: datetime | None) -> str | None:
    return None if moment is None else lineages.utc(moment).isoformat()


@dataclass(frozen=True)
class Record:
    """One `config.yaml`: its folder, runs/<study>/<number>/<token>, and its `search` section."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def token(self) -> int:
        return int(self.folder.name)


@dataclass
class RecordedStudy:
    """What the runs folder holds of one study. rows: number -> trial as it is to come back.

    total, judged: attributes of the study, see `search.study.names`. token: the highest that a
    claim of the study has had. problems: lines for the user. events: number -> what happened to it.
    """

    setup: Setup
    total: int | None
    judged: Any
    token: int
    rows: dict[int, FrozenTrial]
    problems: list[str] = field(default_factory=list)
    events: dict[int, list[TrialEvent]] = field(default_factory=dict)


def recorded_studies(runs: Path, only: str | None = None) -> tuple[list[RecordedStudy], list[str]]:
    """The studies of a runs folder by name, and lines on files that belong to no known study.

    only: the name of the study that is wanted. Of two studies of one name the one that was written
    to last is found, the other gets a line. Never raises for what a file holds.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    older: dict[str, set[Path]] = defaultdict(set)
    damaged: dict[Path, str] = {}
    place = None if only is None else trial_folder(runs, only, 0).parent
    for folder in token_folders(runs):
        if place not in (None, folder.parents[1]) or not (folder / "config.yaml").is_file():
            continue
        try:
            record = read_yaml(folder / "config.yaml")["search"]
            name, uid = str(record["study"]), str(record["study_uid"])
            if int(record["trial"]) != int(folder.parent.name):
                raise ValueError(f"it is of trial {record['trial']}")
            if not isinstance(record.get("row", {}), dict):
                raise TypeError("row is not a section")
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            damaged[folder] = f"{folder / 'config.yaml'} cannot be used ({_error_text(error)})"
            continue
        if "row" in record:
            groups[name, uid].append(Record(folder, record))
        else:
            older[name].add(folder.parent)
    lines = [
        f"study {name}: {len(trials)} of its trials were written by an earlier version, whose files"
        " lack the ranges: they cannot come back"
        for name, trials in sorted(older.items())
    ]
    artifacts = _by_content(runs / ARTIFACTS)
    studies = []
    for name in sorted({name for name, _ in groups}):
        latest, *former = sorted(
            (records for key, records in groups.items() if key[0] == name),
            key=lambda records: max(str(r.content["row"].get("written")) for r in records),
            reverse=True,
        )
        home = latest[0].folder.parents[1]
        mine = {f: damaged.pop(f) for f in list(damaged) if f.parents[1] == home}
        one = _study(latest, mine, artifacts)
        if one is None:
            lines.append(f"study {name}: none of its {len(latest)} records can be used")
            continue
        one.problems += [
            f"study {name}: an earlier study of this name is left alone ({len(records)} records)"
            for records in former
        ]
        studies.append(one)
    return studies, [*lines, *damaged.values()]


def _study(
    records: list[Record], damaged: Mapping[Path, str], artifacts: Mapping[str, str]
) -> RecordedStudy | None:
    """One study from its records; None where not even its setup can be read."""
    by_token = sorted(records, key=lambda record: record.token, reverse=True)
    problems = list(damaged.values())
    for newest in by_token:
        # ranges may change between trials: the newest trial has the study's latest
        try:
            setup = Setup.from_json(newest.content["setup"])
            setup.specs()
            total, judged = newest.content[TOTAL], newest.content.get(JUDGED)
            break
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(
                f"setup of {newest.folder / 'config.yaml'} cannot be used ({_error_text(error)})"
            )
    else:
        return None
    by_number: dict[int, list[Record]] = defaultdict(list)
    for record in by_token:
        by_number[int(record.folder.parent.name)].append(record)
    rows = {}
    for number, own in sorted(by_number.items()):
        params = [record.content["params"] for record in own if "params" in record.content]
        if any(other != params[0] for other in params):
            problems.append(
                f"trial {number}: several trials left files under this number, as after a row was"
                f" deleted by SQL; the one that began last comes back ({own[0].folder})"
            )
        try:
            rows[number] = _row(own, artifacts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            line = f"trial {number}: {own[0].folder} cannot be used ({_error_text(error)})"
            problems.append(line)
            rows[number] = _lost_row(line)
    for folder, line in damaged.items():
        number = int(folder.parent.name)
        rows.setdefault(number, _lost_row(line))
    for number in range(max(rows)):
        rows.setdefault(number, _lost_row("no files"))
    for number, row in rows.items():
        row.number = number
    for row in rows.values():
        if not row.state.is_finished():
            # the histories of a revival begin with the epochs of the rows before it
            *earlier, _ = rows_of(list(rows.values()), row)
            for epoch in curve_of(earlier):
                row.intermediate_values.pop(epoch, None)
    token = max(int(folder.name) for folder in [*(r.folder for r in records), *damaged])
    events = {number: _events(own, rows[number]) for number, own in by_number.items()}
    return RecordedStudy(setup, total, judged, token, rows, problems, events)


def _events(own: list[Record], row: FrozenTrial) -> list[TrialEvent]:
    """What happened to a row, which waits where it had not ended. own: its records, newest first.

    The newest record holds what had happened when it was written, the row how it ended. Without
    events in it, as earlier versions wrote them, each record is a claim.
    """
    newest = own[0]
    try:
        events = [TrialEvent.from_dict(kept) for kept in newest.content["row"]["events"]]
    except (KeyError, TypeError, ValueError):
        events = [
            TrialEvent(row.number, "claimed", REBUILT, {}, record.token, None, started)
            for record in reversed(own)
            if (started := _started(record)) is not None
        ]
    end = end_of(row, REBUILT, token=newest.token)
    if not row.state.is_finished():
        end = TrialEvent(row.number, "requeued", REBUILT, {}, None, None, datetime.now(UTC))
    if end is not None and not any(event.event in ENDS for event in events):
        events.append(end)
    return events


def _started(record: Record) -> datetime | None:
    try:
        return datetime.fromisoformat(record.content["row"]["started"])
    except (KeyError, TypeError, ValueError):
        return None


def _lost_row(reason: str) -> FrozenTrial:
    """A row for a number whose trial cannot come back: FAIL, so it does not count."""
    return create_trial(state=TrialState.FAIL, user_attrs={LOST: reason})


def _row(own: list[Record], artifacts: Mapping[str, str]) -> FrozenTrial:
    """A trial as it was, or waiting where it had not ended. own: its records, newest first."""
    newest = own[0]
    record, row = newest.content, newest.content["row"]
    state = TrialState[row["state"]]
    if state.is_finished():
        # not the histories': a fenced-out owner's hold what was never reported
        curve = {int(epoch): float(score) for epoch, score in row["curve"].items()}
    else:
        state, curve = TrialState.WAITING, _curve(own)
    last = curve[max(curve)] if curve else None
    made = create_trial(
        state=state,
        value={TrialState.COMPLETE: record["value"], TrialState.PRUNED: last}.get(state),
        params=record["params"],
        distributions={
            name: json_to_distribution(text) for name, text in row["distributions"].items()
        },
        user_attrs=row["user_attrs"],
        system_attrs=row["system_attrs"] | _artifacts_of(newest.folder, artifacts),
        intermediate_values=curve,
    )
    made.datetime_start = _moment(row["started"])
    if state.is_finished():
        made.datetime_complete = _moment(row["ended"])
    return made


def _curve(own: Iterable[Record]) -> dict[int, float]:
    """Epoch -> score, from all histories; one that was trained twice counts as first recorded."""
    curve: dict[int, float] = {}
    for record in own:
        # newest first, so that the earlier ones overrule
        curve |= f_scores(read_history(record.folder))
    return dict(sorted(curve.items()))


def _by_content(folder: Path) -> dict[str, str]:
    """Digest of content -> artifact id."""
    if folder.is_symlink() or not folder.is_dir():
        return {}
    return {_digest(path): path.name for path in folder.iterdir() if path.is_file()}


def _artifacts_of(folder: Path, artifacts: Mapping[str, str]) -> dict[str, str]:
    """System attributes that name the trial's artifacts, found by their content."""
    attrs = {}
    for name in ("config.yaml", "contact_sheet.png"):
        path = folder / name
        artifact_id = artifacts.get(_digest(path)) if path.is_file() else None
        if artifact_id is not None:
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            meta = ArtifactMeta(artifact_id, name, kind, mimetypes.guess_type(name)[1])
            attrs[f"artifacts:{artifact_id}"] = json.dumps(asdict(meta))
    return attrs


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _moment(text: str) -> datetime:
    """Optuna shows this machine's time; see `lineages.utc`."""
    return datetime.fromtimestamp(datetime.fromisoformat(text).timestamp())


def _error_text(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    return one_line(error)[:200]
