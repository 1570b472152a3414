"""A process that can no longer use its GPU ends; its trial waits for the next one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from search.execution.options import LOST_ITS_GPU
from search.execution.worker_loop import work
from search.strategy.loading import load_study
from search.trainers import faces
from storage import LeasedStorage, open_storage
from tests.support.paths import ROOT
from tests.support.studies import context_at, real_study, start_worker, started, store
from trainer.errors import CaptureFailed, DeviceLost, UserError
from trainer.fit import fit

ASSERT = "CUDA error: device-side assert triggered"
# a network that takes the GPU along as long as a file is there
FATAL = """
import os, torch
from torch import nn

class Fatal(nn.Module):
    def __init__(self, num_classes, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(dropout),
            nn.Conv2d(8, num_classes, 1),
        )

    def forward(self, images):
        if self.training and len(images) > 2 and os.path.exists({mark!r}):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return self.layers(images)
"""

TINY = """\
model: {name: fatal_network:Fatal}
data: {image_size: 16, batch_size: 8, synthetic_images: 40}
training: {epochs: 2, ema: 0.2, warmup_epochs: 0.2}
runtime: {device: cpu, threads: 1}
"""


def losses(storage: LeasedStorage, row: Any) -> list[dict[str, Any]]:
    events = storage.events_of([row._trial_id])
    return [dict(e.detail) for e in events if (e.event, e.cause) == ("requeued", "GPU lost")]


def test_a_lost_gpu_ends_the_worker_and_the_trial_waits_under_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "search")
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    calls: list[int] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.AcceleratorError(ASSERT)
        return fit(*args, **kwargs)

    monkeypatch.setattr(faces, "fit", once)
    assert work(context_at(tmp_path, storage)) == LOST_ITS_GPU
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    assert losses(storage, trial) == [{"error": ASSERT, "epochs": 0, "micro_batch": None}]
    # no trial is at fault
    assert "exceptions" not in trial.user_attrs
    assert caplog.messages[-1] == ASSERT
    assert work(context_at(tmp_path, storage)) == 0
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE


def tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fit_here: Any
) -> tuple[list[int], LeasedStorage, Any]:
    """Exit codes of one worker after the other until one ends well, the store, and the trial."""
    storage = store(folder)
    study = real_study(storage, total=1)
    monkeypatch.setattr(faces, "fit", fit_here)
    codes = [work(context_at(folder, storage))]
    while codes[-1] and len(codes) < 5:
        codes.append(work(context_at(folder, storage)))
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    return codes, storage, trial


def test_where_the_memory_did_not_suffice_the_next_process_takes_smaller_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.runtime.micro_batch > 2:
            full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            raise DeviceLost("the capture of a training step failed") from full
        return fit(config, *args, **kwargs)

    codes, storage, trial = tried(tmp_path, monkeypatch, hungry)
    assert codes == [LOST_ITS_GPU, LOST_ITS_GPU, 0]
    assert [loss["micro_batch"] for loss in losses(storage, trial)] == [4, 2]
    assert trial.user_attrs["micro_batch"] == 2
    assert trial.user_attrs["runtime"]["micro_batch"] == 2


def test_where_a_capture_failed_the_next_process_takes_the_steps_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike_here(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.runtime.cuda_graph:
            raise CaptureFailed("the capture of a CUDA graph failed: not permitted")
        return fit(config, *args, **kwargs)

    codes, _, trial = tried(tmp_path, monkeypatch, unlike_here)
    assert codes == [LOST_ITS_GPU, 0]
    assert trial.user_attrs["runtime"]["cuda_graph"] is False
    assert "micro_batch" not in trial.user_attrs


def test_three_losses_in_a_row_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr(faces, "fit", broken)
    assert [work(context_at(tmp_path, storage)) for _ in range(2)] == [LOST_ITS_GPU] * 2
    with pytest.raises(UserError) as ended:
        work(context_at(tmp_path, storage))
    said = str(ended.value)
    assert said.startswith(f"trial 0 lost the GPU 3 times in a row, the last with {ASSERT}: ")
    assert "search.queue cancel 0" in said
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    # on a machine that is well the same trial goes on
    monkeypatch.setattr(faces, "fit", fit)
    assert work(context_at(tmp_path, storage)) == 0


def test_a_trial_that_gets_an_epoch_further_each_time_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1, config={"epochs": 4})

    def run(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        def heard(progress: Any) -> None:
            report(progress)
            if progress.epoch < 4:
                raise torch.AcceleratorError("CUDA error: unspecified launch failure")

        return fit(config, data, out=out, report=heard, resume_from=resume_from)

    monkeypatch.setattr(faces, "fit", run)
    codes = [work(context_at(tmp_path, storage)) for _ in range(4)]
    assert codes == [LOST_ITS_GPU] * 3 + [0]
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert [loss["epochs"] for loss in losses(storage, trial)] == [1, 2, 3]


@pytest.mark.proof
def test_a_search_starts_a_new_worker_and_ends_with_all_its_trials(tmp_path: Path) -> None:
    # the mark goes with the first worker that meets it
    once = FATAL.format(mark="fatal").replace(
        "            raise", "            os.remove('fatal'); raise"
    )
    (tmp_path / "fatal_network.py").write_text(once)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "fatal").touch()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    flags = ["--trials", "2", "--workers", "1", "--no-priors", "--plain", "--study", "faces"]
    with started(tmp_path, *flags, PYTHONPATH=path) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert f"worker 1 lost its GPU ({ASSERT}); it is started again" in " ".join(out.split())
    storage = open_storage(f"sqlite:///{tmp_path}/runs/search.db", create=False)
    rows = load_study(storage, "faces").get_trials()
    assert [row.state for row in rows] == [TrialState.COMPLETE] * 2
    assert [len(losses(storage, row)) for row in rows] == [1, 0]


def test_a_worker_process_ends_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "fatal"
    mark.touch()
    (tmp_path / "fatal_network.py").write_text(FATAL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    storage = store(tmp_path)
    study = real_study(storage, total=1, config={"model.name": "fatal_network:Fatal", "epochs": 1})
    out, err = (worker := start_worker(tmp_path)).communicate(timeout=120)
    assert (worker.returncode, err) == (LOST_ITS_GPU, "")
    # the launcher says why
    assert out.splitlines()[-1] == ASSERT
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    mark.unlink()
    assert work(context_at(tmp_path, storage)) == 0
    assert [row.state for row in study.get_trials()] == [TrialState.COMPLETE]
