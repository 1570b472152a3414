"""Our own trainer behind the contract, on a GPU that is not there."""

from __future__ import annotations

import logging
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from search.execution.launchers.local import WorkerPlan
from search.execution.launchers.local_plans import check_precision_here, tell_plans
from search.execution.options import RunOptions
from search.run import main
from search.study.setup import config_for
from search.trainers import faces
from search.trainers.contract import Machine, Task
from tests.support.fake_cuda import FakeDevice, fake_cuda
from tests.support.shells import one_line
from tests.support.studies import TINY, setup_of
from trainer import runtime
from trainer.config import Config, to_dict, to_yaml, with_values
from trainer.data.dataset import describe
from trainer.errors import ConfigError, DeviceLost
from trainer.step import Stepper

BEGUN = {
    "device": "cuda",
    "threads": 3,
    "precision": "bfloat16",
    "compile": False,
    "channels_last": True,
    "micro_batch": 4,
}


def gone_on_with(machine: Machine, recorded: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The config that a requeued trial goes on with, and what is remembered of it."""
    setup, kept = setup_of(), dict[str, Any]()
    config = config_for(setup, setup.defaults, seed=0, runtime=recorded)
    task = Task(
        setup=setup,
        number=0,
        config=to_dict(config),
        seed=0,
        epochs=setup.epochs,
        out=Path("out"),
        folders=[],
        known={"runtime": recorded},
        remember=kept.__setitem__,
    )
    return faces._with_runtime(config, task, machine), kept


@pytest.mark.parametrize("device", [None, "auto", "cuda:0"])
def test_a_trial_begun_in_bfloat16_goes_on_in_float32_on_a_card_without_and_says_so(
    device: str | None,
) -> None:
    with fake_cuda(capability=(7, 5)):
        config, kept = gone_on_with(Machine(device), BEGUN)
    now = config.runtime
    assert (now.precision, now.micro_batch, now.threads) == ("float32", 4, 3)
    assert kept["runtime"]["precision"] == "float32"
    assert kept["runtime_changed"] == (
        f"begun on cuda (bfloat16), went on on {now.device} (float32): digits may differ"
    )


def test_a_trial_goes_on_as_it_was_begun_where_the_card_can() -> None:
    with fake_cuda(capability=(8, 6)):
        config, kept = gone_on_with(Machine("cuda:0"), BEGUN)
    assert config.runtime.precision == "bfloat16"
    assert "runtime_changed" not in kept
    with fake_cuda(capability=(7, 5)):
        config, kept = gone_on_with(Machine("cuda:0"), {**BEGUN, "precision": "float32"})
    assert config.runtime.precision == "float32"
    assert "runtime_changed" not in kept


def test_a_search_says_once_that_its_cards_compute_in_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "search")
    plans = [WorkerPlan("cuda:0", 1), WorkerPlan("cuda:0", 1)]
    with fake_cuda(capability=(7, 5)):
        tell_plans(plans, setup_of(), Path())
    with fake_cuda():
        tell_plans(plans, setup_of(), Path())
    tell_plans([WorkerPlan("cpu", 1)], setup_of(), Path())
    notes = [line for line in caplog.messages if line.startswith("note: ")]
    assert notes == ["note: Fake GPU (compute capability 7.5) has no bfloat16: float32"]


def test_a_search_in_bfloat16_is_refused_where_a_card_has_none_before_a_study_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--storage", f"sqlite:///{tmp_path}/search.db", "--runs", str(tmp_path / "runs")]
    config = tmp_path / "tiny.yaml"
    config.write_text(to_yaml(with_values(Config(), {**TINY, "runtime.precision": "bfloat16"})))
    with fake_cuda(capability=(7, 5)):
        err = one_line(main, capsys, *words, "--config", config, "--plain")
    assert err == (
        "error: runtime.precision 'bfloat16': Fake GPU (compute capability 7.5) has no bfloat16;"
        " give float32 or auto\n"
    )
    assert not (tmp_path / "search.db").exists()


def test_every_card_of_a_local_search_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(config={"runtime.precision": "bfloat16"})
    with fake_cuda():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        capabilities = {"cuda:0": (8, 0), "cuda:1": (7, 0)}
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        with pytest.raises(ConfigError, match=r"compute capability 7\.0"):
            check_precision_here(RunOptions("", ""), setup)
        # those of a cluster are elsewhere
        check_precision_here(RunOptions("", "", launcher="ray"), setup)
        capabilities["cuda:1"] = (9, 0)
        check_precision_here(RunOptions("", ""), setup)


class _Told:
    """Hears an epoch, and ends the training with an error where it has one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def report(self, epoch: int, score: float) -> None:
        if self.error is not None:
            raise self.error

    def look(self) -> None: ...


def a_training(folder: Path) -> faces.FacesTraining:
    data = describe("synthetic", TINY["synthetic_images"])
    setup = setup_of(config={**TINY, "epochs": 2}, data=data)
    task = Task(
        setup=setup,
        number=0,
        config=to_dict(config_for(setup, setup.defaults, seed=0)),
        seed=0,
        epochs=setup.epochs,
        out=folder / "out",
        folders=[],
        known={},
        remember=lambda name, value: None,
    )
    return faces.FacesTrainer(Machine("cpu", 1)).begin(task)


@pytest.mark.parametrize(
    ("error", "emptied"),
    [
        (None, 1),
        (optuna.TrialPruned("after epoch 1"), 2),
        (IndexError("a bug"), 2),
        # it answers no more; the process ends
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), 0),
    ],
)
def test_between_two_trials_a_worker_holds_no_memory_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, emptied: int
) -> None:
    # real trainings on the CPU; whatever lets go of a device is told that it is a GPU
    real, begun, alive = runtime.release, weakref.WeakSet[Stepper](), list[int]()
    monkeypatch.setattr(faces, "release", lambda device, error=None: real("cuda:0", error))
    monkeypatch.setattr(torch.cuda, "device", FakeDevice)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(len(begun)))
    of_class = Stepper.__init__

    def watched(self: Stepper, *args: Any, **kwargs: Any) -> None:
        begun.add(self)
        of_class(self, *args, **kwargs)

    monkeypatch.setattr(Stepper, "__init__", watched)
    training = a_training(tmp_path)
    assert training.take_over() == []
    if error is None:
        training.run(_Told(None))
    else:
        # the error lives on in this test, as it does until the trial's end is written down
        with pytest.raises(type(error)):
            training.run(_Told(error))
    if emptied:
        training.leave(error is None)
    assert alive == [0] * emptied


