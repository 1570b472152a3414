"""A run of repeats: looks, the trainings between them, and what it all came to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.confirmation.plan import Task, enqueue, missing
from search.confirmation.scores import (
    plan_state_of,
    score_images,
    scores_by_slot,
    show,
    unscored,
)
from search.execution.launchers.local import PrewarmedWorker
from search.execution.live_view import View
from search.execution.supervisor import Run, supervise
from search.results.statistics.intervals import seed_deviation
from search.results.statistics.sequential_plan import FIRST, PlanState
from search.results.statistics.verdicts import sentence
from search.study.attributes import CONFIGURATION, JUDGED
from search.study.lineages import diverged
from search.study.lookup import load_setup
from search.study.shared_state import set_total
from search.study.wording import counted, params_text
from storage import LeasedStorage
from trainer.cli import progress_bar
from trainer.data.dataset import load_faces
from trainer.errors import UserError
from trainer.presets import DEMO_WARNING

_OPEN = (TrialState.WAITING, TrialState.RUNNING)


def first_look(args: argparse.Namespace, task: Task) -> int:
    """Seeds of each configuration at the first look. Raises UserError for too small a budget."""
    first = min(FIRST, args.seeds)
    if args.budget is not None:
        round_of_all = len(task.configurations) * task.setup.epochs
        first = min(first, args.budget // round_of_all)
        if first < 2:
            raise UserError(
                f"--budget {args.budget}: two seeds of {len(task.configurations)} configurations,"
                f" {task.setup.epochs} epochs each, take {2 * round_of_all}: give that at least"
            )
    return first


@dataclass
class Repeating:
    """What one run holds. args: of search.confirm; run_args: the same, as search.run has them."""

    args: argparse.Namespace
    run_args: argparse.Namespace
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
        return Path(self.args.runs)

    def introduce(self) -> None:
        """Settle what is about to be done, and tell it, with what it costs at most."""
        task, args = self.task, self.args
        how = {
            "labels": task.labels,
            "cap": args.seeds,
            "first": first_look(args, task),
            "margin": args.margin,
        }
        self.study.set_user_attr(JUDGED, how)
        for note in (*task.notes, *task.summary.notes):
            self.view.say(f"note: {note}")
        first, count = first_look(args, task), len(task.configurations)
        most = count * args.seeds * self.epochs
        budget = most if args.budget is None else min(most, args.budget)
        seeds = f"{first} to {args.seeds} fresh seeds" if first < args.seeds else f"{first} seeds"
        self.view.say(
            f"study {task.setup.name}: {counted(count, 'configuration')} with {seeds} each, of"
            f" {self.epochs} epochs: at most {budget:,} epochs; {task.summary.name},"
            f" {task.summary.train} train / {task.summary.val} val / {task.summary.test} test"
        )
        self._list()
        if task.setup.preset == "demo":
            self.view.say(DEMO_WARNING)

    def train(self, prewarmed: PrewarmedWorker) -> int:
        """Repeat until there is no look to make, or somebody ends the run; the exit code."""
        while True:
            now = self.plan_state()
            if not now.wanted or not self._affordable(now):
                return 0
            enqueue(self.study, self.task, now.wanted)
            rows = self.study.get_trials(deepcopy=False)
            waiting = sum(row.state in _OPEN for row in rows)
            self.view.say(
                f"for look {now.look + 1} of at most {now.looks}: {counted(waiting, 'training')}"
            )
            # a failed one does not count, and must not be replaced by a draw
            self.run_args.trials = sum(row.state != TrialState.FAIL for row in rows)
            set_total(self.study, self.run_args.trials)
            run = Run(self.run_args, self.storage, self.study, load_setup(self.study), self.view)
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
        self.view.say(f"scoring {counted(len(todo), 'network')} image by image, on val and test")
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
        slots = {label: scores_by_slot(self.study, label) for label in self.task.labels}
        scores: Mapping[str, Sequence[float]] = now.scores
        said = f"{sentence(scores, now.pairs)}."
        if not now.look:
            scores = {label: [it for it in own if it is not None] for label, own in slots.items()}
            said = "Not judged yet: the first look has not been reached."
        if any(scores.values()):
            searched = {one.label: one.value for one in self.task.configurations}
            show(self.view.console, self.study, self.runs, scores, searched, said, now.looks)
            self._list()
        for line in self._remarks(now, slots, commands["confirm"]):
            self.view.say(line)
        self.view.console.print()
        for what in ("watch", "report", "export"):
            self.view.say(f"{what + ':':<9}{commands[what]}")

    def _affordable(self, now: PlanState) -> bool:
        """Whether the budget pays for the next look."""
        if self.args.budget is None:
            return True
        new = len(missing(self.study, self.task, now.wanted))
        return not new or self._spent() + new * self.epochs <= self.args.budget

    def _spent(self) -> int:
        rows = self.study.get_trials(deepcopy=False)
        return self.epochs * sum(row.state != TrialState.FAIL for row in rows)

    def _list(self) -> None:
        # with --compare the label says it all
        if any(one.value is not None for one in self.task.configurations):
            for one in self.task.configurations:
                self.view.say(f"  {one.label}: {params_text(one.params)}")

    def _remarks(
        self, now: PlanState, slots: Mapping[str, Sequence[float | None]], again: str
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
        if nothing := sum(score is None for own in slots.values() for score in own):
            lines.append(f"{counted(nothing, 'training')} failed or stopped: so many seeds fewer")
        if any(len(own) > self.args.seeds for own in slots.values()):
            lines.append(f"--seeds {self.args.seeds}: there are more; these stand in the report")
        waiting = sum(row.state in _OPEN for row in rows)
        if self.ended:
            lines.append(f"{counted(waiting, 'training')} not at an end; to go on: {again}")
        elif now.wanted:
            new = len(missing(self.study, self.task, now.wanted)) * self.epochs
            lines.append(
                f"--budget {self.args.budget}: {self._spent()} epochs are spent, and the next look"
                f" takes {new}; a larger one goes on"
            )
        elif any(pair.verdict is None for pair in now.pairs):
            lines.append(
                f"--seeds {self.args.seeds} is reached; more go on: raise it and run again"
            )
        elif now.pairs:
            deviation = seed_deviation(now.scores) or 0.0
            lines.append(
                f"every two are told apart, or equal within {self.args.margin:g} seed SD"
                f" ({self.args.margin * deviation:.4f})"
            )
        return lines
