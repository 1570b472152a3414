"""What a device is given to compute with, and what its errors mean."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.support.fake_cuda import fake_cuda
from tests.trainer.test_gpu_step import on_gpu
from trainer import scoring, train
from trainer.config import Config, with_values
from trainer.errors import ConfigError, DeviceLost, Diverged
from trainer.runtime import (
    applied,
    choose_runtime,
    is_lost,
    is_out_of_memory,
    precision_note,
    whole_float32,
)

TURING, AMPERE = (7, 5), (8, 0)


def on_cuda(**values: object) -> Config:
    own = {"runtime.device": "cuda:0", "runtime.threads": 1}
    return with_values(Config(), {**own, **values})


def tf32() -> tuple[bool, str, str]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


# ------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 0), "float32"), (TURING, "float32"), (AMPERE, "bfloat16"), ((12, 0), "bfloat16")],
)
def test_a_card_before_ampere_computes_in_float32(
    capability: tuple[int, int], precision: str
) -> None:
    with fake_cuda(capability=capability):
        assert choose_runtime(on_cuda()).runtime.precision == precision


def test_the_device_that_was_chosen_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        # the current device is the first one
        capabilities = {"cuda:0": TURING, "cuda:1": AMPERE}
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        chosen = [choose_runtime(on_cuda(**{"runtime.device": name})) for name in capabilities]
    assert [one.runtime.precision for one in chosen] == ["float32", "bfloat16"]


def test_a_card_without_bfloat16_is_named_in_one_line() -> None:
    with fake_cuda(capability=TURING):
        said = "Fake GPU (compute capability 7.5) has no bfloat16"
        assert precision_note("auto", "cuda:0") == f"{said}: float32"
        # what was asked for by name needs no word
        assert precision_note("float32", "cuda:0") is None
        with pytest.raises(ConfigError) as refused:
            choose_runtime(on_cuda(**{"runtime.precision": "bfloat16"}))
    assert str(refused.value) == f"runtime.precision 'bfloat16': {said}; give float32 or auto"
    with fake_cuda(capability=AMPERE):
        assert precision_note("auto", "cuda:0") is None
    assert precision_note("auto", "cpu") is None


def test_amds_cards_are_numbered_otherwise_and_have_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_cuda(capability=TURING):
        monkeypatch.setattr(torch.version, "hip", "7.1")
        assert choose_runtime(on_cuda()).runtime.precision == "bfloat16"


def test_float32_is_float32_while_a_gpu_trains_and_is_put_back() -> None:
    before = tf32()
    assert before == (True, "tf32", "tf32"), "torch's default has changed"
    with fake_cuda():
        with contextlib.suppress(KeyError), applied(choose_runtime(on_cuda()).runtime):
            assert tf32() == (False, "none", "none")
            raise KeyError
        assert tf32() == before
    cpu = with_values(Config(), {"runtime.device": "cpu", "runtime.threads": 1})
    with applied(choose_runtime(cpu).runtime):
        assert tf32() == before


def test_what_a_user_has_set_for_convolutions_alone_comes_back() -> None:
    conv = torch.backends.cudnn.conv
    conv.fp32_precision = "ieee"
    try:
        with whole_float32():
            # as torch itself does here and there; it refuses where the two switches disagree
            assert not torch.backends.cudnn.allow_tf32
        assert (conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == ("ieee", "tf32")
    finally:
        conv.fp32_precision = "tf32"
    assert tf32() == (True, "tf32", "tf32")


def test_whoever_scores_scores_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(tf32()[0])
        return inputs

    with fake_cuda():
        stepper = on_gpu(16, 2)
        monkeypatch.setattr(stepper.model, "forward", watched)
        images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8, device="cuda:0")
        scoring.logits_of(stepper.model, images)
    assert seen == [False]


def test_a_training_notes_that_its_card_computes_in_float32() -> None:
    args = train.parser().parse_args(["--device", "cuda:0", "--preset", "demo"])
    with fake_cuda(capability=TURING):
        config, notes = train._composed(args)
        assert config.runtime.precision == "float32"
        assert "Fake GPU (compute capability 7.5) has no bfloat16: float32" in notes
    with fake_cuda():
        assert "bfloat16" not in " ".join(train._composed(args)[1])


# --------------------------------------------------------------------------------------- errors

# what torch appends to errors of CUDA
HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the"
    " stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
    "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
# as found in reports of users
OUT_OF_MEMORY = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of"
        " which 15.00 MiB is free."
    ),
    torch.OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory" + HINT),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 2359296 bytes. Error code 12 (Cannot allocate memory)"
    ),
    MemoryError(),
]
LOST = [
    DeviceLost("the capture of a step failed"),
    torch.AcceleratorError("CUDA error: device-side assert triggered" + HINT),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + HINT),
    torch.AcceleratorError("CUDA error: an illegal instruction was encountered" + HINT),
    torch.AcceleratorError("CUDA error: misaligned address" + HINT),
    torch.AcceleratorError("CUDA error: unspecified launch failure" + HINT),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered" + HINT),
    torch.AcceleratorError("CUDA error: the launch timed out and was terminated" + HINT),
    torch.AcceleratorError("CUDA error: unknown error" + HINT),
    RuntimeError("HIP error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    RuntimeError("Triton Error [HIP]:  Code: 719, Messsage: unspecified launch failure"),
    torch.AcceleratorError(
        "CUDA error: the remote procedural call between the MPS server and the MPS client failed"
    ),
    torch.AcceleratorError("CUDA error: MPS client failed to connect to the MPS control daemon"),
]
NEITHER = [
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("Triton Error [CUDA]: invalid argument"),
    RuntimeError("out of resource: shared memory, Required: 200000, Hardware limit: 101376"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    torch.AcceleratorError("CUDA error: invalid configuration argument" + HINT),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing" + HINT),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices"),
    RuntimeError("The size of tensor a (8) must match the size of tensor b (4)"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x16 and 8x4)"),
    ValueError("CUDA out of memory"),
    KeyError("CUDA error: out of memory"),
    OSError(28, "No space left on device"),
    Diverged("the loss is nan in epoch 3"),
]


def named(error: BaseException) -> str:
    return str(error).partition("\n")[0][:60] or type(error).__name__


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=named)
def test_out_of_memory_is_recognised_however_torch_words_it(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_lost(error)


@pytest.mark.parametrize("error", LOST, ids=named)
def test_a_gpu_that_answers_no_more_is_recognised(error: Exception) -> None:
    assert is_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", NEITHER, ids=named)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_lost(error)


def test_why_a_device_was_lost_is_looked_for_behind_it() -> None:
    # the capture ends with an error of its own, which hides the first one
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error")
    except RuntimeError as error:
        lost = DeviceLost("the capture of a step failed")
        lost.__cause__ = error
    assert is_out_of_memory(lost)
    # an error that was dealt with before this one came is no reason for it
    other = ValueError("a bug")
    other.__context__ = OUT_OF_MEMORY[0]
    assert not is_out_of_memory(other)


def test_a_lost_device_is_known_by_what_fails_while_it_is_left() -> None:
    left = torch.AcceleratorError("CUDA error: invalid resource handle")
    left.__context__ = DeviceLost("the capture of a step failed")
    assert is_lost(left)
