from __future__ import annotations

import torch
from torch import nn

from tests.support.fake_cuda import fake_cuda
from trainer.adamw import AdamW
from trainer.flat_model import FlatModel, _with_strides_of
from trainer.model import build_model


def network() -> nn.Module:
    torch.manual_seed(0)
    model = build_model("lmsa", width=0.2, dropout=0.1)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Tied(nn.Module):
    """A parameter under two names, a frozen one, and a count that is no float."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.frozen = nn.Parameter(torch.arange(4.0), requires_grad=False)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("running", torch.ones(2))


def test_a_flat_model_computes_what_it_did() -> None:
    model, other = network().eval(), network().eval()
    FlatModel(model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), other(images))
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
    )
    weight = model.state_dict()["stage2.0.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_backward_adds_to_the_one_vector_of_gradients() -> None:
    model, other = network().train(), network().train()
    flat = FlatModel(model)
    images = torch.randn(2, 3, 32, 32)
    for net in (model, other):
        torch.manual_seed(1)
        net(images).square().mean().backward()
    assert flat.weights.grad is not None
    norm = nn.utils.get_total_norm([p.grad for p in other.parameters() if p.grad is not None])
    torch.testing.assert_close(flat.weights.grad.norm(), norm)
    flat.weights.grad.zero_()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_batch_statistics_go_into_the_vector_of_buffers() -> None:
    model = network().train()
    flat = FlatModel(model)
    before = flat.buffers.clone()
    model(torch.randn(2, 3, 32, 32))
    assert not torch.equal(before, flat.buffers)


def test_a_state_of_other_vectors_has_the_models_names_and_shapes() -> None:
    model = network()
    flat = FlatModel(model)
    state = flat.state(flat.weights.detach() * 2, flat.buffers + 1, flat.counts + 3)
    own = model.state_dict()
    assert list(state) == list(own)
    assert torch.equal(state["head.weight"], own["head.weight"] * 2)
    assert torch.equal(state["stem.1.running_var"], own["stem.1.running_var"] + 1)
    assert own["stem.1.num_batches_tracked"] == 0
    assert state["stem.1.num_batches_tracked"] == 3


def test_a_state_lies_where_its_vectors_do() -> None:
    with fake_cuda():
        model = nn.BatchNorm2d(3)
        model.register_buffer("scale", torch.ones(2, dtype=torch.float64))
        flat = FlatModel(model.to("cuda:0"))
        vectors = (flat.weights.detach(), flat.buffers, flat.counts)
        for device in ("cpu", "cuda"):
            state = flat.state(*(vector.to(device) for vector in vectors))
            assert list(state) == list(model.state_dict())
            assert {value.device.type for value in state.values()} == {device}


def test_batches_are_counted_in_one_vector() -> None:
    model = network().train()
    flat = FlatModel(model)
    model(torch.randn(2, 3, 32, 32))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert flat.counts.tolist() == [1] * norms
    assert model.state_dict()["stem.1.num_batches_tracked"] == 1


def test_on_a_gpu_every_tensor_begins_at_a_multiple_of_16_bytes() -> None:
    with fake_cuda():
        model = build_model("lmsa", width=0.2, dropout=0.1, aux=True).to("cuda:0")
        flat = FlatModel(model)
        seen = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
        starts = [value.storage_offset() * value.element_size() for value in seen]
        # and a snapshot of it on the CPU has the same places
        vectors = (flat.weights.detach(), flat.buffers, flat.counts)
        kept = flat.state(*(torch.zeros(vector.shape) for vector in vectors))
        assert {value.device.type for value in kept.values()} == {"cpu"}
        assert flat.weights.numel() > sum(p.numel() for p in model.parameters())
    assert all(start % 16 == 0 for start in starts)
    assert len(set(starts)) > 40


def test_tied_frozen_and_whole_numbers_are_kept() -> None:
    model = Tied()
    flat = FlatModel(model)
    assert flat.weights.numel() == 9 + 3
    assert flat.buffers.numel() == 4 + 2
    state = flat.state(torch.zeros_like(flat.weights), flat.buffers, flat.counts)
    assert not state["one.weight"].any()
    assert not state["two.weight"].any()
    assert state["frozen"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert state["count"].item() == 7


def test_strides_are_changed_only_where_no_number_moves() -> None:
    for shape, changed in (((4, 3, 1, 1), True), ((4, 1, 3, 3), True), ((4, 3, 2, 2), False)):
        value = torch.randn(shape)
        place = torch.empty(*shape[:1], *shape[2:], shape[1]).permute(0, 3, 1, 2)
        assert value.stride() != place.stride()
        same = _with_strides_of(place, value)
        assert torch.equal(same, value)
        assert (same.stride() == place.stride()) == changed


def test_adamw_is_torchs_adamw() -> None:
    torch.manual_seed(2)
    ours, theirs = torch.randn(100), nn.Parameter(torch.empty(100))
    with torch.no_grad():
        theirs.copy_(ours)
    optimizer = AdamW(ours, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], weight_decay=0.1)
    for step in range(20):
        lr = 0.01 * (step + 1)
        gradient = torch.randn(100)
        optimizer.step(gradient, optimizer.next_rates(lr))
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = lr
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_a_vector_by_name_does_not_depend_on_the_memory_format() -> None:
    last, first = network(), build_model("lmsa", width=0.2, dropout=0.1)
    first.load_state_dict(last.state_dict())
    one, two = FlatModel(last), FlatModel(first)
    assert not torch.equal(one.weights, two.weights)
    for flat in (one, two):
        named = flat.named(flat.weights.detach())
        assert named.keys() == dict(first.named_parameters()).keys()
        assert all(torch.equal(named[n], p) for n, p in last.named_parameters())
