"""What happened to a trial, in order: from its events, and what its rows tell where those miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial

from search.study.lineages import utc
from search.study.verdicts import end_of, verdict_of
from storage.events import ENDS, TrialEvent
from storage.optuna_internals import id_of_trial
from storage.rdb import LeasedStorage

# how what is known besides an event's cause follows it
_DETAILS = {
    "epoch": " after epoch {}",
    "continues": " from row {}",
    "repeats": " of trial {}",
    "silent_s": " for {} s",
    "signal": " {}",
    "parent": " (process {})",
    "value": " {:.4f}",
    "error": ": {}",
}
# the cause of what is told from a row: it ran under an earlier version, or by another program
UNRECORDED = "not recorded"


def life_of(storage: LeasedStorage, rows: Sequence[FrozenTrial]) -> list[TrialEvent]:
    """What happened to a trial. rows: its own, in order.

    What no event tells (see `UNRECORDED`) comes from the row.
    """
    recorded = storage.events_of([id_of_trial(row) for row in rows])
    return [
        event
        for row in rows
        for event in _completed(row, [it for it in recorded if it.number == row.number])
    ]


def print_life(storage: LeasedStorage, study: optuna.Study, rows: Sequence[FrozenTrial]) -> None:
    """What happened to a trial, a line an event. rows: its own, in order."""
    first, *others = (str(row.number) for row in rows)
    continued = f", gone on with as row {', '.join(others)}" if others else ""
    print(
        f"trial {first} of study {study.study_name}: {rows[-1].state.name.lower()}{continued};"
        " times in UTC"
    )
    events = life_of(storage, rows)
    if any(event.cause == UNRECORDED for event in events):
        print("not recorded: by an earlier version or another program, shown as the store has it")
    for event in events:
        print(line(event))


def _completed(row: FrozenTrial, own: Sequence[TrialEvent]) -> Iterator[TrialEvent]:
    """The events of a row, with its start and its end."""
    if not own and row.datetime_start is not None:
        yield TrialEvent(row.number, "started", UNRECORDED, {}, None, None, utc(row.datetime_start))
    yield from own
    end = end_of(row, UNRECORDED)
    if end is not None and not any(event.event in ENDS for event in own):
        yield end


def line(event: TrialEvent) -> str:
    """An event for the user: time, row, what, why in numbers, and by whom."""
    claim = None if event.token is None else f"claim {event.token}"
    by = ", ".join(part for part in (event.worker, claim) if part)
    parts = [f"{event.time:%Y-%m-%d %H:%M:%S}", f"row {event.number}", f"{event.event:<9}"]
    return "  ".join([*parts, *(part for part in (_reason_text(event), by and f"[{by}]") if part)])


def _reason_text(event: TrialEvent) -> str:
    if verdict := verdict_of(event.detail):
        return verdict.text()
    known = (
        form.format(event.detail[name]) for name, form in _DETAILS.items() if name in event.detail
    )
    return f"{event.cause or ''}{''.join(known)}".lstrip(" :")
