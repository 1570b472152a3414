"""Files of runs that were trained elsewhere: curves with their config, or rows of a table.

A JSON list of runs, a run's folder (`history.json` beside `config.yaml` or `config.json`), a folder
of such folders, or a table written by hand as YAML, CSV or JSON. Every score is checked while it is
read; what a config means is the business of `search.importing.runs`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.importing.hand_tables import (
    check_inside,
    has_decimal_comma,
    holds_text,
    plain,
    read_metric,
    read_seed,
    run_of_row,
)
from search.importing.runs import Run, Unfinished
from search.study.search_space import is_number
from search.study.wording import counted
from trainer.config import read_yaml
from trainer.errors import UserError
from trainer.history import F_SCORE, TRAIN_F_SCORE
from trainer.notation import load_json, read_text

HISTORY = "history.json"
CONFIGS = ("config.yaml", "config.yml", "config.json")
# how a list of one number per epoch is called in files -> here
_CURVES = {"val_f_score": F_SCORE, "train_f_score": TRAIN_F_SCORE, "learning_rate": "lr"}
_SCORES = (F_SCORE, TRAIN_F_SCORE)
# rows without a score that are named one by one
_NAMED = 5


def read_runs(path: Path) -> tuple[list[Run], list[str]]:
    """Every run of a file or folder, in its order, and lines on what was left out.

    Raises UserError (one line with file, run and fix) if anything in it is invalid.
    """
    notes: list[str] = []
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a history, a table or a run folder")
    if path.is_dir():
        found: list[Run | Unfinished] = [*_of_folder(path)]
    elif path.suffix.lower() in (".csv", ".tsv"):
        found = _of_csv(path, notes)
    else:
        found = _of_data(_data(path), path)
    runs = [one for one in found if isinstance(one, Run)]
    unfinished = [one for one in found if isinstance(one, Unfinished)]
    if not runs and unfinished:
        first = unfinished[0]
        raise UserError(
            f"{first.where}: no score{'' if first.why == 'empty' else f' but {first.why!r}'}; add a"
            " column best_val_f, or leave out a run that was not trained"
        )
    if not runs:
        raise UserError(f"{path}: holds no run; name a file with at least one")
    if unfinished:
        some = [f"{one.where.rpartition(': ')[2]} ({one.why})" for one in unfinished[:_NAMED]]
        more = [f"{len(unfinished) - _NAMED} more"] * (len(unfinished) > _NAMED)
        notes.append(
            f"{path}: {counted(len(unfinished), 'row')} without a score left out:"
            f" {', '.join([*some, *more])}"
        )
    named = [run.name for run in runs if run.name is not None]
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"{path}: run {name} stands there twice; give each a name of its own")
    return runs, notes


# ----------------------------------------------------------------------------------------- files


def _of_folder(folder: Path) -> list[Run]:
    found = sorted(folder.rglob(HISTORY))
    if not found:
        raise UserError(f"{folder}: no {HISTORY} in it or below; name a run's folder, or a file")
    return [_of_history(_data(file), file, _name(file, folder)) for file in found]


def _name(file: Path, folder: Path) -> str:
    """A run is called after its folder, below the one that was named."""
    inside = file.parent.relative_to(folder).as_posix()
    return folder.resolve().name if inside == "." else inside


def _data(path: Path) -> Any:
    """What a JSON or YAML file holds."""
    if path.suffix.lower() == ".json":
        return load_json(read_text(path), str(path))
    return read_yaml(path, holds_text)


def _of_csv(path: Path, notes: list[str]) -> list[Run | Unfinished]:
    """The rows of a table, counted from 1 below its headings. notes: takes what was left out."""
    # a spreadsheet may begin with a line that names its delimiter
    lines = re.fullmatch(r'\s*(?:"?sep=([^\r\n])"?\s*?\r?\n)?(.*)', read_text(path), re.I | re.S)
    assert lines is not None
    text = lines[2].lstrip("\r\n")
    head = re.sub(r'"[^"]*"', "", text.splitlines()[0] if text else "")
    delimiter = lines[1] or max(",;\t", key=head.count)
    try:
        # with the line ends as they are: a cell may hold one
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (csv.Error, ValueError, TypeError) as error:
        raise UserError(f"{path}: not CSV: {error}; fix the quotes") from None
    if not cells:
        return []
    headings = [heading.strip() for heading in cells[0]]
    for heading in filter(None, headings):
        if headings.count(heading) > 1:
            raise UserError(f"{path}: two columns are headed {heading!r}; keep one of them")
    rows: list[dict[str, str]] = []
    for number, row in enumerate(cells[1:], 1):
        if any(cell.strip() for cell in row[len(headings) :]):
            raise UserError(
                f"{path}: row {number}: more cells than headings; put cells that hold a"
                f" {delimiter!r} in quotes"
            )
        rows.append({key: cell for key, cell in zip(headings, row, strict=False) if cell.strip()})
    # the numbers that pandas writes before each row
    nameless = [row.pop("", None) for row in rows]
    if any(nameless):
        notes.append(f"{path}: a column without a heading is left out")
    commas = any(has_decimal_comma(cell) for row in rows for cell in row.values())
    return _of_list(rows, str(path), {}, commas=commas)


def _of_data(data: Any, path: Path) -> list[Run | Unfinished]:
    """The runs of a file that is JSON or YAML."""
    name = path.resolve().parent.name
    if path.name in CONFIGS and (path.parent / HISTORY).exists():
        beside = path.parent / HISTORY
        return [_of_history(_data(beside), beside, name)]
    if isinstance(data, Mapping) and data and all(map(_curve_key, data.values())):
        return _of_list([{"run": run, **entry} for run, entry in data.items()], str(path), {})
    if isinstance(data, Mapping) and isinstance(data.get("runs"), list):
        return _of_list(data["runs"], str(path), data)
    rows = data if isinstance(data, list) else []
    # one training: lists by name, or our own rows of epoch and val_f
    one = _curve_key(data) or (rows and all(map(_is_epoch, rows)))
    if one or (path.name == HISTORY and not any(map(_curve_key, rows))):
        return [_of_history(data, path, name)]
    if isinstance(data, list):
        return _of_list(data, str(path), {})
    raise UserError(
        f"{path}: neither a list of runs, nor a history, nor a table; a run needs a list"
        " val_f_score, a row of a table a column best_val_f"
    )


def _is_epoch(row: Any) -> bool:
    return isinstance(row, Mapping) and {"epoch", F_SCORE} <= row.keys()


def _curve_key(entry: Any) -> str | None:
    """The key under which an entry has its scores by epoch; None for anything without."""
    known = entry if isinstance(entry, Mapping) else {}
    return next((key for key in ("val_f_score", F_SCORE) if isinstance(known.get(key), list)), None)


def _of_history(data: Any, path: Path, name: str) -> Run:
    """A history with the config that lies beside it."""
    where = f"{path}: run {name}"
    if isinstance(data, list):
        if not all(map(_is_epoch, data)):
            raise UserError(f"{where}: a row needs epoch and val_f; leave this run out")
        data = _columns(data, where)
    if not isinstance(data, Mapping):
        raise UserError(
            f"{where}: a list val_f_score is needed, or rows of epoch and val_f; leave it out"
        )
    config, notes = _config_beside(path)
    if config is not None:
        data = {**data, "config": config}
    return _of_entry({"run": name, **data}, where, {}, notes)


def _config_beside(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    for name in CONFIGS:
        beside = path.parent / name
        if beside.exists():
            config = _data(beside)
            if not isinstance(config, Mapping):
                raise UserError(
                    f"{beside}: sections such as `model:` are needed; fix it or take it away"
                )
            return dict(config), []
    return None, [f"{path}: no {' or '.join(CONFIGS)} beside it, so its settings are not known"]


def _columns(rows: Sequence[Mapping[str, Any]], where: str) -> dict[str, list[Any]]:
    """Lists by name from a row per epoch."""
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError(f"{where}: its epochs are not 1, 2, 3 and so on; put the rows in order")
    names = dict.fromkeys(key for row in rows for key in row if key != "epoch")
    # what is no number (scores per class, say) has no place in a curve
    return {
        name: [row.get(name) for row in rows]
        for name in names
        if name in _SCORES or all(is_number(row.get(name)) for row in rows)
    }


# ---------------------------------------------------------------------------------------- entries


def _of_list(
    entries: Sequence[Any], path: str, above: Mapping[str, Any], *, commas: bool = False
) -> list[Run | Unfinished]:
    """Runs with curves and rows of a table, also in one list.

    above: the mapping around it. commas: whether a table writes decimals with a comma.
    """
    runs: list[Run | Unfinished] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{path}: entry {number}: {str(entry)[:40]!r} is no run; keys and values are needed"
            )
        if not entry:
            # an empty line of a table
            continue
        name = entry.get("run") or entry.get("name")
        if _curve_key(entry):
            where = f"{path}: run {name or number}"
            runs.append(_of_entry({**entry, "run": name}, where, above, []))
        else:
            where = f"{path}: run {name}" if name else f"{path}: row {number}"
            runs.append(run_of_row(entry, where, above, commas=commas))
    return runs


def _of_entry(
    entry: Mapping[str, Any], where: str, above: Mapping[str, Any], notes: Sequence[str]
) -> Run:
    """A run with its curve. notes: what has been found invalid already."""
    key = _curve_key(entry)
    if key is None:
        raise UserError(f"{where}: no list val_f_score; add one score per epoch, or leave it out")
    if not entry[key]:
        raise UserError(f"{where}: {key} is empty, so no epoch was trained; leave this run out")
    config = entry.get("config") or {}
    if not isinstance(config, Mapping):
        raise UserError(
            f"{where}: config: {str(config)[:40]!r} is none; sections such as model are needed"
        )
    series: dict[str, list[float]] = {}
    left_out = list(notes)
    for name, values in entry.items():
        short = _CURVES.get(name, str(name))
        if not isinstance(values, list) or not (short in _SCORES or any(map(is_number, values))):
            continue
        if len(values) != len(entry[key]):
            raise UserError(
                f"{where}: {name} has {len(values)} values and {key} {len(entry[key])}; every list"
                " needs one value per epoch"
            )
        if short in series:
            raise UserError(f"{where}: {name} stands there under two names; keep one of them")
        if short in _SCORES:
            series[short] = _scores(values, name, where)
        elif all(map(is_number, values)):
            series[short] = [float(value) for value in values]
        else:
            left_out.append(f"{where}: {name} is left out: not every value of it is a number")
    return Run(
        name=None if entry.get("run") is None else str(entry["run"]),
        where=where,
        config=plain(config),
        f_scores=tuple(series.pop(F_SCORE)),
        series=series,
        seed=read_seed(entry.get("seed"), where),
        note=None if entry.get("note") is None else str(entry["note"]),
        metric=read_metric(entry, above),
        notes=tuple(left_out),
    )


def _scores(values: Sequence[Any], name: str, where: str) -> list[float]:
    for epoch, value in enumerate(values, 1):
        if not is_number(value):
            raise UserError(
                f"{where}: {name} of epoch {epoch} is {value!r}, no number; cut the run before it,"
                " or leave it out"
            )
        check_inside(float(value), f"{name} of epoch {epoch}", (0.0, 1.0), where)
    return [float(value) for value in values]
