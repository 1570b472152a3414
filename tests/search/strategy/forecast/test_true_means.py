from __future__ import annotations

import numpy as np
import pytest

from search.strategy.forecast import true_means as module
from search.strategy.forecast.true_means import Shown, TrueMeans
from space import Float

LINE = {"x": Float(0.0, 1.0)}


def along(count: int, noise: float, seed: int, seeds: int = 1) -> list[Shown]:
    """Of a hill at 0.5."""
    rng = np.random.default_rng(seed)
    places = np.linspace(0, 1, count)
    return [
        Shown({"x": float(at)}, 1 - (at - 0.5) ** 2 + noise * float(rng.normal()), seeds)
        for at in places
    ]


def test_noise_is_smoothed_and_the_hill_is_found() -> None:
    shown = along(40, 0.05, 0)
    beliefs = TrueMeans(LINE, shown).beliefs()
    places = np.linspace(0, 1, 40)
    off = np.array([beliefs[n].mean for n in range(40)]) - (1 - (places - 0.5) ** 2)
    assert np.sqrt(np.mean(off**2)) < 0.025
    best = max(beliefs, key=lambda place: beliefs[place].mean)
    assert places[best] == pytest.approx(0.5, abs=0.2)


def test_more_seeds_of_everything_make_it_surer() -> None:
    one, four = (TrueMeans(LINE, along(12, 0.05, 1, seeds)).beliefs() for seeds in (1, 4))
    assert all(four[place].variance < one[place].variance for place in one)


def test_what_lies_far_below_does_not_stretch_the_rest() -> None:
    shown = along(20, 0.02, 2)
    lost = [Shown({"x": 0.001 * n}, -50.0) for n in range(1, 4)]
    beliefs = TrueMeans(LINE, [*shown, *lost]).beliefs()
    best = max(beliefs, key=lambda place: beliefs[place].mean)
    assert shown[best].params["x"] == pytest.approx(0.5, abs=0.25)
    assert beliefs[best].mean < 1.2


def test_of_a_large_study_the_best_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELD", 20)
    shown = along(101, 0.0, 3)
    beliefs = TrueMeans(LINE, shown).beliefs()
    assert len(beliefs) == 20
    assert set(range(46, 55)) <= set(beliefs)
    # the others are spread over the rest
    assert max(abs(place - 50) for place in beliefs) > 40


def test_equal_scores_are_no_error() -> None:
    shown = [Shown({"x": at}, 0.5) for at in (0.1, 0.5, 0.9)]
    assert all(
        it.mean == pytest.approx(0.5, abs=1e-3) for it in TrueMeans(LINE, shown).beliefs().values()
    )


def test_a_doubtful_value_counts_less_than_a_sure_one() -> None:
    shown = along(20, 0.02, 4)
    far = {"x": 0.975}
    sure, doubtful = (
        TrueMeans(LINE, [*shown, Shown(far, 1.3, doubt=doubt)]).beliefs()[20]
        for doubt in (0.0, 1.0)
    )
    assert sure.mean > doubtful.mean + 0.1


def test_the_gain_is_greatest_near_the_top_and_less_where_one_is_trained_already() -> None:
    shown = [one for one in along(40, 0.01, 5) if not 0.35 < one.params["x"] < 0.65]
    means = TrueMeans(LINE, shown)
    places = [{"x": float(at)} for at in np.linspace(0, 1, 41)]
    gains = means.gains(places)
    assert (gains >= 0).all()
    best = int(gains.argmax())
    assert 0.35 < places[best]["x"] < 0.65
    beside = means.gains(places, beside=[places[best]])
    assert beside[best] < 0.9 * gains[best]


def test_noise_between_seeds_is_told() -> None:
    assert TrueMeans(LINE, along(100, 0.05, 6)).noise == pytest.approx(0.05, rel=0.5)
