"""Cross-entropy and Dice of a GPU's logits: one kernel for the sums, one for the gradient.

trainer/losses.py has the formula and the plain way; it calls these where they are proven to give
the same. Each kernel reads the logits once, as they lie and in their own type, and computes in
float32. Blocks of pixels are summed apart and then in a fixed order: the same numbers every time.

B picture, C class, P pixel, N block of pixels, K the classes rounded up to a power of two.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

try:
    import triton
    import triton.language as tl
except ImportError:
    # only builds of torch for CUDA bring it
    triton = tl = None

AVAILABLE = triton is not None
_jit = triton.jit if AVAILABLE else (lambda kernel: kernel)
# pixels at a time, and how often one program of the sums does that
_TILE = 32
_TILES = 16


@_jit
def _tile(logits, pixel, pixels, classes, by_class, by_pixel, WIDTH: tl.constexpr):
    """Logits of some pixels, [TILE, WIDTH]; 0 beyond the picture, -inf beyond the classes."""
    kind = tl.arange(0, WIDTH)
    inside = (pixel < pixels)[:, None] & (kind < classes)[None, :]
    place = pixel[:, None] * by_pixel + kind[None, :] * by_class
    z = tl.load(logits + place, mask=inside, other=-float("inf")).to(tl.float32)
    return tl.where((pixel < pixels)[:, None], z, 0.0)


@_jit
def _truth(target, pixel, pixels, WIDTH: tl.constexpr):
    """Which class is the true one, [TILE, WIDTH]; none beyond the picture."""
    truth = tl.load(target + pixel, mask=pixel < pixels, other=-1)
    return truth[:, None] == tl.arange(0, WIDTH)[None, :]


# what is summed over pixels stays in [TILE, WIDTH] to the end: sums along either side go through
# other threads
@_jit
def _add_up(
    logits,
    target,
    sums,
    log_sums,
    pixels,
    classes,
    by_picture,
    by_class,
    by_pixel,
    smoothing,
    SMOOTHED: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    block = tl.program_id(0)
    picture = tl.program_id(1).to(tl.int64)
    logits += picture * by_picture
    target += picture * pixels
    log_sums += picture * pixels
    kind = tl.arange(0, WIDTH)
    probability = tl.zeros([TILE, WIDTH], tl.float32)
    overlap = tl.zeros([TILE, WIDTH], tl.float32)
    count = tl.zeros([TILE, WIDTH], tl.float32)
    entropy = tl.zeros([TILE, WIDTH], tl.float32)
    for i in range(TILES):
        pixel = (block * TILES + i) * TILE + tl.arange(0, TILE)
        here = pixel < pixels
        z = _tile(logits, pixel, pixels, classes, by_class, by_pixel, WIDTH)
        is_true = _truth(target, pixel, pixels, WIDTH)
        highest = tl.max(z, axis=1)
        z -= highest[:, None]
        e = tl.exp(z)
        total = tl.sum(e, axis=1)
        log_total = tl.log(total)
        tl.store(log_sums + pixel, highest + log_total, mask=here)
        p = tl.where(here[:, None], e / total[:, None], 0.0)
        probability += p
        overlap += tl.where(is_true, p, 0.0)
        count += tl.where(is_true, 1.0, 0.0)
        minus_log_p = log_total[:, None] - z
        if SMOOTHED:
            inside = here[:, None] & (kind < classes)[None, :]
            entropy += tl.where(is_true, (1 - smoothing) * minus_log_p, 0.0)
            entropy += tl.where(inside, smoothing / classes * minus_log_p, 0.0)
        else:
            entropy += tl.where(is_true, minus_log_p, 0.0)
    sums += (picture * tl.num_programs(0) + block) * 4 * WIDTH + kind
    tl.store(sums, tl.sum(probability, axis=0))
    tl.store(sums + WIDTH, tl.sum(overlap, axis=0))
    tl.store(sums + 2 * WIDTH, tl.sum(count, axis=0))
    tl.store(sums + 3 * WIDTH, tl.sum(entropy, axis=0))


@_jit
def _differentiate(
    logits,
    target,
    log_sums,
    everywhere,
    at_truth,
    outer,
    gradient,
    pixels,
    classes,
    by_picture,
    by_class,
    by_pixel,
    to_picture,
    to_class,
    to_pixel,
    ce_scale,
    smoothing,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    picture = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    here = pixel < pixels
    kind = tl.arange(0, WIDTH)
    known = kind < classes
    everywhere = tl.load(everywhere + picture * classes + kind, mask=known, other=0.0)[None, :]
    at_truth = tl.load(at_truth + picture * classes + kind, mask=known, other=0.0)[None, :]
    logits += picture * by_picture
    z = _tile(logits, pixel, pixels, classes, by_class, by_pixel, WIDTH)
    is_true = _truth(target + picture * pixels, pixel, pixels, WIDTH)
    log_sum = tl.load(log_sums + picture * pixels + pixel, mask=here, other=0.0)
    p = tl.exp(z - log_sum[:, None])
    own = tl.where(is_true, p * at_truth, 0.0)
    mean = tl.sum(own + p * everywhere, axis=1)
    slope = p * (everywhere + ce_scale - mean[:, None]) + own
    slope -= tl.where(is_true, ce_scale * (1 - smoothing), 0.0) + ce_scale * smoothing / classes
    slope *= tl.load(outer)
    gradient += picture * to_picture
    place = pixel[:, None] * to_pixel + kind[None, :] * to_class
    inside = here[:, None] & known[None, :]
    tl.store(gradient + place, slope.to(gradient.dtype.element_ty), mask=inside)


def _width(classes: int) -> int:
    return 1 << (classes - 1).bit_length()


# as operators, so that what watches or traces torch's operators sees them
@library.custom_op("face_parsing::block_sums", mutates_args=())
def block_sums(logits_BCP: Tensor, target_BP: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sums over blocks of pixels, and the logarithm of every pixel's sum of exp(logits).

    logits_BCP: any float type and strides; target_BP: int64, contiguous, ids below C.
    Returns float32 [B, N, 4, K] and [B, P]. The four: per class the probabilities, those where it
    is the true class, and its true pixels; terms of the smoothed cross-entropy, in no order.
    """
    images, classes, pixels = logits_BCP.shape
    sums, log_sums = _no_sums(logits_BCP, target_BP, smoothing)
    _add_up[(sums.shape[1], images)](
        logits_BCP,
        target_BP,
        sums,
        log_sums,
        pixels,
        classes,
        *logits_BCP.stride(),
        smoothing,
        SMOOTHED=smoothing > 0,
        TILE=_TILE,
        TILES=_TILES,
        WIDTH=sums.shape[3],
    )
    return sums, log_sums


