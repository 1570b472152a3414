"""Two rivals of the trainer: how a good student writes the same training, plainly and tuned.

Same network, batch, loss, kinds and strengths of augmentation. `plain` opens, resizes and
augments its files with Pillow in every epoch and takes torch's defaults. `tuned` is the same with
what a student finds in a day of profiling: pictures resized once and kept in memory, channels
last, one log-softmax for the whole loss, fused AdamW, a moving average without a loop.
This file stays as it is, whatever the trainer becomes: a yardstick that moves measures nothing.

python -m scripts.benchmarks.rivals plain|tuned --data DIR --size N --width W --batch B
    --steps N --warmup N
    --loader-workers K --threads T --device D --seed S
prints one JSON line; the clock starts after the warm-up steps and nothing is scored.

B image, C class, H row, W column.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from trainer.model import build_model

CLASSES = 19
# 4 <-> 5 eyes, 6 <-> 7 brows, 8 <-> 9 ears
SWAP = np.array([0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19)], np.uint8)
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

FLIP, ROTATION, SCALE = 0.5, 5.0, (0.95, 1.05)
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.2, 0.1

LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM, EMA_DECAY = 6e-3, 1e-4, 1.0, 0.98
DROPOUT, LABEL_SMOOTHING, DICE_WEIGHT, DICE_EPSILON = 0.15, 0.1, 1.5, 1e-8
T_0_STEPS = 1000


# ------------------------------------------------------------------------------------------ data


def training_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Pictures and masks of the course layout that stand in no list."""
    base = root / "train" if (root / "train").is_dir() else root
    lists = [root / name for name in ("val.txt", "test.txt") if (root / name).is_file()]
    held_out = {Path(line.strip()).stem for path in lists for line in path.read_text().split("\n")}
    pairs = []
    for image in sorted((base / "images").glob("*.*")):
        mask = base / "masks" / f"{image.stem}.png"
        if image.stem not in held_out and mask.exists():
            pairs.append((image, mask))
    return pairs


def opened(pair: tuple[Path, Path], size: int) -> tuple[Image.Image, Image.Image]:
    """A pair from its files, resized: RGB picture and mask of ids."""
    image = Image.open(pair[0]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    mask = Image.open(pair[1]).resize((size, size), Image.Resampling.NEAREST)
    return image, mask


def flipped(image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The mirrored pair, left and right ids exchanged."""
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, Image.fromarray(SWAP[np.array(mask)])


def moved(image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The pair turned and scaled about its centre, in one resampling."""
    angle = math.radians(random.uniform(-ROTATION, ROTATION))
    zoom = 1 / random.uniform(*SCALE)
    cos, sin, centre = zoom * math.cos(angle), zoom * math.sin(angle), image.width / 2
    matrix = (
        *(cos, sin, centre - centre * cos - centre * sin),
        *(-sin, cos, centre + centre * sin - centre * cos),
    )
    affine = Image.Transform.AFFINE
    return (
        image.transform(image.size, affine, matrix, Image.Resampling.BILINEAR),
        mask.transform(mask.size, affine, matrix, Image.Resampling.NEAREST),
    )


def recoloured(image: Image.Image) -> Image.Image:
    """The picture with other brightness, contrast and saturation."""
    image = ImageEnhance.Brightness(image).enhance(random.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(1 - CONTRAST, 1 + CONTRAST))
    return ImageEnhance.Color(image).enhance(random.uniform(1 - SATURATION, 1 + SATURATION))


def augmented(image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
    """A random variant of a pair: float32 [3, H, W], normalised, and int64 [H, W]."""
    if random.random() < FLIP:
        image, mask = flipped(image, mask)
    image, mask = moved(image, mask)
    image = recoloured(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return (pixels - MEAN) / STD, torch.from_numpy(np.array(mask)).long()


class Files(Dataset[tuple[Tensor, Tensor]]):
    """Pairs read from their files again in every epoch."""

    def __init__(self, pairs: list[tuple[Path, Path]], size: int) -> None:
        self.pairs, self.size = pairs, size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return augmented(*opened(self.pairs[index], self.size))


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Pairs resized once and kept in memory as uint8."""

    def __init__(self, pairs: list[tuple[Path, Path]], size: int) -> None:
        self.images = np.empty((len(pairs), size, size, 3), np.uint8)
        self.masks = np.empty((len(pairs), size, size), np.uint8)
        for index, pair in enumerate(pairs):
            image, mask = opened(pair, size)
            self.images[index], self.masks[index] = np.array(image), np.array(mask)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return augmented(Image.fromarray(self.images[index]), Image.fromarray(self.masks[index]))


# -------------------------------------------------------------------------------------- training


def one_hot_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Dice per image and class: probabilities [B, C, H, W], target int64 [B, H, W]."""
    truth = functional.one_hot(target, CLASSES).permute(0, 3, 1, 2).float()
    overlap = (probabilities * truth).sum(dim=(2, 3))
    sizes = probabilities.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    return 1 - ((2 * overlap + DICE_EPSILON) / (sizes + DICE_EPSILON)).mean()


class Plain:
    """The training step with torch's defaults."""

    memory_format = torch.contiguous_format
    fused = False

    def __init__(self, width: float, device: str = "cpu") -> None:
        self.device = device
        model = build_model("lmsa", width=width, dropout=DROPOUT).to(device)
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            # None is torch's default: it chooses an implementation by itself
            fused=self.fused or None,
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            self.optimizer, T_0=T_0_STEPS, eta_min=1e-6
        )

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """CE with label smoothing plus weighted Dice."""
        ce = functional.cross_entropy(logits, target, label_smoothing=LABEL_SMOOTHING)
        return ce + DICE_WEIGHT * one_hot_dice_loss(logits.softmax(dim=1), target)

    def clip(self) -> None:
        """Gradient clipping."""
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)

    @torch.no_grad()
    def update_average(self) -> None:
        """Moving average of the weights."""
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.mul_(EMA_DECAY).add_(new, alpha=1 - EMA_DECAY)
        for kept, new in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(new)

    def step(self, images: Tensor, target: Tensor) -> float:
        """One optimiser step; returns the loss."""
        images = images.to(self.device).contiguous(memory_format=self.memory_format)
        target = target.to(self.device)
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), target)
        loss.backward()
        self.clip()
        self.optimizer.step()
        self.scheduler.step()
        self.update_average()
        return loss.item()


