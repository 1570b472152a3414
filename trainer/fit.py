"""The training loop: epochs, scores, checkpoints; and a word after each epoch to whoever asks.

All randomness derives from `training.seed`: initial weights, and for every epoch the order of the
pictures, their augmentation and the dropout. An epoch needs nothing of the ones before it but the
weights, the average and the optimiser, so that a resumed run is the unbroken one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import checkpoint
from trainer.augment import augment
from trainer.config import Config, base_identity, to_dict
from trainer.data.dataset import FaceData, Part
from trainer.dice_schedule import dice_weight_at
from trainer.ema import WeightAverage, decay_for
from trainer.errors import CheckpointError, Diverged
from trainer.files import atomic_write_text
from trainer.losses import training_loss
from trainer.lr import cycle_ends, lr_at
from trainer.model import model_of, parameter_count
from trainer.presets import steps_per_epoch
from trainer.runtime import applied
from trainer.scoring import Measured, measure

Row = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an epoch; its checkpoint is on disk by then.

    epoch, epochs: done, and the budget. step: optimiser steps done. f_score: of this epoch on the
    validation part. row: the epoch's line of history.json.
    """

    epoch: int
    epochs: int
    step: int
    f_score: float
    best_f: float
    best_epoch: int
    row: Row


@dataclass(frozen=True)
class FitResult:
    """A finished training. best_f and best_epoch are None where nothing was scored (all data)."""

    history: list[Row]
    best_f: float | None
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


def schedule_ends(config: Config, steps: int) -> list[int]:
    """Last steps of the learning rate's cycles for `steps` optimiser steps an epoch."""
    return cycle_ends(
        config.training.epochs * steps,
        t_0_steps=config.t_0_epochs * steps,
        t_mult=config.training.scheduler_params.T_mult,
    )


