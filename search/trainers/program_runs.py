"""What a training by a command and one by a function have in common: folder, history, resumption.

Below a claim's folder: `program.yaml` (.json, .toml), its config; `files`, which is its own to
write to; `history.json`, what it told; of a command also `output.log` and `report.jsonl`, and
`work` where it needs a place of its own to run in.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from search.study.program import Program
from search.study.run_folders import read_history, token_folders_of, written_by
from search.study.setup import Setup
from search.trainers.config_files import Format, written
from search.trainers.contract import Left, Task, Told
from trainer.errors import Diverged
from trainer.files import atomic_write_text
from trainer.history import F_SCORE, Row, f_scores
from trainer.notation import dump_yaml

FILES, WORK, LOG_NAME, REPORT = "files", "work", "output.log", "report.jsonl"
# stands where a program was seen to count its epochs from 0: a run that goes on does not show it
COUNTS_FROM_ZERO = "counts_from_zero"


class ProgramTrainer:
    """The parts of a `Trainer` that a command and a function share."""

    def text(self, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
        return dump_yaml({"program": dict(config), "search": dict(record)})

    def kept(
        self, setup: Setup, config: Mapping[str, Any], folders: Sequence[Path]
    ) -> Sequence[Path]:
        found = newest_resume_file(program_of(setup), setup.uid, folders)
        return [] if found is None else [found]


class ProgramTraining:
    """One training by a program: what it tells is kept in `history.json` and passed on."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.program = program_of(task.setup)
        if task.out.exists() and written_by(task.out) != task.setup.uid:
            # left by a deleted study of the same name
            shutil.rmtree(task.out)
        self.files = task.out / FILES
        self.files.mkdir(parents=True, exist_ok=True)
        self.config_file = task.out / f"program.{self.program.format}"
        form = cast(Format, self.program.format)
        atomic_write_text(self.config_file, written(dict(task.config), form))
        self.resume: Path | None = None
        self.counts_from_zero = False
        self._rows: dict[int, Row] = {}
        self._heard_s = time.monotonic()

    @property
    def config(self) -> Mapping[str, Any]:
        return self.task.config

    def take_over(self) -> list[Row]:
        task = self.task
        self.resume = newest_resume_file(self.program, task.setup.uid, task.folders)
        if self.resume is None:
            return []
        for folder in claims_of(task.setup.uid, task.folders):
            self._rows |= {row["epoch"]: row for row in read_history(folder)}
            self.counts_from_zero |= (folder / COUNTS_FROM_ZERO).exists()
        self._keep()
        return self._history()

    @property
    def reached(self) -> int:
        """The latest epoch that is known."""
        return max(self._rows, default=0)

    def begin_clock(self) -> None:
        """From now on the first epoch is timed."""
        self._heard_s = time.monotonic()

    def tell(
        self, told: Told, epoch: int, score: float, figures: Mapping[str, float] | None = None
    ) -> None:
        """Keep an epoch and pass it on. Raises what `told` raises, and Diverged."""
        if not math.isfinite(score):
            raise Diverged(f"the {self.program.metric} is {score} in epoch {epoch}")
        now = time.monotonic()
        own = {} if self.program.metric == F_SCORE else {self.program.metric: score}
        self._rows[epoch] = {
            "epoch": epoch,
            F_SCORE: self.program.sign * score,
            **{name: number for name, number in (figures or {}).items() if name != F_SCORE},
            **own,
            "seconds": round(now - self._heard_s, 3),
        }
        self._heard_s = now
        # what is reported can be found again by whoever rebuilds the study
        self._keep()
        told.report(epoch, self.program.sign * score)

    def best(self) -> float:
        """The best score. Raises RuntimeError where the program told none."""
        scores = f_scores(self._rows.values())
        if not scores:
            raise RuntimeError("the program has ended and told no score")
        return max(scores.values())

    def leave(self, complete: bool) -> Left:
        return Left(self._history(), {}, [self.config_file, self.task.out / LOG_NAME])

    def _history(self) -> list[Row]:
        return [self._rows[epoch] for epoch in sorted(self._rows)]

    def _keep(self) -> None:
        atomic_write_text(self.task.out / "history.json", json.dumps(self._history(), indent=1))


def program_of(setup: Setup) -> Program:
    """The program of a study that has one."""
    assert setup.program is not None, "our own trainer is none"
    return setup.program


def claims_of(uid: str, folders: Sequence[Path]) -> Iterator[Path]:
    """Folders of the claims of a trial and of those that it continues, the oldest first."""
    tokens = (token for folder in folders for token in token_folders_of(folder))
    yield from (token for token in tokens if written_by(token) == uid)


def newest_resume_file(program: Program, uid: str, folders: Sequence[Path]) -> Path | None:
    """The newest match of the program's resume_file in what its claims have left."""
    if program.resume_file is None:
        return None
    found = [
        path
        for claim in claims_of(uid, folders)
        for place in (FILES, WORK)
        for path in (claim / place).glob(program.resume_file)
        if path.is_file()
    ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
