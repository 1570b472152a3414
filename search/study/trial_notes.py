"""A trial's note on the dashboard."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.study import lineages, training_metrics
from search.study.attributes import DIVERGED, attributes_of
from search.study.requests import forecast_held
from search.study.verdicts import verdict_of
from search.study.wording import escaped

YOURS = "*What you write below this line stays.*"


def trial_note(trial: FrozenTrial, budget: int, score: str | None = None) -> str:
    """A trial's line of the comparison table, and what to be careful about, as Markdown.

    budget: epochs of a whole training. score: as in `training_metrics.columns`.
    """
    row, note = training_metrics.row_of(trial), attributes_of(trial.user_attrs).note
    lines = [f"**{escaped(line)}**  " for line in warnings_of(trial, budget)]
    if note:
        lines.append(f"{escaped(note)}  ")
    lines += ["", "| | |", "|---|---|"]
    lines += [
        f"| {heading} | {training_metrics.text(name, row[name])} |"
        for name, heading in training_metrics.columns(score).items()
    ]
    return "\n".join(lines)


def warnings_of(trial: FrozenTrial, budget: int) -> list[str]:
    """What users should know before believing a trial's metrics."""
    attrs, found = attributes_of(trial.user_attrs), list[str]()
    trained = max(trial.intermediate_values, default=0)
    if lineages.diverged(trial):
        found.append(attrs.reason or DIVERGED)
    elif attrs.stopped:
        found.append(f"stopped by hand after {trained} of {budget} epochs")
    elif trial.state == TrialState.PRUNED:
        found.append(f"pruned after {trained} of {budget} epochs: parked, it may go on")
        if verdict := verdict_of(attrs.verdict):
            found.append(f"why: {verdict.text()}")
    if attrs.continues is not None:
        found.append(f"goes on from row {attrs.continues}")
    if attrs.repeats is not None:
        found.append(f"repeats trial {attrs.repeats} with another seed: evidence of that trial")
    if attrs.still_rising and trial.state == TrialState.COMPLETE:
        found.append("still rising at its end: with more epochs it may score higher")
    if attrs.runtime_changed:
        found.append(str(attrs.runtime_changed))
    if attrs.micro_batch:
        found.append(f"ran out of memory: trained in parts of {attrs.micro_batch} pictures")
    if attrs.exceptions:
        times = attrs.exceptions
        found.append(f"interrupted by an error (x{times}); the last is its attribute traceback")
    score = lineages.value(trial)
    kept = forecast_held(attrs.expect, score, complete=trial.state == TrialState.COMPLETE)
    if kept is not None and attrs.expect is not None:
        low, high = attrs.expect
        how = "as expected" if kept else "not as expected"
        found.append(f"{how}: {score:.4f}, expected {low:g} to {high:g}")
    return found


def put_note(of: optuna.Study | optuna.Trial, body: str) -> None:
    """Write a note; what users have written below the line of the last one stays.

    A note without the line is somebody else's and is left alone.
    """
    # it brings a web server along, for which a worker's first epoch need not wait
    from optuna_dashboard import get_note, save_note

    present = get_note(of)
    _, line, theirs = present.partition(YOURS)
    if present and not line:
        return
    text = f"{body}\n\n{YOURS}{theirs}"
    if text != present:
        save_note(of, text)
