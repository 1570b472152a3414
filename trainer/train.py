"""Train one configuration: `python -m trainer.train --config best.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import Parser, guarded, one_line, progress_bar
from trainer.history import TRAIN_F_SCORE

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.data.dataset import DataSummary
    from trainer.fit import FitResult, Progress

EXAMPLES = """\
examples:
  python -m trainer.train                                      built-in faces, the demo preset
  python -m trainer.train --config best.yaml                   an exported trial, once more
  python -m trainer.train --config best.yaml --preset full     its values at full size
  python -m trainer.train --data FACES --set dice_weight=1.5 --set T_0=6
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m trainer.train", description=__doc__, epilog=EXAMPLES)
    it.add_argument("--config", type=Path, metavar="FILE", help="YAML file, any part of the layout")
    it.add_argument(
        "--preset",
        metavar="P",
        help="demo, small or full; replaces the file's size, width, batch size, learning rate and"
        " epochs (default without --config: the one that fits data and machine)",
    )
    it.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="key=value",
        help="one value of the config, for example --set T_0=25; may be repeated",
    )
    it.add_argument("--data", metavar="DIR", help="faces and masks, or `synthetic` (built-in)")
    it.add_argument(
        "--out", type=Path, metavar="DIR", help="where results go (default: runs/train/NAME)"
    )
    it.add_argument("--seed", type=int, metavar="N", help="all randomness derives from it")
    it.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:i")
    it.add_argument("--resume", action="store_true", help="go on from --out's last.pt")
    it.add_argument(
        "--all-data",
        action="store_true",
        help="train on all parts, for the number of epochs that a search found best; for a final"
        " model, since nothing is left to score it on",
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    # after the arguments: --help need not wait for torch
    from rich.console import Console

    from trainer.config import to_yaml
    from trainer.data.dataset import describe, load_faces, mask_warnings
    from trainer.errors import ConfigError, Diverged
    from trainer.files import atomic_write_text
    from trainer.fit import fit
    from trainer.model import model_of
    from trainer.runtime import is_out_of_memory, promise

    console = Console(highlight=False, soft_wrap=True)
    config, notes = _composed(args)
    summary = describe(config.data.root, config.data.synthetic_images)
    for note in (*notes, *summary.notes):
        console.print(f"note: {note}", markup=False)
    _check_fingerprint(config, summary, console.print)
    out = args.out or _default_out(args, config)
    resume_from = _resume_from(out, args.resume)
    data = load_faces(
        config.data.root,
        image_size=config.data.image_size,
        synthetic_images=config.data.synthetic_images,
        parts=("train", "val", "test") if args.all_data else ("train", "val"),
    )
    with progress_bar("looking at the masks") as tick:
        warnings = mask_warnings(config.data.root, tick=tick)
    for warning in warnings:
        console.print(f"note: {warning}", markup=False)
    model_of(config)  # a network that cannot be trained leaves no folder behind
    if resume_from is None:
        atomic_write_text(out / "config.yaml", to_yaml(config))
    count = (
        f"{summary.train + summary.val + summary.test} train (all data)"
        if args.all_data
        else f"{summary.train} train, {summary.val} val"
    )
    console.print(
        f"{summary.name}: {count}, {config.data.image_size} pixels; {config.training.epochs} epochs"
        f" on {config.runtime.device}, {config.runtime.threads} thread(s),"
        f" {config.runtime.precision}; results in {out}",
        markup=False,
    )
    with _Shown(console, config.training.epochs) as shown:
        try:
            result = fit(
                config,
                data,
                out=out,
                report=shown.report,
                resume_from=resume_from,
                all_data=args.all_data,
                last_epoch=_last_epoch(config) if args.all_data else None,
            )
        except Diverged as error:
            raise ConfigError(
                f"training diverged: {error}; lower learning_rate or dice_weight"
            ) from None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                f"out of memory: {one_line(error)[:200]}; lower micro_batch (here"
                f" {config.runtime.micro_batch}), batch_size or image_size"
            ) from None
    _finish(console, config, result, out, data)
    console.print(f"expected of a repetition: {promise(config.runtime)}", markup=False)
    return 0


