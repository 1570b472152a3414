"""What a training minimises: cross-entropy, the user's Dice, and optional terms.

One more term is a function here and its entry in OPTIONAL_TERMS, under the key of its weight in the
config's section `loss`.

All terms are computed in float32, whatever the logits' type: sums over 262,144 pixels in bfloat16
would lose the small parts. Cross-entropy and Dice share one softmax.

B batch, C class, H row, W column, P = H * W pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

# of the user's Dice formula: their 1.5 is our 1.5 only with the same epsilon
DICE_EPSILON = 1e-8


class LossTerms(NamedTuple):
    """0-dim float32 tensors; `total` carries the weights, the other terms are unweighted.

    optional: by the key of its weight; one whose weight is 0 is left out, and was not computed.
    """

    total: Tensor
    ce: Tensor
    dice: Tensor
    optional: dict[str, Tensor]


def _sum_per_class(values_BP: Tensor, target_BP: Tensor, num_classes: int) -> Tensor:
    """Sum of the values over the pixels of each true class, [B, C]: no one-hot truth is made."""
    sums_BC = values_BP.new_zeros(values_BP.shape[0], num_classes)
    return sums_BC.scatter_add_(1, target_BP, values_BP)


class _Dice(NamedTuple):
    """Dice of every class of every picture, as numerator / denominator, and each one's share."""

    over_BC: Tensor
    under_BC: Tensor
    share_BC: Tensor

    def loss_B(self) -> Tensor:
        return 1 - (self.share_BC * self.over_BC / self.under_BC).sum(dim=1)


def _dice(p_BCP: Tensor, p_true_BP: Tensor, target_BP: Tensor, average: str) -> _Dice:
    num_classes = p_BCP.shape[1]
    truth_BC = _sum_per_class(torch.ones_like(p_true_BP), target_BP, num_classes)
    overlap_BC = _sum_per_class(p_true_BP, target_BP, num_classes)
    if average == "all":
        share_BC = torch.full_like(truth_BC, 1 / num_classes)
    else:
        share_BC = (truth_BC > 0).to(truth_BC.dtype)
        share_BC /= share_BC.sum(dim=1, keepdim=True)
    return _Dice(
        2 * overlap_BC + DICE_EPSILON, p_BCP.sum(dim=2) + truth_BC + DICE_EPSILON, share_BC
    )


class _CrossEntropyAndDice(torch.autograd.Function):
    """Both terms and the gradient of their weighted sum, while the probabilities are at hand.

    With z the logits, y the truth, N pixels in all and n pictures, per pixel and class:
    d CE / dz = (p - (1 - s) y - s / C) / N, and Dice gives p (g - sum_c g p) / n with
    g = share * over / under^2 - 2 share y / under.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_BCP: Tensor,
        target_BP: Tensor,
        ce_weight: float,
        dice_weight: float | Tensor,
        smoothing: float,
        average: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        images, _, pixels = logits_BCP.shape
        z = logits_BCP.to(torch.float32, memory_format=torch.contiguous_format)
        z = z - z.amax(dim=1, keepdim=True)
        z_true = z.gather(1, target_BP[:, None])[:, 0]
        z_mean = z.mean() if smoothing else None
        p = z.exp_()
        sum_p = p.sum(dim=1)
        p.mul_(sum_p.reciprocal()[:, None])
        log_sum = sum_p.log_()
        log_p_true = z_true.sub_(log_sum)
        ce = -log_p_true.mean()
        if z_mean is not None:
            # torch's own semantics: the smoothed truth gives smoothing / C to every class, the
            # true one too
            ce = (1 - smoothing) * ce + smoothing * (log_sum.mean() - z_mean)
        p_true = log_p_true.exp_()
        per_class = _dice(p, p_true, target_BP, average)
        dice = per_class.loss_B().mean()
        if ctx.needs_input_grad[0]:
            gradient = _gradient(
                p,
                p_true,
                target_BP,
                per_class,
                ce_scale=ce_weight / (images * pixels),
                dice_scale=dice_weight / images,
                smoothing=smoothing,
            )
            ctx.save_for_backward(gradient.to(logits_BCP.dtype))
        ctx.mark_non_differentiable(ce, dice)
        return ce_weight * ce + dice_weight * dice, ce, dice

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # asking a GPU for the number would cost more than the pass over the gradient
        if outer[0].device.type != "cpu" or outer[0].item() != 1:
            gradient = gradient * outer[0]
        return gradient, None, None, None, None, None


def _gradient(
    p_BCP: Tensor,
    p_true_BP: Tensor,
    target_BP: Tensor,
    dice: _Dice,
    *,
    ce_scale: float,
    dice_scale: float | Tensor,
    smoothing: float,
) -> Tensor:
    num_classes = p_BCP.shape[1]
    slope_BC = dice_scale * dice.share_BC / dice.under_BC
    everywhere_BC = slope_BC * dice.over_BC / dice.under_BC
    at_truth_BP = p_true_BP * (-2 * slope_BC).gather(1, target_BP)
    mean_BP = torch.baddbmm(at_truth_BP[:, None], everywhere_BC[:, None], p_BCP)
    gradient_BCP = (everywhere_BC[:, :, None] + ce_scale).sub(mean_BP).mul_(p_BCP)
    gradient_BCP.scatter_add_(
        1, target_BP[:, None], (at_truth_BP - ce_scale * (1 - smoothing))[:, None]
    )
    if smoothing:
        gradient_BCP -= ce_scale * smoothing / num_classes
    return gradient_BCP


def lovasz_loss(p_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Lovasz-softmax per image, mean over the classes present in it, mean over images.

    p_BCHW: softmax probabilities [B, C, H, W]; target_BHW: int64 [B, H, W]. Returns 0-dim.
    Source: Berman et al., The Lovasz-Softmax loss, 2018.
    """
    p_BCP, target_BP = p_BCHW.flatten(2), target_BHW.flatten(1)
    num_classes = p_BCP.shape[1]
    truth_BCP = (
        target_BP[:, None] == torch.arange(num_classes, device=p_BCP.device)[None, :, None]
    ).float()
    errors_BCP, order_BCP = (truth_BCP - p_BCP).abs().sort(dim=2, descending=True)
    truth_BCP = truth_BCP.gather(2, order_BCP)
    pixels_BC1 = truth_BCP.sum(dim=2, keepdim=True)
    union_BCP = pixels_BC1 + (1 - truth_BCP).cumsum(dim=2)
    jaccard_BCP = 1 - (pixels_BC1 - truth_BCP.cumsum(dim=2)) / union_BCP
    # the Lovasz gradient: what each pixel, worst first, adds to the Jaccard loss
    slope_BCP = torch.diff(jaccard_BCP, dim=2, prepend=torch.zeros_like(pixels_BC1))
    present_BC = (pixels_BC1[..., 0] > 0).float()
    loss_BC = (errors_BCP * slope_BCP).sum(dim=2) * present_BC
    return (loss_BC.sum(dim=1) / present_BC.sum(dim=1)).mean()


