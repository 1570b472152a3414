"""A run of repeats: looks, the trainings between them, and what it all came to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.confirmation.plan import (
    ConfirmOptions,
    Task,
    best_of,
    compared,
    enqueue,
    joined,
    missing,
)
from search.confirmation.scores import plan_state_of, score_images, scores_by_repeat, show, unscored
from search.execution.launchers.local import PrewarmedWorker
from search.execution.live_view import View
from search.execution.options import RunOptions
from search.execution.supervisor import Run, supervise
from search.management.opening import decode_faces, refuse_orphans
from search.results.statistics.intervals import seed_deviation
from search.results.statistics.sequential_plan import FIRST, PlanState
from search.study.attributes import CONFIGURATION, JUDGED
from search.study.identity import is_marked, refuse_direction
from search.study.lineages import diverged
from search.study.lookup import chosen_study, load_setup, study_or_none
from search.study.shared_state import set_total
from search.study.wording import counted, params_text
from storage import LeasedStorage
from trainer.cli import progress_bar
from trainer.data.dataset import load_faces
from trainer.errors import UserError
from trainer.presets import DEMO_WARNING

LOG = logging.getLogger(__name__)
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


def chosen_task(options: ConfirmOptions, storage: LeasedStorage | None) -> Task:
    """What is repeated; storage: to look up the search in, not needed for --compare.

    Raises StudyError, ConfigError, and UserError for too small a budget.
    """
    if options.compare is not None:
        task = compared(options.compare, options)
    else:
        assert storage is not None
        name = chosen_study(storage, options.study, LOG.info)
        top = 3 if options.top is None else options.top
        task = best_of(storage, name, top, root=options.data, preset=options.preset)
    first_look(options, task)
    return task


def prepared(options: ConfirmOptions, storage: LeasedStorage, task: Task, runs: Path) -> Task:
    """The task as it fits the study of repeats that may be there; all faces are decoded.

    Nothing is written to the store. Raises StudyError where that study holds something else.
    """
    name = task.setup.name
    study = study_or_none(storage, name)
    if study is not None:
        fix = "give these repeats another name with --study NAME"
        if options.compare is None:
            fix = "delete that study in the dashboard, or give its --compare again"
        if is_marked(study, fix):
            refuse_direction(study, fix)
            task = joined(task, study, fix)
    refuse_orphans(storage, name, runs)
    if task.summary is not None:
        decode_faces(task.setup)
    return task


def first_look(options: ConfirmOptions, task: Task) -> int:
    """Seeds of each configuration at the first look. Raises UserError for too small a budget."""
    first = min(FIRST, options.seeds)
    if options.budget is not None:
        round_of_all = len(task.configurations) * task.setup.epochs
        first = min(first, options.budget // round_of_all)
        if first < 2:
            raise UserError(
                f"--budget {options.budget}: two seeds of {len(task.configurations)}"
                f" configurations, {task.setup.epochs} epochs each, take {2 * round_of_all}: give"
                " that at least"
            )
    return first


@dataclass
class Repeating:
    """What one run of repeats holds."""

    options: ConfirmOptions
    run_options: RunOptions
    storage: LeasedStorage
    study: optuna.Study
    task: Task
    view: View
    ended: bool = False

    @property
    def epochs(self) -> int:
        return self.task.setup.epochs

    @property
    def runs(self) -> Path:
        return Path(self.run_options.runs)

    def introduce(self) -> None:
        """Store what is about to be done, and print it, with what it costs at most."""
        task, options = self.task, self.options
        how = {
            "labels": task.labels,
            "cap": options.seeds,
            "first": first_look(options, task),
            "margin": options.margin,
        }
        self.study.set_user_attr(JUDGED, how)
        faces = task.summary
        for note in (*task.notes, *(() if faces is None else faces.notes)):
            LOG.info(f"note: {note}")
        first, count = first_look(options, task), len(task.configurations)
        most = count * options.seeds * self.epochs
        budget = most if options.budget is None else min(most, options.budget)
        seeds = (
            f"{first} to {options.seeds} fresh seeds" if first < options.seeds else f"{first} seeds"
        )
        LOG.info(
            f"study {task.setup.name}: {counted(count, 'configuration')} with {seeds} each, of"
            f" {self.epochs} epochs: at most {budget:,} epochs; "
            + (
                task.setup.data["name"]
                if faces is None
                else f"{faces.name}, {faces.train} train / {faces.val} val / {faces.test} test"
            )
        )
        self._list()
        if task.setup.preset == "demo":
            LOG.info(DEMO_WARNING)

    def train(self, prewarmed: PrewarmedWorker) -> int:
        """Repeat until there is no look to make, or somebody ends the run; the exit code."""
        while True:
            now = self.plan_state()
            if not now.wanted or not self._affordable(now):
                return 0
            enqueue(self.study, self.task, now.wanted)
            rows = self.study.get_trials(deepcopy=False)
            waiting = sum(row.state in _OPEN for row in rows)
            LOG.info(
                f"for look {now.look + 1} of at most {now.looks}: {counted(waiting, 'training')}"
            )
            # a failed one does not count, and must not be replaced by a draw
            total = sum(row.state != TrialState.FAIL for row in rows)
            set_total(self.study, total)
            run_options = replace(self.run_options, trials=total)
            run = Run(run_options, self.storage, self.study, load_setup(self.study), self.view)
            # once is enough
            run.estimated = now.look > 0
            code = supervise(run, prewarmed)
            if code or run.left(run.snapshot()):
                self.ended = True
                return code

    def plan_state(self) -> PlanState:
        """The looks as they come out now."""
        now = plan_state_of(self.study)
        assert now is not None, "introduce has said how"
        return now

    def score_images(self) -> None:
        """Score each repeat's best epoch on val and test, once."""
        todo = list(unscored(self.study, self.runs))
        if not todo:
            return
        setup = load_setup(self.study)
        LOG.info(f"scoring {counted(len(todo), 'network')} image by image, on val and test")
        data = load_faces(
            setup.data["root"],
            image_size=setup.base["data"]["image_size"],
            synthetic_images=setup.base["data"]["synthetic_images"],
            parts=(),
        )
        with progress_bar("scoring") as tick:
            for done, (row, folder) in enumerate(todo, 1):
                score_images(folder, setup, row, data)
                tick(done, len(todo))

    def conclude(self, commands: Mapping[str, str]) -> None:
        """Print tables, the sentence, why it ended, and the commands that come next."""
        now = self.plan_state()
        by_repeat = {label: scores_by_repeat(self.study, label) for label in self.task.labels}
        scores: Mapping[str, Sequence[float]] = now.scores
        if not now.look:
            scores = {
                label: [it for it in own if it is not None] for label, own in by_repeat.items()
            }
        if any(scores.values()):
            searched = {one.label: one.value for one in self.task.configurations}
            show(self.view.console, self.study, self.runs, scores, searched, now)
            self._list()
        for line in self._remarks(now, by_repeat, commands["confirm"]):
            LOG.info(line)
        self.view.console.print()
        for what in ("watch", "report", "export"):
            LOG.info(f"{what + ':':<9}{commands[what]}")

    def _affordable(self, now: PlanState) -> bool:
        """Whether the budget pays for the next look."""
        if self.options.budget is None:
            return True
        new = len(missing(self.study, self.task, now.wanted))
        return not new or self._spent() + new * self.epochs <= self.options.budget

    def _spent(self) -> int:
        rows = self.study.get_trials(deepcopy=False)
        return self.epochs * sum(row.state != TrialState.FAIL for row in rows)

    def _list(self) -> None:
        # with --compare the label says it all
        if any(one.value is not None for one in self.task.configurations):
            for one in self.task.configurations:
                LOG.info(f"  {one.label}: {params_text(one.params)}")

    def _remarks(
        self, now: PlanState, by_repeat: Mapping[str, Sequence[float | None]], again: str
    ) -> list[str]:
        """Why the run ended, and what else a reader of the table should know."""
        rows = [
            row
            for row in self.study.get_trials(deepcopy=False)
            if row.user_attrs.get(CONFIGURATION) in self.task.labels
        ]
        lines = []
        if strange := sum(diverged(row) for row in rows):
            lines.append(f"{counted(strange, 'training')} diverged; what was reached before counts")
        if nothing := sum(score is None for own in by_repeat.values() for score in own):
            lines.append(f"{counted(nothing, 'training')} failed or stopped: so many seeds fewer")
        if any(len(own) > self.options.seeds for own in by_repeat.values()):
            lines.append(f"--seeds {self.options.seeds}: there are more; these stand in the report")
        waiting = sum(row.state in _OPEN for row in rows)
        if self.ended:
            lines.append(f"{counted(waiting, 'training')} not at an end; to go on: {again}")
        elif now.wanted:
            new = len(missing(self.study, self.task, now.wanted)) * self.epochs
            lines.append(
                f"--budget {self.options.budget}: {self._spent()} epochs are spent, and the next"
                f" look takes {new}; a larger one goes on"
            )
        elif any(pair.verdict is None for pair in now.pairs):
            lines.append(
                f"--seeds {self.options.seeds} is reached; more go on: raise it and run again"
            )
        elif now.pairs:
            deviation = seed_deviation(now.scores) or 0.0
            lines.append(
                f"every two are told apart, or equal within {self.options.margin:g} seed SD"
                f" ({self.options.margin * deviation:.4f})"
            )
        return lines
