"""Learning rate and Dice weight of each step, as a config says."""

from __future__ import annotations

from trainer.config import Config
from trainer.dice_schedule import dice_weight_at
from trainer.lr_schedule import cycle_ends, lr_at


class Schedules:
    """Of a training with `steps` optimiser steps an epoch; steps are counted from 0.

    cycle_ends: steps after which the learning rate has finished a cycle.
    """

    def __init__(self, config: Config, steps: int) -> None:
        self._training, self._loss = config.training, config.loss
        self._warmup_steps = round(config.training.warmup_epochs * steps)
        self.total_steps = config.training.epochs * steps
        self.cycle_ends = cycle_ends(
            self.total_steps,
            t_0_steps=config.t_0_epochs * steps,
            t_mult=config.training.scheduler_params.T_mult,
        )

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        return lr_at(
            step,
            ends=self.cycle_ends,
            peak=self._training.learning_rate,
            eta_min=self._training.scheduler_params.eta_min,
            warmup_steps=self._warmup_steps,
            schedule=self._training.scheduler,
        )

    def dice_weight(self, step: int) -> float:
        """Dice weight of a step."""
        return dice_weight_at(
            step / self.total_steps,
            level=self._loss.dice_weight,
            ramp=self._loss.dice_ramp,
            schedule=self._loss.dice_schedule,
        )
