"""Our own trainer behind the contract, on a GPU that is not there."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.execution import supervisor
from search.execution.launchers.local import WorkerPlan
from search.study.setup import config_for
from search.trainers import faces
from search.trainers.contract import Machine, Task
from tests.support.fake_cuda import fake_cuda
from tests.support.studies import setup_of
from trainer.config import Config, to_dict

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
    run = cast(supervisor.Run, SimpleNamespace(setup=setup_of()))
    plans = [WorkerPlan("cuda:0", 1), WorkerPlan("cuda:0", 1)]
    with fake_cuda(capability=(7, 5)):
        supervisor._tell_precision(run, plans)
    with fake_cuda():
        supervisor._tell_precision(run, plans)
    supervisor._tell_precision(run, [WorkerPlan("cpu", 1)])
    assert caplog.messages == ["note: Fake GPU (compute capability 7.5) has no bfloat16: float32"]
