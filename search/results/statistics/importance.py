"""How much each parameter mattered: the share of the scores' variance that it explains alone.

A parabola along a number (on a log scale where it is searched so), a mean for each choice; adjusted
for what as many coefficients explain by chance. Random draws have fixed seeds, so that a report
says the same twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from search.results.statistics.estimates import Array, Estimate, spread
from search.study.search_space import as_number

# fewer trials than this say nothing about importance
LEAST_TRIALS = 10
# as many as a resample needs; more make it slow, not surer
_MOST_TRIALS = 300
_RESAMPLES = 400


def importance_shares(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Each parameter's share of the variance, in [0, 1], the highest first; None below ten trials.

    trials: complete, one for each lineage.
    """
    values = np.array([trial.value for trial in trials], dtype=np.float64)
    found = importance_estimates(trials, values, resamples=0)
    return None if found is None else {name: own.value for name, own in found.items()}


def importance_estimates(
    trials: Sequence[FrozenTrial], scores: Array, *, resamples: int = _RESAMPLES
) -> dict[str, Estimate] | None:
    """Each parameter's share of the variance, in [0, 1], the highest first.

    None below ten trials, or without a parameter that all have. trials: one for each lineage.
    scores: theirs, [N], or [M, N] as draws of what is not known for sure. Intervals: the middle
    90 % of resampled trials, each resample with a draw of its own. Of more trials than are needed
    an even sample stands for all.
    """
    if len(trials) < LEAST_TRIALS:
        return None
    kept = spread(range(len(trials)), _MOST_TRIALS)
    chosen = [trials[place] for place in kept]
    names = sorted(set.intersection(*(set(trial.params) for trial in chosen)))
    if not names:
        return None
    y = np.atleast_2d(scores)[:, kept]
    count = len(chosen)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples)
    own = np.arange(resamples) % len(y)
    found = {}
    for name in names:
        columns = _columns(chosen, name)
        value = float(_explained(columns, y, np.ones(y.shape)).mean())
        low = high = value
        if resamples:
            again = _explained(columns, y[own], drawn.astype(np.float64))
            low, high = (float(it) for it in np.percentile(again, (5, 95)))
        # repeated trials in a resample favour large shares, so that all of them may lie above
        value, low, high = (max(0.0, it) for it in (value, min(low, value), max(high, value)))
        found[name] = Estimate(value, low, high, count)
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _columns(trials: Sequence[FrozenTrial], name: str) -> Array:
    """A constant and what a parameter is fitted by: [N, 1 to 3], or one for each choice."""
    values = [trial.params[name] for trial in trials]
    one = np.ones(len(values))
    kind = trials[0].distributions[name]
    if isinstance(kind, CategoricalDistribution) and any(as_number(it) is None for it in values):
        others = sorted(set(map(str, values)))[1:]
        return np.column_stack([one, *([str(it) == text for it in values] for text in others)])
    x = np.array(values, dtype=np.float64)
    x = np.log(x) if getattr(kind, "log", False) and x.min() > 0 else x
    if np.ptp(x) == 0:
        return one[:, None]
    z = (x - x.mean()) / x.std()
    return np.column_stack([one, z] if len(set(values)) == 2 else [one, z, z**2 - 1])


def _explained(columns: Array, y: Array, counts: Array) -> Array:
    """Adjusted share of the variance of y [B, N] that columns [N, P] explain, [B].

    counts [B, N]: how often each trial is in each resample.
    """
    trials, fitted = columns.shape
    matrix = np.einsum("bn,np,nq->bpq", counts, columns, columns) + 1e-9 * np.eye(fitted)
    right = np.einsum("bn,np->bp", counts * y, columns)
    weights = np.linalg.solve(matrix, right[..., None])[..., 0]
    rest = (counts * (y - weights @ columns.T) ** 2).sum(axis=1) / max(1, trials - fitted)
    mean = (counts * y).sum(axis=1, keepdims=True) / trials
    whole = (counts * (y - mean) ** 2).sum(axis=1) / (trials - 1)
    return np.asarray(1 - rest / np.maximum(whole, 1e-300))
