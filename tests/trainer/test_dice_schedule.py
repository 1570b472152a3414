from __future__ import annotations

import pytest

from trainer.dice_schedule import SCHEDULES, dice_weight_at


def test_every_schedule_has_the_level_as_its_mean_over_training():
    moments = [(i + 0.5) / 3000 for i in range(3000)]
    for schedule in SCHEDULES:
        weights = [dice_weight_at(p, level=2.0, ramp=-0.6, schedule=schedule) for p in moments]
        assert sum(weights) / len(weights) == pytest.approx(2.0, abs=1e-9)


def test_ramp_is_end_minus_start_and_may_fall():
    for schedule in ("step", "linear", "cosine"):
        first = dice_weight_at(0.0, level=1.5, ramp=-0.4, schedule=schedule)
        last = dice_weight_at(1.0, level=1.5, ramp=-0.4, schedule=schedule)
        assert (first, last) == pytest.approx((1.7, 1.3))


def test_constant_ignores_the_ramp_to_the_last_digit():
    for ramp in (-0.6, 0.0, 0.1, 0.6):
        assert dice_weight_at(0.2, level=1.1, ramp=ramp, schedule="constant") == 1.1


def test_the_users_dynamic_schedule_is_step_with_level_one_and_a_half_and_ramp_of_two_fifths():
    weights = [dice_weight_at(s / 9, level=1.5, ramp=0.4, schedule="step") for s in range(9)]
    assert weights == pytest.approx([1.3] * 3 + [1.5] * 3 + [1.7] * 3)


def test_a_weight_below_zero_is_refused_with_its_ends():
    with pytest.raises(ValueError, match=r"dice_weight 0.2 with dice_ramp 0.6 .* -0.1 to 0.5"):
        dice_weight_at(0.5, level=0.2, ramp=0.6, schedule="linear")


def test_an_unknown_schedule_and_progress_outside_are_refused():
    with pytest.raises(ValueError, match="'sawtooth' is none of constant, step, linear, cosine"):
        dice_weight_at(0.5, level=1.5, ramp=0.0, schedule="sawtooth")
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\], got 1.5"):
        dice_weight_at(1.5, level=1.5, ramp=0.0, schedule="linear")
