"""The training loop: epochs, scores, checkpoints, and a report after each epoch.

All randomness derives from `training.seed`: initial weights, and for every epoch the order of the
pictures, their augmentation and the dropout. An epoch needs nothing of the ones before it but the
weights, the average and the optimiser, so that a resumed run is the unbroken one.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trainer import checkpoint
from trainer.augment import drawn
from trainer.background_writer import HostCopies, Writer
from trainer.config import Config, to_dict
from trainer.cuda_graph import CapturedSteps, steps_for
from trainer.data.dataset import FaceData
from trainer.ema import decay_for
from trainer.errors import CheckpointError, Diverged
from trainer.fast_convolutions import use_fast_convolutions
from trainer.files import atomic_write_text
from trainer.history import F_SCORE, TRAIN_F_SCORE, Row, best_epoch, f_scores
from trainer.model import model_of, parameter_count
from trainer.pixels import Pixels
from trainer.presets import steps_per_epoch
from trainer.run_ahead import RunAhead
from trainer.runtime import applied
from trainer.schedules import Schedules
from trainer.scoring import Measured, measure
from trainer.step import EagerSteps, Epoch, Lap, Stepper


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an epoch; its checkpoint is on disk by then.

    epoch, epochs: done, and the budget. step: optimiser steps done. f_score: of this epoch on the
    validation part. best_f_score, best_epoch: so far. row: the epoch's line of history.json.
    """

    epoch: int
    epochs: int
    step: int
    f_score: float
    best_f_score: float
    best_epoch: int
    row: Row


