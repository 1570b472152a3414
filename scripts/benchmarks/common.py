"""What the benches share: where and with what a figure was measured, and faces as files."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.cli import checked, guarded, whole
from trainer.data.cache import locked, usable_folder
from trainer.errors import UserError
from trainer.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[2]
# of the built-in faces as files: the size of the published pictures
SIDE = 512
# for argparse
count = whole(1)
positive = checked(float, lambda n: 0 < n < math.inf, "a number above 0", name="positive")


def hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, and the GPU's name or None."""
    import torch

    from trainer.runtime import usable_cores

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def commit() -> str | None:
    """The commit that was measured, `+changes` where files differ from it; None without git."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def record(
    script: str, words: Sequence[str], packages: Sequence[str] = ("torch", "numpy", "pillow")
) -> dict[str, Any]:
    """Hardware, versions, command, commit and date of a measurement."""
    return {
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "command": shlex.join([*script.split(), *words]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result whole or not at all; dataclasses as their fields, NaN is refused."""
    text = json.dumps(content, indent=1, allow_nan=False, default=vars)
    atomic_write_text(path, f"{text}\n")


def write_figures(
    args: argparse.Namespace, script: str, words: Sequence[str], figures: Mapping[str, Any]
) -> None:
    """Write figures, and what they were measured with, into the file of --json if there is one."""
    if args.json is not None:
        write_json(args.json, {**record(script, words), **figures})


def add_json(it: argparse.ArgumentParser) -> None:
    """The flag `--json`, for `write_figures`."""
    it.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def add_count(it: argparse.ArgumentParser, flag: str, default: int, what: str = "") -> None:
    """A flag that takes a whole number from 1 up."""
    text = f"{what} (default: {default})".lstrip()
    it.add_argument(flag, type=count, default=default, metavar="N", help=text)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *lines: str,
    right: bool = False,
) -> None:
    """A table for a person, and lines below it; an empty row is a rule across the table.

    right: whether all columns but the first are flush right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    # Text: names and errors are not to be read as markup
    table = Table(title=Text(title, "italic"), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if right and number else "left")
    for row in rows:
        if row:
            table.add_row(*map(Text, row))
        else:
            table.add_section()
    console.print(table)
    for line in lines:
        console.print(line, markup=False)


def markdown(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table as Markdown; the first column names the row, the others hold numbers."""
    lines = [f"| {' | '.join(cells).lstrip()} |" for cells in (columns, *rows)]
    lines.insert(1, f"|---|{'---:|' * (len(columns) - 1)}")
    return "\n".join(lines)


def interrupted_by_sigterm() -> None:
    """Make SIGTERM what Ctrl-C is, so that children and temporary files are cleared up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def passing_on(command: Sequence[str], **options: Any) -> int:
    """Run a command that ends in good order when asked; Ctrl-C and SIGTERM are passed on to it.

    Returns its exit code; 130 where it was asked and had just ended. options: of Popen.
    """
    from search.execution.stop_requests import Signals

    # in a session of its own it hears each Ctrl-C once: from here
    with (
        Signals() as signals,
        subprocess.Popen(command, start_new_session=True, **options) as child,
    ):
        while child.poll() is None:
            if signals.asked.wait(0.2):
                signals.asked.clear()
                child.send_signal(signal.SIGINT)
    return child.returncode or (130 if signals.times else 0)


def refuse_own_flags(flags: Iterable[str], own: Sequence[str], who: str) -> None:
    """Raises UserError where a flag is passed on to a search that `who` sets itself."""
    for flag in flags:
        if flag.partition("=")[0] in own:
            raise UserError(f"{flag}: {who} sets that itself; leave it out")


def start_together(children: Sequence[subprocess.Popen[str]], who: str) -> None:
    """Wait until each child has printed `ready`, then send each a line.

    Raises UserError where one has ended.
    """
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise UserError(f"{who} ended before it began; see above")
    for child in children:
        send_line(child)


def send_line(child: subprocess.Popen[str]) -> None:
    """An empty line on a child's standard input."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def run(
    parser: argparse.ArgumentParser,
    bench: Callable[[argparse.Namespace, list[str]], int],
    argv: Sequence[str] | None,
    *,
    stores: bool = False,
) -> int:
    """Run a bench from the command line, whose words it is told too; returns the exit code.

    stores: it works for long on stores: what goes wrong there is a user's mistake, too, and SIGTERM
    is what Ctrl-C is.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    errors: tuple[type[Exception], ...] = ()
    if stores:
        # after the arguments: --help need not wait for Optuna
        import optuna

        from storage import StorageError

        errors = (StorageError,)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        interrupted_by_sigterm()
    return guarded(lambda: bench(args, words), errors)


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def builtin_faces(images: int) -> Path:
    """Built-in faces as 512-pixel JPEG and palette PNG files in the course layout; drawn once.

    They are kept in the cache folder. Raises DataError, OSError.
    """
    from PIL import Image

    from trainer.data.classes import PALETTE
    from trainer.data.synthetic import VERSION, face

    parent = usable_folder()
    out = parent / f"{VERSION}-{images}-{SIDE}px"
    with locked(parent / f"{out.name}.lock"):
        if out.is_dir():
            return out
        tell(f"drawing {images} built-in faces into {out}")
        # appears whole or not at all
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}-") as name:
            pictures, masks = Path(name) / "faces/train/images", Path(name) / "faces/train/masks"
            pictures.mkdir(parents=True)
            masks.mkdir()
            for index in range(images):
                image, mask = face(index)
                large = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                large.save(pictures / f"face-{index:05d}.jpg", quality=92)
                ids = Image.fromarray(
                    mask.repeat(SIDE // len(mask), 0).repeat(SIDE // len(mask), 1)
                )
                ids.putpalette(PALETTE)
                ids.save(masks / f"face-{index:05d}.png")
            (Path(name) / "faces").rename(out)
    return out


def first_cores(cores: int | None) -> int:
    """Keep this process and its children to `cores` of the usable ones; returns how many.

    Raises UserError if there are not so many.
    """
    usable = sorted(os.sched_getaffinity(0))
    if cores is None:
        return len(usable)
    if cores > len(usable):
        raise UserError(f"--cores {cores}: {len(usable)} can be used here; give at most that")
    os.sched_setaffinity(0, usable[:cores])
    return cores
