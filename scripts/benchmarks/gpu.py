"""The trainer on a GPU, in pieces of a few minutes: `scripts/bench gpu --data REPAIRED`.

Three things, each measured once and kept in --out: speed beside two rivals and beside the network
alone; how many trials an hour 1, 2, 4 and 8 workers finish; and the score of the preset `full`,
which goes on from its checkpoint. The same command again does what is left.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import count, print_table, record, run, tell, write_json
from scripts.benchmarks.train import Arrangement, Job, measured
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.data.dataset import DataSummary
    from trainer.fit import Progress

PARTS = ("val", "test")
# f_score_full that the preset is to reach, and what would be better still
TARGET, BEYOND = 0.85, 0.87
RIVALS = ("plain", "tuned")
SIZES = (128, 512)
# no measurement is begun with less time left
_PART_S = 60.0
_MEASURED_STEPS, _WARMUP_STEPS = 60, 10

Result = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench gpu", description=__doc__)
    it.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="faces in the course layout, repaired (trainer.check --repair)",
    )
    it.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench-gpu"),
        metavar="DIR",
        help="results and checkpoints (default: runs/bench-gpu)",
    )
    it.add_argument(
        "--minutes", type=float, default=7.0, metavar="M", help="time of this call (default: 7)"
    )
    it.add_argument(
        "--device", default="cuda", metavar="D", help="cuda (default), cuda:i, or cpu for a try"
    )
    it.add_argument("--size", type=count, metavar="N", help="pixels (default: 128 and 512)")
    it.add_argument("--steps", type=count, metavar="N", help="of `full` (default: the preset's)")
    it.add_argument(
        "--seconds", type=float, default=6.0, metavar="S", help="of a measurement (default: 6)"
    )
    it.add_argument("--loader-workers", type=count, default=8, metavar="K", help="of the rivals")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser(), _main, argv)


class _TimeUp(Exception):
    """The time of this call is used up; a checkpoint is on disk."""


@dataclass
class _Bench:
    """What one call holds. config: of `full` on these data, runtime decided."""

    args: argparse.Namespace
    config: Config
    until_s: float

    def left_s(self) -> float:
        return self.until_s - time.monotonic()


def _main(args: argparse.Namespace, words: list[str]) -> int:
    from trainer.data.dataset import describe
    from trainer.presets import PRESETS
    from trainer.runtime import check_device

    check_device(args.device)
    until_s = time.monotonic() + 60 * args.minutes
    args.steps = args.steps or PRESETS["full"].steps
    summary = describe(args.data)
    bench = _Bench(args, _full(args, summary), until_s)
    settings = {
        "device": args.device,
        "fingerprint": summary.fingerprint,
        "size": args.size,
        "steps": args.steps,
    }
    file = args.out / "results.json"
    stored = _stored(file, settings) or {
        **record("scripts/bench gpu", words),
        "settings": settings,
        "parts": {},
    }
    done: Result = stored["parts"]
    left = [(name, measure) for name, measure in _parts(bench) if name not in done]
    for index, (name, measure) in enumerate(left):
        try:
            # every call does something, however little time it has
            if index and bench.left_s() < _PART_S:
                raise _TimeUp
            tell(f"{name} ...")
            done[name] = measure()
        except _TimeUp:
            _show(done)
            print(
                f"--minutes {args.minutes:g}: {len(left) - index} to go; the same command goes on"
            )
            return 0
        write_json(file, stored)
    _show(done)
    return 0


def _stored(file: Path, settings: Result) -> Result | None:
    """The results of earlier calls. Raises UserError where those measured something else."""
    if not file.exists():
        return None
    stored: Result = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if stored["settings"][name] != value:
            raise UserError(
                f"{file} was measured with {name} {stored['settings'][name]!r}, not {value!r}:"
                " give that, or another --out"
            )
    return stored


def _full(args: argparse.Namespace, summary: DataSummary) -> Config:
    """The preset `full` on these data, for the steps that were asked for."""
    from trainer.config import compose, with_values
    from trainer.presets import steps_per_epoch
    from trainer.runtime import choose_runtime

    config = compose(
        preset="full",
        train_images=summary.train,
        flags={
            "data.root": args.data,
            "data.image_size": args.size,
            "runtime.device": args.device,
        },
    ).config
    per_epoch = steps_per_epoch(summary.train, config.data.batch_size)
    own = {
        "training.epochs": math.ceil(args.steps / per_epoch),
        # the whole budget, whatever its scores: what is measured is the preset
        "training.early_stopping_patience": None,
    }
    return choose_runtime(with_values(config, own))


def _parts(bench: _Bench) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Every measurement by its name, the short ones first."""
    from search.execution.launchers.capacity import Device, candidates
    from trainer.runtime import usable_cores

    device = Device(bench.args.device, usable_cores())
    for rival in RIVALS:
        yield f"rival {rival}", partial(_rival, bench, rival)
    yield "ours", partial(_side_by_side, bench, device, bench.config.data.image_size, 1)
    yield "network alone", partial(_network_alone, bench.config)
    for size in [bench.args.size] if bench.args.size else SIZES:
        for workers in candidates(device):
            yield (
                f"{workers} at {size} pixels",
                partial(_side_by_side, bench, device, size, workers),
            )
    yield "full", partial(_trained, bench)