@dataclass(frozen=True)
class FitResult:
    """A finished training; best_f_score and best_epoch are None where nothing was scored."""

    history: list[Row]
    best_f_score: float | None
    best_epoch: int | None
    best_checkpoint: Path
    parameters: int


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed for one purpose, independent of those for other purposes.

    >>> derived_seed(0, "init") != derived_seed(0, "dropout", 1)
    True
    """
    words = [seed & 0xFFFFFFFF, seed >> 32]
    for part in purpose:
        words += [part] if isinstance(part, int) else list(part.encode())
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def patience_epochs(config: Config) -> float | None:
    """Epochs without a better score after which training stops; None: never.

    "auto" is the longer of T_0 and a third of the budget: the best of the hand-made runs was the
    slowest to get there.
    """
    patience = config.training.early_stopping_patience
    if patience == "auto":
        return max(config.t_0_epochs, config.training.epochs / 3)
    return patience


class _Training:
    """One training while it runs: model, average, optimiser, and the history so far."""

    def __init__(
        self,
        config: Config,
        data: FaceData,
        device: torch.device,
        all_data: bool,
        lap: Lap,
        ahead: RunAhead,
    ) -> None:
        self.config, self.device, self.lap, self.ahead = config, device, lap, ahead
        self.train_part = data.part("all" if all_data else "train")
        self.val_part = None if all_data else data.val
        torch.manual_seed(derived_seed(config.training.seed, "init"))
        model = self._fresh_model()
        self.scored_model = self._fresh_model().eval()
        self.scored_model.requires_grad_(False)
        self.batch_size = min(config.data.batch_size, len(self.train_part))
        self.steps = steps_per_epoch(len(self.train_part), config.data.batch_size)
        self.schedules = Schedules(config, self.steps)
        self.pixels = Pixels(self.train_part, device)
        self.val_pixels = None if self.val_part is None else Pixels(self.val_part, device)
        self.stepper = Stepper(
            config,
            model,
            self.pixels,
            device,
            ema_decay=decay_for(config.training.ema, self.steps),
            lap=lap,
        )
        self.copies = HostCopies(device)
        self._steps: EagerSteps | CapturedSteps | None = None
        self.step = 0
        self.history: list[Row] = []

    def _fresh_model(self) -> nn.Module:
        model = model_of(self.config)
        on_cpu = self.device.type == "cpu"
        if self.config.runtime.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if on_cpu:
                use_fast_convolutions(model)
        return model.to(self.device)

    # ------------------------------------------------------------------------------- one epoch

    def run_epoch(self, epoch: int) -> Row:
        """Train and score epoch `epoch`, counted from 1; returns its row.

        Raises Diverged, and what is raised meanwhile.
        """
        started = time.perf_counter()
        given = self._given(epoch)
        self.pixels.begin_epoch(given.order)
        torch.manual_seed(derived_seed(self.config.training.seed, "dropout", epoch))
        self.stepper.model.train()
        if self._steps is None:
            self._steps = steps_for(self.stepper, given)
        self._steps.begin(given)
        for number in range(self.steps):
            self.pixels.fetch(number)
            self._steps()
            self.ahead.queued()
        self.ahead.wait()
        self.step += self.steps
        lr = self.schedules.lr(self.step - 1)
        dice_weight = self.schedules.dice_weight(self.step - 1)
        loss, ce, dice = (self._steps.sums / self.steps).tolist()
        _check_finite(loss, epoch, lr)
        scored = self._score()
        self.lap("scoring")
        # weights that the last step broke show in no training loss
        _check_finite(scored.get("val_ce", 0.0), epoch, lr)
        row: Row = {
            "epoch": epoch,
            "step": self.step,
            "lr": lr,
            "dice_weight": dice_weight,
            "train_loss": loss,
            "train_ce": ce,
            "train_dice": dice,
            **scored,
        }
        row["seconds"] = round(time.perf_counter() - started, 3)
        return row

    def _given(self, epoch: int) -> Epoch:
        """What the steps of an epoch are given; counts them."""
        seed, size = self.config.training.seed, self.batch_size
        order = torch.randperm(
            len(self.train_part), generator=_generator(derived_seed(seed, "order", epoch))
        )
        generator = _generator(derived_seed(seed, "augment", epoch))
        numbers = []
        for step in range(self.step, self.step + self.steps):
            lr, dice_weight = self.schedules.lr(step), self.schedules.dice_weight(step)
            numbers.append(self.stepper.numbers(lr, dice_weight))
        return Epoch(
            order=order[: self.steps * size].view(self.steps, size),
            draws=[drawn(size, generator) for _ in range(self.steps)],
            numbers=numbers,
        )

    def _score(self) -> Row:
        """The scored columns: averaged weights, eval mode, no augmentation, on both parts alike."""
        if self.val_pixels is None:
            return {}
        self.scored_model.load_state_dict(self.stepper.average.state)
        count = len(self.val_pixels.part)
        val = self._measure(self.val_pixels, count)
        # a fixed subset as large as val: else the gap between the two means nothing
        train = self._measure(self.pixels, min(count, len(self.train_part)))
        return {
            "val_ce": val.ce,
            "val_dice": val.dice,
            TRAIN_F_SCORE: train.scores.f_score,
            F_SCORE: val.scores.f_score,
            "val_f_per_class": val.scores.f_per_class,
            "f_large": val.scores.f_large,
            "f_small": val.scores.f_small,
        }

    def _measure(self, pixels: Pixels, count: int) -> Measured:
        return measure(self.scored_model, pixels, count, self.config, queued=self.ahead.queued)

    # ----------------------------------------------------------------------------- checkpoints

    def progress(self) -> Progress | None:
        """Where training stands after the latest epoch; None where nothing is scored."""
        scores = f_scores(self.history)
        best = best_epoch(scores)
        if best is None:
            return None
        row = self.history[-1]
        return Progress(
            epoch=row["epoch"],
            epochs=self.config.training.epochs,
            step=row["step"],
            f_score=scores[row["epoch"]],
            best_f_score=scores[best],
            best_epoch=best,
            row=row,
        )

    def snapshot(self, out: Path) -> Callable[[], None]:
        """What writes best.pt where this epoch is the best, then last.pt and history.json.

        It may be called on another thread while training goes on: it holds copies. What the one
        before it writes must be written by now.
        """
        average, flat, optimizer = self.stepper.average, self.stepper.flat, self.stepper.optimizer
        average_weights, average_buffers, weights, buffers, counts, mean, square = self.copies.of(
            [
                *(average.weights, average.buffers),
                *(flat.weights, flat.buffers, flat.counts),
                *(optimizer.mean, optimizer.square),
            ]
        )
        history = list(self.history)
        epoch = history[-1]["epoch"]
        content = {
            "state_dict": flat.state(average_weights, average_buffers, counts),
            "config": to_dict(self.config),
            "epoch": epoch,
            "step": self.step,
            "history": history,
        }
        is_best = best_epoch(f_scores(history)) in (None, epoch)
        whole = content | {
            "raw": flat.state(weights, buffers, counts),
            "adamw": {
                "steps": optimizer.steps,
                "mean": flat.named(mean),
                "square": flat.named(square),
            },
            "ema_updates": average.updates,
        }

        # not all of the training: the thread lets go of what it was given a moment later
        copies = self.copies

        def write() -> None:
            copies.wait()
            # best first: a crash in between repeats this epoch, and then writes the same best again
            if is_best:
                checkpoint.write(out / "best.pt", content)
            checkpoint.write(out / "last.pt", whole)
            atomic_write_text(out / "history.json", json.dumps(history, indent=1))

        return write

    def restore(self, path: Path) -> None:
        """Go on from a last.pt. Raises CheckpointError if it is not of this training."""
        content = checkpoint.read_last(path, self.config, scored=self.val_part is not None)
        stepper = self.stepper
        checkpoint.load_weights(stepper.model, content["raw"], path)
        stepper.average.restore(content["state_dict"], content["ema_updates"])
        kept = content["adamw"]
        stepper.optimizer.steps = kept["steps"]
        for name in ("mean", "square"):
            moments = stepper.flat.named(getattr(stepper.optimizer, name))
            for key, value in moments.items():
                value.copy_(kept[name][key])
        self.step = content["step"]
        self.history = content["history"]


def _check_finite(loss: float, epoch: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} in epoch {epoch} (learning rate {lr:.2g})")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(
    config: Config,
    data: FaceData,
    *,
    out: Path,
    report: Callable[[Progress], None] | None = None,
    resume_from: Path | None = None,
    all_data: bool = False,
    last_epoch: int | None = None,
    lap: Lap | None = None,
) -> FitResult:
    """Train a network and keep its best epoch.

    config: with a decided runtime (`trainer.runtime.choose_runtime`). out: folder of best.pt,
    last.pt and history.json, renewed after every epoch. report: called after each epoch once its
    checkpoint is on disk, by when the next epoch may have begun: it must leave torch's random
    state alone, and raising ends the training, within a few steps on a GPU too.
    resume_from: a last.pt, also of another folder. all_data: train on all parts, score nothing,
    keep the last epoch. last_epoch: end there, with the schedules of the whole budget. lap: called
    at the end of each phase with its name: data, forward, backward, optimiser, scoring, checkpoint.
    Raises Diverged if the loss is no longer a number, CheckpointError, DataError, OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    lap = lap or (lambda phase: None)
    with applied(config.runtime) as device, Writer() as writer:
        ahead = RunAhead(device, meanwhile=writer.poll)
        training = _Training(config, data, device, all_data, lap, ahead)
        if resume_from is not None:
            training.restore(resume_from)
            _bring_best(resume_from, out, training)
        patience = patience_epochs(config)
        last = min(last_epoch or config.training.epochs, config.training.epochs)
        for epoch in range(len(training.history) + 1, last + 1):
            best = best_epoch(f_scores(training.history))
            if patience is not None and best is not None and epoch - best > patience:
                break
            try:
                row = training.run_epoch(epoch)
            except Exception:
                # the epoch before is reported in any case
                writer.wait()
                raise
            writer.wait()
            training.history.append(row)
            reported = functools.partial(_report, report, training.progress())
            writer.start(training.snapshot(out), then=reported)
            lap("checkpoint")
        writer.wait()
        scores = f_scores(training.history)
        best = best_epoch(scores)
        result = FitResult(
            history=training.history,
            best_f_score=None if best is None else scores[best],
            best_epoch=best,
            best_checkpoint=out / "best.pt",
            parameters=parameter_count(training.stepper.model),
        )
        # as long as its device is the current one: CUDA would begin a context on another, which
        # takes half a gigabyte, to destroy a graph
        del training
        return result


def _report(report: Callable[[Progress], None] | None, progress: Progress | None) -> None:
    if report is not None and progress is not None:
        report(progress)


def _bring_best(resume_from: Path, out: Path, training: _Training) -> None:
    """The best epoch so far, from the folder where training stopped into this one."""
    earlier = resume_from.parent / "best.pt"
    if earlier.resolve() != (out / "best.pt").resolve():
        if not earlier.exists():
            raise CheckpointError(f"checkpoint {earlier} is missing beside {resume_from}")
        shutil.copyfile(earlier, out / "best.pt")
        shutil.copyfile(resume_from, out / "last.pt")
        atomic_write_text(out / "history.json", json.dumps(training.history, indent=1))
