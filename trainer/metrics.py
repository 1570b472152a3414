"""F-scores of the course: counting apart from scoring, all ratios in float64.

B images, C classes, H rows, W columns. `counts_BCC[b, t, p]` is the number of pixels of image b
whose truth is t and whose prediction is p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.classes import LARGE, NAMES, NUM_CLASSES, SMALL

# of the per-image score only; scores from pooled counts have none
EPSILON = 1e-7


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images; DOMAIN's names, all in [0, 1].

    f_score: mean over images of the image's score (the score of a trial).
    f_pooled: mean over the classes in the set's truth of the F from counts summed over the set.
    f_per_class: that F by class name in class order, None where a class is in neither.
    f_large, f_small: as f_pooled over the large and the small parts, None if truth has none.
    images: how many were scored.
    """

    f_score: float
    f_pooled: float
    f_per_class: dict[str, float | None]
    f_large: float | None
    f_small: float | None
    images: int


def confusion(predicted_BHW: Tensor, target_BHW: Tensor, num_classes: int) -> Tensor:
    """Pixel counts of each image.

    predicted_BHW, target_BHW: integer [B, H, W], ids 0 to num_classes - 1.
    Returns int64 [B, C, C]; rows are truth, columns prediction.
    Raises ValueError if the shapes differ.
    """
    if predicted_BHW.shape != target_BHW.shape:
        raise ValueError(
            f"prediction {tuple(predicted_BHW.shape)} and truth {tuple(target_BHW.shape)} differ"
        )
    images = target_BHW.shape[0]
    cells = num_classes * num_classes
    index_BHW = target_BHW.long() * num_classes + predicted_BHW
    if index_BHW.device.type == "cpu":
        # one bincount for the batch: each image counts in its own block of cells
        index_BHW += torch.arange(images).mul_(cells)[:, None, None]
        counts = torch.bincount(index_BHW.reshape(-1), minlength=images * cells)
    else:
        counts = column_counts(index_BHW, cells).sum(dim=2)
    return counts.reshape(images, num_classes, num_classes)


def column_counts(index_BHW: Tensor, cells: int) -> Tensor:
    """How often each index from 0 to cells - 1 is in a column: int64 [B, cells, W].

    For a GPU. A bincount would wait for it twice, for the largest index and for the result's size;
    and threads side by side add to places side by side, not to the same few.
    """
    images, _, columns = index_BHW.shape
    counts = index_BHW.new_zeros(images, cells, columns)
    return counts.scatter_add_(1, index_BHW, index_BHW.new_ones(()).expand_as(index_BHW))


def _hits_truth_predicted(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hits = counts.diagonal(dim1=-2, dim2=-1).double()
    return hits, counts.sum(dim=-1).double(), counts.sum(dim=-2).double()


def image_f_scores(counts_BCC: Tensor) -> Tensor:
    """The course's score of each image.

    counts_BCC: int64 [B, C, C] of `confusion`.
    Returns float64 [B]: the mean over the classes in the image's truth of 2PR / (P + R + 1e-7),
    P = TP / (TP + FP + 1e-7), R = TP / (TP + FN + 1e-7); NaN for an image without pixels.
    """
    hits, truth, predicted = _hits_truth_predicted(counts_BCC)
    precision = hits / (predicted + EPSILON)
    recall = hits / (truth + EPSILON)
    f_BC = 2 * precision * recall / (precision + recall + EPSILON)
    present_BC = truth > 0
    return (f_BC * present_BC).sum(dim=1) / present_BC.sum(dim=1)


def f_per_class(counts_CC: Tensor) -> Tensor:
    """Per-class F-score of one confusion matrix.

    counts_CC: int64 [C, C], pixels; rows are truth, columns prediction.
    Returns float64 [C] in [0, 1]; NaN where the class is in neither.
    Raises ValueError if counts_CC is not square.
    Source: F1 = 2TP / (2TP + FP + FN).
    """
    if counts_CC.ndim != 2 or counts_CC.shape[0] != counts_CC.shape[1]:
        raise ValueError(f"counts must be [C, C], got {tuple(counts_CC.shape)}")
    hits, truth, predicted = _hits_truth_predicted(counts_CC)
    return 2 * hits / (truth + predicted)  # 0 / 0 is NaN, as promised


def mean_f(counts_CC: Tensor, classes: Sequence[int] | None = None) -> float | None:
    """Mean of `f_per_class` over those classes that are in the truth.

    counts_CC: int64 [C, C]; classes: ids to average over, all where None.
    Returns None if none of them is in the truth.
    """
    scores_C = f_per_class(counts_CC)
    in_truth_C = counts_CC.sum(dim=1) > 0
    if classes is not None:
        chosen = torch.tensor(list(classes), device=counts_CC.device)
        scores_C, in_truth_C = scores_C[chosen], in_truth_C[chosen]
    if not bool(in_truth_C.any()):
        return None
    return float(scores_C[in_truth_C].mean())


class ScoreKeeper:
    """Counts image by image, scores once at the end.

    Batches may have any size: counts are summed and each image is scored by itself, since
    averaging batch scores overweights small batches.
    """

    def __init__(self) -> None:
        self._image_scores: list[Tensor] = []
        self._counts_CC: Tensor | None = None

    def add(self, predicted_BHW: Tensor, target_BHW: Tensor) -> None:
        """Count a batch of class ids, integer [B, H, W] each, on any device."""
        counts_BCC = confusion(predicted_BHW, target_BHW, NUM_CLASSES)
        self._image_scores.append(image_f_scores(counts_BCC))
        counts_CC = counts_BCC.sum(dim=0)
        self._counts_CC = counts_CC if self._counts_CC is None else self._counts_CC + counts_CC

    def read_with(self, others: Tensor) -> list[float]:
        """What was counted so far is brought to the CPU, and with it `others`, float64 [K], whose
        numbers are returned: a device is waited for once."""
        counts = [] if self._counts_CC is None else [self._counts_CC.double().flatten()]
        # numbers of pixels are exact in float64
        read = torch.cat([others, *self._image_scores, *counts]).cpu()
        if self._counts_CC is not None:
            cells = self._counts_CC.numel()
            self._counts_CC = read[-cells:].long().reshape(self._counts_CC.shape)
            self._image_scores = [read[len(others) : -cells]]
        return read[: len(others)].tolist()

    def image_scores(self) -> list[float]:
        """The score of each image, in the order they were added."""
        if self._counts_CC is not None and self._counts_CC.device.type != "cpu":
            self.read_with(self._counts_CC.new_zeros(0, dtype=torch.float64))
        return [score for batch in self._image_scores for score in batch.tolist()]

    def scores(self) -> Scores:
        """Scores of all images so far. Raises ValueError if there are none."""
        per_image = self.image_scores()
        if self._counts_CC is None or not per_image:
            raise ValueError("no image was scored")
        counts_CC = self._counts_CC
        by_class = f_per_class(counts_CC).tolist()
        pooled = mean_f(counts_CC)
        assert pooled is not None  # an image has at least one pixel, so truth has a class
        return Scores(
            f_score=sum(per_image) / len(per_image),
            f_pooled=pooled,
            f_per_class={
                name: None if f != f else f for name, f in zip(NAMES, by_class, strict=True)
            },
            f_large=mean_f(counts_CC, LARGE),
            f_small=mean_f(counts_CC, SMALL),
            images=len(per_image),
        )
