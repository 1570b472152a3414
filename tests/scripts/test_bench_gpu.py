"""`scripts/bench gpu`: parts in processes of their own, each measured once, and what they say."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.benchmarks import gpu, gpu_parts
from scripts.benchmarks.gpu_parts import Setting, largest_difference, trial_s
from scripts.benchmarks.train import Job, step_flops
from tests.support.data_folders import course
from tests.support.shells import one_line
from trainer import cuda_graph, fit
from trainer.config import Config
from trainer.data.dataset import load_faces
from trainer.fit import derived_seed

SIZE = 16


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Of a CPU, on 24 faces of 64 pixels."""
    faces = course(tmp_path / "faces", [f"f{index:02d}" for index in range(24)])
    return Setting(
        device="cpu",
        faces=faces,
        out=tmp_path / "out",
        pictures=24,
        seconds=0.2,
        steps=4,
        trials=2,
        loader_workers=0,
        until_s=math.inf,
    )


# ---------------------------------------------------------------------------------- the command


STUB = """\
#!{python}
import json, os, signal, sys, time
name = sys.argv[sys.argv.index("--part") + 1]
with open({log!r}, "a") as log:
    print(name, file=log)
what = json.load(open({scenario!r})).get(name, {{"images_per_s": 1.0}})
if what == "raises":
    raise RuntimeError("CUDA error: an illegal memory access")
if what == "refuses":
    sys.exit("error: no such thing; give another")
if what == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "hangs":
    time.sleep(600)
print("something else")
print(json.dumps(what))
"""


