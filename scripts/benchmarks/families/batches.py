"""Many trainings at once: in batches, and the scores of a batch of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from scripts.benchmarks.families import Training
from search.strategy.forecast.features import Array


def batched(
    curves: Callable[[Sequence[Training]], Array], trainings: Sequence[Training], at_once: int
) -> Array:
    """What `curves` gives, for at most so many trainings at once."""
    parts = [trainings[at : at + at_once] for at in range(0, len(trainings), at_once)]
    return np.concatenate([curves(part) for part in parts])


def mean_f_score(said: Tensor, truth: Tensor, classes: int) -> Array:
    """Mean F-score of the classes, float64 [N]. said: [N, places] of `truth` [places]."""
    scores = []
    for number in range(classes):
        found, there = said == number, truth == number
        hits = (found & there).sum(1).double()
        scores.append(2 * hits / (found.sum(1) + there.sum() + 1e-9))
    return np.asarray(torch.stack(scores).mean(0))