def test_a_training_that_did_not_fit_is_gone_before_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = list[bool]()

    class Big: ...

    def hungry(config: Config, *_: Any, **__: Any) -> Any:
        big = Big()
        held.append(weakref.ref(big))
        if config.runtime.micro_batch is None or config.runtime.micro_batch > 2:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return SimpleNamespace(best_f_score=0.5)

    held = list[weakref.ref[Big]]()
    real = runtime.release
    monkeypatch.setattr(faces, "release", lambda device, error=None: real("cuda:0", error))
    monkeypatch.setattr(torch.cuda, "device", FakeDevice)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    monkeypatch.setattr(faces, "fit", hungry)
    assert a_training(tmp_path).run(_Told(None)) == 0.5
    assert alive == [False, False]


def test_half_the_micro_batch_is_kept_before_a_lost_gpu_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        full = torch.OutOfMemoryError("CUDA out of memory")
        raise DeviceLost("the capture of a training step failed") from full

    monkeypatch.setattr(faces, "fit", lost)
    training = a_training(tmp_path)
    with pytest.raises(DeviceLost):
        training.run(_Told(None))
    assert training.config["runtime"]["micro_batch"] == 4


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 900 MiB"), ["cuda", "cpu"]),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), ["cuda"]),
        (RuntimeError("a bug"), ["cuda"]),
    ],
    ids=["out of memory", "lost", "a bug"],
)
def test_a_whole_training_does_not_fail_for_want_of_memory_to_score_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    tried: list[str],
) -> None:
    caplog.set_level(logging.INFO, "search")
    seen, drawn, released = list[str](), list[str](), list[str]()

    def scored(*_: Any, device: torch.device | str) -> dict[str, float]:
        seen.append(torch.device(device).type)
        if seen[-1] == "cuda":
            raise error
        return {"f_score_full": 0.25}

    training = a_training(tmp_path)
    training.run(_Told(None))
    monkeypatch.setattr(faces, "applied", lambda _: nullcontext(torch.device("cuda:0")))
    monkeypatch.setattr(faces, "release", lambda device, error=None: released.append(device))
    monkeypatch.setattr(faces, "final_scores", scored)
    monkeypatch.setattr(faces, "contact_sheet", lambda *_, device: drawn.append(device))
    if tried == ["cuda"]:
        with pytest.raises(type(error)):
            training.leave(True)
        assert drawn == []
    else:
        assert training.leave(True).attributes["f_score_full"] == 0.25
        assert (drawn, released[0]) == (["cpu"], "cuda:0")
        said = "trial 0: scored on the CPU at its end: CUDA out of memory. Tried to allocate"
        assert caplog.messages[-1].startswith(said)
    assert seen == tried