class Tuned(Plain):
    """The training step after a day of profiling."""

    memory_format = torch.channels_last
    fused = True

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The same loss from one log-softmax, without a one-hot truth."""
        log_p = functional.log_softmax(logits, dim=1)
        ce = (1 - LABEL_SMOOTHING) * functional.nll_loss(log_p, target)
        ce = ce - LABEL_SMOOTHING * log_p.mean()
        p = log_p.exp().flatten(2)
        index = target.flatten(1)
        p_true = p.gather(1, index[:, None])[:, 0]
        zeros = p.new_zeros(p.shape[:2])
        overlap = zeros.scatter_add(1, index, p_true)
        truth = zeros.scatter_add(1, index, torch.ones_like(p_true))
        dice = (2 * overlap + DICE_EPSILON) / (p.sum(dim=2) + truth + DICE_EPSILON)
        return ce + DICE_WEIGHT * (1 - dice.mean())

    def clip(self) -> None:
        """Gradient clipping, all tensors in one call."""
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM, foreach=True)

    @torch.no_grad()
    def update_average(self) -> None:
        """Moving average of the weights, all tensors in one call."""
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - EMA_DECAY
        )
        torch._foreach_copy_(list(self.average.buffers()), list(self.model.buffers()))


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader


# ------------------------------------------------------------------------------------ measuring


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    # not getrusage: its figure begins with the memory of the process that started this one
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def wait_for_the_others() -> None:
    """Tell the parent that the warm-up is done; go on when it says so."""
    print("ready", flush=True)
    sys.stdin.readline()


def run(args: argparse.Namespace) -> dict[str, float]:
    """Train for warmup + steps optimiser steps; returns the figures of the latter."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    pairs = training_pairs(args.data)
    if len(pairs) < args.batch:
        print(
            f"error: {args.data}: {len(pairs)} pairs fill no batch of {args.batch}", file=sys.stderr
        )
        raise SystemExit(2)
    loader = DataLoader(
        Files(pairs, args.size) if args.rival == "plain" else Arrays(pairs, args.size),
        batch_size=args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.loader_workers,
        persistent_workers=args.loader_workers > 0,
    )
    kind = Plain if args.rival == "plain" else Tuned
    training = kind(args.width, args.device)
    training.model.train()
    batches = endless(loader)
    for _ in range(args.warmup):
        training.step(*next(batches))
    if args.barrier:
        wait_for_the_others()
    loss = math.nan
    started = time.perf_counter()
    for _ in range(args.steps):
        loss = training.step(*next(batches))
    seconds = time.perf_counter() - started
    return {
        "images_per_s": args.steps * args.batch / seconds,
        "seconds": seconds,
        "steps": args.steps,
        "peak_memory_mb": peak_memory_mb(),
        "final_loss": loss,
    }


def main() -> None:
    """Entry point."""
    it = argparse.ArgumentParser(description="Train a rival for some steps; print one JSON line.")
    it.add_argument("rival", choices=("plain", "tuned"))
    it.add_argument("--data", type=Path, required=True, help="folder in the course layout")
    it.add_argument("--size", type=int, default=64, help="pixels of a side")
    it.add_argument("--width", type=float, default=0.35, help="of the network")
    it.add_argument("--batch", type=int, default=8, help="pictures per step")
    it.add_argument("--steps", type=int, default=60, help="measured optimiser steps")
    it.add_argument("--warmup", type=int, default=10, help="steps before the clock starts")
    it.add_argument("--loader-workers", type=int, default=0, help="processes that load data")
    it.add_argument("--threads", type=int, default=1, help="of torch")
    it.add_argument("--device", default="cpu", help="cpu or cuda")
    it.add_argument("--seed", type=int, default=0)
    it.add_argument(
        "--barrier", action="store_true", help="after the warm-up print `ready`, await a line"
    )
    print(json.dumps(run(it.parse_args())), flush=True)


if __name__ == "__main__":
    main()
