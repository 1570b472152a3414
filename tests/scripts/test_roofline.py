"""The price of a step: what it takes at best on a device whose rates are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.benchmarks.kernel_trace import Kernel, group_of, window_of
from scripts.benchmarks.roofline import Rates, measured_rates, priced, rates_of, seconds_per_call
from scripts.benchmarks.traffic import Op, Traffic
from tests.support.fake_cuda import fake_cuda
from tests.trainer.test_gpu_step import on_gpu, step_of
from trainer.augment import drawn

# assumed, as nobody has measured here: of H100 SXM and RTX 4090
H100 = Rates(2.8e12, 0.35 * 989e12, 50e6, 5.5e12, 2.5e-6)
RTX_4090 = Rates(0.9e12, 0.5 * 165e12, 72e6, 3.5e12, 2.5e-6)


def op(moved: int, flops: int = 0) -> Op:
    return Op("", "", moved, flops, ())


def test_every_op_costs_what_bounds_it() -> None:
    rates = Rates(
        bytes_per_s=100.0, flops_per_s=10.0, cache_bytes=80.0, cache_bytes_per_s=400.0, launch_s=0.2
    )
    price = priced([op(300), op(40), op(100, 50), op(4)], rates)
    assert (price.ops, price.moved, price.flops) == (4, 444, 50)
    # 300 bytes from memory; 40 from the cache take half a launch
    assert price.memory_s == pytest.approx(3.0)
    assert price.arithmetic_s == pytest.approx(5.0)
    assert price.launch_s == pytest.approx(0.4)
    assert price.seconds == pytest.approx(8.4)
    assert price.bound == "arithmetic"
    assert priced([op(300), op(4)], rates).bound == "memory"
    assert priced([op(4)], rates).bound == "launch"


@pytest.mark.parametrize(
    ("size", "gigabytes", "on_h100", "on_4090"),
    [(512, 27.3, 835, 247), (256, 7.04, 3028, 1010), (128, 1.97, 7518, 4037)],
)
def test_a_step_is_priced_from_shapes_alone(
    size: int, gigabytes: float, on_h100: float, on_4090: float
) -> None:
    draws = drawn(12, torch.Generator().manual_seed(0))
    with fake_cuda():
        seen = step_of(on_gpu(size, 12), 12, draws)
    h100, rtx_4090 = (priced(seen.ops, rates) for rates in (H100, RTX_4090))
    # arithmetic of the network, which only another network changes: 172 GFLOP a picture
    assert h100.flops / 12 == pytest.approx(172e9 * (size / 512) ** 2, rel=0.02)
    assert size < 512 or h100.bound == "memory"
    # as scripts/benchmarks/README.md says; a step that moves less may only be faster
    assert h100.moved < 1.02e9 * gigabytes
    assert 12 / h100.seconds > 0.98 * on_h100
    assert 12 / rtx_4090.seconds > 0.98 * on_4090


def test_rates_are_measured_and_the_best_ones_make_the_limit() -> None:
    measured = measured_rates(
        torch.device("cpu"), kinds=["float32"], size=32, batch=2, channels=(8, 16)
    )
    assert json.loads(json.dumps(measured)) == measured
    rates = rates_of(measured, "float32")
    assert min(rates.bytes_per_s, rates.flops_per_s, rates.launch_s) > 0
    assert rates.bytes_per_s >= measured["copy_bytes_per_s"]
    named = measured["convolution_flops_per_s"]["float32"]
    assert list(named) == ["8 channels, 32 pixels", "16 channels, 16 pixels"]
    assert rates.flops_per_s == max(named.values())


def test_what_is_timed_on_a_gpu_are_calls_within_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: object) -> float:
            return 8.0

    calls: list[int] = []
    with fake_cuda() as events:
        monkeypatch.setattr("torch.cuda.Event", Event)
        taken_s = seconds_per_call(lambda: calls.append(len(events)), torch.device("cuda:0"), 4)
    assert taken_s == pytest.approx(2e-3)
    # three before the capture, four within
    assert calls == [0, 0, 0, 1, 1, 1, 1]


def test_a_real_step_can_be_recorded_as_well() -> None:
    a = torch.ones(8, 8, requires_grad=True)
    with Traffic("cpu") as seen:
        (a @ a).sum().backward()
    price = priced(seen.ops, Rates(1.0, 1.0, 0.0, 1.0, 0.0))
    # forward, and one product for each factor
    assert price.flops == 3 * 2 * 8**3
    assert price.moved > 3 * 3 * 256


# ----------------------------------------------------------------------------------------- a trace


def event(cat: str, name: str, ts: float, dur: float) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": dur}


def test_a_window_holds_kernels_within_the_marks_and_the_pauses_between() -> None:
    events = [
        {"ph": "M", "name": "process_name", "ts": 0},
        event("kernel", "warm-up", 90, 5),
        event("user_annotation", "steps", 100, 100),
        # on the device's own line, a second time
        event("gpu_user_annotation", "steps", 101, 90),
        event("cpu_op", "aten::add", 100, 50),
        event("kernel", "conv_fprop", 110, 20),
        # another stream's, at the same time
        event("kernel", "conv_fprop", 120, 20),
        event("kernel", "softmax", 160, 10),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 180, 5),
        event("kernel", "later", 200, 5),
    ]
    seen = window_of({"traceEvents": events}, "steps")
    assert seen.seconds == pytest.approx(100e-6)
    assert seen.busy_s == pytest.approx(45e-6)
    assert [(kernel.name, kernel.runs) for kernel in seen.kernels] == [
        *(("conv_fprop", 2), ("softmax", 1)),
        ("Memcpy HtoD (Pinned -> Device)", 1),
    ]
    assert seen.kernels[0] == Kernel("conv_fprop", 2, pytest.approx(40e-6))
    groups = {"convolution": 40e-6, "loss": 10e-6, "memory copies": 5e-6}
    assert list(seen.groups) == list(groups)
    assert seen.groups == pytest.approx(groups)
    with pytest.raises(ValueError, match="no annotation 'other'"):
        window_of({"traceEvents": events}, "other")


def test_the_profiler_marks_a_window_as_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(4).sum()
        with record_function("steps"):
            torch.ones(4).sum()
    profiler.export_chrome_trace(str(file))
    seen = window_of(json.loads(file.read_text()), "steps")
    assert seen.seconds > 0
    assert (seen.busy_s, seen.kernels) == (0, [])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>", "batch normalisation"),
        (
            "void at::native::batch_norm_backward_reduce_channels_last_kernel<4>",
            "batch normalisation",
        ),
        (
            "sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32_nhwckrsc_nhwc",
            "convolution",
        ),
        ("void at::native::conv_depthwise2d_forward_kernel<5>", "convolution"),
        ("void at::native::(anonymous namespace)::cunn_SpatialSoftMaxForward<float>", "loss"),
        (
            "void at::native::upsample_nearest2d_nhwc_out_frame<c10::BFloat16>",
            "upsampling and pooling",
        ),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
            "casts and arithmetic of elements",
        ),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<double>>", "sums and norms"),
        ("void at::native::index_elementwise_kernel<128, 4>", "gather and scatter"),
        ("Memset (Device)", "memory copies"),
        ("something_else", "other"),
    ],
)
def test_a_kernel_is_grouped_by_its_name(name: str, group: str) -> None:
    assert group_of(name) == group