class _Pixels:
    """A part's pictures and masks where training runs: mapped from disk, or resident on a GPU."""

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part, self.device = part, device
        self.resident: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda":
            self.resident = (
                torch.from_numpy(np.array(part.images)).to(device),
                torch.from_numpy(np.array(part.masks)).to(device),
            )

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, S, S, 3] and uint8 [B, S, S] of int64 [B]."""
        if self.resident is not None:
            where = indices.to(self.device)
            return self.resident[0][where], self.resident[1][where]
        rows = indices.numpy()
        return torch.from_numpy(self.part.images[rows]), torch.from_numpy(self.part.masks[rows])


class _Training:
    """One training while it runs: model, average, optimiser, and the history so far."""

    def __init__(self, config: Config, data: FaceData, device: torch.device, all_data: bool):
        self.config, self.device = config, device
        self.train_part = data.part("all" if all_data else "train")
        self.val_part = None if all_data else data.val
        self.memory_format = (
            torch.channels_last if config.runtime.channels_last else torch.contiguous_format
        )
        torch.manual_seed(derived_seed(config.training.seed, "init"))
        self.model = self._fresh_model()
        self.scored_model = self._fresh_model().eval()
        self.scored_model.requires_grad_(False)
        self.batch_size = min(config.data.batch_size, len(self.train_part))
        self.steps = steps_per_epoch(len(self.train_part), config.data.batch_size)
        self.total_steps = config.training.epochs * self.steps
        self.ends = schedule_ends(config, self.steps)
        self.warmup_steps = round(config.training.warmup_epochs * self.steps)
        self.average = WeightAverage(self.model, decay_for(config.training.ema, self.steps))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
            fused=True,
        )
        self.pixels = _Pixels(self.train_part, device)
        self.train_fast: nn.Module = self.model
        if config.runtime.compile:
            self.train_fast = torch.compile(self.model)  # type: ignore[assignment]
        self.step = 0
        self.history: list[Row] = []

    def _fresh_model(self) -> nn.Module:
        return model_of(self.config).to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    # ------------------------------------------------------------------------------- one epoch

    def run_epoch(self, epoch: int) -> Row:
        """Train and score epoch `epoch`, counted from 1; returns its row. Raises Diverged."""
        started = time.perf_counter()
        seed = self.config.training.seed
        order = torch.randperm(
            len(self.train_part), generator=_generator(derived_seed(seed, "order", epoch))
        )
        augmenting = _generator(derived_seed(seed, "augment", epoch))
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        # kept on the device: reading a loss back would wait for it at every step
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        lr = dice_weight = 0.0
        self.train_fast.train()
        for batch in range(self.steps):
            lr, dice_weight = self._scheduled()
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            sums += self._optimise(chosen, augmenting, lr, dice_weight)
            self.step += 1
        loss, ce, dice = (sums / self.steps).tolist()
        _check_finite(loss, epoch, lr)
        scored = self._score()
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

    def _scheduled(self) -> tuple[float, float]:
        """Learning rate and Dice weight of the coming step."""
        training, loss = self.config.training, self.config.loss
        lr = lr_at(
            self.step,
            ends=self.ends,
            peak=training.learning_rate,
            eta_min=training.scheduler_params.eta_min,
            warmup_steps=self.warmup_steps,
        )
        dice_weight = dice_weight_at(
            self.step / self.total_steps,
            level=loss.dice_weight,
            ramp=loss.dice_ramp,
            schedule=loss.dice_schedule,
        )
        return lr, dice_weight

    def _optimise(
        self, chosen: Tensor, augmenting: torch.Generator, lr: float, dice_weight: float
    ) -> Tensor:
        """One optimiser step; returns float64 [3]: loss, CE and Dice, means over the batch."""
        config = self.config
        images, masks = augment(*self.pixels.batch(chosen), config.augmentation, augmenting)
        if config.runtime.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        measured = torch.zeros(3, dtype=torch.float64, device=self.device)
        size = config.runtime.micro_batch or len(images)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            share = len(images[part]) / len(images)
            with torch.autocast(
                self.device.type,
                dtype=torch.bfloat16,
                enabled=config.runtime.precision == "bfloat16",
            ):
                outputs = self.train_fast(images[part])
            terms = training_loss(
                outputs,
                masks[part],
                aux_weight=config.loss.aux_weight,
                ce_weight=config.loss.ce_weight,
                dice_weight=dice_weight,
                label_smoothing=config.loss.label_smoothing,
                dice_average=config.loss.dice_average,
                lovasz_weight=config.loss.lovasz_weight,
            )
            (terms.total * share).backward()
            measured += share * torch.stack([terms.total, terms.ce, terms.dice]).detach().double()
        if config.training.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.training.max_grad_norm)
        self.optimizer.step()
        self.average.update(self.model)
        return measured

    def _score(self) -> Row:
        """The scored columns: averaged weights, eval mode, no augmentation, on both parts alike."""
        if self.val_part is None:
            return {}
        self.scored_model.load_state_dict(self.average.state)
        val = self._measure(self.val_part, len(self.val_part))
        # a fixed subset as large as val: else the gap between the two means nothing
        train = self._measure(self.train_part, len(self.val_part))
        return {
            "val_ce": val.ce,
            "val_dice": val.dice,
            "train_f": train.scores.f_score,
            "val_f": val.scores.f_score,
            "val_f_per_class": val.scores.f_per_class,
            "f_large": val.scores.f_large,
            "f_small": val.scores.f_small,
        }

    def _measure(self, part: Part, count: int) -> Measured:
        return measure(
            self.scored_model,
            part.images[:count],
            part.masks[:count],
            device=self.device,
            dice_average=self.config.loss.dice_average,
            channels_last=bool(self.config.runtime.channels_last),
        )

    # ----------------------------------------------------------------------------- checkpoints

    @property
    def best(self) -> Row | None:
        """The row of the best epoch, the earlier one on a tie."""
        scored = [row for row in self.history if "val_f" in row]
        return max(scored, key=lambda row: (row["val_f"], -row["epoch"]), default=None)

    def save(self, out: Path) -> None:
        """Write best.pt where this epoch is the best, then last.pt and history.json."""
        epoch = self.history[-1]["epoch"]
        content = {
            "state_dict": self.average.state,
            "config": to_dict(self.config),
            "epoch": epoch,
            "step": self.step,
            "history": self.history,
        }
        # best first: a crash in between repeats this epoch, and then writes the same best again
        if self.best is None or self.best["epoch"] == epoch:
            checkpoint.write(out / "best.pt", content)
        checkpoint.write(
            out / "last.pt",
            content
            | {
                "raw": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema_updates": self.average.updates,
            },
        )
        atomic_write_text(out / "history.json", json.dumps(self.history, indent=1))

    def restore(self, path: Path) -> None:
        """Go on from a last.pt. Raises CheckpointError if it is not of this training."""
        content = checkpoint.read(path)
        if "optimizer" not in content:
            raise CheckpointError(f"checkpoint {path} holds weights only; resume from a last.pt")
        _check_same(checkpoint.config_of(content, path), self.config, path)
        # no key of the config says on which parts it was trained
        if all("val_f" in row for row in content["history"]) != (self.val_part is not None):
            was, mend = (
                ("the train part alone", "leave --all-data out")
                if self.val_part is None
                else ("all data", "give --all-data")
            )
            raise CheckpointError(f"checkpoint {path} was trained on {was}; {mend}")
        checkpoint.load_weights(self.model, content["raw"], path)
        self.average.restore(content["state_dict"], content["ema_updates"])
        self.optimizer.load_state_dict(content["optimizer"])
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
    old, new = (_flat(base_identity(config, without)) for config in (saved, wanted))
    for key, value in new.items():
        if old[key] != value:
            raise CheckpointError(
                f"checkpoint {path} was trained with {key} {old[key]!r}, not {value!r}; give the"
                " same config, or another --out to start anew"
            )


def _flat(node: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{path}.{key}" if path else key
        flat |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return flat


def fit(
    config: Config,
    data: FaceData,
    *,
    out: Path,
    report: Callable[[Progress], None] | None = None,
    resume_from: Path | None = None,
    all_data: bool = False,
    last_epoch: int | None = None,
) -> FitResult:
    """Train a network and keep its best epoch.

    config: with a decided runtime (`trainer.runtime.choose_runtime`). out: folder of best.pt,
    last.pt and history.json, renewed after every epoch. report: called after each epoch once its
    checkpoint is on disk; raising ends the training. resume_from: a last.pt, also of another
    folder. all_data: train on all parts, score nothing, keep the last epoch. last_epoch: end there,
    with the schedules of the whole budget.
    Raises Diverged if the loss is no longer a number, CheckpointError, DataError, OSError.
    """
    out.mkdir(parents=True, exist_ok=True)
    with applied(config.runtime) as device:
        training = _Training(config, data, device, all_data)
        if resume_from is not None:
            training.restore(resume_from)
            _bring_best(resume_from, out, training)
        patience = patience_epochs(config)
        last = min(last_epoch or config.training.epochs, config.training.epochs)
        for epoch in range(len(training.history) + 1, last + 1):
            best = training.best
            if patience is not None and best is not None and epoch - best["epoch"] > patience:
                break
            training.history.append(training.run_epoch(epoch))
            training.save(out)
            best = training.best
            if report is not None and best is not None:
                row = training.history[-1]
                report(
                    Progress(
                        epoch=epoch,
                        epochs=config.training.epochs,
                        step=training.step,
                        f_score=row["val_f"],
                        best_f=best["val_f"],
                        best_epoch=best["epoch"],
                        row=row,
                    )
                )
        best = training.best
        return FitResult(
            history=training.history,
            best_f=best["val_f"] if best else None,
            best_epoch=best["epoch"] if best else None,
            best_checkpoint=out / "best.pt",
            parameters=parameter_count(training.model),
        )


def _bring_best(resume_from: Path, out: Path, training: _Training) -> None:
    """The best epoch so far, from the folder where training stopped into this one."""
    earlier = resume_from.parent / "best.pt"
    if earlier.resolve() != (out / "best.pt").resolve():
        if not earlier.exists():
            raise CheckpointError(f"checkpoint {earlier} is missing beside {resume_from}")
        shutil.copyfile(earlier, out / "best.pt")
        shutil.copyfile(resume_from, out / "last.pt")
        atomic_write_text(out / "history.json", json.dumps(training.history, indent=1))
