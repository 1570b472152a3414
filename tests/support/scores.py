"""The definitions of the scores, written out once more in NumPy."""

from __future__ import annotations

import numpy as np

from trainer.data.classes import NAMES


def image_score(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The course's score of one image."""
    scores = []
    for number in np.unique(truth):
        hit = np.count_nonzero((predicted == number) & (truth == number))
        wrong = np.count_nonzero((predicted == number) & (truth != number))
        missed = np.count_nonzero((predicted != number) & (truth == number))
        precision, recall = hit / (hit + wrong + 1e-7), hit / (hit + missed + 1e-7)
        scores.append(2 * precision * recall / (precision + recall + 1e-7))
    return float(np.mean(scores))


def pooled(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """F of each class from counts summed over a set, None where it is in neither."""
    scores: dict[str, float | None] = {}
    for number, name in enumerate(NAMES):
        hit = np.count_nonzero((predicted == number) & (truth == number))
        both = np.count_nonzero(predicted == number) + np.count_nonzero(truth == number)
        scores[name] = 2 * hit / both if both else None
    return scores
