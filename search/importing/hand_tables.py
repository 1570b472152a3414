"""Rows of tables that were written by hand.

The seed's own headings are known, and any key of the config; numbers may be written as users write
them: bold, with a mark behind them, or with a percentage in brackets.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from search.importing.runs import Run, Unfinished
from search.study.search_space import is_number
from trainer.config import is_integer, is_numeric, leaf_keys, takes_text, words_of
from trainer.errors import UserError
from trainer.notation import decimal, switch

_NAMES = ("run", "name", "run name", "run id", "experiment", "实验")
_NOTES = ("note", "notes", "status", "remark", "comment", "description", "结论", "建议", "备注")
# column of the seed's table -> its headings in hand-written ones, in lower case, no punctuation
_HEADINGS = {
    "best_val_f": (
        *("best val f", "best val f score", "best val", "best f", "best f score", "best score"),
        *("val f", "val f score", "f score", "f", "score", "value", "最佳 val f score"),
    ),
    "best_epoch": ("best epoch", "epoch of best", "最佳轮次"),
    "train_f_at_best": (
        *("train best", "train at best", "train f best", "train f at best"),
        "train f score at best",
    ),
    "gap": ("gap", "train val gap"),
    "final_val_f": ("final val f", "final val f score", "final val", "final f"),
    "degradation": ("degradation", "退化幅度"),
    "degradation_pct": ("degradation %", "degradation pct", "degradation percent"),
    "instability": ("instability",),
    "ce_dice_ratio": ("ce dice", "ce dice ratio"),
    "epochs_trained": ("epochs trained", "trained epochs"),
    "still_rising": ("still rising",),
}
_COLUMNS = {heading: column for column, own in _HEADINGS.items() for heading in own}
# column -> lowest and highest value
_LIMITS = {
    **dict.fromkeys(("best_val_f", "train_f_at_best", "final_val_f", "degradation"), (0.0, 1.0)),
    "gap": (-1.0, 1.0),
    "degradation_pct": (0.0, 100.0),
    "instability": (0.0, 1.0),
    **dict.fromkeys(("best_epoch", "epochs_trained"), (1.0, math.inf)),
}
# columns of which a percentage is a hundredth
_SHARES = ("best_val_f", "train_f_at_best", "final_val_f")
_WHOLE = ("best_epoch", "epochs_trained")
# a number as people write it: bold, with a mark behind it, or with its percentage in brackets
_CELL = re.compile(
    r"[*_`\s]*([+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:e[+-]?[0-9]+)?)\s*(%?)"
    r"\s*(?:\(\s*([+-]?[0-9]+(?:[.,][0-9]*)?)\s*%\s*\))?[^\w.,%?<>=+-]*",
    re.IGNORECASE,
)
_GROUPED = r"[+-]?[1-9][0-9]{0,2}%s[0-9]{3}"
# cells that say that there is no number
_ABSENT = {"", "-", "--", "---", "–", "—", "n/a", "na", "nan", "none", "null", "nil", "~"}
# cells in place of a score that say why there is none
_UNFINISHED = {
    *_ABSENT,
    *("running", "waiting", "queued", "pending", "started", "in progress", "unfinished", "todo"),
    *("tbd", "failed", "fail", "failure", "error", "crashed", "crash", "killed", "oom", "stopped"),
    *("aborted", "cancelled", "canceled", "interrupted", "diverged", "not trained", "not started"),
    *("not finished", "missing", "?", "失败", "未完成", "进行中", "运行中", "训练中"),
}


def run_of_row(
    row: Mapping[str, Any], where: str, above: Mapping[str, Any], *, commas: bool = False
) -> Run | Unfinished:
    """A run of which a table tells the metrics.

    commas: whether the table writes decimals with a comma. Raises UserError naming row, column and
    value for a cell that holds no number where one is needed.
    """
    config = row.get("config") or {}
    if not isinstance(config, Mapping):
        raise UserError(
            f"{where}: config: {str(config)[:40]!r} is none; keys and values are needed"
        )
    config = plain(config)
    metrics: dict[str, Any] = {}
    given: dict[str, Any] = {}
    taken: dict[str, str] = {}
    remarks, why = [], "empty"
    for heading, cell in row.items():
        words = words_in(heading)
        if heading == "config" or cell is None:
            continue
        if words in _COLUMNS:
            column = _COLUMNS[words]
            if column == "best_val_f" and _bare(cell) in _UNFINISHED:
                why = str(cell).strip() or "empty"
                continue
            for name, value in _metrics_in(column, heading, cell, where, commas).items():
                if metrics.get(name, value) != value:
                    raise _given_twice(where, name, metrics[name], taken[name], value, heading)
                metrics[name], taken[name] = value, heading
        elif words in _NAMES:
            given["name"] = str(cell).strip() or None
        elif words in ("seed", "metric"):
            given[words] = cell
        elif words in _NOTES:
            remarks.append(str(cell))
        else:
            path = _config_key(heading)
            value = _config_value(path, heading, cell, where, commas)
            if value is None:
                continue
            before = _at(config, path)
            if before is not None and before != value:
                name = ".".join(path)
                raise _given_twice(where, name, before, taken.get(name, "config"), value, heading)
            taken[".".join(path)] = heading
            _put(config, path, value)
    if "best_val_f" not in metrics:
        return Unfinished(where, why)
    _check_row(metrics, where)
    return Run(
        name=given.get("name"),
        where=where,
        config=config,
        metrics=metrics,
        seed=read_seed(given.get("seed"), where),
        note=", ".join(remarks) or None,
        metric=read_metric(given, above),
    )


def words_in(heading: object) -> str:
    """A heading in small letters without punctuation.

    >>> words_in("Best Val F-Score")
    'best val f score'
    """
    return " ".join(re.findall(r"[^\W_]+|%", str(heading))).casefold()


def holds_text(path: Sequence[str]) -> bool:
    """Whether a key of an imported file takes text: names, remarks, and those of a config."""
    if not path:
        return False
    words = words_in(path[-1])
    return (
        words in (*_NAMES, *_NOTES, "metric", "ce dice", "ce dice ratio")
        or takes_text(".".join(path[-2:]))
        or takes_text(".".join(_config_key(path[-1])))
    )


def _given_twice(
    where: str, name: str, one: object, heading: str, other: object, second: str
) -> UserError:
    return UserError(
        f"{where}: {name} is {one} by {heading!r} and {other} by {second!r}; leave one of them out"
    )


def _metrics_in(column: str, heading: str, cell: Any, where: str, commas: bool) -> dict[str, Any]:
    """One cell of the seed's table, by column; empty where it says that there is no number."""
    if _bare(cell) in _ABSENT:
        return {}
    if column == "ce_dice_ratio":
        return {column: str(cell)}
    if column == "still_rising":
        rising = switch(cell.strip() if isinstance(cell, str) else cell)
        if not isinstance(rising, bool):
            raise UserError(f"{where}: {heading}: {cell!r}: write yes or no")
        return {column: rising}
    limits = _LIMITS[column]
    if column in _WHOLE:
        whole = _whole_in(cell, heading, where, commas, "a whole number of epochs")
        check_inside(whole, heading, limits, where)
        return {column: whole}
    number, percent, in_brackets = _number_in(cell, f"{where}: {heading}", commas)
    value = float(number)
    found = {column: value}
    if percent and column == "degradation":
        found, limits = {"degradation_pct": value}, _LIMITS["degradation_pct"]
    elif percent and column in _SHARES:
        # by way of decimals: 68.89 / 100 is no longer .6889
        value = float(Decimal(str(number)) / 100)
        found = {column: value}
    elif percent and column != "degradation_pct":
        raise UserError(f"{where}: {heading}: {cell!r} is in percent; write it like 0.0098")
    elif in_brackets is not None and column == "degradation":
        bracket = float(in_brackets)
        check_inside(bracket, f"{heading} in percent", _LIMITS["degradation_pct"], where)
        found["degradation_pct"] = bracket
    check_inside(value, heading, limits, where)
    return found


