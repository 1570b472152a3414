"""The history of a training: a row an epoch, as history.json and checkpoints keep it.

Within Python the score of an epoch is its f_score; what its column is called in files stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]

# columns: f_score on the validation part, and on as many pictures of the train part
F_SCORE, TRAIN_F_SCORE = "val_f", "train_f"


def f_scores(history: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Epoch -> f_score in [0, 1], without the epochs that were not scored (all data)."""
    return {int(row["epoch"]): float(row[F_SCORE]) for row in history if F_SCORE in row}


def best_epoch(scores: Mapping[int, float]) -> int | None:
    """The epoch with the highest f_score, the earliest on a tie; None where none was scored.

    scores: epoch -> f_score, as `f_scores` gives it of a history.

    >>> best_epoch({1: 0.5, 3: 0.7, 2: 0.7})
    2
    """
    return max(scores, key=lambda epoch: (scores[epoch], -epoch), default=None)
