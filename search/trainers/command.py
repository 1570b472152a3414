"""A command of the user's as a trainer: run per trial, read while it runs, ended with all it began.

No shell is involved. The command runs below a guard (see `guard`) in a session of its own, which
ends with the worker, however that ends.
"""

from __future__ import annotations

import logging
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from search.study.program import Program
from search.study.setup import Setup
from search.trainers import guard
from search.trainers.contract import Machine, Task, Told, Training
from search.trainers.output_log import OutputLog
from search.trainers.placeholders import filled, placeholders_of, words_of
from search.trainers.program_runs import (
    COUNTS_FROM_ZERO,
    LOG_NAME,
    REPORT,
    WORK,
    ProgramTrainer,
    ProgramTraining,
    program_of,
)
from search.trainers.readings import Reading
from search.trainers.score_reading import History, OutputPattern, ReportFile
from trainer.errors import UserError

LOG = logging.getLogger(__name__)
# seconds between two looks at what has been told, between two questions whether to end, and after
# which a program that has told nothing is named
_POLL_S, _ASK_S, _SILENT_S = 0.1, 0.5, 60.0
# seconds for which the first score waits for the program's end
_HOLD_S = 0.25
_AT_END = "at its end"
# a chatty program is not read more often: what it prints meanwhile waits in the pipe
_REST_S, _PIECE = 0.05, 1 << 16


class CommandTrainer(ProgramTrainer):
    """Trains by a command line."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        # what was said already, for once is enough
        self._said: set[str] = set()

    def ready(self, setup: Setup) -> None:
        check_command(program_of(setup))

    def begin(self, task: Task) -> Training:
        return CommandTraining(task, self._machine, self._said)


def check_command(program: Program) -> None:
    """Raise UserError where a command cannot be started, or its folder is not there."""
    word = words_of(program.call)[0]
    if not Path(program.folder).is_dir():
        raise UserError(f"{program.folder}: the folder that --command runs in is not there")
    place = Path(program.folder) / word if "/" in word else word
    if shutil.which(place) is None:
        raise UserError(f"--command: {word}: no such program; give a path, or one on PATH")


def needs_own_folder(program: Program) -> bool:
    """Whether what the command writes is told from other trials' by the folder that it runs in."""
    names = {name for word in words_of(program.call) for name in placeholders_of(word)}
    return bool(_globs(program)) and "out" not in names


def _globs(program: Program) -> list[str]:
    """Those that are looked for where the command runs."""
    given = (program.history, program.resume_file)
    return [name for name in given if name is not None and not os.path.isabs(name)]


Scores = ReportFile | History | OutputPattern


class CommandTraining(ProgramTraining):
    """One run of the command."""

    def __init__(self, task: Task, machine: Machine, said: set[str]) -> None:
        super().__init__(task)
        self._machine = machine
        self._said = said
        self._folder = Path(self.program.folder)
        self._places = [self.files]
        if needs_own_folder(self.program):
            self._folder = own_folder(self._folder, task.out / WORK, self.program)
            self._places.append(self._folder)

    def run(self, told: Told) -> float:
        with (
            self._scores() as scores,
            OutputLog(self.task.out / LOG_NAME) as log,
            running(self._words(), self._folder, self._environment()) as process,
        ):
            try:
                self._follow(process, told, scores, log)
                self._check_end(process, scores, log)
            finally:
                end(process, self.program.stop_grace_s, log)
        return self.best()

    def _say_once(self, what: str, line: str) -> None:
        """Say something once for all trials of this worker."""
        if what not in self._said:
            self._said.add(what)
            LOG.info(f"trial {self.task.number}: {line}", extra={"trial": self.task.number})

    # ------------------------------------------------------------------------------- how it starts

    def _words(self) -> list[str]:
        values: dict[str, str | None] = {
            "config": str(self.config_file.absolute()),
            "out": str(self.files.absolute()),
            "seed": str(self.task.seed),
            "device": self._device(),
            "epochs": str(self.task.epochs),
            "resume": None if self.resume is None else str(self.resume.absolute()),
        }
        return filled(words_of(self.program.call), values)

    def _device(self) -> str:
        return self._machine.device or "auto"

    def _environment(self) -> dict[str, str]:
        made = dict(os.environ)
        made["SEARCH_REPORT"] = str((self.task.out / REPORT).absolute())
        # what it prints is read at once
        made["PYTHONUNBUFFERED"] = "1"
        if self._machine.threads is not None:
            threads = str(self._machine.threads)
            made |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        kind, _, index = self._device().partition(":")
        if kind == "cuda" and index and "{device}" not in self.program.call:
            # it would take the first one, as its neighbours do
            visible = made.get("CUDA_VISIBLE_DEVICES", "").split(",")
            made["CUDA_VISIBLE_DEVICES"] = visible[int(index)] if visible != [""] else index
        return made

    @contextmanager
    def _scores(self) -> Iterator[Scores]:
        """How this program tells its scores; made before it starts."""
        program, after, zero = self.program, self.reached, self.counts_from_zero
        if program.pattern is not None:
            yield OutputPattern(program.pattern, after=after, from_zero=zero)
        elif program.history is not None:
            assert program.score_key is not None
            key, now = program.score_key, time.time()
            with History(
                self._places, program.history, key, now, after=after, from_zero=zero
            ) as history:
                yield history
        else:
            report = self.task.out / REPORT
            report.unlink(missing_ok=True)
            yield ReportFile(report, after=after, from_zero=zero)

    # ------------------------------------------------------------------------------ while it runs

    def _follow(
        self, process: subprocess.Popen[bytes], told: Told, scores: Scores, log: OutputLog
    ) -> None:
        """Read until the program has ended. Raises what `told` raises, and Diverged."""
        assert process.stdout is not None
        begun = heard_s = asked_s = time.monotonic()
        self.begin_clock()
        heard = ended = False
        first = _First(_HOLD_S if _AT_END not in self._said else None)
        while not ended:
            output = piece(process.stdout, _POLL_S)
            # a program may close its output and go on
            ended = output is None and process.poll() is not None
            if output is None and not ended:
                time.sleep(_POLL_S)
            log.add(output or b"")
            readings = _readings(scores, output or b"", ended)
            if readings and scores.readings.from_zero:
                (self.task.out / COUNTS_FROM_ZERO).touch()
            for reading in first.released(readings, ended):
                epoch = self.task.epochs if first.is_last else reading.epoch
                self.tell(told, epoch, reading.score, reading.figures)
            now = time.monotonic()
            heard = heard or bool(readings)
            if output or readings:
                heard_s = now
            self._check_silence(now - heard_s, log)
            if not heard and now - begun > _SILENT_S:
                self._say_once("silent", f"no score after {_SILENT_S:g} s: {scores.why_nothing()}")
            if now - asked_s >= _ASK_S:
                asked_s = now
                told.look()
            if output and len(output) < _PIECE:
                time.sleep(_REST_S)
        if first.alone and self.resume is None and self.task.epochs > 1:
            self._say_once(
                _AT_END,
                "its program tells a score only at its end, so that no trial can be pruned; report"
                " after each epoch to save their time",
            )

    def _check_silence(self, silent_s: float, log: OutputLog) -> None:
        limit = self.program.epoch_timeout_s
        if limit is not None and silent_s > limit:
            raise RuntimeError(
                f"the command printed and told nothing for {limit:g} s (--epoch-timeout), so it was"
                f" ended{_said(log.last_lines())}"
            )

    def _check_end(self, process: subprocess.Popen[bytes], scores: Scores, log: OutputLog) -> None:
        """Raise RuntimeError where the program ended otherwise than it should."""
        code = process.wait()
        if code != 0:
            how = f"exit code {code}"
            if code > 128:
                with suppress(ValueError):
                    how = f"{how}, {signal.Signals(code - 128).name}"
            raise RuntimeError(f"the command ended with {how}{_said(log.last_lines())}")
        if not self.reached:
            raise RuntimeError(f"the command told no score: {scores.why_nothing()}")


