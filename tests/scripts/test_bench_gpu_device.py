"""The parts of `scripts/bench gpu` on a GPU that is not there: calls, keys and ops, no speed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from scripts.benchmarks import gpu, gpu_parts
from scripts.benchmarks.gpu_parts import Setting
from search.execution.launchers import capacity
from search.execution.launchers.capacity import Reading
from tests.scripts.test_bench_gpu import setting as on_cpu
from tests.support.fake_cuda import Events, FakeEvent
from tests.support.fake_training import fake_training
from tests.support.mps import Mps
from trainer.presets import PRESETS

__all__ = ["on_cpu"]
SIZE = 32


@pytest.fixture
def setting(on_cpu: Setting) -> Setting:
    """On 24 faces of 64 pixels, on the first GPU."""
    return replace(on_cpu, device="cuda:0")


class Timed(FakeEvent):
    """Whatever lies between two of them took 3 ms."""

    def elapsed_time(self, end: object) -> float:
        return 3.0


@contextlib.contextmanager
def fake_gpu() -> Iterator[Events]:
    """A GPU with all that the parts ask of one."""
    properties = SimpleNamespace(
        name="Fake GPU", major=9, minor=0, multi_processor_count=132, L2_cache_size=50_000_000
    )
    stubs: dict[str, object] = {
        "init": lambda: None,
        "Event": Timed,
        "get_device_properties": lambda device: properties,
        "max_memory_allocated": lambda device: 5_000_000_000,
        "max_memory_reserved": lambda device: 6_000_000_000,
    }
    with fake_training() as seen, contextlib.ExitStack() as stack:
        for name, stub in stubs.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", stub))
        # reads the masks' own sizes, and fake tensors hold no checkpoint
        stack.enter_context(mock.patch.object(gpu_parts, "final_scores", return_value={}))
        yield seen.events


def is_json(found: object) -> bool:
    return bool(json.loads(json.dumps(found, allow_nan=False)) == found)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "_EPOCHS", 2)
    monkeypatch.setattr(gpu_parts, "_STEPS", 1)


@pytest.mark.usefixtures("few_steps")
def test_captured_steps_are_captured_and_eager_ones_are_not(setting: Setting) -> None:
    with fake_gpu() as events:
        case = gpu_parts._captured_case(setting, "bfloat16", 0.0)
    assert is_json(case)
    # every number that is read is the same
    assert (case["captured"], case["same"], case["captured_to_eager"]) == (True, True, 0)
    assert events.count("capture begins") == 1
    # the capture's own; then at the end of its epoch, and whatever happens, off again
    modes = [event.removeprefix("sync debug ") for event in events if "sync debug" in event]
    assert modes == ["error", "default", "warn", "default"]


@pytest.mark.proof
@pytest.mark.usefixtures("few_steps")
def test_every_case_of_captured_steps_is_tried(setting: Setting) -> None:
    with fake_gpu() as events:
        found = gpu_parts.capture(setting)
    assert is_json(found)
    assert [(one["precision"], one["dropout"]) for one in found["cases"]] == [
        ("float32", 0.0),
        ("float32", 0.5),
        ("bfloat16", 0.5),
    ]
    # nothing can be told from other draws, where every number is the same
    assert [one["same"] for one in found["cases"]] == [True, False, False]
    assert events.count("capture begins") == 3


def test_a_training_tells_its_memory(setting: Setting) -> None:
    with fake_gpu():
        found = gpu_parts.training(setting, SIZE)
    assert is_json(found)
    assert found["precision"] == "bfloat16"
    assert found["reserved_mb"] == dict.fromkeys(("training", "scoring", "checkpoint"), 6000)
    assert found["allocated_mb"]["scoring"] == 5000
    assert found["used_on_device_mb"] == 2000
    assert found["pictures_mb"] == pytest.approx((24 + 2) * SIZE**2 * 4 / 1e6)
    # float32 of ours is float32
    assert (found["tf32"], found["tf32_by_itself"]) == (False, True)
    assert found["warnings"] == []


def test_a_network_is_compiled_where_that_is_measured(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    # fake tensors are nothing to compile
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    with fake_gpu() as events:
        assert gpu_parts.training(setting, SIZE)["compiled"] is False
        assert asked == []
        found = gpu_parts.training(setting, SIZE, compiled=True)
    assert found["compiled"] is True
    assert found["warnings"] == []
    assert len(asked) == 1
    # inside a graph of ours, as a user's training has it
    assert events.count("capture ends") == 2


def test_a_step_is_recorded_and_priced(setting: Setting) -> None:
    with fake_gpu() as events:
        found = gpu_parts.roofline(setting, [SIZE, 64])
    assert is_json(found)
    rates = found["rates"]
    assert rates["cache_bytes"] == 50e6
    # both precisions, for whatever a training takes
    assert set(rates["matmul_flops_per_s"]) == {"float32", "bfloat16"}
    small, large = (found["sizes"][str(size)] for size in (SIZE, 64))
    assert small["ops"] == large["ops"] > 300
    # 172.5 GFLOP a picture at 512 pixels
    assert large["gflop_per_image"] == pytest.approx(172.5 / 64, rel=0.02)
    assert small["step_peak_mb"] < large["step_peak_mb"]
    assert any(place.startswith("lmsa.py") for place in large["by_place_gb"])
    # rates alone: the recorded steps are eager
    assert events.count("capture begins") == 4 + 2 + 2 * 5


def test_a_machine_names_its_gpu(setting: Setting) -> None:
    with fake_gpu():
        found = gpu_parts.machine(setting)
    assert is_json(found)
    assert (found["gpu"], found["compute_capability"]) == ("Fake GPU", "9.0")
    assert (found["memory_mb"], found["free_mb"]) == (24_000, 22_000)


@pytest.mark.parametrize("size", gpu.SIZES)
def test_the_table_of_memory_has_what_is_measured(size: int) -> None:
    batch = PRESETS["full"].batch_size
    assert gpu.expected_mb(gpu.README.read_text(encoding="utf-8"), size, batch) is not None


# --------------------------------------------------------------------------------- side by side


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """What trainings side by side, which are not begun, were given."""
    given: list[Mapping[str, str]] = []

    def side_by_side(*_: object, environment: Mapping[str, str], **__: Any) -> Reading:
        given.append(dict(environment))
        return Reading(100.0, 2000.0)

    monkeypatch.setattr(capacity, "side_by_side", side_by_side)
    return given


def test_workers_are_measured_with_mps_and_without(
    setting: Setting,
    environments: list[Mapping[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mps = Mps(tmp_path / "mps", monkeypatch)
    shared = gpu_parts.workers(setting, 2, SIZE, mps=True)
    alone = gpu_parts.workers(setting, 2, SIZE)
    assert shared == {**alone, "mps": True}
    assert alone["images_per_s"] == 100
    start, end = mps.journal
    folder = start.split()[1]
    assert end == f"quit {folder}"
    pipes = [one["CUDA_MPS_PIPE_DIRECTORY"] for one in environments]
    # the second one looks for a server where none can be
    assert pipes == [folder, "/dev/null"]


def test_why_there_is_no_mps_stands_in_the_table(
    setting: Setting,
    environments: list[Mapping[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Mps(tmp_path / "mps", monkeypatch)
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = gpu_parts.workers(setting, 2, SIZE, mps=True)
    assert found["images_per_s"] is None
    assert "nvidia-cuda-mps-control is not to be found" in found["note"]
    assert environments == []
