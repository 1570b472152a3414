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
from torch import Tensor, nn

from trainer import checkpoint
from trainer.augment import Draws, drawn
from trainer.background_writer import Writer
from trainer.config import Config, base_identity, to_dict
from trainer.config.keys import dig, leaf_paths
from trainer.cuda_graph import CapturedStep, can_be_captured
from trainer.data.dataset import FaceData
from trainer.ema import decay_for
from trainer.errors import CheckpointError, Diverged
from trainer.fast_convolutions import use_fast_convolutions
from trainer.files import atomic_write_text
from trainer.history import F_SCORE, TRAIN_F_SCORE, Row, best_epoch, f_scores
from trainer.model import model_of, parameter_count
from trainer.pixels import Pixels
from trainer.presets import steps_per_epoch
from trainer.runtime import applied
from trainer.schedules import Schedules
from trainer.scoring import measure
from trainer.step import Lap, Numbers, Stepper


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
        self, config: Config, data: FaceData, device: torch.device, all_data: bool, lap: Lap
    ) -> None:
        self.config, self.device, self.lap = config, device, lap
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
        self._step: Stepper | CapturedStep | None = None
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

    def run_epoch(self, epoch: int, between_steps: Callable[[], None]) -> Row:
        """Train and score epoch `epoch`, counted from 1; returns its row. Raises Diverged."""
        started = time.perf_counter()
        seed = self.config.training.seed
        order = torch.randperm(
            len(self.train_part), generator=_generator(derived_seed(seed, "order", epoch))
        )
        order = order[: self.steps * self.batch_size].view(self.steps, self.batch_size)
        self.pixels.begin_epoch(order)
        order = order.to(self.device)
        draws = self._draws(_generator(derived_seed(seed, "augment", epoch)))
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        # kept on the device: reading a loss back would wait for it at every step
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.stepper.model.train()
        for batch in range(self.steps):
            lr = self.schedules.lr(self.step)
            dice_weight = self.schedules.dice_weight(self.step)
            self.pixels.fetch(batch)
            sums += self._optimise(
                order[batch], draws[batch], self.stepper.numbers(lr, dice_weight)
            )
            self.step += 1
            between_steps()
        loss, ce, dice = (sums / self.steps).tolist()
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

    def _draws(self, generator: torch.Generator) -> list[Draws]:
        """An epoch's random numbers, sent to the device at once."""
        draws = [drawn(self.batch_size, generator) for _ in range(self.steps)]
        tables = torch.stack([one.table for one in draws]).to(self.device)
        return [one._replace(table=table) for one, table in zip(draws, tables, strict=True)]

    def _optimise(self, chosen: Tensor, draws: Draws, numbers: Numbers) -> Tensor:
        if self._step is None:
            self._step = self.stepper
            if self.device.type == "cuda" and can_be_captured(self.config):
                self._step = CapturedStep.of(self.stepper, chosen, draws) or self.stepper
        return self._step(chosen, draws, numbers)

    def _score(self) -> Row:
        """The scored columns: averaged weights, eval mode, no augmentation, on both parts alike."""
        if self.val_pixels is None:
            return {}
        self.scored_model.load_state_dict(self.stepper.average.state)
        count = len(self.val_pixels.part)
        val = measure(self.scored_model, self.val_pixels, count, self.config)
        # a fixed subset as large as val: else the gap between the two means nothing
        count = min(count, len(self.train_part))
        train = measure(self.scored_model, self.pixels, count, self.config)
        return {
            "val_ce": val.ce,
            "val_dice": val.dice,
            TRAIN_F_SCORE: train.scores.f_score,
            F_SCORE: val.scores.f_score,
            "val_f_per_class": val.scores.f_per_class,
            "f_large": val.scores.f_large,
            "f_small": val.scores.f_small,
        }

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

        It may be called on another thread while training goes on: it holds copies.
        """
        average, flat = self.stepper.average, self.stepper.flat
        optimizer = self.stepper.optimizer
        history = list(self.history)
        epoch = history[-1]["epoch"]
        content = {
            "state_dict": flat.state(average.weights.clone(), average.buffers.clone()),
            "config": to_dict(self.config),
            "epoch": epoch,
            "step": self.step,
            "history": history,
        }
        is_best = best_epoch(f_scores(history)) in (None, epoch)
        whole = content | {
            "raw": flat.state(flat.weights.detach().clone(), flat.buffers.clone()),
            "adamw": {
                "steps": optimizer.steps,
                "mean": flat.named(optimizer.mean.clone()),
                "square": flat.named(optimizer.square.clone()),
            },
            "ema_updates": average.updates,
        }

        def write() -> None:
            # best first: a crash in between repeats this epoch, and then writes the same best again
            if is_best:
                checkpoint.write(out / "best.pt", content)
            checkpoint.write(out / "last.pt", whole)
            atomic_write_text(out / "history.json", json.dumps(history, indent=1))

        return write

    def restore(self, path: Path) -> None:
        """Go on from a last.pt. Raises CheckpointError if it is not of this training."""
        content = checkpoint.read(path)
        if "adamw" not in content:
            raise CheckpointError(f"checkpoint {path} holds weights only; resume from a last.pt")
        _check_same(checkpoint.config_of(content, path), self.config, path)
        # no key of the config says on which parts it was trained
        if all(F_SCORE in row for row in content["history"]) != (self.val_part is not None):
            was, fix = (
                ("the train part alone", "leave --all-data out")
                if self.val_part is None
                else ("all data", "give --all-data")
            )
            raise CheckpointError(f"checkpoint {path} was trained on {was}; {fix}")
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


def _check_same(saved: Config, wanted: Config, path: Path) -> None:
    # where the data lie may change; what they are is the study's concern
    without = ("data.root", "training.early_stopping_patience")
    old, new = (base_identity(config, without) for config in (saved, wanted))
    for key in leaf_paths():
        before, value = dig(old, key), dig(new, key)
        if before != value:
            raise CheckpointError(
                f"checkpoint {path} was trained with {'.'.join(key)} {before!r}, not {value!r};"
                " give the same config, or another --out to start anew"
            )


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
    state alone, and raising ends the training.
    resume_from: a last.pt, also of another folder. all_data: train on all parts, score nothing,
    keep the last epoch. last_epoch: end there, with the schedules of the whole budget. lap: called
    at the end of each phase with its name: data, forward, backward, optimiser, scoring, checkpoint.
    Raises Diverged if the loss is no longer a number, CheckpointError, DataError, OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    lap = lap or (lambda phase: None)
    with applied(config.runtime) as device, Writer() as writer:
        training = _Training(config, data, device, all_data, lap)
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
                row = training.run_epoch(epoch, writer.poll)
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
        return FitResult(
            history=training.history,
            best_f_score=None if best is None else scores[best],
            best_epoch=best,
            best_checkpoint=out / "best.pt",
            parameters=parameter_count(training.stepper.model),
        )


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
