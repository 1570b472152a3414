"""What optuna-dashboard shows of a search beside its own pages: notes, and figures of the report.

A worker writes the note of each trial that it ends, the supervisor that of the study. What a person
has written below the line of a note stays.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import lineage, seedtable
from search.enqueue import forecast_held
from search.lineage import CONTINUES, DIVERGED
from search.names import is_repeats
from search.pages.document import Section
from search.pages.markdown import body, code, escaped
from search.results import Results, results_of
from search.study import total_of
from storage import StorageError

YOURS = "*What you write below this line stays.*"
# figures of the report that the study's page shows
SHOWN = ("confirm", "dice", "importances", "restarts")
# the board may take this share of the supervisor's time, and no more often than this
_SHARE, _LEAST_S = 0.02, 10.0
_BEST = 5


def trial_note(trial: FrozenTrial, budget: int) -> str:
    """A trial's line of the comparison table, and what to be careful about, as Markdown.

    budget: epochs of a whole training.
    """
    row = seedtable.row_of(trial)
    lines = [f"**{escaped(line)}**  " for line in warnings_of(trial, budget)]
    if note := trial.user_attrs.get("note"):
        lines.append(f"{escaped(note)}  ")
    lines += ["", "| | |", "|---|---|"]
    lines += [
        f"| {heading} | {seedtable.text(name, row[name])} |"
        for name, (heading, _) in seedtable.COLUMNS.items()
    ]
    return "\n".join(lines)


def warnings_of(trial: FrozenTrial, budget: int) -> list[str]:
    """What a person should know before believing a trial's figures."""
    attrs, found = trial.user_attrs, []
    trained = max(trial.intermediate_values, default=0)
    if lineage.diverged(trial):
        found.append(attrs.get("reason") or DIVERGED)
    elif attrs.get("stopped"):
        found.append(f"stopped by hand after {trained} of {budget} epochs")
    elif trial.state == TrialState.PRUNED:
        found.append(f"pruned after {trained} of {budget} epochs: parked, it may go on")
    if CONTINUES in attrs:
        found.append(f"goes on from row {attrs[CONTINUES]}")
    if attrs.get("still_rising") and trial.state == TrialState.COMPLETE:
        found.append("still rising at its end: with more epochs it may score higher")
    if changed := attrs.get("runtime_changed"):
        found.append(str(changed))
    if micro_batch := attrs.get("micro_batch"):
        found.append(f"ran out of memory: trained in parts of {micro_batch} pictures")
    if times := attrs.get("exceptions"):
        found.append(f"interrupted by an error (x{times}); the last is its attribute traceback")
    expected, score = attrs.get("expect"), lineage.value(trial)
    kept = forecast_held(expected, score, complete=trial.state == TrialState.COMPLETE)
    if kept is not None:
        low, high = attrs["expect"]
        how = "as expected" if kept else "not as expected"
        found.append(f"{how}: {score:.4f}, expected {low:g} to {high:g}")
    return found


def study_note(
    results: Results,
    total: int | None,
    commands: Mapping[str, str],
    repeats: Section | None = None,
) -> str:
    """The standing of a study, its best trials, and the commands that come next, as Markdown.

    repeats: what a study of repeats came to, in place of its trials: its highest is mere luck.
    """
    rows = lineage.finished(results.rows)
    states = [trial.state for trial in results.rows]
    pruned = sum(trial.state == TrialState.PRUNED for trial in rows)
    lines = [
        f"**{len(rows)}{'' if total is None else f' of {total}'} trials finished**, {pruned} of"
        f" them pruned; {states.count(TrialState.RUNNING)} running,"
        f" {states.count(TrialState.WAITING)} waiting.  ",
        f"A value is: {escaped(results.metric)}.",
        "",
    ]
    if repeats is not None:
        lines += [*body(repeats), ""]
    elif best := results.scored()[:_BEST]:
        lines += [
            f"| | {' | '.join(escaped(one.name) for one in best)} |",
            f"|---|{'---:|' * len(best)}",
        ]
        for heading, cells in seedtable.across([one.figures for one in best]):
            lines.append(f"| {escaped(heading)} | {' | '.join(map(escaped, cells))} |")
        lines.append("")
    lines += [f"- {what}: {code(command)}" for what, command in commands.items()]
    return "\n".join(lines)


def put_note(of: optuna.Study | optuna.Trial, body: str) -> None:
    """Write a note; what a person has written below the line of the last one stays.

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


class Board:
    """Keeps the study's note and figures up to date from a thread of its own. Used through `with`.

    It looks whether a trial has ended, and takes a small share of the time at most. At the start it
    writes the note alone: the workers are waited for then, and earlier figures still hold.
    """

    def __init__(
        self,
        study: optuna.Study,
        commands: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self._study = study
        self._commands = commands
        self._tell = tell
        self._wake = threading.Event()
        self._over = False
        self._seen: int | None = None
        self._thread = threading.Thread(target=self._work, name="board", daemon=True)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._renew()
            except StorageError:
                # the supervisor speaks of a store that is away
                pass
            except Exception:
                if self._deleted():
                    return
                # a bug in a picture must not end a search
                self._tell(f"the dashboard's figures are not renewed:\n{traceback.format_exc()}")
                return
            if self._over:
                return
            self._wake.wait(max(_LEAST_S, (time.monotonic() - began) / _SHARE))

    def _deleted(self) -> bool:
        """Whether the study, or its store, is gone, of which the supervisor speaks."""
        name, storage = self._study.study_name, self._study._storage
        try:
            return name not in {study.study_name for study in storage.get_all_studies()}
        except StorageError:
            return True

    def _renew(self) -> None:
        rows = self._study.get_trials(deepcopy=False)
        ended = sum(row.state.is_finished() for row in rows)
        if ended == self._seen:
            return
        publish(self._study, self._commands, draw=self._seen is not None)
        self._seen = ended


def publish(study: optuna.Study, commands: Mapping[str, str], *, draw: bool = True) -> None:
    """Write the study's note and, where they are to be drawn, figures as they stand.

    Raises StorageError.
    """
    results, repeats = results_of(study), None
    if is_repeats(study.study_name):
        from search.pages.repeats_section import confirm_section

        repeats = confirm_section(study)
    put_note(study, study_note(results, total_of(study), commands, repeats))
    if not (draw and results.scored()):
        return
    # plotly: nobody waits for it who has no figure to draw
    from optuna_dashboard import save_plotly_graph_object

    from search.figures import figures

    pictures: dict[str, Any] = figures(results)
    if repeats is not None and repeats.figures:
        pictures[repeats.key] = repeats.figures[0]
    for topic in SHOWN:
        if topic in pictures:
            save_plotly_graph_object(study, pictures[topic], graph_object_id=topic)
