"""A training program of the user's kind, which knows of no search: `old_trainer.py --config FILE`.

Sections in YAML; `checkpoints/<name>_<time>/` in the current folder, with `history.json` (an object
of lists, written anew each epoch) and a checkpoint an epoch; progress bars and a line an epoch on
its output. It trains nothing: the score depends smoothly on config and seed, a sleep is the epoch.
Standard library and PyYAML alone; it must stay as such programs are.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import yaml

PROGRAM = Path(__file__).resolve()
# what a user has beside such a program
CONFIG: dict[str, Any] = {
    "experiment": {"name": "lmsa_v1", "description": "targeting 0.71+"},
    "model": {"name": "microsegformer", "dropout": 0.15},
    "loss": {"ce_weight": 1.0, "dice_weight": 1.5},
    "training": {
        "epochs": 8,
        # PyYAML takes it for a text
        "learning_rate": "8e-4",
        "optimizer": "AdamW",
        "momentum": 0.9,
        "betas": [0.9, 0.999],
        "epoch_s": 0.02,
    },
}
BATCHES = 5


def best_possible(config: dict[str, Any]) -> float:
    """The score that training comes near to, without what a seed adds."""
    training = config["training"]
    off = math.log10(float(training["learning_rate"]) / 2e-3)
    score = 0.72 - 0.06 * off**2 - 0.02 * (config["loss"]["dice_weight"] - 2) ** 2
    score -= 0.3 * (config["model"]["dropout"] - 0.1) ** 2
    if training["optimizer"] == "SGD":
        score -= 0.03 + 0.2 * (training["momentum"] - 0.95) ** 2
    return score


def score_after(config: dict[str, Any], seed: int, epoch: int) -> float:
    """The score after an epoch: the same one whenever it is reached."""
    top = best_possible(config) + random.Random(seed).gauss(0, 0.003)
    wobble = random.Random(f"{seed} {epoch}").gauss(0, 0.002)
    return top * (1 - 0.6 * math.exp(-3 * epoch / config["training"]["epochs"])) + wobble


def bar(epoch: int, epochs: int, epoch_s: float) -> None:
    """A progress bar over the batches, drawn over and over on one line."""
    for batch in range(1, BATCHES + 1):
        time.sleep(epoch_s / BATCHES)
        share = batch / BATCHES
        drawn = "█" * int(10 * share)
        print(
            f"\rEpoch {epoch}/{epochs}: {share:4.0%}|{drawn:<10}| {batch}/{BATCHES}"
            f" [{batch * epoch_s / BATCHES:.2f}s, loss={1 / (epoch + share):.4f}]",
            end="",
            flush=True,
        )
    print(flush=True)


def train(config: dict[str, Any], seed: int, resume: Path | None) -> None:
    """All epochs, from the start or from a checkpoint."""
    epochs = config["training"]["epochs"]
    stamp = time.strftime("%Y%m%d_%H%M%S")
    folder = Path("checkpoints") / f"{config['experiment']['name']}_{stamp}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    history: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_f_score": []}
    if resume is not None:
        history = json.loads(resume.read_text())["history"]
        print(f"Resumed from {resume}, after epoch {len(history['val_f_score'])}")
    for epoch in range(len(history["val_f_score"]) + 1, epochs + 1):
        bar(epoch, epochs, config["training"]["epoch_s"])
        score = score_after(config, seed, epoch)
        losses = 1.1 - score, 1.2 - score
        best = max([*history["val_f_score"], 0.0])
        for name, value in zip(history, (*losses, score), strict=True):
            history[name].append(value)
        print(
            f"Epoch {epoch}/{epochs} | Train Loss: {losses[0]:.4f} | Val Loss: {losses[1]:.4f}"
            f" | Val F-Score: {score:.6f}"
        )
        if score > best:
            print(f"  -> New best Val F-Score: {score:.6f}, saved best_model.pth")
            (folder / "best_model.pth").write_text(json.dumps({"epoch": epoch}))
        with (folder / "history.json").open("w") as file:
            json.dump(history, file, indent=2)
        checkpoint = json.dumps({"epoch": epoch, "history": history})
        (folder / f"checkpoint_epoch_{epoch:03d}.pth").write_text(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    print("Training on", sys.platform, flush=True)
    train(yaml.safe_load(args.config.read_text()), args.seed, args.resume)


if __name__ == "__main__":
    main()