def _whole_in(cell: Any, heading: str, where: str, commas: bool, needed: str) -> int:
    what = f"{where}: {heading}"
    number, percent, _ = _number_in(cell, what, commas, "write it like 150")
    # 1.000 is a thousand in some countries
    grouped = isinstance(cell, str) and re.fullmatch(_GROUPED % r"\.", cell.strip()) is not None
    if percent or grouped or number != int(number):
        raise UserError(f"{what}: {cell!r}: {needed} is needed, such as 150")
    return int(number)


def _check_row(metrics: Mapping[str, Any], where: str) -> None:
    best, final = metrics["best_val_f"], metrics.get("final_val_f")
    if final is not None and final > best:
        raise UserError(
            f"{where}: the final score {final:g} lies above the best one {best:g}; is a column"
            " mistaken for another?"
        )
    at, trained = metrics.get("best_epoch"), metrics.get("epochs_trained")
    if at is not None and trained is not None and at > trained:
        raise UserError(f"{where}: the best epoch {at} lies after the last one {trained}; fix one")


def check_inside(value: float, name: str, limits: tuple[float, float], where: str) -> None:
    """Raise UserError for a number that is not between both limits."""
    low, high = limits
    if not low <= value <= high:
        percent = high == 1 and 1 < value <= 100
        fix = "is it in percent? divide by 100" if percent else "write what was measured"
        bounds = f"from {low:g} on" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise UserError(f"{where}: {name} is {value:g}, not {bounds}; {fix}")


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


