from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.fake_cuda import fake_cuda
from trainer import lmsa
from trainer.errors import ConfigError
from trainer.model import MAX_PARAMETERS, build_model, parameter_count

PLUGIN = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes, dropout, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=stride),
            nn.Dropout(dropout),
            nn.Conv2d(8, num_classes, 1),
        )

    def forward(self, x):
        return self.body(x)

def good(num_classes, dropout):
    return Tiny(num_classes, dropout)

def inert(num_classes, dropout):
    return Tiny(num_classes, 0.0)

def double(num_classes, dropout):
    return Tiny(num_classes, dropout).double()

def coarse(num_classes, dropout):
    return Tiny(num_classes, dropout, stride=2)

def pair(num_classes, dropout):
    class Pair(Tiny):
        def forward(self, x):
            return self.body(x), self.body(x)
    return Pair(num_classes, dropout)

def huge(num_classes, dropout):
    return nn.Sequential(nn.Conv2d(3, 2_000_000 // 4, 1), nn.Dropout(dropout))

def text(num_classes, dropout):
    return "a model"

number = 3
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(PLUGIN)
    (tmp_path / "half_installed.py").write_text("import a_package_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_networks", None)


def test_full_width_uses_the_cap_well_and_stays_under_it():
    count = parameter_count(build_model("lmsa", width=1.0, dropout=0.1, aux=True))
    assert 1_700_000 <= count <= 1_820_000 < MAX_PARAMETERS


def test_the_narrow_width_stays_under_a_quarter_million():
    assert parameter_count(build_model("lmsa", width=0.35, dropout=0.1, aux=True)) <= 250_000


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 96), (50, 37)])
def test_logits_have_the_size_of_the_picture(height, width):
    model = build_model("lmsa", width=0.2, dropout=0.1)
    logits = model(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 19, height, width)


def test_auxiliary_logits_come_in_training_mode_only():
    model = build_model("lmsa", width=0.2, dropout=0.1, aux=True)
    logits, auxiliary = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 19, 32, 32)
    assert [a.shape for a in auxiliary] == [(2, 19, 8, 8)]
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 19, 32, 32)


def test_dropout_acts_in_training_mode_and_only_where_it_is_above_zero():
    for dropout in (0.0, 0.5):
        model = build_model("lmsa", width=0.2, dropout=dropout)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # or every forward would move the running means
        pictures = torch.randn(2, 3, 32, 32)
        assert torch.equal(model(pictures), model(pictures)) == (dropout == 0)
        model.eval()
        assert torch.equal(model(pictures), model(pictures))


def test_every_parameter_gets_a_gradient():
    model = build_model("lmsa", width=0.2, dropout=0.0, aux=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # residual branches start closed
    logits, auxiliary = model(torch.randn(2, 3, 32, 32))
    (logits.square().mean() + auxiliary[0].square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_same_seed_gives_the_same_weights_and_building_leaves_no_trace_in_the_means():
    torch.manual_seed(3)
    first = build_model("lmsa", width=0.2, dropout=0.1)
    torch.manual_seed(3)
    second = build_model("lmsa", width=0.2, dropout=0.1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    means = [value for name, value in first.state_dict().items() if name.endswith("running_mean")]
    assert means
    assert all(not mean.any() for mean in means)
    assert first.training


def test_a_model_over_the_cap_is_refused_with_its_count(plugin):
    with pytest.raises(ConfigError, match=r"'lmsa' has [67],\d{3},\d{3} parameters.*1,821,085"):
        build_model("lmsa", width=2.0, dropout=0.1)
    with pytest.raises(ConfigError, match="has 2,000,000 parameters"):
        build_model("my_networks:huge", width=1.0, dropout=0.1)


def test_ones_own_network_is_built_by_module_and_factory(plugin):
    model = build_model("my_networks:good", width=1.0, dropout=0.3)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 19, 8, 8)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3]


def test_a_network_that_ignores_dropout_is_refused_unless_dropout_is_zero(plugin):
    with pytest.raises(ConfigError, match=r"no active nn.Dropout .* 0.2.*fix dropout=0"):
        build_model("my_networks:inert", width=1.0, dropout=0.2)
    build_model("my_networks:inert", width=1.0, dropout=0.0)


def test_parameters_of_another_type_are_refused_by_name(plugin):
    with pytest.raises(ConfigError, match=r"'body.0.weight' is torch.float64"):
        build_model("my_networks:double", width=1.0, dropout=0.1)


def test_a_result_of_another_shape_is_refused(plugin):
    with pytest.raises(ConfigError, match=r"\(1, 19, 32, 32\) for a picture .*\(1, 19, 64, 64\)"):
        build_model("my_networks:coarse", width=1.0, dropout=0.1)
    with pytest.raises(ConfigError, match="gives tuple for a picture"):
        build_model("my_networks:pair", width=1.0, dropout=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet", "'unet' is neither 'lmsa' nor 'package.module:factory'"),
        ("no_such_package.nets:f", "no module 'no_such_package.nets' on the path"),
        ("my_networks:missing", "module 'my_networks' has no 'missing'"),
        ("my_networks:number", "'my_networks:number' is not callable"),
        ("my_networks:text", "returned a str, not a torch nn.Module"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(plugin, name, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, width=1.0, dropout=0.1)


def test_a_fault_inside_ones_own_module_keeps_its_traceback(plugin):
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        build_model("half_installed:factory", width=1.0, dropout=0.1)


def test_auxiliary_heads_are_refused_for_ones_own_network(plugin):
    with pytest.raises(ConfigError, match="set aux_weight: 0"):
        build_model("my_networks:good", width=1.0, dropout=0.1, aux=True)


def test_a_gpu_upsamples_in_the_type_of_the_features():
    with fake_cuda(), torch.autocast("cuda", dtype=torch.bfloat16):
        coarse = torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16, device="cuda:0")
        assert functional.interpolate(coarse, scale_factor=2).dtype == torch.float32
        assert lmsa._raised(coarse, torch.Size((8, 8))).dtype == torch.bfloat16


def test_upsampling_in_bfloat16_gives_the_digits_that_float32_gives():
    """Values are copied, and the sum is rounded before the convolution instead of for it."""
    torch.manual_seed(0)
    up = lmsa._Up(16, 8)
    given = [torch.randn(2, 16, 4, 4).bfloat16(), torch.randn(2, 8, 8, 8).bfloat16()]
    found = []
    for in_float32 in (False, True):
        coarse, skip = (value.clone().requires_grad_() for value in given)
        up.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if in_float32:
                wide = up.reduce(coarse).float()
                out = up.mix(functional.interpolate(wide, size=(8, 8), mode="nearest") + skip)
            else:
                out = up(coarse, skip)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        out.backward(weights.to(out.dtype))
        gradients = [coarse.grad, skip.grad, *(value.grad.clone() for value in up.parameters())]
        found.append([out, *gradients])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
