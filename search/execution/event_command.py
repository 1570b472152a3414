"""`--on-event CMD`: a command of the user's own that hears what happens in a search.

The command runs in a shell and gets one JSON object on standard input. It runs beside the search:
one that hangs is ended, one that fails is named in a line, and neither costs a trial.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from search.study import lineages
from search.study.attributes import CANCELLED, F_SCORE_FULL, REASON
from storage.background import BackgroundThread

LOG = logging.getLogger(__name__)
TIMEOUT_S = 30.0
# events that wait for a slow command; more would come too late to be of use
MOST_WAITING = 100


class EventCommand(BackgroundThread):
    """Runs the command for each event, one at a time, in the order sent.

    command: for `sh -c`; None: nothing is run. Used through `with`: at the end the events that wait
    are still delivered, within timeout_s in all.
    """

    def __init__(
        self, command: str | None, common: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__("on-event")
        self._command = command
        self._common = dict(common)
        self._timeout_s = timeout_s
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self if self._command is None else super().__enter__()

    def __exit__(self, *_: object) -> None:
        if self._command is None:
            return
        with suppress(queue.Full):
            self._events.put_nowait(None)
        try:
            self._thread.join(self._timeout_s)
        finally:
            # nothing of ours outlives the run
            self._stop.set()
            if self._thread.is_alive():
                _end_group(self._child)
                self._thread.join(1.0)
                left = self._events.qsize()
                LOG.info(f"--on-event: the command took too long; {left} events are left")

    def send(self, event: str, **values: Any) -> None:
        """Hand an event over; returns at once."""
        if self._command is None:
            return
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **self._common, **values}
        try:
            self._events.put_nowait(record)
        except queue.Full:
            LOG.info(f"--on-event: {MOST_WAITING} events wait already; one was left out")

    def send_all(self, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Hand over what `EventDetector` has found."""
        for event, values in events:
            self.send(event, **values)

    def _work(self) -> None:
        while (record := self._events.get()) is not None and not self._stop.is_set():
            try:
                trouble = self._deliver(json.dumps(record))
            except OSError as error:
                trouble = f"could not be started: {error.strerror}"
            if trouble is not None:
                LOG.info(f"--on-event: the command {trouble} (event {record['event']})")

    def _deliver(self, text: str) -> str | None:
        """Run the command once; what went wrong, or None."""
        assert self._command is not None
        with subprocess.Popen(
            self._command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # a group of its own, so that what it started ends with it
            start_new_session=True,
        ) as child:
            self._child = child
            try:
                _, said = child.communicate(text + "\n", timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                _end_group(child)
                return f"did not end within {self._timeout_s:g} s and was ended"
        if child.returncode == 0:
            return None
        lines = said.strip().splitlines()
        return f"ended with {child.returncode}" + (f": {lines[-1][:200]}" if lines else "")


def _end_group(child: subprocess.Popen[str] | None) -> None:
    if child is not None and child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


class EventDetector:
    """What has happened since the last look: new best trials, and trials that failed."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._best = _best_value(trials)
        self._failed = {trial.number for trial in _failures(trials)}

    def since(self, trials: Sequence[FrozenTrial]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each event with its values."""
        for trial in _failures(trials):
            if trial.number not in self._failed:
                self._failed.add(trial.number)
                yield "failed", {"trial": trial.number, "reason": trial.user_attrs.get(REASON)}
        best = _best_value(trials)
        if best is not None and (self._best is None or best > self._best):
            yield "new_best", {**described(lineages.best_of(trials)), "before": self._best}
            self._best = best


def described(trial: FrozenTrial | None) -> dict[str, Any]:
    """A trial as events carry it; empty for None."""
    if trial is None:
        return {}
    return {
        "trial": trial.number,
        "value": lineages.value(trial),
        F_SCORE_FULL: trial.user_attrs.get(F_SCORE_FULL),
        "params": dict(trial.params),
    }


def _best_value(trials: Sequence[FrozenTrial]) -> float | None:
    best = lineages.best_of(trials)
    return None if best is None else lineages.value(best)


def _failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL and not trial.user_attrs.get(CANCELLED)
    ]