def _bare(cell: Any) -> Any:
    """A cell's text without marks of emphasis, in small letters; of a number that is none, nan."""
    if isinstance(cell, float) and math.isnan(cell):
        return "nan"
    return cell.strip().strip("*`_").strip().casefold() if isinstance(cell, str) else None


def _number_in(
    cell: Any, what: str, commas: bool, fix: str = "write it like 0.6889"
) -> tuple[int | float, bool, float | None]:
    """The number that a cell spells, whether in percent, and the percentage in brackets behind it.

    what: row and column, for the message. Raises UserError for anything that may mean two things.
    """
    # a bool is no number, though Python takes it for one
    if is_number(cell):
        return cell, False, None
    # the typographic minus
    text = cell.strip().replace("\u2212", "-") if isinstance(cell, str) else ""
    match = _CELL.fullmatch(text)
    if match is None or any(unicodedata.category(letter) == "Sc" for letter in text):
        raise UserError(f"{what}: {cell!r} is no number; {fix}")
    for mark, used in ((",", True), (".", commas)):
        if used and re.fullmatch(_GROUPED % re.escape(mark), match[1]):
            whole, parts = match[1].replace(mark, ""), match[1].replace(",", ".")
            raise UserError(f"{what}: {cell!r} may be {whole} or {parts}; write one of these")
    number = decimal(match[1].replace(",", "."))
    inner = None if match[3] is None else decimal(match[3].replace(",", "."))
    if number is None or (match[3] is not None and inner is None):
        raise UserError(f"{what}: {cell!r} is beyond what a number can be here; {fix}")
    return number, bool(match[2]), inner


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell of a table is a number with a comma that can be nothing but a decimal one."""
    match = _CELL.fullmatch(cell.strip())
    return bool(match and "," in match[1] and not re.fullmatch(_GROUPED % ",", match[1]))


def _config_value(path: Sequence[str], heading: str, cell: Any, where: str, commas: bool) -> Any:
    """A setting as its key takes it; None where its cell says that there is no number."""
    name = ".".join(path)
    known = name in leaf_keys()
    if known and is_numeric(name):
        if _bare(cell) in _ABSENT:
            return None
        if isinstance(cell, str) and cell.strip() in words_of(name):
            return cell.strip()
        if is_integer(name):
            return _whole_in(cell, heading, where, commas, "a whole number")
        number, percent, in_brackets = _number_in(cell, f"{where}: {heading}", commas)
        if percent or in_brackets is not None:
            raise UserError(f"{where}: {heading}: {cell!r} is in percent; write it like 0.15")
        return number
    if not isinstance(cell, str):
        return plain(cell)
    text = cell.strip().strip("*`").strip()
    if known and takes_text(name):
        return text
    match = _CELL.fullmatch(text)
    if match and not match[2] and not match[3]:
        # of a column that nobody knows: what may be no number, or two, stays as it stands
        two = commas and re.fullmatch(_GROUPED % "[.,]", match[1])
        spelt = None if two else decimal(match[1].replace(",", ".") if commas else match[1])
        return text if spelt is None else spelt
    return None if text.casefold() in ("", "~", "null") else switch(text)


def _at(data: Mapping[str, Any], path: Sequence[str]) -> Any:
    node: Any = data
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
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
    """A seed, None where none is given. Raises UserError for anything but a whole number."""
    if value is None or _bare(value) in _ABSENT:
        return None
    seed = decimal(value.strip()) if isinstance(value, str) else value
    # spreadsheets write whole numbers with .0
    if not is_number(seed) or seed < 0 or seed != int(seed):
        raise UserError(f"{where}: seed: {value!r}: a whole number from 0 on is needed")
    return int(seed)


def read_metric(entry: Mapping[str, Any], above: Mapping[str, Any]) -> str | None:
    """What a run, or the mapping around all runs, says that its scores are."""
    given = entry.get("metric") or above.get("metric")
    return None if given is None else str(given)
