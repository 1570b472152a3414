"""The columns of the user's hand-written table, for every trial.

Best F, best epoch, train F there, the gap, final F, degradation, instability, CE:Dice ratio,
epochs trained, still rising or not. Metrics come from a history (one row per epoch), the table
from the metrics kept as user attributes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study import lineages
from trainer.history import TRAIN_F_SCORE, best_epoch, f_scores

# name -> (heading, format); the order of the table
COLUMNS: dict[str, tuple[str, str]] = {
    "best_val_f": ("best val F", ".4f"),
    "best_epoch": ("best epoch", "d"),
    "train_f_at_best": ("train F @ best", ".4f"),
    "gap": ("train-val gap", "+.4f"),
    "final_val_f": ("final val F", ".4f"),
    "degradation": ("degradation", ".4f"),
    "degradation_pct": ("degradation %", ".1f"),
    "instability": ("instability", ".4f"),
    "ce_dice_ratio": ("CE:Dice", "s"),
    "epochs_trained": ("epochs", "d"),
    "still_rising": ("still rising", "s"),
}


# columns of our own trainer alone
_OURS = ("train_f_at_best", "gap", "ce_dice_ratio")


def columns(score: str | None = None) -> dict[str, str]:
    """Name -> heading of the table's columns.

    score: what the values of another program are called, which has some columns fewer.
    """
    return {
        name: heading if score is None else heading.replace("val F", score)
        for name, (heading, _) in COLUMNS.items()
        if score is None or name not in _OURS
    }


def metrics(
    history: Sequence[Mapping[str, Any]],
    *,
    ce_weight: float = 1.0,
    dice_weight: float | None = None,
) -> dict[str, float | int | str | bool | None]:
    """The table's metrics of one training.

    history: rows with epoch, val_f and (where it was measured) train_f, scores in [0, 1].
    dice_weight: the mean level over training; None: the loss has no Dice. Returns plain JSON
    values under the keys of `COLUMNS`: `gap` is train F - val F at the best epoch, `degradation`
    best - final val F, `instability` the standard deviation of the changes from epoch to epoch
    (None below three epochs). Raises ValueError for an empty history.
    """
    scores = f_scores(history)
    at = best_epoch(scores)
    if at is None:
        raise ValueError("history: no epoch to make metrics from, got an empty list")
    f_score = list(scores.values())
    best, final = scores[at], f_score[-1]
    train = next(row for row in history if row["epoch"] == at).get(TRAIN_F_SCORE)
    changes = [later - earlier for earlier, later in itertools.pairwise(f_score)]
    return {
        "best_val_f": best,
        "best_epoch": at,
        "train_f_at_best": None if train is None else float(train),
        "gap": None if train is None else float(train) - best,
        "final_val_f": final,
        "degradation": best - final,
        "degradation_pct": 100 * (best - final) / best if best > 0 else 0.0,
        "instability": statistics.stdev(changes) if len(changes) >= 2 else None,
        "ce_dice_ratio": None if dice_weight is None else ratio(ce_weight, dice_weight),
        "epochs_trained": len(f_score),
        "still_rising": still_rising(f_score),
    }


def ratio(ce_weight: float, dice_weight: float) -> str:
    """The shares of CE and Dice in the loss, as the user writes them.

    >>> ratio(1.0, 1.5)
    '40:60'
    """
    whole = ce_weight + dice_weight
    share = 100 * ce_weight / whole if whole > 0 else 0.0
    return f"{share:.0f}:{100 - round(share):.0f}"


def still_rising(f_score: Sequence[float]) -> bool:
    """Whether the score was going up when training ended.

    True when the mean of the last tenth of the epochs lies above the mean of the tenth before it
    by more than one standard error of such a difference, judged by the epoch-to-epoch changes.

    >>> still_rising([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    True
    >>> still_rising([0.5, 0.6, 0.7, 0.7, 0.69, 0.68])
    False
    """
    part = max(1, len(f_score) // 10)
    if len(f_score) < 2 * part + 1:
        return len(f_score) > 1 and f_score[-1] > f_score[0]
    last = statistics.fmean(f_score[-part:])
    before = statistics.fmean(f_score[-2 * part : -part])
    recent = f_score[-4 * part :]
    changes = [later - earlier for earlier, later in itertools.pairwise(recent)]
    noise = statistics.pstdev(changes) if len(changes) > 1 else 0.0
    return last - before > noise / math.sqrt(part)


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """One line of the comparison table: trial, state, value, the metrics, the parameters.

    Figures that a trial does not have (it is running, or was made elsewhere) are None, but what
    its reported curve can tell is filled in.
    """
    curve = trial.intermediate_values
    known = {name: trial.user_attrs.get(name) for name in COLUMNS}
    if known["best_val_f"] is None and (top := best_epoch(curve)) is not None:
        final = curve[max(curve)]
        known |= {
            "best_val_f": curve[top],
            "best_epoch": top,
            "final_val_f": final,
            "degradation": curve[top] - final,
            "epochs_trained": max(curve),
        }
    return {
        "trial": trial.number,
        "state": trial.state.name,
        "value": lineages.value(trial),
        **known,
        "params": dict(trial.params),
    }


def rows(study: optuna.Study, n: int = 5) -> list[dict[str, Any]]:
    """The comparison table of the n best trials: COMPLETE lineages by value, then pruned ones."""
    judged = [
        trial
        for trial in lineages.merged(study.get_trials(deepcopy=False))
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and lineages.value(trial) is not None
    ]
    judged.sort(
        key=lambda trial: (
            trial.state != TrialState.COMPLETE,
            -(lineages.value(trial) or 0.0),
            trial.number,
        )
    )
    return [row_of(trial) for trial in judged[:n]]


def across(
    rows: Sequence[Mapping[str, Any]], score: str | None = None
) -> list[tuple[str, list[str]]]:
    """The table with a column a trial: heading and cells of each line, as text.

    rows: as `row_of` gives them. score: as in `columns`.
    """
    lines = [("state", [str(row["state"]).lower() for row in rows])]
    lines += [
        (heading, [text(name, row[name]) for row in rows])
        for name, heading in columns(score).items()
    ]
    names = dict.fromkeys(name for row in rows for name in row["params"])
    return lines + [(name, [setting(row["params"].get(name)) for row in rows]) for name in names]


def setting(value: object) -> str:
    """A parameter's value in a cell; a dash where a trial has none.

    >>> setting(0.000123456), setting("step"), setting(None)
    ('0.0001235', 'step', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def text(name: str, item: object) -> str:
    """One cell as text; a dash for a metric that is not known.

    >>> text("gap", -0.0018), text("gap", None), text("still_rising", True)
    ('-0.0018', '-', 'yes')
    """
    if item is None:
        return "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    form = COLUMNS[name][1]
    return str(item) if form == "s" else format(item, form)
