"""The trainer on a GPU, in one call of under nine minutes: `scripts/bench gpu`.

Whether captured steps are the eager ones; speed and memory of a training; its kernels; the limit
that this card sets by its own bandwidth and arithmetic; rivals; trials side by side; a search. Each
part is a process of its own, measured once and kept in --out: the same command again does what is
left, and tries again what failed. Without --data faces are drawn; nothing needs a network.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import (
    ROOT,
    add_count,
    add_json,
    builtin_faces,
    count,
    positive,
    print_table,
    run,
    tell,
    write_json,
)
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    from scripts.benchmarks.gpu_parts import Setting

README = ROOT / "trainer" / "README.md"
# f_score_full that the preset is to reach, and what would be better still
TARGET, BEYOND = 0.85, 0.87
SIZES = (128, 512)
# as scripts/bench train draws them
BUILTIN_IMAGES = 600
# beyond --minutes: for what is being measured to end, and to be ended
_GRACE_S, _ENDING_S = 30.0, 15.0
KINDS = {
    "machine": "the card and its software",
    "capture": "captured steps against eager ones, and what they wait for",
    "fit": "two epochs of a training: images/s, scoring, memory",
    "roofline": "what the card reaches, and the limit of a step by that",
    "profile": "30 steps, kernel by kernel",
    "rivals": "a training, a plain loop and a tuned one, all in float32",
    "workers": "trainings side by side",
    "search": "a search from end to end",
    "compiled": "the training once more, its network compiled by torch.compile",
    "full": "the score of the preset `full` (with --data)",
}

Result = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench gpu", description=__doc__)
    it.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="faces in the course layout, repaired (trainer.check --repair); default:"
        f" {BUILTIN_IMAGES} built-in faces, and no `full`",
    )
    it.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench-gpu"),
        metavar="DIR",
        help="results, logs, a trace and checkpoints (default: runs/bench-gpu)",
    )
    it.add_argument(
        "--minutes", type=positive, default=8.0, metavar="M", help="time of this call (default: 8)"
    )
    it.add_argument(
        "--device", default="cuda", metavar="D", help="cuda (default), cuda:i, or cpu for a try"
    )
    it.add_argument(
        "--only",
        choices=KINDS,
        action="append",
        metavar="PART",
        help=f"may be repeated: {'; '.join(f'{name}: {what}' for name, what in KINDS.items())}",
    )
    it.add_argument("--size", type=count, metavar="N", help="pixels (default: 128 and 512)")
    it.add_argument(
        "--pictures", type=count, metavar="N", help="of a measured epoch (default: 6000 and 1200)"
    )
    it.add_argument("--steps", type=count, metavar="N", help="of `full` (default: the preset's)")
    it.add_argument(
        "--seconds",
        type=positive,
        default=5.0,
        metavar="S",
        help="of trainings side by side (default: 5)",
    )
    add_count(it, "--trials", 8, "of the search")
    it.add_argument(
        "--loader-workers",
        type=count,
        metavar="K",
        help="of the rivals (default: cores, at most 8)",
    )
    add_json(it)
    # what this program starts in a process of its own
    it.add_argument("--part", help=argparse.SUPPRESS)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser(), _main, argv)


@dataclass(frozen=True)
class Part:
    """A measurement. seconds: how long it may take on a usual card, its start included."""

    name: str
    kind: str
    seconds: float
    measure: Callable[[Setting], Result]
    needs_a_gpu: bool = False


def parts(args: argparse.Namespace) -> Iterator[Part]:
    """All of them, the shortest and most telling first."""
    # what they import is loaded where one is measured
    from scripts.benchmarks import gpu_parts as it

    sizes = [args.size] if args.size else list(SIZES)
    small = min(sizes)
    yield Part("machine", "machine", 10, it.machine)
    yield Part("captured steps", "capture", 30, it.capture, needs_a_gpu=True)
    for size in sizes:
        yield Part(f"fit at {size}", "fit", 30, partial(it.training, size=size))
    yield Part("roofline", "roofline", 40, partial(it.roofline, sizes=sizes))
    for size in reversed(sizes):
        measure = partial(it.profile, size=size)
        yield Part(f"profile at {size}", "profile", 40, measure, needs_a_gpu=True)
    yield from _against_rivals(small)
    for number, mps in ((1, False), (2, False), (2, True), (4, False), (4, True)):
        yield Part(
            f"{number} at {small}{' with MPS' if mps else ''}",
            "workers",
            25,
            partial(it.workers, count=number, size=small, mps=mps),
            needs_a_gpu=mps,
        )
    yield Part("search", "search", 90, partial(it.search, size=small))
    if len(sizes) > 1:
        yield from _against_rivals(max(sizes))
    # last: of a compiler nobody knows how long it takes
    measure = partial(it.training, size=max(sizes), compiled=True)
    yield Part(f"fit at {max(sizes)} compiled", "compiled", 120, measure, needs_a_gpu=True)
    if args.data is not None:
        yield Part("full", "full", 60, partial(it.full, size=args.size))


def _against_rivals(size: int) -> Iterator[Part]:
    """They train in float32, and so does what they are compared with."""
    from scripts.benchmarks import gpu_parts as it

    own = partial(it.training, size=size, precision="float32")
    yield Part(f"fit at {size} in float32", "rivals", 30, own)
    for rival in it.RIVALS:
        yield Part(f"{rival} at {size}", "rivals", 40, partial(it.rival, name=rival, size=size))


# ------------------------------------------------------------------------------- this, and a part


def _main(args: argparse.Namespace, words: list[str]) -> int:
    if args.part is not None:
        return _measure(args)
    from trainer.data.dataset import describe
    from trainer.data.layouts.course import course_folders
    from trainer.presets import PRESETS
    from trainer.runtime import check_device

    check_device(args.device)
    if args.data is not None and course_folders(args.data) is None:
        raise UserError(f"--data {args.data}: the course layout is needed, train/images and masks")
    until_s = time.monotonic() + 60 * args.minutes
    faces = args.data or builtin_faces(min(BUILTIN_IMAGES, args.pictures or BUILTIN_IMAGES))
    settings = {
        "device": args.device,
        "fingerprint": describe(str(faces)).fingerprint,
        "size": args.size,
        "pictures": args.pictures,
        "steps": args.steps or PRESETS["full"].steps,
        "trials": args.trials,
    }
    file = args.out / "results.json"
    stored = _stored(file, settings) or {"settings": settings, "parts": {}}
    done: Result = stored["parts"]
    chosen = [part for part in parts(args) if not args.only or part.kind in args.only]
    here = [part for part in chosen if args.device != "cpu" or not part.needs_a_gpu]
    left = [part for part in here if "failed" in done.get(part.name, {"failed": ""})]
    # one that failed before may hang again: the others first
    left.sort(key=lambda part: part.name in done)
    to_go = 0
    for index, part in enumerate(left):
        # every call does something, however little time it has
        if index and until_s - time.monotonic() < part.seconds:
            to_go = len(left) - index
            break
        tell(f"{part.name} ...")
        found = _in_a_process(part, args, words, faces, until_s, first=index == 0)
        if found is None:
            to_go = len(left) - index
            break
        if "failed" in found:
            tell(f"{part.name} failed: {found['failed']}")
        if part.kind == "machine" and "failed" not in found:
            found["command"] = shlex.join(["scripts/bench", "gpu", *words])
        done[part.name] = found
        write_json(file, stored)
    _show(done, [part.name for part in chosen if part not in here])
    if args.json is not None:
        write_json(args.json, stored)
    if to_go:
        print(f"--minutes {args.minutes:g}: {to_go} to go; the same command goes on")
    return int(any("failed" in done.get(part.name, {}) for part in here))


def _stored(file: Path, settings: Result) -> Result | None:
    """The results of earlier calls. Raises UserError where those measured something else."""
    if not file.exists():
        return None
    stored: Result = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if stored["settings"].get(name) != value:
            raise UserError(
                f"{file} was measured with {name} {stored['settings'].get(name)!r}, not {value!r}:"
                " give that, or another --out"
            )
    return stored


def _in_a_process(
    part: Part,
    args: argparse.Namespace,
    words: Sequence[str],
    faces: Path,
    until_s: float,
    *,
    first: bool,
) -> Result | None:
    """What a part finds in a process of its own: what one does to the GPU, no other one meets.

    Returns {"failed": a line} where it does not end well; None where the time is up, unless it is
    the first part of this call, which had the whole of it.
    """
    from search.execution.launchers.launcher import last_words

    log = args.out / f"{part.name.replace(' ', '-').replace(',', '')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    left_s = until_s - time.monotonic()
    command = [sys.executable, "-m", "scripts.benchmarks.gpu", *words]
    command += ["--part", part.name, "--data", str(faces), "--minutes", f"{max(left_s, 1) / 60:g}"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process,
    ):
        try:
            said, _ = process.communicate(timeout=max(left_s, 0) + _GRACE_S)
        except subprocess.TimeoutExpired:
            if not first:
                return None
            return {"failed": f"did not end within {args.minutes:g} minutes; see {log}"}
        finally:
            _end(process)
    if process.returncode == 0:
        with suppress(ValueError, IndexError):
            found: Result = json.loads(said.strip().splitlines()[-1])
            return None if "time_up" in found else found
    if process.returncode < 0:
        return {"failed": f"ended by {signal.Signals(-process.returncode).name}; see {log}"}
    return {"failed": last_words(log).removeprefix("error: ")}


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end with what it has started; kill it where it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=_ENDING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _measure(args: argparse.Namespace) -> int:
    """Measure a part; its result is the last line that is printed."""
    from scripts.benchmarks.gpu_parts import Setting, TimeUp
    from trainer.presets import PRESETS
    from trainer.runtime import usable_cores

    setting = Setting(
        device="cuda:0" if args.device == "cuda" else args.device,
        faces=args.data,
        out=args.out,
        pictures=args.pictures,
        seconds=args.seconds,
        steps=args.steps or PRESETS["full"].steps,
        trials=args.trials,
        loader_workers=args.loader_workers or min(8, usable_cores()),
        until_s=time.monotonic() + 60 * args.minutes,
    )
    part = next(part for part in parts(args) if part.name == args.part)
    try:
        found = part.measure(setting)
    except TimeUp as error:
        found = {"time_up": str(error)}
    print(json.dumps(found, allow_nan=False), flush=True)
    return 0


# --------------------------------------------------------------------------------------- the table

Row = tuple[str, str, str]


def rows(done: Mapping[str, Result]) -> list[Row]:
    """What was measured, for a person: what, its figure, and what that is compared with."""
    shown: list[Row] = []
    for name, part in done.items():
        if "failed" in part:
            shown.append((name, "failed", part["failed"]))
        # a part may have failed by what it found
        with suppress(KeyError):
            shown += _ROWS[_kind_of(name)](name, part, done)
    return shown


def _kind_of(name: str) -> str:
    for start, kind in _STARTS.items():
        if name.startswith(start):
            return kind
    raise KeyError(name)


# of a part's name
_STARTS = {
    "machine": "machine",
    "captured": "capture",
    "fit": "fit",
    "roofline": "roofline",
    "profile": "profile",
    "plain": "rivals",
    "tuned": "rivals",
    "search": "search",
    "full": "full",
    "": "workers",
}


def _machine(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    versions = part["versions"]
    card = part["hardware"]["cpu"]
    if "compute_capability" in part:
        card = f"{part['gpu']}, {part['memory_mb'] / 1e3:.1f} GB"
        software = f"CUDA {part['cuda']}, cuDNN {part['cudnn']}, torch {versions['torch']}"
        yield "card", card, f"compute capability {part['compute_capability']}; {software}"
    else:
        yield "no GPU", card, f"torch {versions['torch']}"


def _capture(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    for case in part["cases"]:
        what = f"captured steps, {case['precision']}, dropout {case['dropout']:g}"
        verdict = "the same" if case["same"] else "NOT the same"
        if not case["captured"]:
            verdict = "NOT captured"
        yield (
            what,
            f"{verdict}: {_apart(case['captured_to_eager'])} from eager ones",
            f"two eager trainings differ by {_apart(case['eager_to_eager'])}"
            + (
                ""
                if case["other_draws"] is None
                else f", other draws of dropout by {_apart(case['other_draws'])}"
            ),
        )
    waits = part["waits_per_epoch"]
    steps = sum(number for where, number in waits.items() if where.startswith("optimiser"))
    yield (
        "waits for the device",
        f"{sum(waits.values()):g} an epoch, {steps:g} of them between steps",
        "; ".join(f"{where} x {number:g}" for where, number in waits.items()),
    )


def _apart(difference: float | None) -> str:
    return "not a number" if difference is None else f"{difference:.1e}"


def _fit(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    ours = part["images_per_s"]
    limit = done.get("roofline", {}).get("sizes", {}).get(str(part["size"]), {})
    same = limit.get("precision") == part["precision"]
    against = []
    plain = done.get(f"fit at {part['size']}", {})
    if part["compiled"] and "images_per_s" in plain:
        against.append(f"{ours / plain['images_per_s']:.2f} of the one that is not compiled")
    if same:
        against.append(
            f"{ours / limit['limit_images_per_s']:.2f} of the limit,"
            f" {limit['limit_images_per_s']:.0f}, bound by {limit['bound']}"
        )
    yield f"{name}, {part['precision']}", f"{ours:.1f} images/s", "; ".join(against)
    yield (
        f"{name}: scoring",
        f"{part['scored'] / part['scoring_s']:.1f} images/s",
        f"{part['scoring_s'] / (part['scoring_s'] + part['training_s']):.0%} of an epoch of"
        f" {part['train']} pictures, {part['scored']} scored",
    )
    yield (
        f"{name}: start",
        f"{part['start_s']:.1f} s to the end of the first step",
        f"a checkpoint holds training up for {1e3 * part['checkpoint_s']:.0f} ms",
    )
    if "reserved_mb" in part:
        reserved, allocated, pictures = (
            part[one] for one in ("reserved_mb", "allocated_mb", "pictures_mb")
        )
        expected = expected_mb(README.read_text(encoding="utf-8"), part["size"], part["batch"])
        yield (
            f"{name}: memory after scoring",
            f"{reserved['scoring']:.0f} MB reserved, {allocated['scoring']:.0f} allocated at most",
            (
                f"trainer/README.md's table and these pictures, streamed or not:"
                f" {expected + pictures:.0f} MB; "
                if expected is not None
                else ""
            )
            + f"{part['used_on_device_mb']:.0f} MB in use on the device",
        )
        yield (
            f"{name}: memory before scoring",
            f"{reserved['training']:.0f} MB reserved,"
            f" {allocated['training']:.0f} allocated at most",
            f"pictures {pictures:.0f} MB, a step's own tensors {limit['step_peak_mb']:.0f} MB"
            if same
            else f"pictures {pictures:.0f} MB",
        )
    for text in part["warnings"]:
        yield f"{name}: warning", text, ""
    if "tf32" in part:
        words = {True: "TF32", False: "no TF32"}
        by_itself = words[part["tf32_by_itself"]]
        yield f"{name}: float32", words[part["tf32"]], f"torch by itself, as rivals: {by_itself}"


def expected_mb(text: str, size: int, batch: int) -> float | None:
    """Of training and scoring, by the table of memory in trainer/README.md; None: not in it.

    >>> expected_mb("| 512, 12 | 4,203 MB | 995 MB | 1,887 MB | 7.7 GB |", 512, 12)
    5198.0
    """
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] == f"{size}, {batch}" and all(cell.endswith(" MB") for cell in cells[1:3]):
            return sum(float(cell.removesuffix(" MB").replace(",", "")) for cell in cells[1:3])
    return None


def _roofline(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    rates = part["rates"]
    yield (
        "bandwidth",
        f"{rates['copy_bytes_per_s'] / 1e9:.0f} GB/s copy,"
        f" {rates['triad_bytes_per_s'] / 1e9:.0f} triad",
        f"{rates['cache_bytes_per_s'] / 1e9:.0f} within"
        f" {rates['cache_bytes'] / 1e6:.0f} MB of cache"
        if rates["cache_bytes"]
        else "no cache known",
    )
    yield "a kernel that does nothing", f"{1e6 * rates['launch_s']:.2f} us", ""
    for kind, rate in rates["matmul_flops_per_s"].items():
        by_shape = rates["convolution_flops_per_s"][kind]
        best = max(by_shape, key=lambda shape: by_shape[shape])
        yield (
            f"arithmetic in {kind}",
            f"{by_shape[best] / 1e12:.4g} TFLOP/s, convolution of {best}",
            f"{rate / 1e12:.4g} in a matrix product",
        )
    for size, one in part["sizes"].items():
        yield (
            f"limit at {size}, {one['precision']}",
            f"{one['limit_images_per_s']:.1f} images/s, bound by {one['bound']}",
            f"{one['moved_gb']:.2f} GB and {one['gflop_per_image']:.1f} GFLOP an image in"
            f" {one['ops']} ops: {one['memory_ms']:.2f} ms memory,"
            f" {one['arithmetic_ms']:.2f} arithmetic, {one['launch_ms']:.2f} launch",
        )


def _profile(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    yield (
        name,
        f"{part['step_ms']:.2f} ms a step, {part['between_kernels']:.1%} of it between kernels",
        f"{part['kernels_per_step']:.0f} kernels a step, {part['busy_ms']:.2f} ms",
    )
    groups = (f"{group} {share:.1%}" for group, share in part["groups"].items())
    yield f"{name}: by kind", ", ".join(groups), ""


def _rival(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    # a training takes float32 by itself where there is nothing else
    ours: dict[str, str] = {}
    for own in (f"fit at {part['size']}", f"fit at {part['size']} in float32"):
        if "images_per_s" in done.get(own, {}):
            ratio = done[own]["images_per_s"] / part["images_per_s"]
            ours[done[own]["precision"]] = f"ours in {done[own]['precision']} is {ratio:.2f} of it"
    figure = f"{part['images_per_s']:.1f} images/s ({part['how']})"
    yield f"{name}, float32", figure, "; ".join(ours.values())


def _workers(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    from scripts.benchmarks.gpu_parts import TRAIN, VAL, trial_s
    from trainer.presets import PRESETS

    together, size = part["images_per_s"], part["size"]
    what = f"trainings at once: {name}"
    if together is None:
        yield what, part["note"], ""
        return
    alone = done.get(f"1 at {size}", {}).get("images_per_s")
    told = [f"{together / alone:.2f} of one"] if alone else []
    fit = done.get(f"fit at {size}", {})
    if alone and "images_per_s" in fit:
        slower = part["workers"] * alone / together
        each_s = trial_s(fit, steps=PRESETS["full"].steps, slower=slower)
        told.append(
            f"{3600 * part['workers'] / each_s:.2f} unpruned trials of {PRESETS['full'].steps:,}"
            f" steps an hour on {TRAIN} + {VAL} pictures, with start, scoring and checkpoints"
        )
    yield what, f"{together:.1f} images/s", "; ".join(told)


def _search(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    busy = part.get("gpu_busy")
    yield (
        f"a search of {part['finished']} at {part['size']}",
        f"{part['wall_s']:.0f} s, {part['trials_per_hour']:.1f} trials an hour",
        f"{part['pruned']} pruned, {part['revived']} revived, {part['epochs']} of"
        f" {part['budget_epochs']} epochs trained"
        + ("" if busy is None else f"; a kernel at work {busy:.0%} of the time"),
    )


def _full(name: str, part: Result, done: Mapping[str, Result]) -> Iterator[Row]:
    for one in ("val", "test"):
        score = part[f"f_score_full_{one}"]
        told = (
            f"{target:g} {'reached' if score >= target else f'missed by {target - score:.4f}'}"
            for target in (TARGET, BEYOND)
        )
        yield f"f_score_full on {one}", f"{score:.4f}", ", ".join(told)


_ROWS: dict[str, Callable[[str, Result, Mapping[str, Result]], Iterator[Row]]] = {
    "machine": _machine,
    "capture": _capture,
    "fit": _fit,
    "roofline": _roofline,
    "profile": _profile,
    "rivals": _rival,
    "workers": _workers,
    "search": _search,
    "full": _full,
}


def _show(done: Mapping[str, Result], need_a_gpu: Sequence[str]) -> None:
    shown = [*rows(done), *((name, "needs a GPU", "") for name in need_a_gpu)]
    print_table("scripts/bench gpu", ("measured", "figure", "compared with"), shown)
    for name, part in done.items():
        if "kernels" in part:
            kernels = [
                (
                    f"{kernel['share']:.1%}",
                    f"{kernel['ms_per_step']:.3f}",
                    f"{kernel['runs_per_step']:g}",
                    kernel["name"][:120],
                )
                for kernel in part["kernels"]
            ]
            print_table(name, ("share", "ms a step", "runs a step", "kernel"), kernels)


if __name__ == "__main__":
    sys.exit(main())
