"""What a training minimises: cross-entropy, the user's Dice, and optional terms.

One more term is a function here and its entry in OPTIONAL_TERMS, under the key of its weight in the
config's section `loss`.

All terms are computed in float32, whatever the logits' type: sums over 262,144 pixels in bfloat16
would lose the small parts. Cross-entropy and Dice share one softmax; on a GPU both are computed by
trainer/loss_kernels.py, where that is proven to give the same numbers.

B batch, C class, H row, W column, P = H * W pixel.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.runtime import is_lost, is_out_of_memory

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

    def slopes_BC(self, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        """Of `scale` times the losses of all pictures, by p at every pixel and at a true one."""
        slope_BC = scale * self.share_BC / self.under_BC
        return slope_BC * self.over_BC / self.under_BC, -2 * slope_BC


def _dice(p_BC: Tensor, overlap_BC: Tensor, truth_BC: Tensor, average: str) -> _Dice:
    """From sums over a picture: all of p, p at the pixels of the true class, and their number."""
    if average == "all":
        share_BC = torch.full_like(truth_BC, 1 / truth_BC.shape[1])
    else:
        share_BC = (truth_BC > 0).to(truth_BC.dtype)
        share_BC /= share_BC.sum(dim=1, keepdim=True)
    return _Dice(2 * overlap_BC + DICE_EPSILON, p_BC + truth_BC + DICE_EPSILON, share_BC)


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
        images, classes, pixels = logits_BCP.shape
        given = logits_BCP
        if given.device.type == "cpu":  # which is slow at bfloat16 unless it multiplies
            given = given.to(torch.float32, memory_format=torch.contiguous_format)
        z = torch.empty_like(given, dtype=torch.float32)
        torch.sub(given, given.amax(dim=1, keepdim=True).float(), out=z)
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
        per_class = _dice(
            p.sum(dim=2),
            _sum_per_class(p_true, target_BP, classes),
            _sum_per_class(torch.ones_like(p_true), target_BP, classes),
            average,
        )
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
            # in float16 it has to be scaled first, which `outer` does: 1 / N alone rounds to 0
            if logits_BCP.dtype != torch.float16:
                gradient = gradient.to(logits_BCP.dtype)
            ctx.save_for_backward(gradient)
            ctx.dtype = logits_BCP.dtype
        ctx.mark_non_differentiable(ce, dice)
        return ce_weight * ce + dice_weight * dice, ce, dice

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # asking a GPU for the number would cost more than the pass over the gradient
        if outer[0].device.type != "cpu" or outer[0].item() != 1:
            gradient = gradient * outer[0]
        return gradient.to(ctx.dtype), None, None, None, None, None


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
    everywhere_BC, at_truth_BC = dice.slopes_BC(dice_scale)
    at_truth_BP = p_true_BP * at_truth_BC.gather(1, target_BP)
    mean_BP = torch.baddbmm(at_truth_BP[:, None], everywhere_BC[:, None], p_BCP)
    gradient_BCP = (everywhere_BC[:, :, None] + ce_scale).sub(mean_BP).mul_(p_BCP)
    gradient_BCP.scatter_add_(
        1, target_BP[:, None], (at_truth_BP - ce_scale * (1 - smoothing))[:, None]
    )
    if smoothing:
        gradient_BCP -= ce_scale * smoothing / p_BCP.shape[1]
    return gradient_BCP


class _ByKernels(torch.autograd.Function):
    """As _CrossEntropyAndDice, by one kernel forward and one backward."""

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
        images, classes, pixels = logits_BCP.shape
        target_BP = target_BP.contiguous()
        blocks_BN4K, log_sums_BP = _kernels().block_sums(logits_BCP, target_BP, smoothing)
        sums_B4K = blocks_BN4K.sum(dim=1, dtype=torch.float64).float()
        p_BC, overlap_BC, truth_BC, ce_BC = sums_B4K[:, :, :classes].unbind(1)
        per_class = _dice(p_BC, overlap_BC, truth_BC, average)
        ce, dice = ce_BC.sum() / (images * pixels), per_class.loss_B().mean()
        if ctx.needs_input_grad[0]:
            slopes = per_class.slopes_BC(dice_weight / images)
            ctx.save_for_backward(logits_BCP, target_BP, log_sums_BP, *slopes)
            ctx.numbers = ce_weight / (images * pixels), smoothing
        ctx.mark_non_differentiable(ce, dice)
        return ce_weight * ce + dice_weight * dice, ce, dice

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _kernels().loss_gradient(*ctx.saved_tensors, outer[0], *ctx.numbers)
        return gradient, None, None, None, None, None


def _kernels() -> Any:
    # a CPU has no use for triton, whose import takes a while
    return importlib.import_module("trainer.loss_kernels")


# whoever scores asks in a mode in which nothing can be differentiated
@functools.cache
@torch.inference_mode(False)
@torch.enable_grad()
def _kernels_agree(
    device: torch.device, dtype: torch.dtype, by_pixel: bool, classes: int, smoothed: bool
) -> bool:
    """Whether the kernels give what the plain way gives, on this device and for such logits.

    by_pixel: the classes of a pixel lie side by side. Tried once a process, at the first step: it
    waits for the device, which a captured step may not. A kernel that fails costs a warning.
    """
    # fills neither the last block of pixels nor its last tile
    images, rows, columns = 3, 28, 44
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, classes, rows * columns, generator=generator)
    # some classes are absent
    target = torch.randint(max(1, classes - 3), (images, rows * columns), generator=generator)
    logits, target = logits.to(device, dtype), target.to(device)
    if by_pixel:
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    settings = (0.7, torch.tensor(1.5, device=device), 0.1 if smoothed else 0.0, "present")
    try:
        if not _kernels().AVAILABLE:
            return False
        found, expected = (
            _terms_and_gradient(function, logits, target, settings)
            for function in (_ByKernels, _CrossEntropyAndDice)
        )
        names = ("total", "ce", "dice", "gradient")
        for name, one, other in zip(names, found, expected, strict=True):
            # a gradient is rounded to the logits' type
            relative = 1e-2 if name == "gradient" else 1e-5
            bound = relative * other.abs() + 1e-5 * other.abs().max()
            if not bool(((one - other).abs() <= bound).all()):
                raise ArithmeticError(f"{name} is not what the plain way gives")
    except Exception as error:
        if is_out_of_memory(error) or is_lost(error):
            # says nothing about the kernels
            raise
        warnings.warn(
            f"the loss is computed without kernels on {device}: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


def _terms_and_gradient(
    function: Any, logits_BCP: Tensor, target_BP: Tensor, settings: tuple[Any, ...]
) -> list[Tensor]:
    logits_BCP = logits_BCP.detach().requires_grad_()
    terms = function.apply(logits_BCP, target_BP, *settings)
    # lifted above the smallest numbers of float16, as a scaled loss is
    (gradient,) = torch.autograd.grad(1024 * terms[0], logits_BCP)
    return [value.detach().float() for value in (*terms, gradient)]


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
    logits_BCP = logits_BCHW.flatten(2)
    by_kernels = logits_BCP.device.type == "cuda" and _kernels_agree(
        logits_BCP.device,
        logits_BCP.dtype,
        logits_BCP.stride(1) == 1,
        logits_BCP.shape[1],
        label_smoothing > 0,
    )
    function = _ByKernels if by_kernels else _CrossEntropyAndDice
    total, ce, dice = function.apply(
        logits_BCP,
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
