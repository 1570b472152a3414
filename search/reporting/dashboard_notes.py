"""What optuna-dashboard shows of a search beside its own pages: notes, and figures of the report.

A worker writes the note of each trial that it ends, the supervisor that of the study. What the user
has written below the line of a note stays.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from search.reporting.document import Section
from search.reporting.markdown import body
from search.results.answer import results_answer, worth_text
from search.results.reading import results_of
from search.results.trials import Results
from search.study import lineages, training_metrics
from search.study.names import is_repeats
from search.study.repeats import repeats_text
from search.study.shared_state import total_of
from search.study.trial_notes import put_note
from search.study.wording import code, escaped
from storage import StorageError
from storage.background import BackgroundThread
from storage.optuna_internals import storage_of

# figures of the report that the study's page shows
SHOWN = ("confirm", "dice", "importances", "restarts")
# the board may take this share of the supervisor's time, and renews no more often than this
_SHARE, _LEAST_S = 0.02, 10.0
_BEST = 5


def study_note(
    results: Results,
    total: int | None,
    commands: Mapping[str, str],
    repeats: Section | None = None,
) -> str:
    """The state of a study, its best trials, and the commands that come next, as Markdown.

    repeats: the result of a study of repeats, in place of its trials: their highest is mere luck.
    """
    rows = lineages.finished(results.rows)
    states = [trial.state for trial in results.rows]
    pruned = sum(trial.state == TrialState.PRUNED for trial in rows)
    lines = [
        f"**{len(rows)}{'' if total is None else f' of {total}'} trials finished**, {pruned} of"
        f" them pruned; {states.count(TrialState.RUNNING)} running,"
        f" {states.count(TrialState.WAITING)} waiting.  ",
        f"A value is: {escaped(results.metric)}.",
        "",
    ]
    if again := lineages.repeats(results.rows):
        lines += [f"{escaped(repeats_text(again))}.", ""]
    if repeats is not None:
        lines += [*body(repeats), ""]
    elif best := results.scored()[:_BEST]:
        if (answer := results_answer(results)) is not None:
            lines += [f"**Answer: trial {answer.trial.number}**, {worth_text(answer)}.", ""]
        lines += [
            f"| | {' | '.join(escaped(one.name) for one in best)} |",
            f"|---|{'---:|' * len(best)}",
        ]
        score = None if results.setup is None else results.setup.own_score
        for heading, cells in training_metrics.across([one.metrics for one in best], score):
            lines.append(f"| {escaped(heading)} | {' | '.join(map(escaped, cells))} |")
        lines.append("")
    lines += [f"- {what}: {code(command)}" for what, command in commands.items()]
    return "\n".join(lines)


class Board(BackgroundThread):
    """Keeps the study's note and figures up to date from a thread of its own. Used through `with`.

    It looks whether a trial has ended, and takes a small share of the time at most. At the start it
    writes the note alone: the workers are waited for then, and earlier figures are still right.
    """

    def __init__(
        self,
        study: optuna.Study,
        commands: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__("board")
        self._study = study
        self._commands = commands
        self._tell = tell
        self._seen: int | None = None

    def __exit__(self, *_: object) -> None:
        # what the end looks like is waited for
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            began, last = time.monotonic(), self._stop.is_set()
            try:
                self._renew()
            except StorageError:
                # the supervisor reports a store that is away
                pass
            except Exception:
                if self._deleted():
                    return
                # a bug in a picture must not end a search
                self._tell(f"the dashboard's figures are not renewed:\n{traceback.format_exc()}")
                return
            # a run that ended during this look is looked at once more
            if last:
                return
            self._stop.wait(max(_LEAST_S, (time.monotonic() - began) / _SHARE))

    def _deleted(self) -> bool:
        """Whether the study, or its store, is gone, which the supervisor reports."""
        name, storage = self._study.study_name, storage_of(self._study)
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
        from search.reporting.confirmation_section import confirm_section

        repeats = confirm_section(study)
    put_note(study, study_note(results, total_of(study), commands, repeats))
    if not (draw and results.scored()):
        return
    # plotly and scipy are slow to load: only where there is a figure to draw
    from optuna_dashboard import save_plotly_graph_object

    from search.reporting.figures.every_figure import figures
    from search.results.evidence import Evidence

    pictures: dict[str, Any] = figures(Evidence(results))
    if repeats is not None and repeats.figures:
        pictures[repeats.key] = repeats.figures[0]
    for topic in SHOWN:
        if topic in pictures:
            save_plotly_graph_object(study, pictures[topic], graph_object_id=topic)
