"""A function of the user's as a trainer: called in the worker, once per trial.

    def train(config, *, report, out, seed, resume_from): ...

It gets those of these arguments that it takes. `report(epoch=3, score=0.71, **figures)` returns, or
raises `optuna.TrialPruned` where the trial is hopeless.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

from search.study.setup import Setup
from search.trainers.contract import Machine, Task, Told, Training
from search.trainers.program_runs import ProgramTrainer, ProgramTraining, program_of
from trainer.errors import UserError

ARGUMENTS = ("report", "out", "seed", "resume_from", "device", "epochs")


class FunctionTrainer(ProgramTrainer):
    """Trains by a function."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def ready(self, setup: Setup) -> None:
        program = program_of(setup)
        function_of(program.call, program.folder)

    def begin(self, task: Task) -> Training:
        program = program_of(task.setup)
        return FunctionTraining(task, function_of(program.call, program.folder), self._machine)


def function_of(name: str, folder: str) -> Callable[..., Any]:
    """The function `package.module:function`, looked for in a folder first. Raises UserError."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"--trainer {name}: write package.module:function, as in fits:train")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(f"--trainer {name}: {error}; is it in {folder}, or installed?") from None
    except SyntaxError as error:
        at = f"{error.filename}, line {error.lineno}"
        raise UserError(f"--trainer {name}: {at}: {error.msg}; fix it") from None
    except (Exception, SystemExit) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"--trainer {name}: {module} ends as it is imported, with {why}; fix it, or put what"
            ' runs there under if __name__ == "__main__":'
        ) from error
    if not callable(found):
        raise UserError(f"--trainer {name}: {module} has no function {attribute}")
    return found


def taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered arguments that a function takes."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}


class FunctionTraining(ProgramTraining):
    """One call of the function."""

    def __init__(self, task: Task, function: Callable[..., Any], machine: Machine) -> None:
        super().__init__(task)
        self._function = function
        self._machine = machine

    def run(self, told: Told) -> float:
        stop: BaseException | None = None

        def report(epoch: int, score: SupportsFloat, **figures: SupportsFloat) -> None:
            nonlocal stop
            if stop is not None:
                raise stop
            numbers = {name: float(value) for name, value in figures.items()}
            try:
                self.tell(told, int(epoch), float(score), numbers)
            except BaseException as error:
                stop = error
                raise

        offered = {
            "report": report,
            "out": self.files,
            "seed": self.task.seed,
            "resume_from": self.resume,
            "device": self._machine.device or "auto",
            "epochs": self.task.epochs,
        }
        self.begin_clock()
        try:
            score = self._function(dict(self.task.config), **taken(self._function, offered))
        except SystemExit as error:
            raise RuntimeError(f"the function called sys.exit({error.code})") from error
        if stop is not None:
            # one that caught it and went on
            raise stop
        if not self.reached and isinstance(score, SupportsFloat):
            self.tell(told, self.task.epochs, float(score))
        return self.best()
