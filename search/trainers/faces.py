"""Our own trainer behind the contract: faces, decoded once, and trained by `trainer.fit`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from search.study.attributes import (
    F_LARGE,
    F_SCORE_FULL,
    F_SMALL,
    MICRO_BATCH,
    RUNTIME,
    RUNTIME_CHANGED,
    attributes_of,
)
from search.study.checkpoints import ResumePoint, clear_strangers, newest_checkpoint, taken_over
from search.study.run_folders import read_history
from search.study.setup import Setup
from search.study.training_metrics import ratio
from search.trainers.contract import Left, Machine, Task, Told
from trainer.config import Config, config_from_dict, to_dict, to_yaml, with_values
from trainer.data.dataset import FaceData, load_faces
from trainer.errors import CaptureFailed, DataError
from trainer.fit import FitResult, Progress, fit
from trainer.history import Row, best_epoch, f_scores
from trainer.pictures import contact_sheet
from trainer.runtime import (
    applied,
    check_device,
    choose_runtime,
    first_line,
    is_lost,
    is_out_of_memory,
    no_bfloat16_on,
    release,
)
from trainer.scoring import final_scores

LOG = logging.getLogger(__name__)


class FacesTrainer:
    """`trainer.fit`, on the study's faces."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._faces: FaceData | None = None

    def ready(self, setup: Setup) -> None:
        self._load(setup)

    def begin(self, task: Task) -> FacesTraining:
        config = config_from_dict(task.config)
        if self._machine.data_root is not None:
            config = with_values(config, {"data.root": self._machine.data_root})
        config = _with_runtime(config, task, self._machine)
        faces = self._load(task.setup)
        clear_strangers(task.out, task.setup)
        return FacesTraining(task, config, faces)

    def text(self, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
        return to_yaml(config_from_dict(config), search=record)

    def kept(
        self, setup: Setup, config: Mapping[str, Any], folders: Sequence[Path]
    ) -> Sequence[Path]:
        start = newest_checkpoint(folders, config_from_dict(config), setup.uid)
        return [] if start is None else [start.path, start.path.with_name("best.pt")]

    def _load(self, setup: Setup) -> FaceData:
        """The faces, decoded once per worker. Raises DataError where they are not the study's."""
        if self._faces is not None:
            return self._faces
        root = self._machine.data_root or setup.data["root"]
        settings = setup.base["data"]
        faces = load_faces(
            root,
            image_size=settings["image_size"],
            synthetic_images=settings["synthetic_images"],
            parts=("train", "val"),
        )
        wanted = setup.data["fingerprint"]
        if faces.fingerprint != wanted:
            raise DataError(
                f"{root}: fingerprint {faces.fingerprint[:8]}, but study {setup.name}"
                f" was made on {wanted[:8]}: give --data the same images, masks and lists"
            )
        self._faces = faces
        return faces


class FacesTraining:
    """One training by `trainer.fit`, with half the micro-batch again where memory runs out."""

    def __init__(self, task: Task, config: Config, faces: FaceData) -> None:
        self._task = task
        self._config = config
        self._faces = faces
        self._start: ResumePoint | None = None
        self._result: FitResult | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        return to_dict(self._config)

    def take_over(self) -> list[Row]:
        task = self._task
        self._start = taken_over(task.folders, self._config, task.setup.uid, task.out)
        return [] if self._start is None else self._start.history

    def run(self, told: Told) -> float:
        def report(progress: Progress) -> None:
            # the checkpoint of this epoch is on disk: what is reported can always be gone on from
            told.report(progress.epoch, progress.f_score)

        while self._result is None:
            try:
                self._result = fit(
                    self._config,
                    self._faces,
                    out=self._task.out,
                    report=report,
                    resume_from=None if self._start is None else self._start.path,
                )
            except Exception as error:
                release(self._config.runtime.device, error)
                self._config = _within_reach(self._task, self._config, error)
                if is_lost(error):
                    # the next process goes on with this config
                    raise
                self.take_over()
        best = self._result.best_f_score
        assert best is not None, "a trial trains on the train part, so it is scored"
        return best

    def leave(self, complete: bool) -> Left:
        out, result = self._task.out, self._result if complete else None
        history = read_history(out) if result is None else result.history
        weights = out / "best.pt" if result is None else result.best_checkpoint
        loss, kept = self._config.loss, dict[str, Any]()
        if history:
            best = best_epoch(f_scores(history))
            best_row = next(entry for entry in history if entry["epoch"] == best)
            kept["ce_dice_ratio"] = ratio(loss.ce_weight, loss.dice_weight)
            kept |= {name: best_row.get(name) for name in (F_LARGE, F_SMALL)}
        sheet = out / "contact_sheet.png"
        if weights.is_file():
            full = self._seen(weights, sheet, scored=bool(history) and result is not None)
            if full is not None:
                kept[F_SCORE_FULL] = full
        # until its next trial this process leaves the GPU to its neighbours
        release(self._config.runtime.device)
        return Left(history, kept, [sheet])

    def _seen(self, weights: Path, sheet: Path, *, scored: bool) -> float | None:
        """Draw the contact sheet of the best epoch; its score against the untouched masks."""

        def on(device: torch.device | str) -> float | None:
            full = final_scores(weights, self._faces.val, device=device) if scored else None
            contact_sheet(weights, self._faces.val, sheet, device=device)
            return None if full is None else float(full["f_score_full"])

        with applied(self._config.runtime) as device:
            try:
                return on(device)
            except Exception as error:
                if device.type == "cpu" or is_lost(error) or not is_out_of_memory(error):
                    raise
                release(str(device), error)
                LOG.info(
                    f"trial {self._task.number}: scored on the CPU at its end: {first_line(error)}",
                    extra={"trial": self._task.number},
                )
            # masks may be many times as large as what was trained on, and the training is whole
            return on("cpu")


def _with_runtime(config: Config, task: Task, machine: Machine) -> Config:
    """Decide how to compute, once per trial: a requeued one keeps what it was begun with."""
    recorded = attributes_of(task.known).runtime
    # this machine's own flags stand before what the study's config asks for
    own = {"runtime.device": machine.device, "runtime.threads": machine.threads}
    own = {name: value for name, value in own.items() if value is not None}
    if recorded is None:
        config = choose_runtime(with_values(config, own))
    else:
        wanted = str(recorded["device"]).partition(":")[0]
        ours = "" if machine.device in (None, "auto") else str(machine.device).partition(":")[0]
        device = str(machine.device) if wanted == "cuda" and ours else wanted
        offered = wanted == "cpu" or (torch.cuda.is_available() and ours in ("", "cuda"))
        if offered and recorded["precision"] == "bfloat16":
            check_device(device)
            offered = no_bfloat16_on(device) is None
        if offered:
            config = choose_runtime(with_values(config, {"runtime.device": device}))
        else:
            config = choose_runtime(
                with_values(config, {"runtime.device": "auto", "runtime.precision": "auto", **own})
            )
            task.remember(
                RUNTIME_CHANGED,
                f"begun on {recorded['device']} ({recorded['precision']}), went on on "
                f"{config.runtime.device} ({config.runtime.precision}): digits may differ",
            )
    now = to_dict(config)["runtime"]
    if now != recorded:
        task.remember(RUNTIME, now)
    return config


def _within_reach(task: Task, config: Config, error: Exception) -> Config:
    """The config with half the micro-batch after memory ran out, or without a CUDA graph after its
    capture failed; else `error` again.
    """
    batch = config.runtime.micro_batch or config.data.batch_size
    if is_out_of_memory(error) and batch > 1:
        config = with_values(config, {"runtime.micro_batch": batch // 2})
        task.remember(MICRO_BATCH, batch // 2)
    elif isinstance(error, CaptureFailed):
        config = with_values(config, {"runtime.cuda_graph": False})
    else:
        raise error
    task.remember(RUNTIME, to_dict(config)["runtime"])
    return config
