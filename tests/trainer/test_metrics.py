from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.scores import image_score, pooled
from trainer.data.classes import LARGE, NAMES, SMALL
from trainer.metrics import (
    ScoreKeeper,
    column_counts,
    confusion,
    f_per_class,
    image_f_scores,
    mean_f,
)


def random_masks(seed, images=7, side=23):
    """Truth with blocks of random classes, some classes missing; prediction half right."""
    rng = np.random.default_rng(seed)
    some = rng.choice(19, size=12, replace=False)
    truth = np.kron(rng.choice(some, size=(images, 6, 6)), np.ones((4, 4), int))[:, :side, :side]
    predicted = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, 19, truth.shape))
    predicted[predicted == some[0]] = some[1]  # a class of the truth that is never predicted
    return predicted, truth


@pytest.mark.parametrize("seed", range(5))
def test_all_scores_agree_with_an_independent_implementation(seed):
    predicted, truth = random_masks(seed)
    keeper = ScoreKeeper()
    for rows in (slice(0, 3), slice(3, 4), slice(4, 7)):
        keeper.add(torch.tensor(predicted[rows]), torch.tensor(truth[rows]))
    scores = keeper.scores()
    each = [image_score(p, t) for p, t in zip(predicted, truth, strict=True)]
    assert keeper.image_scores() == pytest.approx(each, abs=1e-9)
    assert scores.f_score == pytest.approx(np.mean(each), abs=1e-9)
    assert scores.images == 7
    by_class = pooled(predicted, truth)
    assert list(scores.f_per_class) == list(by_class)
    assert scores.f_per_class == pytest.approx(by_class, abs=1e-9)
    in_truth = set(np.unique(truth))
    for got, group in (
        (scores.f_pooled, range(19)),
        (scores.f_large, LARGE),
        (scores.f_small, SMALL),
    ):
        expected = [by_class[NAMES[c]] for c in group if c in in_truth]
        assert got == (pytest.approx(np.mean(expected), abs=1e-9) if expected else None)


def test_score_of_an_image_counted_by_hand():
    # class 0: TP 1, FP 1, FN 1 -> 1/2; class 1: TP 1, FP 0, FN 1 -> 2/3; class 7 only predicted
    truth = torch.tensor([[[0, 0], [1, 1]]])
    predicted = torch.tensor([[[0, 7], [1, 0]]])
    score = image_f_scores(confusion(predicted, truth, 19))
    assert score.dtype == torch.float64
    assert float(score) == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-6)


def test_a_perfect_prediction_scores_one_but_for_the_epsilons():
    truth = torch.tensor([[[0, 4], [5, 13]]])
    assert float(image_f_scores(confusion(truth, truth, 19))) == pytest.approx(1.0, abs=1e-6)
    assert scores_of(truth, truth).f_pooled == 1.0


def scores_of(predicted, truth):
    keeper = ScoreKeeper()
    keeper.add(predicted, truth)
    return keeper.scores()


def test_a_class_absent_from_truth_counts_in_no_mean():
    # glasses predicted on one pixel, in no truth: an F of 0 of its own, no part of f_pooled
    truth = torch.zeros(1, 2, 2, dtype=torch.long)
    predicted = torch.tensor([[[0, 0], [0, 3]]])
    scores = scores_of(predicted, truth)
    assert scores.f_per_class["eye_g"] == 0.0
    assert scores.f_per_class["hat"] is None
    assert scores.f_pooled == pytest.approx(6 / 7)
    assert scores.f_large == pytest.approx(6 / 7)
    assert scores.f_small is None


def test_confusion_rows_are_truth():
    counts = confusion(torch.tensor([[[2, 2]], [[0, 1]]]), torch.tensor([[[1, 2]], [[0, 0]]]), 3)
    assert counts.tolist() == [
        [[0, 0, 0], [0, 0, 1], [0, 0, 1]],
        [[1, 1, 0], [0, 0, 0], [0, 0, 0]],
    ]


def test_small_integer_masks_count_like_large_ones():
    predicted, truth = (torch.tensor(masks) for masks in random_masks(3))
    counts = confusion(predicted.to(torch.uint8), truth.to(torch.uint8), 19)
    assert torch.equal(counts, confusion(predicted, truth, 19))


def test_shapes_that_differ_and_counts_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and truth \(1, 2, 3\) differ"):
        confusion(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long(), 19)
    with pytest.raises(ValueError, match=r"must be \[C, C\], got \(2, 3\)"):
        f_per_class(torch.zeros(2, 3))


def test_no_image_has_no_score():
    with pytest.raises(ValueError, match="no image was scored"):
        ScoreKeeper().scores()


def test_mean_over_classes_that_no_truth_has_is_none():
    assert mean_f(torch.diag(torch.tensor([5, 0, 3])), [1]) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_counts_the_same_pixels(seed):
    predicted, truth = (torch.tensor(masks) for masks in random_masks(seed))
    counts = column_counts(truth * 19 + predicted, 19 * 19)
    # a row for each index, a column for each of the picture's
    assert counts.shape == (7, 361, 23)
    assert torch.equal(counts.sum(dim=2).reshape(7, 19, 19), confusion(predicted, truth, 19))
    assert torch.equal(counts.sum(dim=1), torch.full((7, 23), 23))


def test_sums_are_read_together_with_the_counts():
    predicted, truth = (torch.tensor(masks) for masks in random_masks(0))
    plain, keeper = ScoreKeeper(), ScoreKeeper()
    for one in (plain, keeper):
        one.add(predicted[:4], truth[:4])
        one.add(predicted[4:], truth[4:])
    assert keeper.read_with(torch.tensor([0.1, 3.0], dtype=torch.float64)) == [0.1, 3.0]
    assert keeper.scores() == plain.scores()
    # and more may be added
    for one in (plain, keeper):
        one.add(predicted, truth)
    assert keeper.scores() == plain.scores()
    with pytest.raises(ValueError, match="no image"):
        ScoreKeeper().scores()
    assert ScoreKeeper().read_with(torch.zeros(1, dtype=torch.float64)) == [0.0]