class _First:
    """Holds the first reading back: one that comes with the end stands for the whole training.

    hold_s: how long; None: until a second one comes, or the end.
    """

    def __init__(self, hold_s: float | None) -> None:
        self._hold_s = math.inf if hold_s is None else hold_s
        self._held: Reading | None = None
        self._held_s = 0.0
        self._count = 0
        self.is_last = False

    @property
    def alone(self) -> bool:
        """Whether there was no other one."""
        return self._count == 1

    def released(self, readings: Sequence[Reading], ended: bool) -> list[Reading]:
        """What is to be told now of what has come."""
        now = time.monotonic()
        if readings and not self._count:
            self._held, self._held_s, readings = readings[0], now, readings[1:]
            self._count = 1
        self._count += len(readings)
        held = self._held
        if held is None or not (readings or ended or now - self._held_s > self._hold_s):
            return list(readings)
        self._held = None
        self.is_last = ended and self.alone
        return [held, *readings]


def _readings(scores: Scores, output: bytes, ended: bool) -> list[Reading]:
    """What a look tells. output: printed since the last one. ended: the program has."""
    if isinstance(scores, OutputPattern):
        return scores.feed(output) + (scores.end() if ended else [])
    return scores.new(ended=ended)


def _said(lines: Iterable[str]) -> str:
    lines = list(lines)
    return "; its last lines:\n" + "\n".join(lines) if lines else "; it printed nothing"


@contextmanager
def running(
    words: list[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The command below its guard, as a process that does not outlive the block."""
    with subprocess.Popen(
        # alone, so that no package of the user's is imported by it
        [sys.executable, "-I", "-S", guard.__file__, *words],
        cwd=folder,
        env=dict(environment),
        # as long as it is open, the program may run
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    ) as process:
        yield process


def piece(output: IO[bytes], timeout_s: float) -> bytes | None:
    """What has been printed, b"" where nothing came in time, None at the end."""
    ready, _, _ = select.select([output], [], [], timeout_s)
    if not ready:
        return b""
    return os.read(output.fileno(), _PIECE) or None


def end(process: subprocess.Popen[bytes], grace_s: float, log: OutputLog) -> None:
    """End the program and all that came of it: asked first, and after the grace by force.

    What it prints meanwhile goes to the log.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while process.poll() is None and (left_s := until - time.monotonic()) > 0:
            output = piece(process.stdout, min(left_s, _POLL_S))
            log.add(output or b"")
            if output is None:
                time.sleep(min(left_s, _POLL_S))
    # the guard kills the rest
    process.stdin.close()
    process.wait()


def own_folder(project: Path, place: Path, program: Program) -> Path:
    """A folder for one run: everything of the project is linked there, what is new is its own.

    So what a program writes beside itself, `checkpoints/<name>_<time>` say, is told from what its
    neighbours write. A folder that the globs of `program` begin with is its own even where the
    project has one.
    """
    place.mkdir(parents=True, exist_ok=True)
    own = {Path(name).parts[0] for name in _globs(program) if len(Path(name).parts) > 1}
    for entry in project.iterdir():
        link = place / entry.name
        if entry.name in own:
            link.mkdir(exist_ok=True)
        # not the folder that all this is written to
        elif not place.resolve().is_relative_to(entry.resolve()) and not link.is_symlink():
            link.symlink_to(entry.absolute())
    return place
