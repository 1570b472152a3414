"""Families of real trainings: the same training has one curve, and scores are what they say."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from scripts.benchmarks import families
from scripts.benchmarks.families import (
    FRESH_FROM,
    Training,
    boosting,
    digits,
    partial_fit,
    scenes,
    tables,
)


def drawn(family: families.Family, count: int) -> list[dict[str, object]]:
    """Configurations at random."""
    from search.study.drawing import drawn

    rng = np.random.default_rng(5)
    return [drawn({**family.specs}, rng.random) for _ in range(count)]


# ------------------------------------------------------------------------------------- trained


EPOCHS = 2


@pytest.mark.parametrize("module", [digits, scenes, boosting, partial_fit])
def test_a_training_has_one_curve_alone_and_among_others(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPOCHS", EPOCHS)
    name = module.__name__.rpartition(".")[2].replace("_", " ")
    family = families.family(name, "tuning")
    first, other = drawn(family, 2)
    alone = family.curves([Training(first, 7)])
    # more than are trained at once where one trains alone
    others = [Training(other, seed) for seed in (7, 8, 9)]
    many = family.curves([*others, Training(first, 8), Training(first, 7)])
    assert alone.shape == (1, EPOCHS)
    assert many.shape == (5, EPOCHS)
    assert many[-1] == pytest.approx(alone[0], abs=1e-6)
    assert np.isfinite(many).all()
    assert 0 <= many.min() < many.max() <= 1
    assert not np.array_equal(many[-2], many[-1])
    elsewhere = families.family(name, "figures").curves([Training(first, 7)])
    assert not np.array_equal(elsewhere, alone)


def test_networks_together_are_the_networks() -> None:
    own = [scenes._fresh(seed) for seed in range(4)]
    for network in own:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                # at the start, some of them are 0 and hide what is before them
                nn.init.normal_(module.weight)
    together = scenes._together(own)
    images = torch.randn(4, 6, 3, 16, 16)
    found = together(scenes._side_by_side(images)).view(6, 4, 8, 16, 16).transpose(0, 1)
    expected = torch.stack([network(each) for network, each in zip(own, images, strict=True)])
    assert torch.allclose(found, expected, atol=1e-3)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_faces_have_every_class_and_the_small_ones_are_small() -> None:
    _, masks, _, truth = scenes._scenes(0)
    for drawn_masks in (masks, truth):
        share = drawn_masks.flatten().bincount() / drawn_masks.numel()
        assert len(share) == 8
        assert 0.003 < share[3:7].min() <= share[3:7].max() < 0.04 < share[[0, 1, 2, 7]].min()


# -------------------------------------------------------------------------------------- tables


def test_fresh_trainings_see_other_recorded_seeds_than_trainings_do() -> None:
    family = families.family("HPOBench: phoneme", "tuning")
    (params,) = drawn(family, 1)
    recorded = tables._task("phoneme").recorded(params)
    assert len(set(recorded)) == 5
    seen = family.curves([Training(params, seed) for seed in range(50)])
    assert seen.shape == (50, 1)
    assert set(seen[:, 0]) == set(recorded[:3])
    fresh = family.curves([Training(params, FRESH_FROM + i) for i in range(family.fresh)])
    assert fresh[:, 0].tolist() == recorded[3:].tolist()


def test_scores_of_tables_lie_in_the_unit_interval() -> None:
    for name in ("HPOLib: naval_propulsion", "NASBench201: cifar100"):
        family = families.family(name, "tuning")
        assert family.epochs == 1
        trainings = [Training(params, i) for i, params in enumerate(drawn(family, 300))]
        scores = family.curves(trainings)
        assert 0 <= scores.min() < 0.5 < scores.max() <= 1
        assert np.array_equal(family.curves(trainings[3:4]), scores[3:4])


def test_every_table_is_of_one_half() -> None:
    tuning, figures = (families.groups(half) for half in families.HALVES)
    assert list(tuning) == list(figures)
    for group in ("HPOBench", "HPOLib", "NASBench201"):
        assert not {*tuning[f"tables, {group}"]} & {*figures[f"tables, {group}"]}
    both = {name for half in (tuning, figures) for members in half.values() for name in members}
    assert both == {*families.names()}
    assert len([name for name in both if ": " in name]) == 15


def test_an_unknown_family_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        families.family("none", "tuning")