# ------------------------------------------------------------------------------------ measurements


def _rival(bench: _Bench, rival: str) -> Result:
    """One rival's figures, as `scripts/bench train` measures them."""
    config, args = bench.config, bench.args
    steps = min(_MEASURED_STEPS, args.steps)
    job = Job(
        Path(args.data),
        config.data.image_size,
        config.model.width,
        config.data.batch_size,
        steps,
        train_images=steps * config.data.batch_size,
    )
    assert config.runtime.threads is not None, "decided"
    how = Arrangement(1, config.runtime.threads, args.loader_workers)
    return measured(rival, job, how, steps=steps, seed=0, device=args.device)


def _side_by_side(bench: _Bench, device: Any, size: int, workers: int) -> Result:
    """Trainings at the same time: pictures a second together, and unpruned trials an hour."""
    from search.execution.launchers.capacity import side_by_side
    from trainer.config import with_values
    from trainer.data.dataset import describe

    config = with_values(
        bench.config, {"data.image_size": size, "runtime.threads": device.threads_of(workers)}
    )
    seconds = bench.args.seconds
    reading = side_by_side(
        config,
        device,
        workers,
        pictures=describe(bench.args.data).train,
        seconds=(seconds / 2, seconds),
    )
    if reading is None:
        return {"images_per_s": None, "note": "does not fit into the memory"}
    pictures_a_trial = bench.args.steps * config.data.batch_size
    return {
        "images_per_s": reading.images_per_s,
        "peak_memory_mb": reading.peak_mb,
        "trials_per_hour": 3600 * reading.images_per_s / pictures_a_trial,
    }


def _network_alone(config: Config) -> Result:
    """Pictures a second of the bare network: forward, CE, backward, AdamW, on one fixed batch.

    No training of this network in this precision can be faster without changing the network.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from trainer.model import model_of
    from trainer.runtime import applied

    size, batch = config.data.image_size, config.data.batch_size
    with applied(config.runtime) as device:
        model = model_of(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        images = torch.randn(batch, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        truth = torch.randint(0, 19, (batch, size, size), device=device)

        def steps(number: int) -> float:
            began_s = time.perf_counter()
            for _ in range(number):
                with torch.autocast(
                    device.type,
                    dtype=torch.bfloat16,
                    enabled=config.runtime.precision == "bfloat16",
                ):
                    outputs = model(images)
                    loss = cross_entropy(outputs, truth)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - began_s

        each_s = steps(_WARMUP_STEPS) / _WARMUP_STEPS
        number = max(_WARMUP_STEPS, min(_MEASURED_STEPS, round(2.0 / each_s)))
        images_per_s = number * batch / steps(number)
    if device.type == "cuda":
        del model, optimizer, images, truth
        # the next measurement needs the memory of this process
        torch.cuda.empty_cache()
    return {"images_per_s": images_per_s}


def _trained(bench: _Bench) -> Result:
    """Train `full` until its budget or the time is used up. Raises _TimeUp."""
    from trainer.data.dataset import load_faces
    from trainer.fit import fit
    from trainer.scoring import final_scores

    config, out = bench.config, bench.args.out / "full"
    data = load_faces(
        config.data.root, image_size=config.data.image_size, parts=("train", "val", "test")
    )

    def report(progress: Progress) -> None:
        tell(f"epoch {progress.epoch}/{progress.epochs}: val F {progress.f_score:.4f}")
        if bench.left_s() <= 0 and progress.epoch < progress.epochs:
            raise _TimeUp

    last = out / "last.pt"
    result = fit(config, data, out=out, report=report, resume_from=last if last.exists() else None)
    device = config.runtime.device
    scores = {
        part: final_scores(result.best_checkpoint, data.part(part), device=device) for part in PARTS
    }
    return {
        "best_epoch": result.best_epoch,
        "parameters": result.parameters,
        "seconds": round(sum(row["seconds"] for row in result.history), 1),
        **{f"f_score_full_{part}": scores[part]["f_score_full"] for part in PARTS},
        "f_score_val": scores["val"]["f_score"],
    }


# ---------------------------------------------------------------------------------------- the table


def lines(done: Result) -> list[tuple[str, str]]:
    """What was measured, for a person: what, and its figure."""
    shown: list[tuple[str, str]] = []
    ours = done.get("ours", {}).get("images_per_s")
    for name, part in done.items():
        speed = part.get("images_per_s")
        if name == "full":
            shown += [(f"f_score_full on {p}", _against(part[f"f_score_full_{p}"])) for p in PARTS]
        elif speed is None:
            shown.append((name, part["note"]))
        elif "pixels" in name:
            hourly = part["trials_per_hour"]
            shown.append((name, f"{speed:.1f} images/s, {hourly:.2f} unpruned trials an hour"))
        else:
            times = f", ours is {ours / speed:.2f} of it" if ours and name != "ours" else ""
            shown.append((name, f"{speed:.1f} images/s{times}"))
    return shown


def _against(score: float) -> str:
    told = [
        f"{target:g} {'reached' if score >= target else f'missed by {target - score:.4f}'}"
        for target in (TARGET, BEYOND)
    ]
    return f"{score:.4f}: {', '.join(told)}"


def _show(done: Result) -> None:
    print_table("scripts/bench gpu", ("measured", "figure"), lines(done))


if __name__ == "__main__":
    sys.exit(main())
