"""Where a trial goes on from: the checkpoints that its earlier claims have left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.study.run_folders import written_by
from search.study.setup import Setup
from trainer import checkpoint
from trainer.config import Config, base_identity, config_from_dict
from trainer.errors import CheckpointError, ConfigError
from trainer.files import atomic_path, atomic_write_text
from trainer.history import best_epoch, f_scores

_COPY_ATTEMPTS = 3


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from, and the scores of the epochs that led to it."""

    path: Path
    epoch: int
    history: list[dict[str, Any]]


def taken_over(
    folders: Sequence[Path], config: Config, study_uid: str, out: Path
) -> ResumePoint | None:
    """The newest checkpoint, copied into this claim's own folder `out`; None where there is none.

    Arguments as in `newest_checkpoint`. Raises OSError and CheckpointError.
    """
    start = newest_checkpoint(folders, config, study_uid)
    if start is None or start.path.parent == out:
        return start
    path = out / "last.pt"
    for _ in range(_COPY_ATTEMPTS):
        # copies: an owner that only slept still replaces its own files when it wakes, once
        try:
            for name in ("last.pt", "best.pt"):
                with atomic_path(out / name) as copy:
                    shutil.copyfile(start.path.with_name(name), copy)
        except FileNotFoundError:
            # search.clean took them once whole copies lay here
            if not (path.is_file() and (out / "best.pt").is_file()):
                raise
        stored = checkpoint.read(path)
        start = ResumePoint(
            path=start.path, epoch=int(stored["epoch"]), history=list(stored["history"])
        )
        # one that was killed between the two has left a newer best, which comes again (on a CPU)
        if checkpoint.read(out / "best.pt")["epoch"] == best_epoch(f_scores(start.history)):
            break
    atomic_write_text(out / "history.json", json.dumps(start.history, indent=1))
    return replace(start, path=path)


def newest_checkpoint(
    folders: Sequence[Path], config: Config, study_uid: str
) -> ResumePoint | None:
    """The checkpoint of this very config that has come furthest, below any token; None without.

    folders: of the trial and of those that it continues; each claim's lies below. A file that is
    not whole, or was left by a deleted study of the same name, is passed over.
    """
    best: ResumePoint | None = None
    for path in _checkpoints(folders):
        try:
            stored = checkpoint.read(path)
            # its companion goes along
            checkpoint.read(path.with_name("best.pt"))
        except (CheckpointError, OSError):
            continue
        if not _same_training(stored["config"], config) or written_by(path.parent) != study_uid:
            continue
        if "adamw" not in stored:
            # written before 25 November 2026: nothing that training could go on from
            continue
        epoch = int(stored["epoch"])
        if best is None or epoch > best.epoch:
            best = ResumePoint(path, epoch, list(stored["history"]))
    return best


def _checkpoints(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        # the newest token first: among equals it is the one to go on from
        tokens = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
        for token in sorted(tokens, reverse=True):
            path = folder / str(token) / "last.pt"
            if path.is_file() and path.with_name("best.pt").is_file():
                yield path


def _same_training(stored: dict[str, Any], config: Config) -> bool:
    try:
        other = config_from_dict(stored)
    except ConfigError:
        return False
    return base_identity(other, ["data.root"]) == base_identity(config, ["data.root"])


def clear_strangers(out: Path, setup: Setup) -> None:
    """Remove what a deleted study of the same name left where this claim is to write."""
    if out.exists() and written_by(out) != setup.uid:
        for name in ("last.pt", "best.pt", "history.json", "contact_sheet.png"):
            (out / name).unlink(missing_ok=True)
