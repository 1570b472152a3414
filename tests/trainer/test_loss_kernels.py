"""The loss by kernels: what the kernels compute, what is made of it, and when they are trusted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scripts.benchmarks.traffic import Traffic
from tests.support.fake_cuda import fake_cuda
from tests.support.paths import ROOT
from trainer import losses


def laid_out(logits: Tensor, by_pixel: bool) -> Tensor:
    return logits.transpose(1, 2).contiguous().transpose(1, 2) if by_pixel else logits


def assert_the_same(
    images: int,
    classes: int,
    pixels: int,
    dtype: torch.dtype,
    by_pixel: bool,
    smoothing: float,
    average: str,
) -> None:
    """Loss, terms and gradient of random logits, by kernels and in the plain way."""
    generator = torch.Generator().manual_seed(images * pixels)
    logits = 3 * torch.randn(images, classes, pixels, generator=generator)
    logits = laid_out(logits.to(dtype), by_pixel)
    # the last class is absent
    target = torch.randint(classes - 1, (images, pixels), generator=generator)
    settings = (0.7, torch.tensor(1.5), smoothing, average)
    found, expected = (
        losses._terms_and_gradient(function, logits, target, settings)
        for function in (losses._ByKernels, losses._CrossEntropyAndDice)
    )
    for one, other in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)
    highest = float(expected[3].abs().max())
    # the interpreter cuts bfloat16 off instead of rounding it
    rtol = 1e-5 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(found[3], expected[3], rtol=rtol, atol=4e-6 * highest)


def compare() -> None:
    """Run by a process of its own, whose kernels are interpreted."""
    # a whole block and some tiles, whole tiles, less than one tile
    assert_the_same(1, 19, 530, torch.float32, False, 0.0, "all")
    assert_the_same(1, 19, 530, torch.bfloat16, True, 0.0, "present")
    for dtype, by_pixel in product((torch.float32, torch.bfloat16), (False, True)):
        assert_the_same(2, 19, 64, dtype, by_pixel, 0.1, "present")
        assert_the_same(3, 5, 7, dtype, by_pixel, 0.1, "all")
    assert losses._kernels_agree(torch.device("cpu"), torch.bfloat16, True, 19, True)
    logits = torch.zeros(1, 19, 40)
    logits[0, 3, 5] = float("nan")
    target = torch.zeros(1, 40, dtype=torch.int64)
    settings = (1.0, 1.5, 0.0, "all")
    total, *_ = losses._terms_and_gradient(losses._ByKernels, logits, target, settings)
    # a training that diverges is to be seen
    assert total.isnan()
    once, again = (losses._kernels().block_sums(logits, target, 0.1) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def compile_for_cards() -> None:
    """Run by a process of its own; ends in machine code, for which no GPU is needed."""
    from triton import compile as to_machine_code
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from trainer import loss_kernels

    floats = ("sums", "log_sums", "everywhere", "at_truth", "outer")
    types = {"logits": "*bf16", "gradient": "*bf16", "target": "*i64"}
    types |= dict.fromkeys(floats, "*fp32") | {"smoothing": "fp32", "ce_scale": "fp32"}
    known = {"SMOOTHED": True, "TILE": 32, "TILES": 16, "WIDTH": 32, "by_class": 1, "to_class": 1}
    for kernel, capability in product(
        (loss_kernels._add_up, loss_kernels._differentiate), (75, 80, 90)
    ):
        names = kernel.arg_names
        signature = {
            name: "constexpr" if name in known else types.get(name, "i32") for name in names
        }
        constants = {(names.index(name),): known[name] for name in names if name in known}
        source = ASTSource(kernel, signature, constants)
        done = to_machine_code(source, target=GPUTarget("cuda", capability, 32))
        assert len(done.asm["cubin"]) > 1000


def run_apart(function: str, cache: Path, **environment: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton interprets and compiles the kernels: pip install triton")
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.trainer import test_loss_kernels as t; t.{function}()"],
        env={**os.environ, "TRITON_CACHE_DIR": str(cache), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr


def test_kernels_compute_what_the_plain_way_computes(tmp_path: Path) -> None:
    run_apart("compare", tmp_path, TRITON_INTERPRET="1")


def test_kernels_compile_for_turing_ampere_and_hopper(tmp_path: Path) -> None:
    run_apart("compile_for_cards", tmp_path)


def block_sums(logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """What the kernel of this name promises, in torch's words."""
    classes = logits.shape[1]
    log_p = logits.double().log_softmax(dim=1)
    truth = functional.one_hot(target, classes).transpose(1, 2)
    entropy = -log_p * ((1 - smoothing) * truth + smoothing / classes)
    sums = torch.stack([log_p.exp(), log_p.exp() * truth, truth, entropy], dim=1).sum(dim=3)
    # as two blocks
    sums = functional.pad(sums, (0, 32 - classes)).float() / 2
    return torch.stack([sums, sums], dim=1), logits.float().logsumexp(dim=1)


