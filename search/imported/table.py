"""A run that was trained elsewhere, and rows of tables written by hand.

The seed's own headings are known, and any key of the config; numbers may be written as people write
them: bold, with a mark behind them, or with a percentage in brackets.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.config import leaf_keys, load_yaml
from trainer.errors import UserError

_NAMES = ("run", "name", "run name", "run id", "experiment", "实验")
_NOTES = ("note", "notes", "status", "remark", "comment", "description", "结论", "建议", "备注")
# headings of hand-written tables, in lower case without punctuation -> columns of the seed's table
_COLUMNS = {
    **dict.fromkeys(
        (
            *("best val f", "best val f score", "best val", "best f", "best f score", "best score"),
            *("val f", "val f score", "f score", "f", "score", "value", "最佳 val f score"),
        ),
        "best_val_f",
    ),
    **dict.fromkeys(("best epoch", "epoch of best", "最佳轮次"), "best_epoch"),
    **dict.fromkeys(
        ("train best", "train at best", "train f best", "train f at best", "train f score at best"),
        "train_f_at_best",
    ),
    **dict.fromkeys(("gap", "train val gap"), "gap"),
    **dict.fromkeys(("final val f", "final val f score", "final val", "final f"), "final_val_f"),
    **dict.fromkeys(("degradation", "退化幅度"), "degradation"),
    **dict.fromkeys(("degradation %", "degradation pct", "degradation percent"), "degradation_pct"),
    "instability": "instability",
    **dict.fromkeys(("ce dice", "ce dice ratio"), "ce_dice_ratio"),
    **dict.fromkeys(("epochs trained", "trained epochs"), "epochs_trained"),
    "still rising": "still_rising",
}
# column -> lowest and highest value
_LIMITS = {
    **dict.fromkeys(("best_val_f", "train_f_at_best", "final_val_f", "degradation"), (0.0, 1.0)),
    "gap": (-1.0, 1.0),
    "degradation_pct": (0.0, 100.0),
    "instability": (0.0, 1.0),
    **dict.fromkeys(("best_epoch", "epochs_trained"), (1.0, math.inf)),
}
# a number as people write it: bold, with a mark behind it, or with its percentage in brackets
_CELL = re.compile(
    r"[*_`\s]*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(%?)"
    r"\s*(?:\(\s*([+-]?\d+\.?\d*)\s*%\s*\))?[^\w.,%?<>=+-]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Run:
    """One run, as its file tells it.

    name: None where the file gives none. where: file and run, for messages. config: nested, as it
    was written. val_f: score of every epoch, in [0, 1]; empty for a row of a table. series: what
    else was recorded, name -> one number per epoch. figures: columns of `search.seedtable` that a
    table gave. metric: what its file says that the score is. notes: what was left out.
    """

    name: str | None
    where: str
    config: dict[str, Any]
    val_f: tuple[float, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    note: str | None = None
    metric: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> float:
        """The highest score."""
        return max(self.val_f, default=self.figures.get("best_val_f", 0.0))


def run_of_row(row: Mapping[str, Any], where: str, above: Mapping[str, Any]) -> Run:
    """A run of which a table tells the figures."""
    config = plain(row.get("config") or {})
    figures: dict[str, Any] = {}
    told: dict[str, Any] = {}
    remarks = []
    for heading, cell in row.items():
        words = " ".join(re.findall(r"[^\W_]+|%", str(heading))).casefold()
        if heading == "config" or cell is None:
            continue
        if words in _COLUMNS:
            _take(figures, _COLUMNS[words], str(heading), cell, where)
        elif words in _NAMES:
            told["name"] = str(cell)
        elif words in ("seed", "metric"):
            told[words] = cell
        elif words in _NOTES:
            remarks.append(str(cell))
        else:
            put(config, _config_key(str(heading)), _config_value(cell, where))
    if "best_val_f" not in figures:
        raise UserError(
            f"{where}: no score; add a column best_val_f, or leave out a run that was not trained"
        )
    _check_row(figures, where)
    return Run(
        name=told.get("name"),
        where=where,
        config=config,
        figures=figures,
        seed=read_seed(told.get("seed"), where),
        note=", ".join(remarks) or None,
        metric=read_metric(told, above),
    )


def _take(figures: dict[str, Any], column: str, heading: str, cell: Any, where: str) -> None:
    """Read one cell of the seed's table."""
    if column == "ce_dice_ratio":
        figures[column] = str(cell)
        return
    if column == "still_rising":
        known = {"yes": True, "true": True, "no": False, "false": False}
        if str(cell).casefold() not in known:
            raise UserError(f"{where}: {heading}: {cell!r}: write yes or no")
        figures[column] = known[str(cell).casefold()]
        return
    # a bool is no number, though Python takes it for one
    match = None if isinstance(cell, bool) else _CELL.fullmatch(str(cell).strip())
    if match is None:
        raise UserError(f"{where}: {heading}: {cell!r} is no number; write it like 0.6889")
    value, percent, in_brackets = float(match[1]), match[2], match[3]
    if percent and column == "degradation":
        column = "degradation_pct"
    elif in_brackets and column == "degradation":
        check_inside(float(in_brackets), f"{heading} in percent", _LIMITS["degradation_pct"], where)
        figures["degradation_pct"] = float(in_brackets)
    check_inside(value, heading, _LIMITS[column], where)
    if column in ("best_epoch", "epochs_trained"):
        if value != int(value):
            raise UserError(f"{where}: {heading}: {cell!r}: a whole number of epochs is needed")
        value = int(value)
    figures[column] = value


