"""Score a checkpoint: `python -m trainer.evaluate --checkpoint best.pt --data DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.cli import Parser, guarded

DEFINITIONS = """\
f_score:      per image, mean over the classes in its truth, on the training grid
f_score_full: the same, logits upsampled to the mask's own size, against the untouched mask
f_pooled:     from pixel counts summed over the set; f_large (background, skin, hair) and f_small
              (eyes, brows, nose, mouth, lips) likewise
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m trainer.evaluate", description=__doc__, epilog=DEFINITIONS)
    it.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a best.pt")
    it.add_argument("--data", metavar="DIR", help="data set (default: the checkpoint's own)")
    it.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="val", help="(default: val)"
    )
    it.add_argument(
        "--tta", choices=("flip",), help="also look at the mirrored picture and average"
    )
    it.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:i")
    it.add_argument("--json", action="store_true", help="print one JSON object")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _main(args), printed=True)


def _main(args: argparse.Namespace) -> int:
    # after the arguments: --help need not wait for torch
    from trainer import checkpoint
    from trainer.config import with_values
    from trainer.data.dataset import load_faces
    from trainer.errors import DataError
    from trainer.runtime import chosen_device
    from trainer.scoring import final_scores

    content = checkpoint.read(args.checkpoint)
    config = checkpoint.config_of(content, args.checkpoint)
    device = chosen_device(with_values(config, {"runtime.device": args.device}).runtime.device)
    data = load_faces(
        args.data or config.data.root,
        image_size=config.data.image_size,
        synthetic_images=config.data.synthetic_images,
        parts=(),
    )
    for note in data.plan.notes:
        # stdout may be read as JSON
        print(f"note: {note}", file=sys.stderr)
    part = data.part(args.split)
    if not len(part):
        raise DataError(f"--split {args.split}: {data.name} has no picture in this part")
    scores = final_scores(args.checkpoint, part, device=device, tta_flip=args.tta == "flip")
    if args.json:
        print(json.dumps(scores, indent=1))
        return 0
    _show(scores, f"{args.checkpoint} on {data.name} ({args.split})")
    return 0


def _show(scores: dict[str, object], title: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    # Text: a file's name is not to be read as markup
    columns = ("score", Column("value", justify="right"))
    table = Table(*columns, title=Text(title), title_justify="left")
    by_class = scores["f_per_class"]
    assert isinstance(by_class, dict)
    single = {name: value for name, value in scores.items() if name != "f_per_class"}
    for name, value in {**single, **by_class}.items():
        shown = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name, shown)
    console.print(table)
    console.print(DEFINITIONS, markup=False)


if __name__ == "__main__":
    sys.exit(main())
