"""What a user sees while a search runs: a live view at a terminal, plain lines elsewhere."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.study import lineages
from search.study.attributes import CONFIGURATION, GAIN, REPEATS
from search.study.lineages import curve_of, is_extra, repeats, revivals, rows_of
from search.study.repeats import scores_by_label
from search.study.wording import duration, name_of, params_text, sparkline, tell


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment.

    trials: its rows. total: finished trials wanted. epochs: budget. params_of: what a trial trains
    with. score: what its values are called.
    """

    name: str
    trials: Sequence[FrozenTrial]
    total: int
    epochs: int
    finished_before: int
    elapsed_s: float
    params_of: Callable[[FrozenTrial], Mapping[str, Any]] = operator.attrgetter("params")
    score: str = "F-score"

    @property
    def finished(self) -> int:
        return len(lineages.finished(self.trials))

    @property
    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def best(self) -> FrozenTrial | None:
        return lineages.best_of(self.trials)

    def count(self, state: TrialState) -> int:
        """Rows in a state; copies from another study are not counted among the finished."""
        if state in (TrialState.COMPLETE, TrialState.PRUNED):
            return sum(trial.state == state for trial in lineages.finished(self.trials))
        return sum(trial.state == state for trial in self.trials)

    def seconds_left(self) -> float | None:
        """By the pace of this run; None before its first finished trial."""
        done = self.finished - self.finished_before
        if done <= 0:
            return None
        # an epoch under way is work done as well; revivals and repeats take no place
        under_way = sum(
            len(trial.intermediate_values) / self.epochs
            for trial in self.running
            if not is_extra(trial)
        )
        return max(
            0.0, (self.total - self.finished - under_way) * self.elapsed_s / (done + under_way)
        )


def render(snapshot: StudySnapshot, *, width: int, ascii_only: bool = False) -> RenderableType:
    """The live view of a study for a terminal `width` columns wide."""
    done = snapshot.finished
    head = Text.assemble(
        (snapshot.name, "bold"),
        f"  {done}/{snapshot.total} finished",
        f", {duration(snapshot.elapsed_s)} gone, {duration(snapshot.seconds_left())} left",
    )
    complete, pruned = snapshot.count(TrialState.COMPLETE), snapshot.count(TrialState.PRUNED)
    counts = Text(
        f"complete {complete}  pruned {pruned}"
        f"  running {len(snapshot.running)}  waiting {snapshot.count(TrialState.WAITING)}"
        f"  failed {snapshot.count(TrialState.FAIL)}"
        + (f"  revived {revived}" if (revived := len(revivals(snapshot.trials))) else "")
        + (f"  repeats {again}" if (again := len(repeats(snapshot.trials))) else "")
    )
    bar = ProgressBar(total=snapshot.total, completed=done, width=min(width - 2, 76))
    wide = width >= 120
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=wide)
    # not every terminal has an ellipsis
    overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
    labelled = any(_label(trial) for trial in snapshot.trials)
    if labelled:
        table.add_column("configuration", overflow="fold")
    for heading in ("trial", "epoch", snapshot.score, "best"):
        table.add_column(heading, justify="right", overflow=overflow)
    table.add_column("curve", no_wrap=True, overflow=overflow)
    if wide:
        # what the other columns leave
        table.add_column("parameters", no_wrap=True, overflow=overflow, ratio=1)
    for trial in snapshot.running:
        rows = rows_of(snapshot.trials, trial)
        curve = [score for _, score in sorted(curve_of(rows).items())]
        first = trial.user_attrs.get(REPEATS, rows[0].number)
        cells: list[str | Text] = [
            *([Text(_label(trial) or "-")] if labelled else []),
            str(first) if trial.number == first else f"{first} (row {trial.number})",
            f"{len(curve)}/{snapshot.epochs}",
            f"{curve[-1]:.4f}" if curve else "-",
            f"{max(curve):.4f}" if curve else "-",
            sparkline(curve, 24, ascii_only=ascii_only),
        ]
        table.add_row(*cells, *([params_text(snapshot.params_of(trial))] if wide else []))
    best = snapshot.best
    if labelled:
        answer = _means(snapshot.trials)
    elif best is None:
        answer = Text("best: none is complete yet", style="dim")
    else:
        answer = Text.assemble(
            ("best ", "bold"),
            (f"{lineages.value(best):.4f}", "bold green"),
            f" trial {best.number}: {params_text(snapshot.params_of(best))}",
        )
    # the bar does not end its line
    return Group(head, bar, Text(), counts, Text(), table, Text(), answer)


