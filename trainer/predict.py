"""Label pictures with a trained network, and pack the result for a leaderboard.

python -m trainer.predict --checkpoint best.pt --images DIR --out DIR
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import Parser, guarded, one_line, progress_bar
from trainer.errors import CheckpointError, DataError
from trainer.files import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainer.config import Config

# pixels of the longer side up to which labels are computed; larger masks repeat pixels
LARGEST_SIDE = 2048
# the proof may differ from our own mask where two classes tie to the last digit
MAX_DIFFERING_SHARE = 1e-3
# pictures that Pillow does not know, so that they are named and not passed over
_OTHER_PICTURES = (
    *(".avif", ".heic", ".heif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
    *(".orf", ".rw2", ".exr", ".hdr", ".pic"),
)
REQUIREMENTS = "torch\nnumpy\npillow\n"
# bit 11 of an entry's flags
_UTF8_NAME = 0x800
# what run.py must not need: the proof runs with these names out of reach
_OURS = ("trainer", "search", "storage", "space")

EPILOG = """\
Masks are palette PNGs of ids 0-18 at each picture's own size, one per picture, under its name.
Hidden files and folders are passed over. A picture that cannot be read is skipped and named, the
others are labelled, and the exit code is 1 then.
--zip packs them under masks/, by the bytes of their names. --package packs them with solution/
(ckpt.pth, run.py, requirements.txt and the network's file), then runs that run.py once from the
zip, without this project in reach, and compares its mask with ours.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m trainer.predict", description=__doc__, epilog=EPILOG)
    it.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a best.pt")
    it.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of pictures")
    it.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the masks")
    it.add_argument(
        "--tta", choices=("flip",), help="also look at the mirrored picture and average"
    )
    it.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:i")
    it.add_argument("--zip", type=Path, metavar="FILE", help="pack the masks into this zip")
    it.add_argument(
        "--package", type=Path, metavar="FILE", help="pack masks and a proven solution/ into this"
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    # after the arguments: --help need not wait for torch
    import torch

    from trainer.config import with_values
    from trainer.data.image_files import read_image
    from trainer.runtime import chosen_device
    from trainer.scoring import load_model

    pictures, skipped = _pictures(args.images, args.out)
    model, config = load_model(args.checkpoint)
    device = chosen_device(with_values(config, {"runtime.device": args.device}).runtime.device)
    tta_flip = args.tta == "flip"
    with progress_bar("looking") as tick:
        # every picture before the first mask: where none can be read nothing is written
        whole = list(pictures)
        for done, path in enumerate(whole, start=1):
            try:
                read_image(path)
            except DataError as error:
                pictures.remove(path)
                # without its path and without advice for data sets
                skipped[path] = str(error).removeprefix(f"{path}: ").partition(";")[0]
            tick(done, len(whole))
    if skipped:
        line = "; ".join(f"{path.name} ({skipped[path]})" for path in sorted(skipped))
        if not pictures:
            raise DataError(f"--images {args.images} has no picture that can be read: {line}")
        print(f"note: left out: {one_line(line)}", file=sys.stderr, flush=True)
    masks = [args.out / f"{path.stem}.png" for path in pictures]
    model.to(device)
    with progress_bar("labelling") as tick:
        for done, (path, mask) in enumerate(zip(pictures, masks, strict=True), start=1):
            _write_mask(_label(model, path, config, torch.device(device), tta_flip), mask)
            tick(done, len(pictures))
    print(f"{args.out}: {len(masks)} masks")
    if args.zip is not None:
        _zip(args.zip, _mask_entries(masks))
        print(f"{args.zip}: {len(masks)} masks under masks/")
    if args.package is not None:
        _package(args.package, args.checkpoint, config, pictures[0], masks, tta_flip)
        print(
            f"{args.package}: {len(masks)} masks, and a solution/ whose run.py gave the same mask"
            f" for {pictures[0].name} on its own"
        )
    return 1 if skipped else 0


def _pictures(folder: Path, out: Path) -> tuple[list[Path], dict[Path, str]]:
    """The pictures of a folder by name, and what looks like one but is of a kind that is not read.

    Hidden files, folders and files of other kinds are what nobody means. Raises DataError if two
    would share a mask's name.
    """
    from PIL import Image

    from trainer.data.image_files import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise DataError(f"--images {folder} is no folder; name a folder of pictures")
    kinds = Image.registered_extensions().items()
    known = {suffix for suffix, kind in kinds if Image.MIME.get(kind, "").startswith("image/")}
    looks = {*IMAGE_SUFFIXES, *known, *_OTHER_PICTURES}
    found, skipped = [], {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix not in looks or path.name.startswith(".") or path.is_dir():
            continue
        if suffix not in IMAGE_SUFFIXES:
            skipped[path] = f"{suffix} is not read"
        elif not path.is_file():
            # a link that leads nowhere, a pipe
            skipped[path] = "not a file"
        else:
            found.append(path)
    if not found and not skipped:
        raise DataError(f"--images {folder} has no picture ({', '.join(IMAGE_SUFFIXES)})")
    if out.resolve() == folder.resolve():
        raise DataError(f"--out {out} is the folder of the pictures; name another one")
    first: dict[str, Path] = {}
    for path in found:
        twin = first.setdefault(path.stem, path)
        if twin is not path:
            raise DataError(
                f"{twin} and {path.name} would both become {path.stem}.png; rename one of them"
            )
    return found, skipped


def _label(
    model: nn.Module, path: Path, config: Config, device: torch.device, tta_flip: bool
) -> Any:
    """Class ids uint8 [H, W] of a picture at its own size."""
    import numpy as np
    import torch
    from PIL import Image

    from trainer.data.cache import reduce_image
    from trainer.data.image_files import read_image
    from trainer.scoring import logits_of, to_device, upsampled_ids

    image = read_image(path)
    reduced = reduce_image(image, config.data.image_size)[None]
    with torch.inference_mode():
        logits = logits_of(model, to_device(reduced, device), tta_flip=tta_flip)[0]
        height, width = image.shape[:2]
        shrink = min(1.0, LARGEST_SIDE / max(height, width))
        # a very large mask is labelled smaller: its logits would fill the memory
        size = max(1, round(height * shrink)), max(1, round(width * shrink))
        ids = upsampled_ids(logits, *size).cpu().numpy().astype(np.uint8)
    return np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))


def _write_mask(ids: Any, path: Path) -> None:
    from PIL import Image

    from trainer.data.classes import PALETTE

    picture = Image.fromarray(ids)
    picture.putpalette(PALETTE)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def _mask_entries(masks: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for path in masks:
        yield f"masks/{path.name}", path.read_bytes()


class _Entry(zipfile.ZipInfo):
    """An entry under the bytes of a file's name, marked as UTF-8 where they are, as `zip` does."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        content = os.fsencode(self.filename)
        try:
            content.decode()
        except UnicodeDecodeError:
            return content, self.flag_bits
        return content, self.flag_bits | (0 if content.isascii() else _UTF8_NAME)


def _zip(target: Path, entries: Iterator[tuple[str, bytes]]) -> None:
    """Write a zip, whole or not at all; the same entries give the same bytes."""
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in entries:
            # a fixed date: a zip of the same masks is the same file
            entry = _Entry(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _package(
    target: Path,
    checkpoint: Path,
    config: Config,
    picture: Path,
    masks: Sequence[Path],
    tta_flip: bool,
) -> None:
    """The leaderboard's zip. It is kept only if its run.py gives our mask of `picture`."""
    solution = _solution(checkpoint, config, tta_flip)
    with atomic_path(target) as temporary:

        def entries() -> Iterator[tuple[str, bytes]]:
            yield from _mask_entries(masks)
            for name, content in solution.items():
                yield f"solution/{name}", content

        _zip(temporary, entries())
        _prove(temporary, picture, masks[0])


def _solution(path: Path, config: Config, tta_flip: bool) -> dict[str, bytes]:
    """Files of solution/: name -> content."""
    import torch

    from trainer import checkpoint, lmsa
    from trainer import solution as template
    from trainer.augment import MEAN_RGB, SD_RGB
    from trainer.data.classes import NUM_CLASSES, PALETTE, SWAP
    from trainer.model import imported

    arguments: dict[str, Any] = {"num_classes": NUM_CLASSES, "dropout": config.model.dropout}
    if config.model.name == "lmsa":
        arguments |= {"width": config.model.width, "aux": config.loss.aux_weight > 0}
        module, factory = "lmsa", "Lmsa"
        source = inspect.getsource(lmsa)
    else:
        source = inspect.getsource(inspect.getmodule(imported(config.model.name)) or lmsa)
        full, _, factory = config.model.name.partition(":")
        module = full.rpartition(".")[2]
    weights = io.BytesIO()
    torch.save(
        {
            "state_dict": checkpoint.read(path)["state_dict"],
            "module": module,
            "factory": factory,
            "arguments": arguments,
            "image_size": config.data.image_size,
            "largest_side": LARGEST_SIDE,
            "mean_rgb": list(MEAN_RGB),
            "sd_rgb": list(SD_RGB),
            "palette": list(PALETTE),
            "swap": list(SWAP),
            "tta_flip": tta_flip,
        },
        weights,
    )
    return {
        "ckpt.pth": weights.getvalue(),
        "run.py": inspect.getsource(template).encode(),
        f"{module}.py": source.encode(),
        "requirements.txt": REQUIREMENTS.encode(),
    }


def _prove(archive: Path, picture: Path, expected: Path) -> None:
    """Run run.py from the zip as the leaderboard does. Raises CheckpointError if it differs."""
    import numpy as np

    from trainer.data.mask_files import read_ids

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        solution, mask = folder / "solution", folder / "proof.png"
        # None in sys.modules makes an import fail, as it would on the leaderboard's machine
        code = (
            "import runpy, sys\n"
            f"sys.modules.update(dict.fromkeys({_OURS!r}))\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-c", code, "run.py"),
                *("--input", str(picture.resolve()), "--output", str(mask)),
                *("--weights", "ckpt.pth"),
            ],
            cwd=solution,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CheckpointError(
                f"the packed run.py failed on {picture.name}: {last}; the network's file must need"
                " nothing but torch, numpy and pillow"
            )
        differing = float(np.mean(read_ids(mask) != read_ids(expected)))
    if differing > MAX_DIFFERING_SHARE:
        raise CheckpointError(
            f"the packed run.py labels {differing:.1%} of {picture.name} otherwise than this"
            " program; please report it"
        )


if __name__ == "__main__":
    sys.exit(main())
