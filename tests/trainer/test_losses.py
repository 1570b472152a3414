from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from trainer.config import Config
from trainer.losses import (
    OPTIONAL_TERMS,
    lovasz_loss,
    reduce_masks,
    segmentation_loss,
    training_loss,
)


def random_case(images=4, classes=19, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, side, side, generator=generator)
    blocks = torch.randint(0, classes, (images, 3, 3), generator=generator)
    target = blocks.repeat_interleave(side // 3, 1).repeat_interleave(side // 3, 2)
    return logits, target


def dice_of(p, target, average="all"):
    """Dice of probabilities [B, C, H, W]: their logarithms are logits."""
    return float(segmentation_loss(p.log(), target, dice_average=average).dice)


def test_dice_of_a_case_counted_by_hand():
    # one picture of two pixels, three classes; truth 0 and 1
    p = torch.tensor([[0.5, 0.25], [0.25, 0.75], [0.25, 0.0]]).reshape(1, 3, 1, 2)
    target = torch.tensor([[[0, 1]]])
    # class 0: 2 * 0.5 / (0.75 + 1), class 1: 2 * 0.75 / (1 + 1), class 2: 0 / (0.25 + 0)
    zero, one = 1 / 1.75, 0.75
    assert dice_of(p, target) == pytest.approx(1 - (zero + one + 0) / 3, abs=1e-6)
    assert dice_of(p, target, "present") == pytest.approx(1 - (zero + one) / 2, abs=1e-6)


def test_dice_of_a_class_in_neither_truth_nor_prediction_is_one():
    p = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert dice_of(p, torch.tensor([[[0]]])) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("average", ["all", "present"])
def test_loss_and_gradient_are_those_of_the_formula_written_with_a_one_hot_truth(average):
    logits, target = random_case()
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    p = exact.softmax(1)
    y = functional.one_hot(target, 19).permute(0, 3, 1, 2).double()
    dice = (2 * (p * y).sum((2, 3)) + 1e-8) / (p.sum((2, 3)) + y.sum((2, 3)) + 1e-8)
    counted = y.sum((2, 3)) > 0 if average == "present" else torch.ones_like(dice)
    expected = 1 - ((dice * counted).sum(1) / counted.sum(1)).mean()
    terms = segmentation_loss(
        logits, target, ce_weight=0.7, label_smoothing=0.1, dice_average=average
    )
    assert float(terms.dice) == pytest.approx(float(expected.detach()), abs=1e-6)
    cross_entropy = functional.cross_entropy(exact, target, label_smoothing=0.1)
    (0.7 * cross_entropy + 1.5 * expected).backward()
    terms.total.backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2])
def test_cross_entropy_is_that_of_torch(smoothing):
    logits, target = random_case()
    terms = segmentation_loss(logits, target, label_smoothing=smoothing)
    expected = functional.cross_entropy(logits, target, label_smoothing=smoothing)
    assert float(terms.ce) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("average", ["all", "present"])
def test_gradient_is_the_same_however_a_batch_is_split(average):
    logits, target = random_case()
    settings = {"label_smoothing": 0.1, "dice_average": average, "lovasz_weight": 0.5}

    whole = logits.clone().requires_grad_()
    total = segmentation_loss(whole, target, **settings).total
    total.backward()

    split = logits.clone().requires_grad_()
    parts = [
        segmentation_loss(split[rows], target[rows], **settings).total
        for rows in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4))
    ]
    (sum(parts) / 4).backward()

    assert float(sum(parts).detach() / 4) == pytest.approx(float(total.detach()), abs=1e-5)
    assert torch.allclose(whole.grad, split.grad, atol=1e-7)


def test_total_is_the_weighted_sum_and_takes_the_dice_weight_as_a_tensor():
    logits, target = random_case()
    terms = segmentation_loss(
        logits, target, ce_weight=0.5, dice_weight=torch.tensor(2.0), lovasz_weight=0.25
    )
    expected = 0.5 * terms.ce + 2.0 * terms.dice + 0.25 * terms.optional["lovasz_weight"]
    assert float(terms.total) == pytest.approx(float(expected), abs=1e-6)
    assert segmentation_loss(logits, target).optional == {}


def test_sums_are_float32_under_bfloat16_logits():
    logits, target = random_case(side=60)
    coarse = logits.bfloat16()
    terms = segmentation_loss(coarse, target)
    assert terms.total.dtype == torch.float32
    exact = segmentation_loss(coarse.float(), target)
    assert float(terms.total) == float(exact.total)


def test_logits_of_any_size_stay_finite():
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 0] = 1e4
    terms = segmentation_loss(logits, torch.tensor([[[0, 1]]]), lovasz_weight=1.0)
    assert all(math.isfinite(float(term)) for term in (*terms[:3], *terms.optional.values()))


def test_lovasz_of_a_hard_prediction_is_one_minus_the_jaccard_index():
    # class 0: truth 3 pixels, predicted 2, both right: 2/3; class 1: truth 1, predicted 2: 1/2
    target = torch.tensor([[[0, 0, 0, 1]]])
    hard = functional.one_hot(torch.tensor([[[0, 0, 1, 1]]]), 3).permute(0, 3, 1, 2).float()
    expected = ((1 - 2 / 3) + (1 - 1 / 2)) / 2
    assert float(lovasz_loss(hard, target)) == pytest.approx(expected, abs=1e-6)


def test_an_unknown_average_is_refused():
    logits, target = random_case(images=1)
    with pytest.raises(ValueError, match="'some' is neither 'all' nor 'present'"):
        segmentation_loss(logits, target, dice_average="some")


def test_masks_are_reduced_at_pixel_centres():
    target = torch.arange(16).reshape(1, 4, 4)
    assert reduce_masks(target, 2, 2).tolist() == [[[5, 7], [13, 15]]]
    assert reduce_masks(target, 4, 4) is target


def test_auxiliary_heads_add_their_weighted_mean_to_the_total_only():
    logits, target = random_case(side=12)
    coarse = [torch.randn(4, 19, 6, 6), torch.randn(4, 19, 3, 3)]
    plain = training_loss(logits, target)
    both = training_loss((logits, coarse), target, aux_weight=0.4)
    extra = [segmentation_loss(c, reduce_masks(target, *c.shape[-2:])).total for c in coarse]
    assert float(both.total) == pytest.approx(
        float(plain.total) + 0.4 * float(sum(extra)) / 2, abs=1e-5
    )
    assert float(both.ce) == float(plain.ce)
    assert float(training_loss((logits, coarse), target, aux_weight=0.0).total) == float(
        plain.total
    )


def test_every_optional_term_has_its_weight_in_the_config_and_adds_it_to_the_total():
    logits, target = random_case()
    plain = segmentation_loss(logits, target)
    for key in OPTIONAL_TERMS:
        assert getattr(Config().loss, key) == 0
        terms = segmentation_loss(logits, target, **{key: 0.5})
        expected = plain.total + 0.5 * terms.optional[key]
        assert float(terms.total) == pytest.approx(float(expected), abs=1e-6)
