from __future__ import annotations

import pytest
import torch

from tests.support.gpu_clock import GpuClock
from trainer.run_ahead import STEPS, RunAhead


def test_python_is_never_further_ahead_and_looks_around_while_it_waits() -> None:
    clock, looks = GpuClock(), []
    with clock.running():
        ahead = RunAhead(torch.device("cuda:0"), lambda: looks.append(clock.done))
        for step in range(20):
            clock.launch()
            assert clock.queued - clock.done <= STEPS
            ahead.queued()
            assert clock.queued == step + 1
        # the GPU has work while the next step is queued
        assert clock.queued - clock.done == STEPS - 1
        ahead.wait()
        assert clock.done == 20
        # a second time it works as at first
        for _ in range(STEPS - 1):
            clock.launch()
            ahead.queued()
        assert clock.done == 20
    assert set(looks) == set(range(21))


def test_what_is_raised_meanwhile_ends_the_waiting() -> None:
    clock = GpuClock()

    def verdict() -> None:
        if clock.done == 2:
            raise KeyError("verdict")

    with clock.running():
        ahead = RunAhead(torch.device("cuda:0"), verdict)
        for _ in range(STEPS - 1):
            clock.launch()
            ahead.queued()
        with pytest.raises(KeyError):
            ahead.wait()
    assert clock.done == 2


def test_on_a_cpu_nothing_is_waited_for() -> None:
    looks: list[int] = []
    ahead = RunAhead(torch.device("cpu"), lambda: looks.append(0))
    for _ in range(10):
        ahead.queued()
    ahead.wait()
    assert len(looks) == 11


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_waited_for() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    looks: list[int] = []
    done: list[torch.cuda.Event] = []
    ahead = RunAhead(device, lambda: looks.append(0))
    for _ in range(3 * STEPS):
        # some milliseconds
        torch.cuda._sleep(10_000_000)
        done.append(torch.cuda.Event())
        done[-1].record()
        ahead.queued()
        assert sum(not event.query() for event in done) < STEPS
    ahead.wait()
    assert all(event.query() for event in done)
    assert len(looks) > len(done)
