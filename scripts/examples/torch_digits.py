"""Plain PyTorch: a small network on scikit-learn's digits. Searched by `python -m search.run` and

    --trainer scripts.examples.torch_digits:train

or `--command "python scripts/examples/torch_digits.py --config {config} --out {out} --seed {seed}
--resume {resume}"`, either way with `--config` and `--space` (the YAML files beside this one) and
`--resume-file checkpoint.pt`.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


def train(
    config: Mapping[str, Any],
    *,
    report: Callable[..., None],
    out: Path | None,
    seed: int,
    resume_from: Path | None = None,
) -> None:
    """Train, and report the share of unseen digits that are told right after each epoch.

    out: where a checkpoint is kept after each epoch. resume_from: one that is gone on from.
    """
    model, training = config["model"], config["training"]
    pixels, digits = (torch.tensor(one) for one in load_digits(return_X_y=True))
    pixels = (pixels / 16).float()
    torch.manual_seed(0)
    seen, unseen = torch.randperm(len(digits)).split([1000, len(digits) - 1000])
    torch.manual_seed(seed)
    width, layers = model["width"], [nn.Linear(64, model["width"]), nn.ReLU()]
    for _ in range(model["layers"]):
        layers += [nn.Dropout(model["dropout"]), nn.Linear(width, width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(width, 10))
    kind = getattr(torch.optim, training["optimizer"])
    more = {"momentum": training["momentum"]} if training["optimizer"] == "SGD" else {}
    optimizer = kind(network.parameters(), lr=training["learning_rate"], **more)
    done = 0
    if resume_from is not None:
        network_state, optimizer_state, done = torch.load(resume_from)
        network.load_state_dict(network_state)
        optimizer.load_state_dict(optimizer_state)
    for epoch in range(done + 1, training["epochs"] + 1):
        # the same order and dropout whether or not the run was interrupted
        torch.manual_seed(1000 * seed + epoch)
        network.train()
        for rows in seen[torch.randperm(len(seen))].split(training["batch_size"]):
            optimizer.zero_grad()
            loss = cross_entropy(network(pixels[rows]), digits[rows])
            loss.backward()
            optimizer.step()
        right = network.eval()(pixels[unseen]).argmax(1) == digits[unseen]
        if out is not None:
            torch.save((network.state_dict(), optimizer.state_dict(), epoch), out / "new.pt")
            # whole or not at all, whenever it is interrupted
            (out / "new.pt").replace(out / "checkpoint.pt")
        report(epoch=epoch, score=right.double().mean().item(), loss=loss.item())


if __name__ == "__main__":
    from search.reporting_client import report

    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    train(config, report=report, out=args.out, seed=args.seed, resume_from=args.resume)
