"""What was pruned and what that saved; what was asked for and whether its forecast held."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from optuna.trial import TrialState

from search.results.evidence import Evidence
from search.results.trials import Outcome
from search.results.wording import listed, some
from search.strategy.forecast.priors import make_study_forecast
from search.study.attributes import COPIED_FROM, EXPECT, FIRST, PREDICTION, STOPPED, VERDICT
from search.study.lineages import diverged, repeats, revivals, rows_of
from search.study.repeats import repeats_text
from search.study.requests import forecast_held
from search.study.verdicts import percent, verdict_of
from search.study.wording import counted

_SCORES = re.compile(r"(0\.\d+)(?:\s*-\s*(0\.\d+))?")


# -------------------------------------------------------------------------------- pruning


def pruning_sentences(seen: Evidence) -> list[str]:
    """How many trials were stopped early, what that saved, and what that was spent on."""
    ended = [one for one in seen.results.scored() if COPIED_FROM not in one.attrs]
    pruned = [one for one in ended if one.pruned]
    wrong = _wrong_forecasts_sentences(seen)
    if not pruned and not revivals(seen.results.rows):
        return [_nothing_pruned_sentence(seen, ended), *wrong]
    planned = sum(one.budget for one in ended)
    saved = sum(_epochs_left(one) for one in pruned)
    text = (
        f"{len(pruned)} of {counted(len(ended), 'ended trial')} did not go to their end, which"
        f" saved {saved} of {counted(planned, 'epoch')} ({saved / max(planned, 1):.0%})"
    )
    causes = [
        (sum(diverged(one.row) for one in pruned), "diverged"),
        (sum(bool(one.attrs.get(STOPPED)) for one in pruned), "stopped by a person"),
    ]
    counts = [f"{count} {cause}" for count, cause in causes if count]
    text += f"; {listed(counts)} among them" if counts else ""
    return [f"{text}.", *wrong, *_verdict_sentences(pruned), *_spent_sentences(seen)]


def _wrong_forecasts_sentences(seen: Evidence) -> list[str]:
    """That `restart-aware` parks none, where its forecasts have been wrong."""
    setup = seen.results.setup
    if setup is None or setup.pruner != "restart-aware":
        return []
    study_forecast = make_study_forecast(setup)
    study_forecast.update(seen.results.rows)
    if study_forecast.trusted(0):
        return []
    return [
        f"Forecasts of these trainings erred by {study_forecast.doubt:.1f} times what they claimed,"
        " so none is parked any more: fewer whole trials, or --pruner median, save epochs here."
    ]


def _verdict_sentences(pruned: Sequence[Outcome]) -> list[str]:
    """What the pruner's forecast gave the pruned trials; nothing where it kept no numbers."""
    known = [
        (verdict.chance / verdict.needed, one.name, verdict)
        for one in pruned
        if (verdict := verdict_of(one.attrs.get(VERDICT)))
        and verdict.chance is not None
        and verdict.needed
    ]
    if not known:
        return []
    _, name, closest = max(known, key=lambda it: it[0])
    chances = statistics.median(verdict.chance or 0.0 for *_, verdict in known)
    return [
        f"The forecast gave {counted(len(known), 'trial')} a chance of {percent(chances)} (median)"
        f" to bring the answer when pruned; nearest to going on was {name}: {closest.text()}."
    ]


def _epochs_left(outcome: Outcome) -> int:
    return max(0, outcome.budget - max(outcome.curve, default=0))


def _nothing_pruned_sentence(seen: Evidence, ended: Sequence[Outcome]) -> str:
    short = [one for one in ended if _epochs_left(one)]
    if not (seen.results.imported and short):
        return "No trial was pruned."
    missed = sum(_epochs_left(one) for one in short)
    return (
        f"No trial was pruned, but {len(short)} of {counted(len(ended), 'run')} ended before the"
        f" planned epochs, {counted(missed, 'epoch')} together."
    )


def _spent_sentences(seen: Evidence) -> list[str]:
    """What revived trials and repeats of leading ones brought."""
    again = repeats(seen.results.rows)
    return [*_revival_sentences(seen), *([f"{repeats_text(again)}."] if again else [])]


