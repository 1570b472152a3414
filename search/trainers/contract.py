"""What a search asks of a training program, and what that tells: the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from search.study.setup import Setup
from trainer.history import Row


@dataclass(frozen=True)
class Machine:
    """Where a worker computes; None: as the study says. data_root: where its data lie here."""

    device: str | None = None
    threads: int | None = None
    data_root: str | None = None


@dataclass(frozen=True)
class Task:
    """What a training is given.

    number: of the trial. config: plain data. epochs: the budget. out: a folder of this claim's own.
    folders: of the trial and of those that it continues, the oldest first; the folder of each claim
    lies below. known: the trial's attributes so far. remember: keeps one more of them.
    """

    setup: Setup
    number: int
    config: Mapping[str, Any]
    seed: int
    epochs: int
    out: Path
    folders: Sequence[Path]
    known: Mapping[str, Any]
    remember: Callable[[str, Any], None]


class Told(Protocol):
    """Where a training tells how it gets on; either call ends the training by raising."""

    def report(self, epoch: int, score: float) -> None:
        """Tell an epoch's score; epochs count from 1. What they leave is on disk by now."""

    def look(self) -> None:
        """Raise where somebody wants an end; for the time between two reports."""


@dataclass(frozen=True)
class Left:
    """What a training leaves: a row an epoch, attributes of its trial, files for the dashboard."""

    history: Sequence[Row] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()


class Training(Protocol):
    """One training of a trial, begun by one claim."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What it trains with, as plain data."""

    def take_over(self) -> list[Row]:
        """Bring what earlier claims left; rows of the epochs after which it goes on, [] anew."""

    def run(self, told: Told) -> float:
        """Train to the end; the best score.

        Raises what `told` raises, Diverged where the score or the loss is no number, and whatever
        else went wrong.
        """

    def leave(self, complete: bool) -> Left:
        """Figures and files of what was trained. complete: it has come to its end."""


class Trainer(Protocol):
    """A kind of training program, as one worker uses it for trial after trial."""

    def ready(self, setup: Setup) -> None:
        """See that it can train, before a trial is begun: raises UserError where it cannot."""

    def begin(self, task: Task) -> Training:
        """Decide how to train in `task.out`, where nothing of a deleted study is left."""

    def text(self, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
        """The content of `config.yaml` in a trial's folder, `record` as its section `search`."""

    def kept(
        self, setup: Setup, config: Mapping[str, Any], folders: Sequence[Path]
    ) -> Sequence[Path]:
        """Files that a trial of this config would go on from, [] anew; folders as in `Task`."""
