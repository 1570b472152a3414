"""Training speed against two rivals: `scripts/bench train`.

Plain, tuned (`rivals`) and the project's own trainer train the same network on the same
pictures, in fresh processes, one after the other, in rounds. Each gets the arrangement of
processes, threads and loader workers that is best for it on these cores. Images per second count
all training processes together, warm-up and scoring left out; scoring and checkpoints of ours are
shown as shares of an epoch. Then ours alone and beside a busy loop on every core, with threads that
wait as commands here let them (`trainer.cli.limit_spinning`) and as torch does by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.common import (
    add_count,
    add_json,
    builtin_faces,
    count,
    first_cores,
    interrupted_by_sigterm,
    print_table,
    record,
    run,
    start_together,
    tell,
    write_json,
)
from trainer.cli import Parser, guarded
from trainer.errors import UserError
from trainer.presets import steps_per_epoch

KINDS = ("plain", "tuned", "ours")
PHASES = ("data", "forward", "backward", "optimiser", "scoring", "checkpoint")
# of an epoch: what the rivals' clock sees too
TRAINING_PHASES = PHASES[:4]
# so many that a measured epoch of ours has 60 steps
BUILTIN_IMAGES = 600
WARMUP_STEPS = 10
# of the model and the loss, as scripts.benchmarks.rivals has them
DROPOUT, LABEL_SMOOTHING, DICE_WEIGHT = 0.15, 0.1, 1.5
# what the libraries do by themselves, and so for whoever does not know of it
LIBRARIES_OWN = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}
# ends with its parent, however that ends
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""
# large enough to leave the caches: 17 MB a matrix, 256 MB a copy
MATRIX_SIDE, COPY_BYTES, REPEATS = 2048, 2**28, 3

Figures = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every competitor trains. train_images: of the training part of ours."""

    data: Path
    size: int
    width: float
    batch: int
    steps: int
    train_images: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch of ours."""
        return steps_per_epoch(self.train_images, self.batch)

    @property
    def epochs(self) -> int:
        """Measured epochs of ours: whole ones, so that scoring has its share."""
        return -(-self.steps // self.steps_per_epoch)


@dataclass(frozen=True)
class Arrangement:
    """How a competitor uses the cores."""

    processes: int
    threads: int
    loader_workers: int = 0

    def __str__(self) -> str:
        loaders = f", {self.loader_workers} loading" if self.loader_workers else ""
        return f"{self.processes} x {self.threads}{loaders}"


def arrangements(kind: str, cores: int) -> list[Arrangement]:
    """What the trial tries: all threads in one process, and one process per core."""
    workers = (0,) if kind == "ours" else (0, 1, 2, 8) if cores >= 8 else (0, 1, 2)
    tried = [Arrangement(1, cores, number) for number in workers]
    return tried if cores == 1 else [*tried, Arrangement(cores, 1)]


# ------------------------------------------------------------------------------ running competitors


def command(
    kind: str, job: Job, how: Arrangement, *, steps: int, seed: int, scratch: Path, device: str
) -> list[str]:
    """The command line of one training process."""
    if kind == "ours":
        epochs = -(-steps // job.steps_per_epoch)
        program: list[object] = ["scripts.benchmarks.train", "ours", "--epochs", epochs]
        program += ["--out", tempfile.mkdtemp(dir=scratch)]
    else:
        program = ["scripts.benchmarks.rivals", kind, "--steps", steps, "--warmup", WARMUP_STEPS]
        program += ["--loader-workers", how.loader_workers, "--device", device]
    program += ["--data", job.data, "--size", job.size, "--width", job.width, "--batch", job.batch]
    program += ["--threads", how.threads, "--seed", seed, "--barrier"]
    return [sys.executable, "-m", *map(str, program)]


@contextmanager
def running(
    commands: Sequence[list[str]], threads: int, waiting: Mapping[str, str]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended, with what they have started, when the block ends.

    waiting: variables that say how their threads wait.
    """
    # libraries size their thread pools before the program can
    sized = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    processes: list[subprocess.Popen[str]] = []
    try:
        for words in commands:
            processes.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **sized, **waiting},
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def measured(
    kind: str,
    job: Job,
    how: Arrangement,
    *,
    steps: int,
    seed: int,
    waiting: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> Figures:
    """One measurement of one competitor: figures of all its processes together.

    All start at once after their warm-up and take equally many steps; images per second are all
    their images in the time of the slowest. waiting: how threads wait, where not as they do by
    default: those of rivals by themselves, ours as in every command. device: of rivals; ours take
    the CPU. Raises UserError where a process fails.
    """
    if waiting is None:
        waiting = {} if kind == "ours" else LIBRARIES_OWN
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        commands = [
            command(
                kind, job, how, steps=steps, seed=seed + i, scratch=Path(scratch), device=device
            )
            for i in range(how.processes)
        ]
        with running(commands, how.threads, waiting) as processes:
            start_together(processes, f"{kind} ({how})")
            results = [json.loads(process.communicate()[0] or "null") for process in processes]
    if None in results:
        raise UserError(f"{kind} ({how}) ended without a result; see above")
    slowest = max(results, key=lambda result: result["seconds"])
    return {
        **slowest,
        "images_per_s": sum(r["steps"] for r in results) * job.batch / slowest["seconds"],
        "peak_memory_mb": sum(r["peak_memory_mb"] for r in results),
    }


# -------------------------------------------------------------------- ours, in a process of its own


class Laps:
    """The `lap` of `fit`: seconds of each phase after the first epoch, and CPU time of training.

    barrier: wait for the parent's word between the first epoch and the others.
    """

    def __init__(self, barrier: bool) -> None:
        self.barrier = barrier
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.cpu_s = 0.0
        self.steps = 0
        self._warm = False
        self._since = self._cpu_since = 0.0

    def __call__(self, phase: str) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        if self._warm:
            self.seconds[phase] += now - self._since
            self.cpu_s += (cpu - self._cpu_since) * (phase in TRAINING_PHASES)
            self.steps += phase == "optimiser"
        elif phase == "checkpoint":
            self._warm = True
            if self.barrier:
                from scripts.benchmarks.rivals import wait_for_the_others

                wait_for_the_others()
            now, cpu = time.perf_counter(), time.process_time()
        self._since, self._cpu_since = now, cpu


def train_ours(args: argparse.Namespace) -> int:
    """Train as a search does, print the figures of all epochs but the first as one JSON line."""
    import torch

    from scripts.benchmarks.rivals import peak_memory_mb
    from trainer.config import Config, with_values
    from trainer.data.dataset import load_faces
    from trainer.fit import fit
    from trainer.presets import preset_values
    from trainer.runtime import applied, choose_runtime

    values = preset_values("small", root=str(args.data)) | {
        "data.root": str(args.data),
        "data.image_size": args.size,
        "data.batch_size": args.batch,
        "model.width": args.width,
        "model.dropout": DROPOUT,
        "loss.dice_weight": DICE_WEIGHT,
        "loss.label_smoothing": LABEL_SMOOTHING,
        "training.epochs": 1 + args.epochs,
        "training.early_stopping_patience": None,
        "training.seed": args.seed,
    }
    config = choose_runtime(with_values(Config(), values), device="cpu", threads=args.threads)
    data = load_faces(config.data.root, image_size=args.size)
    laps = Laps(args.barrier)
    result = fit(config, data, out=args.out, lap=laps)
    seconds = sum(laps.seconds[phase] for phase in TRAINING_PHASES)
    figures = {
        "images_per_s": laps.steps * args.batch / seconds,
        "seconds": seconds,
        "cpu_s": laps.cpu_s,
        "steps": laps.steps,
        "peak_memory_mb": peak_memory_mb(),
        "final_loss": result.history[-1]["train_loss"],
        "phases": laps.seconds,
        "runtime": config.runtime.model_dump(),
    }
    with applied(config.runtime):
        figures |= machine_figures(torch.get_num_threads())
    print(json.dumps(figures), flush=True)
    return 0


def machine_figures(threads: int) -> Figures:
    """What the machine can do with so many threads: float32 matrix product, large copy."""
    import torch

    torch.set_num_threads(threads)
    matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    # once unmeasured: the first call makes buffers and wakes threads
    product_s = min(_seconds(lambda: matrix @ matrix) for _ in range(1 + REPEATS))
    copy_s = min(_seconds(lambda: target.copy_(source)) for _ in range(1 + REPEATS))
    return {
        "matmul_flops_per_s": 2 * MATRIX_SIDE**3 / product_s,
        # a copy reads and writes
        "copy_gb_per_s": 2 * COPY_BYTES / copy_s / 1e9,
    }


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step_flops(job: Job) -> int:
    """FLOPs of forward and backward of a step on the plain model, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from trainer.model import build_model

    model = build_model("lmsa", width=job.width, dropout=DROPOUT)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(job.batch, 3, job.size, job.size)).mean().backward()
    return int(counter.get_total_flops())


# ------------------------------------------------------------------------------- rounds and figures


def best_arrangements(job: Job, cores: int) -> dict[str, dict[Arrangement, float]]:
    """kind -> arrangement -> images per second of a short trial, the fastest first."""
    found = {}
    for kind in KINDS:
        tried = arrangements(kind, cores)
        speeds = {}
        for how in tried if len(tried) > 1 else ():
            # a few loaded batches lie ready when the clock starts: they must not decide
            steps = max(2 * WARMUP_STEPS, job.steps // 2)
            speeds[how] = measured(kind, job, how, steps=steps, seed=0)["images_per_s"]
            tell(f"{job.size} pixels, trial, {kind}, {how}: {speeds[how]:.1f} images/s")
        found[kind] = dict(sorted(speeds.items(), key=lambda item: -item[1])) or {tried[0]: 0.0}
    return found


def race(job: Job, rounds: int, how: Mapping[str, Arrangement]) -> dict[str, list[Figures]]:
    """Figures of every kind for each round; who begins changes from round to round."""
    figures: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
    steps = job.epochs * job.steps_per_epoch
    for number in range(rounds):
        turn = number % len(KINDS)
        for kind in (*KINDS[turn:], *KINDS[:turn]):
            figures[kind].append(measured(kind, job, how[kind], steps=steps, seed=number))
        now = ", ".join(f"{kind} {figures[kind][-1]['images_per_s']:.1f}" for kind in KINDS)
        tell(f"{job.size} pixels, round {number + 1} of {rounds}, images/s: {now}")
    return figures


def summary(
    job: Job,
    figures: Mapping[str, list[Figures]],
    how: Mapping[str, Arrangement],
    tried: Mapping[str, Mapping[Arrangement, float]],
) -> Figures:
    """The result for one size, as the JSON file has it."""
    speeds = {kind: [figure["images_per_s"] for figure in figures[kind]] for kind in KINDS}
    ours = figures["ours"]

    def ratio_to(kind: str) -> float:
        pairs = zip(speeds["ours"], speeds[kind], strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    def median(name: str) -> float:
        return statistics.median(figure[name] for figure in ours)

    def network_s(figure: Figures) -> float:
        return float(figure["phases"]["forward"] + figure["phases"]["backward"])

    def share(phase: str) -> float:
        # sums, not medians: shares of one whole
        whole = sum(sum(figure["phases"].values()) for figure in ours)
        return float(sum(figure["phases"][phase] for figure in ours) / whole)

    flops = step_flops(job)
    return {
        **{f"{kind}_images_per_s": statistics.median(speeds[kind]) for kind in KINDS},
        "ratio": ratio_to("plain"),
        "ratio_tuned": ratio_to("tuned"),
        "breakdown": {phase: share(phase) for phase in PHASES},
        "peak_memory_mb": {
            kind: max(figure["peak_memory_mb"] for figure in figures[kind]) for kind in KINDS
        },
        "ceiling_share": statistics.median(
            flops * figure["steps"] / network_s(figure) / figure["matmul_flops_per_s"]
            for figure in ours
        ),
        "limit_ratio": statistics.median(
            mine["images_per_s"] * mine["seconds"] / network_s(mine) / other
            for mine, other in zip(ours, speeds["plain"], strict=True)
        ),
        "step_flops": flops,
        "matmul_flops_per_s": median("matmul_flops_per_s"),
        "copy_gb_per_s": median("copy_gb_per_s"),
        "steps": job.epochs * job.steps_per_epoch,
        "images_per_s_by_round": speeds,
        "arrangement": {kind: str(how[kind]) for kind in KINDS},
        "trial_images_per_s": {
            kind: {str(one): speed for one, speed in tried[kind].items() if speed} for kind in KINDS
        },
        "runtime": ours[0]["runtime"],
    }


# ------------------------------------------------------------------------------ on a loaded machine


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def loaded(job: Job, rounds: int, cores: int) -> Figures:
    """Ours in one process on all cores, alone and beside a busy loop on each, waiting both ways.

    Returns seconds and CPU seconds of every round, and their ratios within a round. The order is
    turned from round to round.
    """
    how, steps = Arrangement(1, cores), job.epochs * job.steps_per_epoch
    ways: dict[str, Mapping[str, str] | None] = {"torch": LIBRARIES_OWN, "ours": None}
    places = {"alone": 0, "beside": cores}
    taken: dict[tuple[str, str], list[Figures]] = {
        (way, place): [] for way in ways for place in places
    }
    for number in range(rounds):
        order = list(taken) if number % 2 == 0 else list(reversed(taken))
        for way, place in order:
            with busy_loops(places[place]):
                one = measured("ours", job, how, steps=steps, seed=number, waiting=ways[way])
            taken[way, place].append(one)
            tell(
                f"{job.size} pixels, round {number + 1} of {rounds}, {place}, waiting as {way}:"
                f" {one['seconds']:.2f} s, {one['cpu_s']:.2f} CPU s"
            )

    def ratios(above: tuple[str, str], below: tuple[str, str]) -> list[float]:
        pairs = zip(taken[above], taken[below], strict=True)
        return [one["seconds"] / other["seconds"] for one, other in pairs]

    return {
        "busy_loops": cores,
        "arrangement": str(how),
        "steps": steps,
        **{
            name: {
                way: {place: [one[name] for one in taken[way, place]] for place in places}
                for way in ways
            }
            for name in ("seconds", "cpu_s")
        },
        "beside_to_alone": {way: ratios((way, "beside"), (way, "alone")) for way in ways},
        "ours_to_torch": {place: ratios(("ours", place), ("torch", place)) for place in places},
    }


# ------------------------------------------------------------------------------- what a person sees


def show(size: int, result: Figures) -> None:
    """The result for one size, for a person."""
    rows = []
    for kind in KINDS:
        rounds = result["images_per_s_by_round"][kind]
        ratio = {"plain": result["ratio"], "tuned": result["ratio_tuned"]}.get(kind)
        rows.append(
            (
                kind,
                f"{result[f'{kind}_images_per_s']:.1f}",
                f"{min(rounds):.1f}..{max(rounds):.1f}",
                "" if ratio is None else f"{ratio:.2f} x",
                f"{result['peak_memory_mb'][kind]:.0f}",
                result["arrangement"][kind],
            )
        )
    tried = {
        kind: "; ".join(f"{how}: {speed:.1f}" for how, speed in speeds.items())
        for kind, speeds in result["trial_images_per_s"].items()
    }
    parts = ", ".join(f"{phase} {part:.1%}" for phase, part in result["breakdown"].items())
    print_table(
        f"{size} pixels, {result['steps']} steps a round",
        ("", "images/s", "min..max", "ours is", "MB", "processes x threads"),
        rows,
        *(
            f"{kind}, tried in images/s: {speeds or 'one core leaves no choice'}"
            for kind, speeds in tried.items()
        ),
        f"an epoch of ours: {parts}",
        f"forward and backward: {result['step_flops'] / 1e9:.2f} GFLOP a step, at"
        f" {result['ceiling_share']:.0%} of the {result['matmul_flops_per_s'] / 1e9:.0f} GFLOP/s"
        " that a process's threads reach in a float32 matrix product; a large copy moves"
        f" {result['copy_gb_per_s']:.1f} GB/s",
        in_words(result) + "\n",
    )


def show_loaded(size: int, result: Figures) -> None:
    """What other work on the machine costs, for a person."""

    def shown(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"

    title = f"{size} pixels, {result['steps']} steps, {result['arrangement']}, threads that wait"
    places = ("alone", f"beside {result['busy_loops']} busy loops")
    columns = (
        *(f"{place}, s" for place in places),
        "ratio",
        *(f"{place}, CPU s" for place in places),
    )
    rows = []
    for way, name in (("torch", "as torch does"), ("ours", "as commands here let them")):
        seconds, cpu_s = (result[what][way].values() for what in ("seconds", "cpu_s"))
        cells = (*seconds, result["beside_to_alone"][way], *cpu_s)
        rows.append((name, *map(shown, cells)))
    alone, beside = map(shown, result["ours_to_torch"].values())
    ratios = f"the second to the first: alone {alone}, {places[1]} {beside}\n"
    print_table(title, ("", *columns), rows, ratios)


def in_words(result: Figures) -> str:
    """What stands between the ratio and its limit."""
    step = sum(result["breakdown"][phase] for phase in TRAINING_PHASES)
    data, optimiser = (result["breakdown"][phase] / step for phase in ("data", "optimiser"))
    return (
        f"ratio {result['ratio']:.2f} to plain, limit {result['limit_ratio']:.2f} if all but"
        f" forward and backward cost nothing: in between stand data ({data:.1%} of a step) and"
        f" optimiser ({optimiser:.1%}); beyond it only a faster forward and backward lead"
    )


# ----------------------------------------------------------------------------------------- commands


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench train", description=__doc__)
    it.add_argument(
        "--size",
        dest="sizes",
        type=count,
        action="append",
        metavar="N",
        help="pixels of a side; may be repeated (default: 64 and 128)",
    )
    it.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"faces in the course layout (default: {BUILTIN_IMAGES} built-in faces, as files)",
    )
    add_count(it, "--rounds", 5)
    steps = "optimiser steps of a measurement, raised to whole epochs of ours"
    add_count(it, "--steps", 60, steps)
    add_count(it, "--batch-size", 8)
    it.add_argument(
        "--width", type=float, default=0.35, metavar="W", help="of the network (default: 0.35)"
    )
    it.add_argument(
        "--loaded", action="store_true", help="only ours, alone and beside busy loops; no rivals"
    )
    it.add_argument("--cores", type=count, metavar="N", help="CPU cores (default: all usable)")
    add_json(it)
    return it


def _ours_parser() -> argparse.ArgumentParser:
    it = Parser(prog="scripts.benchmarks.train ours")
    for name in ("--epochs", "--size", "--batch", "--threads", "--seed"):
        it.add_argument(name, type=int, required=True)
    it.add_argument("--data", type=Path, required=True)
    it.add_argument("--out", type=Path, required=True)
    it.add_argument("--width", type=float, required=True)
    it.add_argument("--barrier", action="store_true")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    interrupted_by_sigterm()
    if words[:1] == ["ours"]:  # what this program starts in fresh processes
        ours = _ours_parser().parse_args(words[1:])
        return guarded(lambda: train_ours(ours))
    return run(parser(), _main, words)


def _main(args: argparse.Namespace, words: list[str]) -> int:
    from trainer.data.dataset import load_faces
    from trainer.data.layouts.course import course_folders

    cores = first_cores(args.cores)
    if args.data is not None and course_folders(args.data) is None:
        raise UserError(f"--data {args.data}: the course layout is needed, train/images and masks")
    data = args.data or builtin_faces(BUILTIN_IMAGES)
    about = record("scripts/bench train", words)
    sizes: dict[str, Figures] = {}
    for size in dict.fromkeys(args.sizes or (64, 128)):
        # decoded before anybody's clock starts
        train_images = len(load_faces(str(data), image_size=size).train)
        if train_images < args.batch_size:
            raise UserError(
                f"--batch-size {args.batch_size}: {data} has {train_images} training pictures;"
                " give at most that"
            )
        job = Job(data, size, args.width, args.batch_size, args.steps, train_images)
        result: Figures = {}
        if not args.loaded:
            tried = best_arrangements(job, cores)
            how = {kind: next(iter(tried[kind])) for kind in KINDS}
            figures = race(job, args.rounds, how)
            result = summary(job, figures, how, tried)
            show(size, result)
        result["loaded"] = loaded(job, args.rounds, cores)
        show_loaded(size, result["loaded"])
        sizes[str(size)] = result
    if args.json is not None:
        first = next(iter(sizes.values()))
        write_json(args.json, {**first, "sizes": sizes, **about})
    return 0


if __name__ == "__main__":
    sys.exit(main())