OPTIONAL_TERMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"lovasz_weight": lovasz_loss}
)


def segmentation_loss(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    *,
    ce_weight: float = 1.0,
    dice_weight: float | Tensor = 1.5,
    label_smoothing: float = 0.0,
    dice_average: str = "all",
    **weights: float,
) -> LossTerms:
    """The weighted sum of all terms.

    Dice is the user's: per image and per class, never pooled over the batch, 1 - mean of
    (2 sum(p * y) + 1e-8) / (sum(p) + sum(y) + 1e-8) over `all` classes (an absent one adds a
    constant without gradient of its own) or those `present` in the image, mean over images.

    logits_BCHW: [B, C, H, W], any float type; target_BHW: int64 [B, H, W], ids below C.
    dice_weight: a number, or a 0-dim tensor (so that a compiled step is not rebuilt for each
    new weight). weights: of OPTIONAL_TERMS, 0 where not given.
    Returns LossTerms. Every term is a mean over images, so equal micro-batches may be averaged.
    Raises ValueError if dice_average is neither `all` nor `present`, KeyError for an unknown term.
    """
    if dice_average not in ("all", "present"):
        raise ValueError(f"dice_average: {dice_average!r} is neither 'all' nor 'present'")
    total, ce, dice = _CrossEntropyAndDice.apply(
        logits_BCHW.flatten(2),
        target_BHW.flatten(1),
        ce_weight,
        dice_weight,
        label_smoothing,
        dice_average,
    )
    optional = {}
    for name, weight in weights.items():
        if weight:
            p_BCHW = logits_BCHW.float().softmax(dim=1)
            optional[name] = OPTIONAL_TERMS[name](p_BCHW, target_BHW)
            total = total + weight * optional[name]
    return LossTerms(total, ce, dice, optional)


def reduce_masks(target_BHW: Tensor, height: int, width: int) -> Tensor:
    """Masks on a coarser grid, nearest at pixel centres, as the data are reduced.

    target_BHW: int64 [B, H, W]. Returns int64 [B, height, width].
    """
    rows, columns = target_BHW.shape[-2:]
    if (rows, columns) == (height, width):
        return target_BHW
    row = ((torch.arange(height, device=target_BHW.device) + 0.5) * (rows / height)).long()
    column = ((torch.arange(width, device=target_BHW.device) + 0.5) * (columns / width)).long()
    return target_BHW[:, row][:, :, column]


def training_loss(
    outputs: Tensor | tuple[Tensor, list[Tensor]],
    target_BHW: Tensor,
    *,
    aux_weight: float = 0.0,
    **settings: Any,
) -> LossTerms:
    """`segmentation_loss` of what a model in training mode returns, auxiliary heads included.

    outputs: logits [B, C, H, W], or those and a list of auxiliary logits on coarser grids, which
    are compared with the masks reduced to their grid; target_BHW: int64 [B, H, W]; settings: of
    `segmentation_loss`.
    Returns LossTerms: total has aux_weight times the mean auxiliary loss in it; ce, dice and
    optional are the main head's own, so that curves with and without auxiliary heads compare.
    """
    if isinstance(outputs, Tensor):
        return segmentation_loss(outputs, target_BHW, **settings)
    logits, auxiliary = outputs
    terms = segmentation_loss(logits, target_BHW, **settings)
    if not aux_weight or not auxiliary:
        return terms
    extra = [
        segmentation_loss(coarse, reduce_masks(target_BHW, *coarse.shape[-2:]), **settings).total
        for coarse in auxiliary
    ]
    return terms._replace(total=terms.total + aux_weight * sum(extra) / len(extra))