def _revival_sentences(seen: Evidence) -> list[str]:
    rows = seen.results.rows
    revived = revivals(rows)
    if not revived:
        return []
    spent = sum(len(row.intermediate_values) for row in revived)
    numbers = sorted({rows_of(rows, row)[0].number for row in revived})
    ones = [one for one in seen.results.outcomes if one.number in numbers]
    complete = [one for one in ones if one.complete and one.value is not None]
    text = (
        f"{counted(len(numbers), 'pruned trial')} went on later"
        f" ({some([str(number) for number in numbers])}) for {counted(spent, 'epoch')}"
    )
    if not complete:
        return [f"{text}; none of them is complete."]
    top = max(complete, key=lambda one: one.value or 0.0)
    best = seen.results.best
    won = best is not None and best.number == top.number
    text += f"; {len(complete)} became complete, the highest with {top.value:.4f}"
    return [f"{text}, {'which is the best of the study' if won else 'none is the best'}."]


# ------------------------------------------------------------------------------- enqueued


def enqueued_sentences(seen: Evidence) -> list[str]:
    """Each forecast of an enqueued trial beside what came; then the first trials' gains."""
    return [*_forecast_sentences(seen), *_gain_sentences(seen)] or [
        "No trial was enqueued with a forecast, so none can be checked."
    ]


def _forecast_sentences(seen: Evidence) -> list[str]:
    clauses, held, decided = [], 0, 0
    for one in seen.results.outcomes:
        expect = one.attrs.get(EXPECT)
        if not isinstance(expect, (list, tuple)) or len(expect) != 2:
            continue
        low, high = float(expect[0]), float(expect[1])
        kept = forecast_held((low, high), one.value, complete=one.complete)
        decided += kept is not None
        held += kept is True
        note = f", {one.note}" if one.note else ""
        clauses.append(
            f"{one.name}{note}: {low:g} to {high:g} expected, {_result_text(one, low, high)}"
        )
    if not clauses:
        return []
    return [
        f"{held} of {counted(decided, 'forecast')} that can be judged held (one seed each, so a"
        f" near miss is no refutation). {'; '.join(clauses)}."
    ]


def _result_text(outcome: Outcome, low: float, high: float) -> str:
    """What became of a forecast."""
    value = outcome.value
    if outcome.complete and value is not None:
        if low <= value <= high:
            return f"{value:.4f} came: held"
        side = f"{low - value:.4f} below" if value < low else f"{value - high:.4f} above"
        return f"{value:.4f} came: {side}"
    if value is not None and value > high:
        return f"{value:.4f} so far: already above"
    if outcome.pruned and value is not None:
        at = max(outcome.curve, default=0)
        return f"pruned after epoch {at} with {value:.4f}: cannot be judged"
    if outcome.state == TrialState.FAIL:
        return "it failed or was cancelled: cannot be judged"
    return "it has not ended yet"


def _gain_sentences(seen: Evidence) -> list[str]:
    """The first trials' forecasts are of another score, so only their gains can be set beside."""
    firsts = {
        one.attrs[FIRST]: one
        for one in seen.results.outcomes
        if isinstance(one.attrs.get(FIRST), int)
    }
    base = firsts.pop(1, None)
    if base is None or not firsts:
        return []
    if not base.complete or base.value is None:
        return [
            f"The gains that the first trials were to bring over {base.note or base.name} cannot be"
            " measured: that trial is not complete."
        ]
    stated = _SCORES.search(str(base.attrs.get(PREDICTION)))
    clauses = []
    for _, one in sorted(firsts.items()):
        expected = _expected_gain_text(str(one.attrs.get(PREDICTION)), stated)
        if one.complete and one.value is not None:
            measured = f"{one.value - base.value:+.4f} came"
        else:
            measured = f"not measured, the trial is {one.state.name.lower()}"
        clauses.append(f"{one.note or one.name}: {expected}{measured}")
    return [
        f"Gains over {base.note or base.name} ({base.value:.4f}), as forecast on the person's own"
        f" score and as measured here: {'; '.join(clauses)}. At one seed each none of these gains"
        " is decided."
    ]


def _expected_gain_text(prediction: str, base: re.Match[str] | None) -> str:
    found = _SCORES.search(prediction)
    if found is None or base is None:
        return ""
    start = float(base[1])
    low, high = float(found[1]) - start, float(found[2] or found[1]) - start
    span = f"{low:+.4f}" if low == high else f"{low:+.4f} to {high:+.4f}"
    return f"{span} expected, "
