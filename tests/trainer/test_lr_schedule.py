"""Learning rates: equal cycles that end where the budget ends."""

from __future__ import annotations

from itertools import pairwise

import pytest

from trainer.config import Config, with_values
from trainer.lr_schedule import SCHEDULES, cycle_ends, lr_at


@pytest.mark.parametrize("epochs", [7, 12, 20, 150])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("steps", [3, 50, 84])
def test_every_share_of_the_budget_gives_equal_cycles_and_ends_at_eta_min(
    epochs: int, parts: int, steps: int
) -> None:
    total = epochs * steps
    ends = cycle_ends(total, t_0_steps=epochs / parts * steps)
    assert ends[-1] == total
    assert len(ends) == parts
    lengths = [b - a for a, b in pairwise([0, *ends])]
    assert max(lengths) - min(lengths) <= 1
    assert lr_at(total - 1, ends=ends, peak=1e-3, eta_min=1e-6) == pytest.approx(1e-6)
    assert lr_at(0, ends=ends, peak=1e-3, eta_min=1e-6) == pytest.approx(1e-3)
    for end in ends[:-1]:
        assert lr_at(end, ends=ends, peak=1e-3, eta_min=1e-6) == pytest.approx(1e-3)


def test_t_mult_lengthens_each_cycle() -> None:
    assert cycle_ends(175, t_0_steps=25, t_mult=2) == [25, 75, 175]
    # the users warm restarts: 25, 50, 100 and a last one cut short
    assert cycle_ends(200, t_0_steps=25, t_mult=2) == [25, 75, 175, 200]


def test_warm_up_scales_the_first_steps_and_moves_no_cycle() -> None:
    ends = cycle_ends(20, t_0_steps=10)
    rates = [lr_at(s, ends=ends, peak=1.0, eta_min=0.0, warmup_steps=4) for s in range(20)]
    plain = [lr_at(s, ends=ends, peak=1.0, eta_min=0.0) for s in range(20)]
    assert rates[0] == pytest.approx(0.25)
    assert rates[4:] == plain[4:]


def test_a_cycle_falls_without_a_bump() -> None:
    rates = [lr_at(s, ends=[30], peak=1.0, eta_min=0.1) for s in range(30)]
    assert all(a > b for a, b in pairwise(rates))


def test_no_cycle_is_no_cycle() -> None:
    with pytest.raises(ValueError, match="t_0_steps"):
        cycle_ends(10, t_0_steps=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_a_value_of_the_config_and_falls_from_the_peak(schedule: str) -> None:
    assert with_values(Config(), {"scheduler": schedule}).training.scheduler == schedule
    rates = [lr_at(s, ends=[9], peak=1.0, eta_min=0.1, schedule=schedule) for s in range(9)]
    assert max(rates) == rates[0] == 1.0
    assert min(rates) >= 0.1