def _composed(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """The config to train, runtime decided, and notes for the user."""
    import torch

    from trainer.config import compose, key_path, parse_set
    from trainer.data.dataset import describe
    from trainer.presets import DEMO_WARNING, default_preset
    from trainer.runtime import choose_runtime, precision_note

    flags: dict[str, Any] = {
        "data.root": args.data,
        "training.seed": args.seed,
        "runtime.device": args.device,
    }
    cuda = torch.cuda.is_available() and args.device != "cpu"
    # what leads to the data set, whose size turns a preset's steps into epochs: T_0 must fit those
    of_data = [text for text in args.sets if key_path(parse_set(text)[0])[0] == "data"]
    first = compose(file=args.config, sets=of_data, flags=flags).config
    fallback = None if args.config else default_preset(first.data.root, cuda=cuda)
    train_images = describe(first.data.root, first.data.synthetic_images).train
    composed = compose(
        file=args.config,
        preset=args.preset,
        default_preset=fallback,
        sets=args.sets,
        flags=flags,
        train_images=train_images,
    )
    notes = list(composed.notes)
    if (args.preset or fallback) == "demo":
        notes.append(DEMO_WARNING)
    config = choose_runtime(composed.config)
    note = precision_note(composed.config.runtime.precision, config.runtime.device)
    return config, notes if note is None else [*notes, note]


def _last_epoch(config: Config) -> int:
    """Where a training on all data ends: at the share of the budget that was best in the search."""
    record = config.search or {}
    found, budget = record.get("epoch"), record.get("epochs")
    if budget is None:
        budget = config.training.epochs
    if not (isinstance(found, int) and isinstance(budget, int) and found > 0 and budget > 0):
        # not of an export, or it was edited
        return config.training.epochs
    # a preset may have changed the budget; the schedules keep their shape
    return max(1, round(config.training.epochs * found / budget))


def _check_fingerprint(config: Config, summary: DataSummary, say: Any) -> None:
    """An export names the data that its value was measured on."""
    recorded = (config.search or {}).get("data", {})
    fingerprint = recorded.get("fingerprint") if isinstance(recorded, dict) else None
    if fingerprint and fingerprint != summary.fingerprint:
        say(
            f"note: these are other data than the search's ({recorded.get('name')}): the score"
            " will differ"
        )


def _default_out(args: argparse.Namespace, config: Config) -> Path:
    name = config.experiment.name or (args.config.stem if args.config else config.data.root)
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return Path("runs") / "train" / f"{safe}-seed{config.training.seed}"


def _resume_from(out: Path, resume: bool) -> Path | None:
    from trainer.errors import ConfigError

    last = out / "last.pt"
    if resume:
        if not last.exists():
            raise ConfigError(f"--resume: {last} does not exist; leave --resume out to start anew")
        return last
    if last.exists():
        raise ConfigError(
            f"{out} holds a training already; add --resume to go on with it, or name another --out"
        )
    return None


class _Shown:
    """Progress on the screen: a bar at a terminal, a line an epoch elsewhere."""

    def __init__(self, console: Any, epochs: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self.live = console.is_terminal
        self.bar = Progress(
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=epochs)

    def __enter__(self) -> _Shown:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def report(self, progress: Progress) -> None:
        text = (
            f"val F {progress.f_score:.4f}, train F {progress.row[TRAIN_F_SCORE]:.4f},"
            f" loss {progress.row['train_loss']:.4f}"
        )
        if self.live:
            self.bar.update(
                self.task,
                completed=progress.epoch,
                description=f"{text}, best {progress.best_f_score:.4f}"
                f" in epoch {progress.best_epoch}",
            )
        else:
            print(f"epoch {progress.epoch}/{progress.epochs}: {text}", flush=True)


def _finish(console: Any, config: Config, result: FitResult, out: Path, data: Any) -> None:
    from trainer.pictures import contact_sheet, curves_picture
    from trainer.presets import steps_per_epoch
    from trainer.schedules import Schedules
    from trainer.scoring import final_scores

    steps = steps_per_epoch(len(data.train), config.data.batch_size)
    restarts = [end / steps for end in Schedules(config, steps).cycle_ends[:-1]]
    curves_picture(
        result.history, out / "curves.png", title=config.experiment.name, restarts=restarts
    )
    sheet = out / "contact_sheet.png"
    contact_sheet(result.best_checkpoint, data.val, sheet, device=config.runtime.device)
    if result.best_f_score is None:
        console.print(f"trained on all data; weights in {out / 'best.pt'}", markup=False)
        return
    scores = final_scores(result.best_checkpoint, data.val, device=config.runtime.device)
    console.print(
        f"best epoch {result.best_epoch}: f_score {result.best_f_score:.6f} (per image, prediction"
        f" on the {config.data.image_size}-pixel grid against the reduced mask), f_score_full"
        f" {scores['f_score_full']:.6f} (logits upsampled to the mask's own size, untouched mask)",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
