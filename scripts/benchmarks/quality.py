"""The score of a preset, how sure it is, and what each ingredient brings: `scripts/bench quality`.

Every training is one process with one thread; as many run side by side as there are cores. A
finished one leaves its scores in --out, one that was interrupted goes on from its last epoch: the
same command again does only what is missing. Masks with left and right reversed are repaired in
a copy below --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import (
    ROOT,
    add_count,
    add_json,
    commit,
    count,
    interrupted_by_sigterm,
    markdown,
    print_table,
    record,
    run,
    tell,
    write_json,
)
from trainer.cli import Parser, guarded
from trainer.errors import UserError

if TYPE_CHECKING:
    from search.execution.launchers.local import WorkerPlan
    from trainer.config import Config
    from trainer.data.dataset import FaceData, Part

RESAMPLES, CONFIDENCE = 2000, 0.95
SCORES = ("f_score", "f_score_full")
PARTS = ("val", "test")
BASE = "base"
FLIP_TTA = "flip-TTA"
_LOOK_S = 0.2
_END_S = 20.0

Figures = dict[str, Any]


@dataclass(frozen=True)
class Ingredient:
    """Something that a training may have. present, absent: the keys that switch it."""

    name: str
    present: Mapping[str, Any]
    absent: Mapping[str, Any]

    def row(self, base: Config) -> tuple[str, Mapping[str, Any]]:
        """The row's name and its changes: without it where the base has it, with it elsewhere."""
        from trainer.config import get

        if any(get(base, key) != value for key, value in self.absent.items()):
            return f"without {self.name}", self.absent
        return f"with {self.name}", self.present


def ingredients(epochs: int) -> list[Ingredient]:
    """What `--ablate` leaves out or adds."""
    jitter = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.1}
    return [
        Ingredient("flip", {"horizontal_flip": 0.5}, {"horizontal_flip": 0.0}),
        Ingredient(
            "rotation and scale",
            {"rotation": 5.0, "scale_range": [0.95, 1.05]},
            {"rotation": 0.0, "scale_range": [1.0, 1.0]},
        ),
        Ingredient("colour", jitter, dict.fromkeys(jitter, 0.0)),
        Ingredient("crop", {"crop": 0.5}, {"crop": 0.0}),
        Ingredient("CutMix", {"cutmix": 0.5}, {"cutmix": 0.0}),
        Ingredient("erasing", {"erasing": 0.5}, {"erasing": 0.0}),
        Ingredient(
            "Dice",
            {"dice_weight": 1.5},
            {"dice_weight": 0.0, "dice_ramp": 0.0, "dice_schedule": "constant"},
        ),
        Ingredient("Lovasz", {"lovasz_weight": 1.0}, {"lovasz_weight": 0.0}),
        Ingredient("auxiliary loss", {"aux_weight": 0.4}, {"aux_weight": 0.0}),
        Ingredient("EMA", {"ema": 0.5}, {"ema": 0.0}),
        Ingredient("warm restarts T_0 = E/3", {"T_0": epochs / 3}, {"T_0": None}),
    ]


@dataclass(frozen=True)
class Job:
    """One training, or the flip-TTA scores of one. folder: its own, by what is trained on what."""

    row: str
    seed: int
    config: Config = field(repr=False)
    folder: Path
    tta_flip: bool = False

    @property
    def scores(self) -> Path:
        """Where its scores are left."""
        return self.folder / ("scores-tta.json" if self.tta_flip else "scores.json")


