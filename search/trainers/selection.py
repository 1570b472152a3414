"""Which trainer trains a study."""

from __future__ import annotations

from search.study.setup import Setup
from search.trainers.contract import Machine, Trainer
from search.trainers.faces import FacesTrainer


def trainer_of(setup: Setup, machine: Machine | None = None) -> Trainer:
    """The trainer of a study, for one worker. machine: None: nothing is trained."""
    return FacesTrainer(machine or Machine())
