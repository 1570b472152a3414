"""How much each parameter mattered."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.results.statistics.evidence import LEAST_FOR_IMPORTANCES
from search.study import lineages


def importances(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """How much each parameter mattered, shares of 1; None where too few trials are complete."""
    # scipy's statistics take half a second to load: only at the end
    from search.results.statistics.evidence import numbered, shares

    complete = [trial for trial in lineages.merged(trials) if trial.state == TrialState.COMPLETE]
    if len(complete) < LEAST_FOR_IMPORTANCES:
        return None
    return shares(numbered(complete))