def loss_gradient(
    logits: Tensor,
    target: Tensor,
    log_sums: Tensor,
    everywhere: Tensor,
    at_truth: Tensor,
    outer: Tensor,
    ce_scale: float,
    smoothing: float,
) -> Tensor:
    classes = logits.shape[1]
    p = (logits - log_sums[:, None]).double().exp()
    truth = functional.one_hot(target, classes).transpose(1, 2)
    by_p = everywhere[:, :, None] + at_truth[:, :, None] * truth
    gradient = p * (by_p - (p * by_p).sum(dim=1, keepdim=True))
    gradient += ce_scale * (p - (1 - smoothing) * truth - smoothing / classes)
    return (outer * gradient).to(logits.dtype)


def kernels(**values: object) -> object:
    return SimpleNamespace(
        **{"AVAILABLE": True, "block_sums": block_sums, "loss_gradient": loss_gradient, **values}
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_and_slopes_make_the_same_loss(
    monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    monkeypatch.setattr(losses, "_kernels", kernels)
    assert_the_same(3, 19, 50, torch.float32, True, smoothing, "all")
    assert_the_same(3, 19, 50, torch.float32, False, smoothing, "present")


def agree() -> bool:
    losses._kernels_agree.cache_clear()
    try:
        return losses._kernels_agree(torch.device("cpu"), torch.bfloat16, True, 19, True)
    finally:
        losses._kernels_agree.cache_clear()


def test_kernels_are_used_only_where_they_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(**values: object) -> None:
        monkeypatch.setattr(losses, "_kernels", lambda: kernels(**values))

    def steep(*given: object) -> Tensor:
        return 1.05 * loss_gradient(*given)  # type: ignore[arg-type]

    def short(logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        sums, log_sums = block_sums(logits, target, smoothing)
        return sums * torch.tensor([1, 1, 1, 1.001])[:, None], log_sums

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no such card")

    use()
    assert agree()
    for wrong, reason in (
        ({"loss_gradient": steep}, "gradient is not"),
        ({"loss_gradient": lambda *given: loss_gradient(*given) * torch.nan}, "gradient is not"),
        ({"block_sums": short}, "total is not"),
        ({"block_sums": broken}, "no such card"),
    ):
        use(**wrong)
        with pytest.warns(UserWarning, match=f"without kernels on cpu: .*{reason}"):
            assert not agree()
    use(AVAILABLE=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not agree()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_scoring_may_be_the_first_to_ask(
    monkeypatch: pytest.MonkeyPatch, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    """Of float32, if training is in bfloat16: there is no gradient to compare in its mode."""
    monkeypatch.setattr(losses, "_kernels", kernels)
    with warnings.catch_warnings(), mode():
        warnings.simplefilter("error")
        assert agree()


@pytest.mark.parametrize("said", ["out of memory", "an illegal memory access was encountered"])
def test_what_has_become_of_the_gpu_says_nothing_about_the_kernels(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError(f"Triton Error [CUDA]: {said}")

    monkeypatch.setattr(losses, "_kernels", lambda: kernels(block_sums=broken))
    with pytest.raises(RuntimeError, match=said):
        agree()


def moved_by_the_loss(by_kernels: bool) -> tuple[Traffic, float]:
    """What loss and gradient of bfloat16 logits do on a GPU, and bytes by class and pixel."""
    with fake_cuda(loss_kernels=by_kernels):
        logits = torch.zeros(2, 19, 64, 64, dtype=torch.bfloat16, device="cuda:0")
        logits = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
        target = torch.zeros(2, 64, 64, dtype=torch.int64, device="cuda:0")
        weight = torch.tensor(1.5).to("cuda:0")
        with Traffic() as seen:
            losses.segmentation_loss(logits, target, dice_weight=weight).total.backward()
        assert logits.grad is not None
        assert logits.grad.dtype == torch.bfloat16
        assert logits.grad.is_contiguous(memory_format=torch.channels_last)
    return seen, seen.moved / logits.numel()


def test_kernels_move_a_tenth_and_neither_way_waits() -> None:
    fast, few = moved_by_the_loss(True)
    plain, many = moved_by_the_loss(False)
    for seen in (fast, plain):
        assert (seen.waits, seen.transfers) == ([], [])
    assert any("block_sums" in op.name for op in fast.ops)
    # logits twice, their gradient, and the truth twice
    assert few < 3 * 2 + 2
    assert few < many / 10


def test_a_gradient_in_float16_is_scaled_before_it_is_rounded() -> None:
    logits = torch.zeros(1, 19, 4, 4, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    # one part of a large batch, and the scale that float16 needs
    total = losses.segmentation_loss(logits, target).total * 1e-6
    (total * 2**16).backward()
    exact = logits.detach().float().requires_grad_()
    (losses.segmentation_loss(exact, target).total * 1e-6 * 2**16).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.float(), exact.grad, rtol=1e-3, atol=0)