@block_sums.register_fake
def _no_sums(logits_BCP: Tensor, target_BP: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    images, classes, pixels = logits_BCP.shape
    blocks = -(-pixels // (_TILE * _TILES))
    return (
        logits_BCP.new_empty(images, blocks, 4, _width(classes), dtype=torch.float32),
        logits_BCP.new_empty(images, pixels, dtype=torch.float32),
    )


@library.custom_op("face_parsing::loss_gradient", mutates_args=())
def loss_gradient(
    logits_BCP: Tensor,
    target_BP: Tensor,
    log_sums_BP: Tensor,
    everywhere_BC: Tensor,
    at_truth_BC: Tensor,
    outer: Tensor,
    ce_scale: float,
    smoothing: float,
) -> Tensor:
    """Gradient of CE and Dice, of the logits' type, laid out as they are.

    log_sums_BP: of `block_sums`. everywhere_BC, at_truth_BC: Dice's slopes by the probability of
    a class at any pixel and at a true one, contiguous float32. outer: 0-dim float32, the gradient
    of the sum of both. ce_scale: weight of CE over the number of pixels of all pictures.
    """
    images, classes, pixels = logits_BCP.shape
    gradient = torch.empty_like(logits_BCP)
    _differentiate[(-(-pixels // _TILE), images)](
        logits_BCP,
        target_BP,
        log_sums_BP,
        everywhere_BC,
        at_truth_BC,
        outer,
        gradient,
        pixels,
        classes,
        *logits_BCP.stride(),
        *gradient.stride(),
        ce_scale,
        smoothing,
        TILE=_TILE,
        WIDTH=_width(classes),
    )
    return gradient


@loss_gradient.register_fake
def _no_gradient(
    logits_BCP: Tensor,
    target_BP: Tensor,
    log_sums_BP: Tensor,
    everywhere_BC: Tensor,
    at_truth_BC: Tensor,
    outer: Tensor,
    ce_scale: float,
    smoothing: float,
) -> Tensor:
    return torch.empty_like(logits_BCP)
