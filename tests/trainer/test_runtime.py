"""What a device is given to compute with, and what its errors mean."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.support.fake_cuda import fake_cuda
from tests.trainer.test_gpu_step import on_gpu
from trainer import scoring, train
from trainer.config import Config, with_values
from trainer.errors import ConfigError
from trainer.runtime import applied, choose_runtime, precision_note, whole_float32

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
