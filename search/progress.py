"""What a person sees while a search runs: a live view at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search import lineage
from search.lineage import CONTINUES, rows_of
from search.results import CONFIGURATION, scores_by_label
from search.revive import curve_of, revivals
from search.spaces import format_value

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-~=+*#"


@dataclass(frozen=True)
class Standing:
    """A study at one moment. trials: its rows. total: finished trials wanted. epochs: budget."""

    name: str
    trials: Sequence[FrozenTrial]
    total: int
    epochs: int
    finished_before: int
    elapsed_s: float

    @property
    def finished(self) -> int:
        return len(lineage.finished(self.trials))

    @property
    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def best(self) -> FrozenTrial | None:
        return lineage.best_of(self.trials)

    def count(self, state: TrialState) -> int:
        """Rows in a state; copies from another study are not counted among the finished."""
        if state in (TrialState.COMPLETE, TrialState.PRUNED):
            return sum(trial.state == state for trial in lineage.finished(self.trials))
        return sum(trial.state == state for trial in self.trials)

    def seconds_left(self) -> float | None:
        """By the pace of this run; None before its first finished trial."""
        done = self.finished - self.finished_before
        if done <= 0:
            return None
        # an epoch under way is work done as well; revivals take no place
        under_way = sum(
            len(trial.intermediate_values) / self.epochs
            for trial in self.running
            if CONTINUES not in trial.user_attrs
        )
        return max(
            0.0, (self.total - self.finished - under_way) * self.elapsed_s / (done + under_way)
        )


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """A curve in one line of at most `width` characters; later values weigh as earlier ones.

    >>> sparkline([0.0, 0.5, 1.0], 8)
    '▁▅█'
    """
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    if not values or width < 1:
        return ""
    if len(values) > width:
        step = len(values) / width
        values = [values[int((i + 1) * step) - 1] for i in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(blocks[round((v - low) / span * (len(blocks) - 1))] for v in values)


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "trial"), counted(0, "worker")
    ('1 trial', '0 workers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Seconds for a person.

    >>> duration(None), duration(42), duration(130), duration(7300)
    ('?', '42 s', '2 min 10 s', '2 h 1 min')
    """
    if seconds is None:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters in one line."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def name_of(row: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
    """A row as a person knows it, by the number of its trial: a revival has a row of its own."""
    first = rows_of(trials, row)[0].number
    if first == row.number:
        return f"trial {first}"
    return f"trial {first} (goes on as row {row.number})"


def render(standing: Standing, *, width: int, ascii_only: bool = False) -> RenderableType:
    """The live view of a study for a terminal `width` columns wide."""
    done = standing.finished
    head = Text.assemble(
        (standing.name, "bold"),
        f"  {done}/{standing.total} finished",
        f", {duration(standing.elapsed_s)} gone, {duration(standing.seconds_left())} left",
    )
    complete, pruned = standing.count(TrialState.COMPLETE), standing.count(TrialState.PRUNED)
    counts = Text(
        f"complete {complete}  pruned {pruned}"
        f"  running {len(standing.running)}  waiting {standing.count(TrialState.WAITING)}"
        f"  failed {standing.count(TrialState.FAIL)}"
        + (f"  revived {revived}" if (revived := len(revivals(standing.trials))) else "")
    )
    bar = ProgressBar(total=standing.total, completed=done, width=min(width - 2, 76))
    wide = width >= 120
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=wide)
    # not every terminal has an ellipsis
    overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
    repeats = any(_label(trial) for trial in standing.trials)
    if repeats:
        table.add_column("configuration", overflow="fold")
    for heading in ("trial", "epoch", "F-score", "best"):
        table.add_column(heading, justify="right", overflow=overflow)
    table.add_column("curve", no_wrap=True, overflow=overflow)
    if wide:
        # what the other columns leave
        table.add_column("parameters", no_wrap=True, overflow=overflow, ratio=1)
    for trial in standing.running:
        rows = rows_of(standing.trials, trial)
        curve = [score for _, score in sorted(curve_of(rows).items())]
        first = rows[0].number
        cells: list[str | Text] = [
            *([Text(_label(trial) or "-")] if repeats else []),
            str(first) if trial.number == first else f"{first} (row {trial.number})",
            f"{len(curve)}/{standing.epochs}",
            f"{curve[-1]:.4f}" if curve else "-",
            f"{max(curve):.4f}" if curve else "-",
            sparkline(curve, 24, ascii_only=ascii_only),
        ]
        table.add_row(*cells, *([params_text(trial.params)] if wide else []))
    best = standing.best
    if repeats:
        answer = _means(standing.trials)
    elif best is None:
        answer = Text("best: none is complete yet", style="dim")
    else:
        answer = Text.assemble(
            ("best ", "bold"),
            (f"{lineage.value(best):.4f}", "bold green"),
            f" trial {best.number}: {params_text(best.params)}",
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
    told = ", ".join(f"{label} {mean:.4f} ({count})" for mean, count, label in means)
    return Text.assemble(("means ", "bold"), told)


def tell(console: Console, text: str, style: str = "") -> None:
    """Print prose, broken between words on a terminal, whole in a file.

    A line with a command stays whole everywhere: it is there to be copied.
    """
    if not console.is_terminal or " -m " in text:
        console.print(Text(text, style=style), soft_wrap=True)
        return
    plain = text.lstrip(" ")
    # what is indented stays so where it is broken
    console.print(Padding(Text(plain, style=style), (0, 0, 0, len(text) - len(plain))))


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

    def say(self, text: str) -> None:
        """One line above the view."""
        tell(self.console, text)

    def update(self, standing: Standing) -> None:
        """Draw the study as it stands, at most twice a second."""
        if self._live is None:
            self.lines.update(standing)
            return
        now = time.monotonic()
        if now - self._drawn_at >= 0.5:
            self._drawn_at = now
            ascii_only = not (self.console.encoding or "").lower().startswith("utf")
            self._live.update(
                render(standing, width=self.console.width, ascii_only=ascii_only), refresh=True
            )


@dataclass
class _Lines:
    """Plain lines: one for each trial that has ended, or goes on again, since the last look."""

    console: Console
    known: set[int] | None = None
    revived: set[int] = field(default_factory=set)

    def update(self, standing: Standing) -> None:
        ended = {trial.number: trial for trial in standing.trials if trial.state.is_finished()}
        revived = {trial.number: trial for trial in revivals(standing.trials)}
        if self.known is None:
            # what earlier runs finished, or revived, is no news
            self.known, self.revived = set(ended), set(revived)
        for number in sorted(set(revived) - self.revived):
            trial = revived[number]
            *earlier, _ = rows_of(standing.trials, trial)
            done = f"{len(curve_of(earlier))}/{standing.epochs}"
            tell(self.console, f"{name_of(trial, standing.trials)} after {done} epochs")
        for number in sorted(set(ended) - self.known):
            trial = ended[number]
            rows = rows_of(standing.trials, trial)
            score = lineage.value(lineage.up_to(standing.trials, trial))
            text = f"{name_of(trial, standing.trials)} {trial.state.name}"
            text += f" {score:.4f}" if score is not None else ""
            text += f" after {len(curve_of(rows))}/{standing.epochs} epochs"
            text += f"  [{standing.finished}/{standing.total}, {duration(standing.elapsed_s)}]"
            best = standing.best
            if label := _label(trial):
                text += f"  {label}"
            elif best is not None and best.number == rows[0].number:
                text += f"  new best: {params_text(best.params)}"
            tell(self.console, text)
        self.known |= set(ended)
        self.revived |= set(revived)
