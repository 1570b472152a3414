"""The tables of a report: every trial in the seed's columns, the states, the queue."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from optuna.trial import TrialState

from search.reporting.document import Flag, Table
from search.results.trials import Outcome, Results
from search.study import lineages, requests, training_metrics
from search.study.attributes import (
    CANCELLED,
    ENQUEUED,
    EXPECT,
    FIRST,
    NOTE,
    PREDICTION,
    STOPPED,
    VERDICT,
)
from search.study.search_space import format_value
from search.study.verdicts import percent, verdict_of
from search.study.wording import params_text

_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


def state_of(one: Outcome) -> str:
    """How a trial stands, in a word or two."""
    if one.state == TrialState.FAIL and one.attrs.get(CANCELLED):
        return "cancelled"
    if one.pruned:
        if lineages.diverged(one.row):
            return "pruned: diverged"
        if one.attrs.get(STOPPED):
            return "pruned: stopped by hand"
    return _STATES[one.state]


def states_table(results: Results, total: int | None) -> Table:
    """How many trials are in each state. total: finished trials wanted."""
    found = Counter(state_of(one) for one in results.outcomes)
    words = dict.fromkeys(("done", "pruned", "running", "waiting", "cancelled", "failed"))
    words |= dict.fromkeys(sorted(found))
    rows = [(word, str(found[word])) for word in words if found[word] or ":" not in word]
    wanted = [] if total is None else [("finished trials wanted", str(total))]
    return Table(("state", "trials"), [*rows, *wanted], "Trials by state")


def verdicts_table(results: Results) -> Table | None:
    """Why each pruned trial was pruned, in numbers; None where no pruner kept any."""
    rows = []
    for one in results.outcomes:
        verdict = verdict_of(one.attrs.get(VERDICT)) if one.pruned else None
        if verdict is None:
            continue
        scores = (verdict.best, verdict.forecast, verdict.deviation, verdict.against)
        rows.append(
            (
                str(one.number),
                f"{verdict.epoch} of {verdict.epochs}",
                *("-" if score is None else f"{score:.4f}" for score in scores),
                percent(verdict.chance),
                percent(verdict.needed),
            )
        )
    headings = ("trial", "epoch", "best score", "forecast", "±", "to beat", "chance", "asked for")
    return Table(headings, rows, "Why trials were pruned", sortable=True) if rows else None


# ------------------------------------------------------------------------------- all trials


def trials_table(results: Results) -> Table:
    """The seed's table for every trial: scored ones first, the best first."""
    scored = results.scored()
    known = {one.number for one in scored}
    ordered = [*scored, *(one for one in results.outcomes if one.number not in known)]
    wait = common_wait(ordered)
    names = list(dict.fromkeys(name for one in ordered for name in one.params))
    continued = any(one.continued for one in ordered)
    headings = ["run" if results.imported else "trial", "state"]
    score = None if results.setup is None else results.setup.own_score
    columns = training_metrics.columns(score)
    headings += columns.values()
    headings += [] if wait is None else [f"lost {wait} epoch{'s' * (wait > 1)} after best"]
    headings += ["continued from another run"] if continued else []
    rows = []
    for one in ordered:
        row = [one.name if results.imported else str(one.number), state_of(one)]
        row += [_metric_cell(name, one.metrics.get(name)) for name in columns]
        lost = None if wait is None else one.fall_after(wait)
        row += [] if wait is None else ["-" if lost is None else f"{lost:.4f}"]
        row += [Flag(one.continued) if one.continued else "-"] if continued else []
        row += [training_metrics.setting(one.params.get(name)) for name in names]
        rows.append(row)
    return Table([*headings, *names], rows, sortable=True)


def common_wait(outcomes: Sequence[Outcome]) -> int | None:
    """Epochs after the best one at which all trials are shown: half of them went on for so long.

    A trial that was stopped sooner has lost less only because it was not watched: degradation
    counts at the same distance. None where no trial went on after its best epoch.
    """
    waits = [wait for one in outcomes if (wait := one.epochs_after_peak) > 0]
    return statistics.median_low(waits) if waits else None


def _metric_cell(name: str, item: object) -> str:
    text = training_metrics.text(name, item)
    return Flag(text) if name == "still_rising" and item else text


# ------------------------------------------------------------------------------- the queue


def queue_table(results: Results) -> Table | None:
    """What was asked for or waits, runs or was withdrawn, with its note and forecast."""
    asked = [one for one in results.outcomes if _was_asked(one)]
    if not asked:
        return None
    rows = []
    for one in asked:
        score = "-" if one.value is None else f"{one.value:.4f}"
        params = params_text({**requests.planned_params(one.row), **one.params}) or "-"
        rows.append([one.name, state_of(one), score, one.note or "-", *_forecast(one), params])
    headings = ("trial", "state", "score", "note", "expected", "held", "parameters")
    return Table(headings, rows, sortable=True)


def _was_asked(one: Outcome) -> bool:
    marks = (ENQUEUED, FIRST, NOTE, EXPECT, PREDICTION)
    return not (one.complete or one.pruned) or any(mark in one.attrs for mark in marks)


def _forecast(one: Outcome) -> tuple[str, str]:
    """What was expected of a trial, and whether that held."""
    expected = one.attrs.get(EXPECT)
    if expected is None:
        stated = one.attrs.get(PREDICTION)
        return ("-", "-") if stated is None else (str(stated), "not comparable")
    low, high = (format_value(end) for end in expected)
    return f"{low} to {high}", forecast_verdict(one)


def forecast_verdict(one: Outcome) -> str:
    """Whether a trial's forecast held; "open" until it has been trained to its end."""
    low, high = one.attrs[EXPECT]
    kept = requests.forecast_held((low, high), one.value, complete=one.complete)
    if kept is None:
        return "open"
    return "yes" if kept else Flag("no, lower" if (one.value or 0.0) < low else "no, higher")