def rows_of(base: Config, ablate: bool, only: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    """Row -> what it changes in the base; None for flip-TTA, which trains nothing anew.

    only: rows, by their names with or without the first word. Raises UserError for an unknown one.
    """
    rows: dict[str, Mapping[str, Any] | None] = {BASE: {}}
    if not (ablate or only):
        return rows
    every = dict(one.row(base) for one in ingredients(base.training.epochs))
    wanted = {**every, f"with {FLIP_TTA}": None}
    unknown = [name for name in only if not any(_means(name, row) for row in wanted)]
    if unknown:
        raise UserError(f"--only {unknown[0]!r} is none of: {', '.join(wanted)}")
    for row, changes in wanted.items():
        if not only or any(_means(name, row) for name in only):
            rows[row] = changes
    return rows


def _means(name: str, row: str) -> bool:
    return name in (row, row.partition(" ")[2])


def jobs_of(
    base: Config,
    rows: Mapping[str, Mapping[str, Any] | None],
    seeds: int,
    fingerprint: str,
    out: Path,
) -> list[Job]:
    """Every training of every row, seed by seed, so that an interrupted run has whole rows."""
    from trainer.config import base_identity, with_values

    jobs = []
    for seed in range(seeds):
        for row, changes in rows.items():
            config = with_values(base, {**(changes or {}), "training.seed": seed})
            identity = json.dumps([base_identity(config, ["data.root"]), fingerprint])
            digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
            jobs.append(Job(row, seed, config, out / digest, tta_flip=changes is None))
    # last: until then the weights that they look at are there
    return sorted(jobs, key=lambda job: job.tta_flip)


# ----------------------------------------------------------------------- one training, in a process


def train_one(folder: Path, *, device: str, tta_flip: bool) -> int:
    """Train what config.yaml in `folder` says, going on where it stands, and leave the scores."""
    from trainer.config import compose
    from trainer.data.cache import locked
    from trainer.data.dataset import load_faces
    from trainer.errors import Diverged
    from trainer.fit import fit
    from trainer.runtime import choose_runtime

    config = choose_runtime(compose(file=folder / "config.yaml").config, device=device, threads=1)
    scores = folder / ("scores-tta.json" if tta_flip else "scores.json")
    # an orphan of a killed run may still be at it
    with locked(folder / "lock"):
        if scores.exists():
            return 0
        data = load_faces(
            config.data.root,
            image_size=config.data.image_size,
            synthetic_images=config.data.synthetic_images,
        )
        last = folder / "last.pt"
        started = time.perf_counter()
        try:
            result = fit(config, data, out=folder, resume_from=last if last.exists() else None)
        except Diverged as error:
            write_json(scores, {"diverged": str(error), "commit": commit()})
            return 0
        seconds = time.perf_counter() - started
        figures = {
            "commit": commit(),
            "seconds": round(seconds, 1),
            "best_epoch": result.best_epoch,
            **{
                part: part_scores(result.best_checkpoint, data.part(part), device, tta_flip)
                for part in filled_parts(data)
            },
        }
        write_json(scores, figures)
    return 0


def filled_parts(data: FaceData) -> list[str]:
    """Those of val and test that hold a picture."""
    return [part for part in PARTS if data.plan.parts[part]]


def part_scores(weights: Path, part: Part, device: str, tta_flip: bool) -> Figures:
    """Scores of each image on both grids, and F per class."""
    from trainer.scoring import scored_images

    reduced, full = scored_images(weights, part, device=device, tta_flip=tta_flip)
    return {
        "f_score": reduced.image_scores(),
        "f_score_full": full.image_scores(),
        "f_per_class": reduced.scores().f_per_class,
    }


# -------------------------------------------------------------------------------------- all of them


def run_missing(jobs: Sequence[Job], slots: Sequence[WorkerPlan]) -> int:
    """Run the jobs whose scores are missing, one in each slot at a time; returns how many.

    Ctrl-C ends them within their epoch. Raises UserError where one fails.
    """
    from trainer.config import to_yaml
    from trainer.files import atomic_write_text

    waiting = [job for job in jobs if not job.scores.exists()]
    total, done = len(waiting), 0
    if total < len(jobs):
        tell(f"{len(jobs) - total} of {len(jobs)} are there already")
    busy: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with ended(busy):
        while waiting or busy:
            for number, slot in enumerate(slots):
                if number in busy or not waiting:
                    continue
                job = waiting.pop(0)
                atomic_write_text(job.folder / "config.yaml", to_yaml(job.config))
                busy[number] = job, _started(job, slot)
            for number, (job, process) in list(busy.items()):
                if process.poll() is None:
                    continue
                del busy[number]
                _check_ended(job, process.returncode)
                done += 1
                tell(f"{done} of {total}: {job.row}, seed {job.seed}: {_outcome_text(job)}")
            time.sleep(_LOOK_S)
    return total


@contextmanager
def ended(busy: dict[int, tuple[Job, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Ask the processes that still run to end, and see that they do."""
    try:
        yield
    finally:
        for _, process in busy.values():
            process.terminate()
        for _, process in busy.values():
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(job: Job, slot: WorkerPlan) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "scripts.benchmarks.quality", "train-one", str(job.folder)]
    words += [slot.device, *(["tta-flip"] if job.tta_flip else [])]
    with (job.folder / "log").open("ab") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            # Ctrl-C reaches the parent alone, which then asks the others to end
            start_new_session=True,
        )


def _check_ended(job: Job, code: int) -> None:
    if code != 0 or not job.scores.exists():
        from search.execution.launchers.launcher import last_words

        said = last_words(job.folder / "log").removeprefix("error: ")
        raise UserError(
            f"{job.row}, seed {job.seed} ended with exit code {code}: {said}; its log is"
            f" {job.folder / 'log'}"
        )


def _outcome_text(job: Job) -> str:
    scores = read(job)
    if "diverged" in scores:
        return f"diverged: {scores['diverged']}"
    return f"f_score {statistics.fmean(scores['val']['f_score']):.4f} on val"


def read(job: Job) -> Figures:
    """The scores that a job left."""
    return dict(json.loads(job.scores.read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------ what the scores say


def bootstrap_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of image scores, resampling images; percentile method."""
    import numpy as np

    values = np.asarray(scores)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def summarised(trainings: Sequence[Figures]) -> Figures:
    """What several trainings of one row (other seeds) give, part by part.

    Each score: mean, interval over images (each image's mean over the seeds) and mean by seed.
    """
    sound = [one for one in trainings if "diverged" not in one]
    result: Figures = {"trainings": len(trainings), "diverged": len(trainings) - len(sound)}
    for part in PARTS:
        of_part = [one[part] for one in sound if part in one]
        if not of_part:
            continue
        figures: Figures = {"images": len(of_part[0]["f_score"])}
        for score in SCORES:
            of_images = zip(*(one[score] for one in of_part), strict=True)
            by_image = [statistics.fmean(of_seeds) for of_seeds in of_images]
            figures[score] = {
                "mean": statistics.fmean(by_image),
                "interval": bootstrap_interval(by_image),
                "by_seed": [statistics.fmean(one[score]) for one in of_part],
            }
        figures["f_per_class"] = {
            name: _mean_where_any([one["f_per_class"][name] for one in of_part])
            for name in of_part[0]["f_per_class"]
        }
        result[part] = figures
    return result


def _mean_where_any(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def compared(rows: Mapping[str, Figures]) -> list[Figures]:
    """The ablation table: each row's scores on val and test and how it differs from the base.

    sd: between seeds, pooled over the rows. Flip-TTA looks at the base's own trainings, so that
    its differences are taken seed by seed.
    """
    from search.results.statistics.intervals import seed_deviation

    tta = f"with {FLIP_TTA}"
    seeds = {
        row: figures["val"]["f_score"]["by_seed"]
        for row, figures in rows.items()
        if "val" in figures
    }
    sd = seed_deviation({row: by_seed for row, by_seed in seeds.items() if row != tta})
    table = []
    for row, figures in rows.items():
        entry: Figures = {"row": row, "diverged": figures["diverged"], "sd": sd}
        for part in PARTS:
            for score in SCORES:
                entry[f"{part}_{score}"] = figures[part][score]["mean"] if part in figures else None
        if row != BASE and row in seeds and BASE in seeds:
            entry |= _difference(seeds[BASE], seeds[row], sd, paired=row == tta)
        table.append(entry)
    return table


def _difference(
    base: Sequence[float], row: Sequence[float], sd: float | None, *, paired: bool
) -> Figures:
    if paired and len(base) == len(row) > 1:
        steps = [theirs - ours for ours, theirs in zip(base, row, strict=True)]
        error = statistics.stdev(steps) / math.sqrt(len(steps))
    else:
        error = math.nan if sd is None else sd * math.sqrt(1 / len(base) + 1 / len(row))
    difference = statistics.fmean(row) - statistics.fmean(base)
    return {
        "difference": difference,
        "standard_error": None if math.isnan(error) else error,
        "clear": None if math.isnan(error) else abs(difference) > 2 * error,
    }


# ------------------------------------------------------------------------------- what a person sees


def show_base(base: Figures, title: str) -> None:
    """Scores with their intervals, and F per class."""

    def interval(figure: Figures) -> str:
        low, high = figure["interval"]
        return f"{figure['mean']:.4f} [{low:.4f}, {high:.4f}]"

    parts = [part for part in PARTS if part in base]
    names = base[parts[0]]["f_per_class"] if parts else ()
    print_table(
        title,
        ["score", *(f"{part} ({base[part]['images']} images)" for part in parts)],
        [
            *([score, *(interval(base[part][score]) for part in parts)] for score in SCORES),
            [],
            *([n, *(_shown(base[part]["f_per_class"][n]) for part in parts)] for n in names),
        ],
        f"[95 % interval] from {RESAMPLES} resamplings of the images: what other faces would"
        " change, not other seeds. The epoch is chosen by f_score on val, so test is the honest"
        " one. Below the line: F per class from pixels summed over the set, mean over seeds.",
        right=True,
    )


def _shown(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


HEADINGS = ("", "val", "val full", "difference", "beyond 2 SE", "test", "test full")


def table_rows(table: Sequence[Figures]) -> list[tuple[str, ...]]:
    """The cells of the ablation table."""
    yes = {None: "-", True: "yes", False: "no"}
    return [
        (
            entry["row"] + (f" ({entry['diverged']} diverged)" if entry["diverged"] else ""),
            _shown(entry["val_f_score"]),
            _shown(entry["val_f_score_full"]),
            _shown(entry.get("difference"), "+.4f"),
            yes[entry.get("clear")],
            _shown(entry["test_f_score"]),
            _shown(entry["test_f_score_full"]),
        )
        for entry in table
    ]


def what_it_shows(table: Sequence[Figures], seeds: int) -> str:
    """How to read the ablation table."""
    return (
        f"f_score and f_score_full, means of {seeds} seeds; difference to the base in f_score on"
        f" val; seed SD {_shown(table[0]['sd'])}, pooled over the rows. {FLIP_TTA} scores the"
        " base's own weights, and its standard error is that of the differences."
    )


def show_ablation(table: Sequence[Figures], seeds: int) -> None:
    """The ablation table for a person."""
    legend = what_it_shows(table, seeds)
    print_table("one ingredient at a time", HEADINGS, table_rows(table), legend, right=True)


def table_text(table: Sequence[Figures], seeds: int) -> str:
    """The ablation table as Markdown."""
    return f"{markdown(HEADINGS, table_rows(table))}\n\n{what_it_shows(table, seeds)}\n"


# ----------------------------------------------------------------------------------------- commands


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench quality", description=__doc__)
    it.add_argument("--data", type=Path, metavar="DIR", help="faces (default: built-in faces)")
    it.add_argument("--preset", default="small", metavar="P", help="(default: small)")
    it.add_argument("--size", type=count, metavar="N", help="pixels (default: the preset's)")
    it.add_argument("--steps", type=count, metavar="N", help="(default: the preset's)")
    add_count(it, "--seeds", 3, "trainings")
    it.add_argument(
        "--ablate",
        action="store_true",
        help="leave out one ingredient at a time where the preset has it, add it elsewhere",
    )
    it.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="this row of the ablation, for example flip or 'with Lovasz'; may be repeated",
    )
    it.add_argument(
        "--out",
        type=Path,
        default=Path("runs/quality"),
        metavar="DIR",
        help="scores and checkpoints (default: runs/quality)",
    )
    it.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="trainings at a time (default: one per GPU, else one per core)",
    )
    add_json(it)
    it.add_argument("--markdown", type=Path, metavar="FILE", help="write the ablation table")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    interrupted_by_sigterm()
    if words[:1] == ["train-one"]:  # what this program starts
        folder, device, *tta = words[1:]
        return guarded(lambda: train_one(Path(folder), device=device, tta_flip=bool(tta)))
    return run(parser(), _main, words)


def repaired(data: Path, out: Path) -> Path:
    """The folder itself, or a copy of it below `out` where masks have left and right reversed."""
    from trainer.check import repair
    from trainer.data.audit import audit
    from trainer.data.dataset import describe

    copy = out / f"repaired-{describe(str(data)).fingerprint}"
    if copy.is_dir():
        return copy
    found, _ = audit(data)
    if not found.left_right_reversed:
        return data
    tell(f"{data} has masks with left and right reversed; a repaired copy goes to {copy}")
    return repair(data, copy, found).out


def base_config(args: argparse.Namespace, root: str) -> Config:
    """The preset on this data. Raises ConfigError."""
    from trainer.config import compose, with_values
    from trainer.data.dataset import describe
    from trainer.presets import steps_per_epoch

    first = compose(preset=args.preset, flags={"data.root": root}).config
    train_images = describe(root, first.data.synthetic_images).train
    steps = steps_per_epoch(train_images, first.data.batch_size)
    config = compose(
        preset=args.preset,
        flags={
            "data.root": root,
            "data.image_size": args.size,
            "training.epochs": args.steps and math.ceil(args.steps / steps),
        },
        train_images=train_images,
    ).config
    # every row gets the whole budget
    return with_values(config, {"training.early_stopping_patience": None})


def _main(args: argparse.Namespace, words: list[str]) -> int:
    import torch

    from search.execution.launchers.local import plan_workers
    from trainer.data.dataset import load_faces
    from trainer.files import atomic_write_text
    from trainer.runtime import usable_cores

    about = record("scripts/bench quality", words)
    root = "synthetic" if args.data is None else str(repaired(args.data, args.out).resolve())
    base = base_config(args, root)
    rows = rows_of(base, args.ablate, args.only)
    # decoded once, before the trainings ask for it side by side
    data = load_faces(
        root,
        image_size=base.data.image_size,
        synthetic_images=base.data.synthetic_images,
        parts=("train", "val"),
    )
    for part in filled_parts(data):
        data.part(part)
    slots = plan_workers(
        args.workers,
        device="auto",
        cores=usable_cores(),
        gpus=torch.cuda.device_count(),
        threads=1,
    )
    jobs = jobs_of(base, rows, args.seeds, data.fingerprint, args.out.resolve())
    trained = run_missing(jobs, slots)
    results = {row: [read(job) for job in jobs if job.row == row] for row in rows}
    commits = sorted({str(one["commit"]) for of_row in results.values() for one in of_row})
    if len(commits) > 1:
        tell(f"note: these scores come from several commits ({', '.join(commits)})")
    summaries = {row: summarised(of_row) for row, of_row in results.items()}
    show_base(
        summaries[BASE],
        f"{args.preset} on {data.name}: {base.data.image_size} pixels, {base.training.epochs}"
        f" epochs, {args.seeds} seeds",
    )
    table = compared(summaries)
    if len(rows) > 1:
        show_ablation(table, args.seeds)
    if args.markdown is not None:
        atomic_write_text(args.markdown, table_text(table, args.seeds))
    if args.json is not None:
        content = {"rows": summaries, "ablation": table, "trained": trained, "commits": commits}
        write_json(args.json, {**content, **about})
    return 0


if __name__ == "__main__":
    sys.exit(main())