class Played:
    """Parts that are played: what each does, and which were begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.scenario = folder / "begun.txt", folder / "scenario.json"
        self.set()
        stub = folder / "python"
        stub.write_text(
            STUB.format(python=sys.executable, log=str(self.log), scenario=str(self.scenario))
        )
        stub.chmod(0o755)
        self.python = str(stub)

    def set(self, **what: object) -> None:
        self.log.write_text("")
        self.scenario.write_text(
            json.dumps({name.replace("_", " "): one for name, one in what.items()})
        )

    @property
    def begun(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    it = Played(tmp_path)
    monkeypatch.setattr(sys, "executable", it.python)
    monkeypatch.setattr(gpu, "_ROWS", dict.fromkeys(gpu._ROWS, lambda name, part, done: []))
    return it


def bench(setting: Setting, *words: str) -> int:
    data = ["--data", str(setting.faces), "--out", str(setting.out), "--device", "cpu"]
    return gpu.main([*data, "--size", str(SIZE), "--pictures", "24", *words])


def stored(setting: Setting) -> dict[str, Any]:
    return dict(json.loads((setting.out / "results.json").read_text())["parts"])


ON_A_CPU = [
    *("machine", "fit at 16", "roofline", "fit at 16 in float32", "plain at 16", "tuned at 16"),
    *("1 at 16", "2 at 16", "4 at 16", "search", "full"),
]


def test_what_failed_is_told_and_tried_again_and_nothing_is_measured_twice(
    setting: Setting, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.set(
        roofline="raises",
        machine="refuses",
        search="dies",
        full={"failed": "half of it", "images_per_s": 2.0},
    )
    assert bench(setting) == 1
    # one after the other, whatever became of those before
    assert played.begun == ON_A_CPU
    said = capsys.readouterr().out
    assert "needs a GPU" in said
    parts = stored(setting)
    assert parts["roofline"] == {"failed": "RuntimeError: CUDA error: an illegal memory access"}
    assert parts["machine"] == {"failed": "no such thing; give another"}
    assert parts["search"]["failed"].startswith("ended by SIGSEGV")
    assert parts["full"] == {"failed": "half of it", "images_per_s": 2.0}
    assert parts["fit at 16"] == {"images_per_s": 1.0}

    played.set(roofline={"images_per_s": 3.0})
    assert bench(setting) == 0
    assert played.begun == ["machine", "roofline", "search", "full"]
    assert stored(setting)["roofline"] == {"images_per_s": 3.0}
    played.set()
    assert bench(setting) == 0
    assert played.begun == []


def test_a_call_ends_in_time_and_the_next_one_goes_on(
    setting: Setting,
    played: Played,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu, "_GRACE_S", 0.5)
    played.set(fit_at_16="hangs")
    # no part is begun that the time does not suffice for, but for the first
    assert bench(setting, "--minutes", ".05") == 0
    assert played.begun == ["machine"]
    assert "10 to go" in capsys.readouterr().out
    # the first one had all the time there is
    assert bench(setting, "--minutes", ".05") == 1
    assert stored(setting)["fit at 16"]["failed"].startswith("did not end within 0.05 minutes")
    # what hung is tried after the others
    played.set(full={"time_up": "3 of 9 epochs"})
    assert bench(setting) == 1
    assert played.begun == [
        *ON_A_CPU[2:],
    ]
    assert "2 to go" in capsys.readouterr().out
    played.set()
    assert bench(setting) == 0
    assert played.begun == ["full", "fit at 16"]


def test_a_part_that_outlasts_the_call_is_left_for_the_next(
    setting: Setting, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_GRACE_S", 0.0)
    monkeypatch.setattr(
        gpu, "Part", lambda *words, **more: replace(Part(*words, **more), seconds=0.0)
    )
    played.set(fit_at_16="hangs")
    began_s = time.monotonic()
    assert bench(setting, "--minutes", ".05") == 0
    assert time.monotonic() - began_s < 60
    assert played.begun == ["machine", "fit at 16"]
    assert list(stored(setting)) == ["machine"]


Part = gpu.Part


def test_parts_can_be_chosen_and_files_are_written(
    setting: Setting, played: Played, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    assert bench(setting, "--only", "search", "--only", "fit", "--json", str(file)) == 0
    assert played.begun == ["fit at 16", "search"]
    assert list(json.loads(file.read_text())["parts"]) == played.begun


def test_results_of_something_else_are_not_mixed(
    setting: Setting, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(setting, "--only", "machine") == 0
    words = ["--data", setting.faces, "--out", setting.out, "--device", "cpu", "--size", 32]
    said = one_line(gpu.main, capsys, *words, "--pictures", 24)
    assert "was measured with size 16, not 32" in said


def test_a_gpu_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "no CUDA device" in one_line(gpu.main, capsys, "--out", "nowhere")


def test_what_is_no_device_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "got 'cuda:x'" in one_line(gpu.main, capsys, "--device", "cuda:x", "--out", "nowhere")


def test_data_that_rivals_cannot_read_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "synthetic", "--device", "cpu", "--out", "nowhere"]
    assert "--data synthetic: the course layout is needed" in one_line(gpu.main, capsys, *words)


def test_built_in_faces_are_drawn_where_no_data_are_given(
    setting: Setting, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "builtin_faces", lambda images: setting.faces)
    words = ["--out", str(setting.out), "--device", "cpu", "--size", "16", "--pictures", "24"]
    assert gpu.main(words) == 0
    # of drawn faces the preset `full` has no score that means anything
    assert played.begun == ON_A_CPU[:-1]


@pytest.mark.proof
def test_all_parts_run_on_a_cpu_in_earnest(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seconds", ".3", "--trials", "2", "--steps", "2", "--loader-workers", "1"]
    assert bench(setting, *words) == 0
    said = capsys.readouterr().out
    assert list(stored(setting)) == ON_A_CPU
    for told in ("images/s", "of the limit", "bandwidth", "GFLOP", "unpruned trials", "2 at 16"):
        assert told in " ".join(said.split())


@pytest.mark.long
def test_the_full_preset_goes_on_from_its_checkpoint(setting: Setting) -> None:
    def epochs() -> int:
        return len(json.loads((setting.out / "full" / "history.json").read_text()))

    brief = replace(setting, until_s=0.0)
    assert gpu_parts.full_config(setting, SIZE).training.epochs == 4
    for done in (1, 2, 3):
        with pytest.raises(gpu_parts.TimeUp, match=f"{done} of 4 epochs"):
            gpu_parts.full(brief, SIZE)
        assert epochs() == done
    result = gpu_parts.full(setting, SIZE)
    assert epochs() == 4
    assert 0 <= result["f_score_full_test"] <= 1


# ---------------------------------------------------------------------------------- captured steps


class Trained:
    """A `fit` whose losses are given, and that laps as a real one does.

    eager, replayed: the losses of trainings of that kind, one after the other. other: of one with
    other draws of dropout.
    """

    def __init__(
        self,
        *eager: float,
        replayed: float = 2.0,
        other: float = 2.1,
        captured: bool = True,
        waits: int = 0,
    ) -> None:
        self.losses = itertools.cycle(eager or [2.0])
        self.replayed, self.other = replayed, other
        self.captured, self.waits = captured, waits
        self.kinds: list[str] = []

    def __call__(
        self, config: Config, data: object, *, out: Path, lap: Callable[[str], None]
    ) -> Any:
        eager = not cuda_graph.can_be_captured(config)
        assert fit.derived_seed(0, "order", 1) == own_seed("order")
        if fit.derived_seed(0, "dropout", 1) != own_seed("dropout"):
            kind, loss = "other", self.other
        else:
            kind, loss = ("eager", next(self.losses)) if eager else ("replayed", self.replayed)
        self.kinds.append(kind)
        for _ in range(config.training.epochs):
            for _ in range(3):
                for phase in ("data", "forward", "backward"):
                    if eager or not self.captured:
                        lap(phase)
                for _ in range(0 if eager else self.waits):
                    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
                lap("optimiser")
            if not eager:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            lap("scoring")
            lap("checkpoint")
        return SimpleNamespace(history=[{"train_loss": loss, "val_ce": 1.0}] * 3)


def own_seed(purpose: str) -> int:
    return derived_seed(0, purpose, 1)


@pytest.mark.parametrize(
    ("trained", "failed"),
    [
        (Trained(), None),
        # as much as two eager ones
        (Trained(2.0, 2.02, replayed=1.99, other=2.4), None),
        (Trained(replayed=2.002), "steps in float32 differ from eager ones"),
        (Trained(replayed=math.nan), "steps in float32 differ from eager ones"),
        # as much as with other draws: nothing can be told by that
        (Trained(2.0, 2.02, replayed=1.99, other=2.01), "steps in float32 differ"),
        (Trained(captured=False), "steps in float32 could not be captured"),
    ],
    ids=["same", "noisy", "differ", "nan", "blind", "eager"],
)
def test_captured_steps_are_held_against_two_eager_trainings(
    trained: Trained, failed: str | None, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []
    monkeypatch.setattr(gpu_parts, "fit", trained)
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)
    found = gpu_parts.capture(setting)
    cases = len(found["cases"])
    with_dropout = ["eager", "eager", "other", "replayed"]
    assert trained.kinds == ["eager", "eager", "replayed"] + with_dropout * (cases - 1)
    assert modes == ["warn", "default"] * cases
    assert (found.get("failed") or "").startswith(failed or "")
    assert ("failed" in found) == (failed is not None)
    # the precision that a training takes here as well, if it is another one
    assert [one["dropout"] for one in found["cases"]] == [0, 0.5, 0.5][:cases]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_waits_are_counted_where_they_are(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_parts, "fit", Trained(waits=2))
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", lambda mode: None)
    waits = gpu_parts.capture(setting)["waits_per_epoch"]
    # three steps an epoch; the first epoch is the capture's
    assert {where.partition(":")[0]: number for where, number in waits.items()} == {
        "optimiser": 6,
        "scoring": 1,
    }
    assert all("test_bench_gpu.py" in where for where in waits)


def test_replayed_steps_are_not_compared_with_themselves(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(*words: Any, lap: Callable[[str], None], **more: Any) -> Any:
        for phase in ("checkpoint", *("optimiser",) * 4, "scoring"):
            lap(phase)
        return SimpleNamespace(history=[{"train_loss": 1.0, "val_ce": 1.0}])

    monkeypatch.setattr(gpu_parts, "fit", replayed)
    for measure in (
        lambda: gpu_parts.capture(setting),
        lambda: gpu_parts.step_of(setting.config(SIZE), setting.data(SIZE, train=24, val=12)),
    ):
        with pytest.raises(RuntimeError, match="were to be eager were replayed"):
            measure()


def test_a_difference_is_relative_and_a_nan_is_infinite() -> None:
    assert largest_difference([10.0, 1.0], [11.0, 1.0]) == pytest.approx(0.1)
    assert largest_difference([1.0, 1.0], [1.0, math.nan]) == math.inf


def test_steps_are_eager_where_that_is_asked_for() -> None:
    assert cuda_graph.can_be_captured(Config())
    with gpu_parts.eager():
        assert not cuda_graph.can_be_captured(Config())
    assert cuda_graph.can_be_captured(Config())


# ---------------------------------------------------------------------------------------- training


def test_a_training_is_timed_phase_by_phase(setting: Setting) -> None:
    found = gpu_parts.training(setting, SIZE, precision="float32")
    assert (found["train"], found["scored"], found["batch"]) == (24, 4, 12)
    assert found["images_per_s"] == pytest.approx(24 / found["training_s"])
    for name in ("training_s", "scoring_s", "checkpoint_s", "start_s", "full_size_scoring_s"):
        assert found[name] > 0
    assert json.loads(json.dumps(found)) == found


def test_a_trial_takes_start_training_scoring_and_checkpoints() -> None:
    part = {
        "batch": 10,
        "images_per_s": 100.0,
        "scored": 40,
        "scoring_s": 0.2,
        "checkpoint_s": 0.5,
        "start_s": 3.0,
        "full_size_scoring_s": 0.1,
    }
    # 20 steps of 2 epochs on 100 pictures: 1 s each; 2 x 20 scored in .2 s; 20 masks at the end
    whole_s = trial_s(part, steps=20, train=100, val=20)
    assert whole_s == pytest.approx(3 + 2 * (1 + 0.2 + 0.5) + 20 * 0.1)
    assert trial_s(part, steps=20, train=100, val=20, slower=2) == pytest.approx(2 * whole_s - 3)


def test_the_recorded_step_is_the_whole_of_one(setting: Setting) -> None:
    config = setting.config(SIZE, **{"runtime.precision": "float32"})
    seen = gpu_parts.step_of(config, setting.data(SIZE, train=48, val=12))
    job = Job(setting.faces, SIZE, config.model.width, config.data.batch_size, 1, 48)
    # forward and backward of the network, and whatever else torch counts
    assert sum(op.flops for op in seen.ops) == pytest.approx(step_flops(job), rel=0.02)
    places = seen.moved_by_place()
    assert any(place.startswith("augment.py") for place in places)
    assert any(place.startswith("adamw.py") for place in places)
    # nothing is recorded any longer
    before = len(seen.ops)
    torch.ones(2).add_(1)
    assert len(seen.ops) == before


def test_a_step_that_fails_leaves_no_recorder_behind(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Config, data: object, *, out: Path, lap: Callable[[str], None]) -> None:
        lap("optimiser")
        lap("optimiser")
        raise RuntimeError("broken")

    monkeypatch.setattr(gpu_parts, "fit", broken)
    config = setting.config(SIZE)
    with pytest.raises(RuntimeError, match="broken"):
        gpu_parts.step_of(config, setting.data(SIZE, train=24, val=12))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_steps_are_profiled_between_two_marks(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_parts, "_PROFILED", 2)
    found = gpu_parts.profile(setting, SIZE)
    # no kernel of a GPU is in the trace of a CPU
    assert (found["kernels"], found["between_kernels"]) == ([], 1)
    assert found["step_ms"] > 0
    assert (setting.out / found["trace"]).is_file()


def test_pictures_come_again_and_again(setting: Setting) -> None:
    data = setting.data(SIZE, train=50, val=5)
    assert (len(data.train), len(data.val), data.train.images.shape) == (50, 5, (50, 16, 16, 3))
    again = len(load_faces(str(setting.faces), image_size=SIZE).train)
    assert (data.train.images[0] == data.train.images[again]).all()
    assert (data.train.full_mask(0) == data.train.full_mask(again)).all()
    assert len(set(data.train.stems)) == 50


# ----------------------------------------------------------------------------------------- a table


TRAINED = {
    "size": 512,
    "precision": "bfloat16",
    "compiled": False,
    "batch": 12,
    "train": 1200,
    "scored": 240,
    "images_per_s": 500.0,
    "training_s": 2.4,
    "scoring_s": 0.6,
    "checkpoint_s": 0.01,
    "start_s": 4.0,
    "full_size_scoring_s": 0.01,
    "final_loss": 3.0,
    "pictures_mb": 1384.0,
    "allocated_mb": {"training": 5600.0, "scoring": 5700.0, "checkpoint": 5700.0},
    "reserved_mb": {"training": 6000.0, "scoring": 7000.0, "checkpoint": 7000.0},
    "used_on_device_mb": 7700.0,
    "warnings": ["training runs without a CUDA graph: no"],
    "tf32": False,
    "tf32_by_itself": True,
}
MEASURED: dict[str, dict[str, Any]] = {
    "machine": {
        "hardware": {"cpu": "EPYC"},
        "versions": {"torch": "2.13.0"},
        "gpu": "H100",
        "memory_mb": 85_000.0,
        "compute_capability": "9.0",
        "cuda": "13.0",
        "cudnn": 91000,
    },
    "captured steps": {
        "failed": "steps in float32 differ from eager ones: see the log",
        "cases": [
            {
                "precision": "float32",
                "dropout": 0.15,
                "captured": True,
                "same": False,
                "eager_to_eager": 1e-6,
                "captured_to_eager": None,
                "other_draws": 5e-3,
            }
        ],
        "waits_per_epoch": {"optimiser: fit.py:1": 3.0, "scoring: fit.py:2": 1.0},
    },
    "fit at 512": TRAINED,
    "fit at 512 in float32": TRAINED | {"precision": "float32", "images_per_s": 200.0},
    "fit at 512 compiled": TRAINED | {"compiled": True, "images_per_s": 550.0, "start_s": 70.0},
    "roofline": {
        "rates": {
            "copy_bytes_per_s": 2.8e12,
            "triad_bytes_per_s": 2.9e12,
            "cache_bytes": 50e6,
            "cache_bytes_per_s": 5.5e12,
            "launch_s": 1.5e-6,
            "matmul_flops_per_s": {"bfloat16": 7e14},
            "convolution_flops_per_s": {"bfloat16": {"32 channels": 1e14, "88 channels": 3e14}},
        },
        "sizes": {
            "512": {
                "precision": "bfloat16",
                "ops": 650,
                "moved_gb": 38.9,
                "gflop_per_image": 172.5,
                "step_peak_mb": 4200.0,
                "limit_images_per_s": 625.0,
                "bound": "memory",
                "memory_ms": 12.0,
                "arithmetic_ms": 6.0,
                "launch_ms": 1.2,
            }
        },
    },
    "profile at 512": {
        "step_ms": 24.0,
        "busy_ms": 23.0,
        "between_kernels": 0.04,
        "kernels_per_step": 700.0,
        "groups": {"convolution": 0.6, "loss": 0.4},
        "kernels": [
            {"name": "conv[fprop]", "runs_per_step": 3.0, "ms_per_step": 2.0, "share": 0.1}
        ],
    },
    "plain at 512": {"size": 512, "images_per_s": 50.0, "how": "1 x 16, 8 loading"},
    "1 at 512": {"workers": 1, "size": 512, "mps": False, "batch": 12, "images_per_s": 480.0},
    "2 at 512 with MPS": {
        "workers": 2,
        "size": 512,
        "mps": True,
        "batch": 12,
        "images_per_s": 600.0,
    },
    "4 at 512 with MPS": {"images_per_s": None, "size": 512, "note": "does not fit"},
    "search": {
        "answer": 0.8,
        "finished": 8,
        "pruned": 5,
        "revived": 1,
        "epochs": 100,
        "budget_epochs": 272,
        "wall_s": 90.0,
        "trials_per_hour": 320.0,
        "size": 128,
        "gpu_busy": 0.35,
    },
    "full": {"f_score_full_val": 0.86, "f_score_full_test": 0.84},
}


def test_every_figure_stands_beside_what_it_is_compared_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("| 512, 12 | 4,203 MB | 995 MB | 1,887 MB | 7.7 GB |")
    monkeypatch.setattr(gpu, "README", readme)
    said = {what: (figure, against) for what, figure, against in gpu.rows(MEASURED)}
    assert said["card"][0] == "H100, 85.0 GB"
    assert said["captured steps"] == ("failed", MEASURED["captured steps"]["failed"])
    captured = said["captured steps, float32, dropout 0.15"]
    assert captured == (
        "NOT the same: not a number from eager ones",
        "two eager trainings differ by 1.0e-06, other draws of dropout by 5.0e-03",
    )
    assert said["waits for the device"][0] == "4 an epoch, 3 of them between steps"
    ours = said["fit at 512, bfloat16"]
    assert ours == ("500.0 images/s", "0.80 of the limit, 625, bound by memory")
    # the limit is one of bfloat16
    assert said["fit at 512 in float32, float32"] == ("200.0 images/s", "")
    compiled = said["fit at 512 compiled, bfloat16"]
    assert compiled[0] == "550.0 images/s"
    assert compiled[1].startswith("1.10 of the one that is not compiled; 0.88 of the limit, ")
    assert said["fit at 512 compiled: start"][0] == "70.0 s to the end of the first step"
    assert said["fit at 512: memory after scoring"] == (
        "7000 MB reserved, 5700 allocated at most",
        "trainer/README.md's table and these pictures, streamed or not: 6582 MB;"
        " 7700 MB in use on the device",
    )
    assert said["fit at 512: memory before scoring"][1] == (
        "pictures 1384 MB, a step's own tensors 4200 MB"
    )
    assert said["fit at 512: warning"] == ("training runs without a CUDA graph: no", "")
    assert said["plain at 512, float32"] == (
        "50.0 images/s (1 x 16, 8 loading)",
        "ours in bfloat16 is 10.00 of it; ours in float32 is 4.00 of it",
    )
    assert said["profile at 512: by kind"][0] == "convolution 60.0%, loss 40.0%"
    alone, two = (said[f"trainings at once: {name}"] for name in ("1 at 512", "2 at 512 with MPS"))
    assert two[1].startswith("1.25 of one; ")
    # 20,000 steps are 151 epochs of 133 steps; each ends with 2 x 200 scored and a checkpoint
    trial = 4 + 151 * (133 * 12 / 500 + 400 * 0.6 / 240 + 0.01) + 200 * 0.01
    assert f"{3600 / trial:.2f} unpruned trials" in alone[1]
    slower = 4 + (trial - 4) * 2 / 1.25
    assert f"{2 * 3600 / slower:.2f} unpruned trials" in two[1]
    assert said["trainings at once: 4 at 512 with MPS"] == ("does not fit", "")
    assert "a kernel at work 35% of the time" in said["a search of 8 at 128"][1]
    assert said["f_score_full on test"] == (
        "0.8400",
        "0.85 missed by 0.0100, 0.87 missed by 0.0300",
    )
    gpu._show(MEASURED, ["no part"])
    printed = capsys.readouterr().out
    assert "conv[fprop]" in printed
    assert "needs a GPU" in printed


def test_every_part_has_its_row() -> None:
    args = gpu.parser().parse_args(["--data", "faces"])
    kinds = {part.name: part.kind for part in gpu.parts(args)}
    assert len(kinds) == len(list(gpu.parts(args)))
    assert set(kinds.values()) == set(gpu.KINDS)
    for name, kind in kinds.items():
        # a training in float32 is there for the rivals, and a compiled one stands by itself
        assert gpu._kind_of(name) == ("fit" if name.startswith("fit") else kind)
