"""Which trainer trains a study."""

from __future__ import annotations

from search.study.setup import Setup
from search.trainers.command import CommandTrainer
from search.trainers.contract import Machine, Trainer
from search.trainers.faces import FacesTrainer
from search.trainers.function import FunctionTrainer


def trainer_of(setup: Setup, machine: Machine | None = None) -> Trainer:
    """The trainer of a study, for one worker. machine: None: nothing is trained."""
    machine = machine or Machine()
    if setup.program is None:
        return FacesTrainer(machine)
    if setup.program.kind == "command":
        return CommandTrainer(machine)
    return FunctionTrainer(machine)
