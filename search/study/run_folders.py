"""Where the files of trials lie, `runs/<study>/<number>/<token>`, and their histories."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.config import read_yaml
from trainer.errors import ConfigError, UserError
from trainer.history import Row, f_scores


def trial_folder(runs: Path, study_name: str, number: int) -> Path:
    """Where a trial's files lie: `runs/<study>/<number>`; each claim writes in a folder below.

    A name that is no plain folder name is written with underscores and a short hash.
    """
    plain = re.sub(r"[^\w.-]", "_", study_name)
    if plain != study_name or plain.strip(".") == "" or plain == "artifacts":
        plain = f"{plain[:80]}-{hashlib.sha256(study_name.encode()).hexdigest()[:8]}"
    return Path(runs) / plain / str(number)


def existing(runs: str) -> Path:
    """The runs folder that the user named. Raises UserError where there is none."""
    if not Path(runs).is_dir():
        raise UserError(f"--runs {runs}: no such folder; name the one that search.run wrote to")
    return Path(runs)


def token_folders(runs: Path) -> Iterator[Path]:
    """Every runs/<study>/<number>/<token>; links are not followed."""
    for study in _folders(runs):
        for number in _folders(study):
            if number.name.isdecimal():
                yield from token_folders_of(number)


def token_folders_of(number: Path) -> list[Path]:
    """The folders of a trial's claims, oldest first; empty where links lead to it."""
    if number.is_symlink() or number.parent.is_symlink() or not number.is_dir():
        return []
    tokens = [path for path in _folders(number) if path.name.isdecimal()]
    return sorted(tokens, key=lambda path: int(path.name))


def newest_claims(runs: Path, study: str, numbers: Iterable[int]) -> Iterator[Path]:
    """The folders of all claims on rows of one trial, the newest first."""
    for number in sorted(numbers, reverse=True):
        yield from reversed(token_folders_of(trial_folder(runs, study, number)))


def read_history(folder: Path) -> list[Row]:
    """The rows of a folder's history.json, epochs from 1 as whole numbers, in the file's order.

    Empty where there is no such file, and where it is no history: another tool's, or cut short.
    """
    try:
        rows = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        f_scores(rows)
        return [{**row, "epoch": int(row["epoch"])} for row in rows]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def written_by(folder: Path) -> str | None:
    """The uid of the study that wrote a token's folder; None where that is not known."""
    try:
        record = read_yaml(folder / "config.yaml")["search"]
        return str(record["study_uid"])
    except (ConfigError, KeyError, TypeError):
        return None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