def _check_row(figures: Mapping[str, Any], where: str) -> None:
    best, final = figures["best_val_f"], figures.get("final_val_f")
    if final is not None and final > best:
        raise UserError(
            f"{where}: the final score {final:g} lies above the best one {best:g}; is a column"
            " mistaken for another?"
        )
    at, trained = figures.get("best_epoch"), figures.get("epochs_trained")
    if at is not None and trained is not None and at > trained:
        raise UserError(f"{where}: the best epoch {at} lies after the last one {trained}; mend one")


def check_inside(value: float, name: str, limits: tuple[float, float], where: str) -> None:
    """Raise UserError for a number that is not between both limits."""
    low, high = limits
    if not low <= value <= high:
        percent = high == 1 and 1 < value <= 100
        mend = "is it in percent? divide by 100" if percent else "write what was measured"
        bounds = f"from {low:g} on" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise UserError(f"{where}: {name} is {value:g}, not {bounds}; {mend}")


# ------------------------------------------------------------------------------------------ cells


@functools.cache
def _keys() -> dict[str, tuple[str, ...]]:
    """Every key of the config, in small letters, whole or (where that is unique) its last name."""
    paths = [tuple(key.split(".")) for key in leaf_keys()]
    leaves = [path[-1].casefold() for path in paths]
    alone = {
        leaf: path for leaf, path in zip(leaves, paths, strict=True) if leaves.count(leaf) == 1
    }
    whole = {".".join(path).casefold(): path for path in paths}
    return {"lr": ("training", "learning_rate"), **alone, **whole}


def _config_key(heading: str) -> tuple[str, ...]:
    """Where a column's values stand in a config; a heading that is no key stays as it is."""
    name = re.sub(r"[\s-]+", "_", heading.strip()).casefold()
    return _keys().get(name) or tuple(heading.strip().split("."))


def _config_value(cell: Any, where: str) -> Any:
    if not isinstance(cell, str):
        return plain(cell)
    text = cell.strip().strip("*`").strip()
    match = _CELL.fullmatch(text)
    if match and not match[2] and not match[3]:
        text = match[1]
    value = load_yaml(text, where) if re.fullmatch(r"[\w.+-]+", text) else text
    return value if isinstance(value, (str, int, float, bool)) or value is None else text


def put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested dicts, which are made where they are not there."""
    for part in path[:-1]:
        # a column of the section's own name may have been there before
        inner = data.get(part)
        data[part] = inner if isinstance(inner, dict) else {}
        data = data[part]
    data[path[-1]] = value


def plain(value: Any) -> Any:
    """Only what JSON holds, keys as text, and lists of nothing deeper, so that values compare.

    A YAML file may hold dates, and numbers as keys.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [str(item) if isinstance(item, (Mapping, list)) else plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def read_seed(value: Any, where: str) -> int | None:
    """A seed, None where none is told. Raises UserError for anything but a whole number."""
    if value is None:
        return None
    match = re.fullmatch(r"\d+", str(value).strip())
    if match is None or isinstance(value, bool):
        raise UserError(f"{where}: seed: {value!r}: a whole number from 0 on is needed")
    return int(match[0])


def read_metric(entry: Mapping[str, Any], above: Mapping[str, Any]) -> str | None:
    """What a run, or the mapping around all runs, says that its scores are."""
    told = entry.get("metric") or above.get("metric")
    return None if told is None else str(told)
