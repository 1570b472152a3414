"""scikit-learn's perceptron on its digits, by `partial_fit`. Searched by `python -m search.run` and

    --trainer scripts.examples.sklearn_partial_fit:train

or `--command "python scripts/examples/sklearn_partial_fit.py --config {config} --out {out}
--seed {seed} --resume {resume}"`, either way with `--config` and `--space` (the YAML files beside
this one) and `--resume-file model.pickle`.
"""

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier


def train(
    config: Mapping[str, Any],
    *,
    report: Callable[..., None],
    out: Path | None,
    seed: int,
    resume_from: Path | None = None,
) -> None:
    """Train, and report the share of unseen digits that are told right after each epoch.

    out: where the network is kept after each epoch. resume_from: one that is gone on with.
    """
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(config["data"]["split"]).permutation(len(digits))
    seen, unseen = np.split(order, [config["data"]["trained"]])
    options = dict(config["model"])
    network = MLPClassifier((options.pop("units"),), random_state=seed, **options)
    done = 0
    if resume_from is not None:
        network, done = pickle.loads(resume_from.read_bytes())
    for epoch in range(done + 1, config["epochs"] + 1):
        network.partial_fit(pixels[seen] / 16, digits[seen], classes=range(10))
        score = network.score(pixels[unseen] / 16, digits[unseen])
        if out is not None:
            (out / "new.pickle").write_bytes(pickle.dumps((network, epoch)))
            # whole or not at all, whenever it is interrupted
            (out / "new.pickle").replace(out / "model.pickle")
        report(epoch=epoch, score=score, train_loss=network.loss_)


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