def _label(trial: FrozenTrial) -> str | None:
    """What a repeat repeats; None for a trial of a search."""
    return trial.user_attrs.get(CONFIGURATION)


def _means(trials: Sequence[FrozenTrial]) -> Text:
    """Each configuration's mean over the repeats that have ended: a single one's score is luck."""
    scores = scores_by_label(trials)
    if not scores:
        return Text("means: no repeat is complete yet", style="dim")
    means = sorted(((fmean(own), len(own), label) for label, own in scores.items()), reverse=True)
    text = ", ".join(f"{label} {mean:.4f} ({count})" for mean, count, label in means)
    return Text.assemble(("means ", "bold"), text)


class View:
    """Shows a study while it runs. Used through `with`; `update` as often as one likes."""

    def __init__(self, console: Console, *, plain: bool) -> None:
        self.console = console
        self.lines = _Lines(console)
        self._moves = console.is_terminal and not plain
        self._live: Live | None = None
        self._drawn_at = 0.0

    def __enter__(self) -> View:
        if self._moves:
            # a new one each time: one that starts again would wipe the lines above it
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
            self._drawn_at = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, snapshot: StudySnapshot) -> None:
        """Draw the study as it stands, at most twice a second."""
        if self._live is None:
            self.lines.update(snapshot)
            return
        now = time.monotonic()
        if now - self._drawn_at >= 0.5:
            self._drawn_at = now
            ascii_only = not (self.console.encoding or "").lower().startswith("utf")
            self._live.update(
                render(snapshot, width=self.console.width, ascii_only=ascii_only), refresh=True
            )


@dataclass
class _Lines:
    """Plain lines: one for each trial that has ended, or is trained again, since the last look."""

    console: Console
    known: set[int] | None = None
    extra: set[int] = field(default_factory=set)

    def update(self, snapshot: StudySnapshot) -> None:
        ended = {trial.number: trial for trial in snapshot.trials if trial.state.is_finished()}
        again = [*revivals(snapshot.trials), *repeats(snapshot.trials)]
        extra = {trial.number: trial for trial in again}
        if self.known is None:
            # what earlier runs finished, or began again, is no news
            self.known, self.extra = set(ended), set(extra)
        for number in sorted(set(extra) - self.extra):
            tell(self.console, _again_text(extra[number], snapshot))
        for number in sorted(set(ended) - self.known):
            trial = ended[number]
            rows = rows_of(snapshot.trials, trial)
            score = lineages.value(lineages.up_to(snapshot.trials, trial))
            text = f"{name_of(trial, snapshot.trials)} {trial.state.name}"
            text += f" {score:.4f}" if score is not None else ""
            text += f" after {len(curve_of(rows))}/{snapshot.epochs} epochs"
            text += f"  [{snapshot.finished}/{snapshot.total}, {duration(snapshot.elapsed_s)}]"
            best = snapshot.best
            if label := _label(trial):
                text += f"  {label}"
            elif best is not None and best.number == rows[0].number:
                text += f"  new best: {params_text(snapshot.params_of(best))}"
            tell(self.console, text)
        self.known |= set(ended)
        self.extra |= set(extra)


def _again_text(row: FrozenTrial, snapshot: StudySnapshot) -> str:
    """A line on a trial that goes on, or is repeated."""
    if REPEATS in row.user_attrs:
        gain = row.user_attrs.get(GAIN)
        worth = "" if gain is None else f": expected gain {gain:.2f} deviations between seeds"
        number = row.user_attrs[REPEATS]
        return f"row {row.number} repeats trial {number} with a fresh seed{worth}"
    *earlier, _ = rows_of(snapshot.trials, row)
    done = f"{len(curve_of(earlier))}/{snapshot.epochs}"
    return f"{name_of(row, snapshot.trials)} after {done} epochs"
