"""Every key of the config has an effect of its own, and that of its name.

An effect is read off real trainings of one or a few steps: from the history, from the weights in
the checkpoints, and from the batches that the training saw. The operations themselves have their
tests in test_augment, test_losses, test_lr and test_dice_schedule; here it is the way from the
config to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import trainer.step
from tests.support import data_folders
from tests.support.faces import TINY, timeless
from trainer import augment, checkpoint
from trainer.config import Config, config_from_dict, leaf_keys, with_values
from trainer.cuda_graph import can_be_captured
from trainer.data.dataset import FaceData, load_faces
from trainer.errors import ConfigError
from trainer.fit import derived_seed, fit
from trainer.lmsa import channels_at
from trainer.losses import lovasz_loss, segmentation_loss, training_loss
from trainer.model import model_of
from trainer.runtime import choose_runtime
from trainer.train import main

Row = dict[str, Any]

# so many that the training part is four batches of eight
IMAGES, TRAIN = 41, 32

# what a block's mask holds, pixels
BLOCK = 64
BARE = f"{__name__}:Bare"

# one epoch, the pictures as they are, no dropout: what happens can be computed beside it
PLAIN: dict[str, Any] = {
    "epochs": 1,
    "warmup_epochs": 0.0,
    "dropout": 0.0,
    "horizontal_flip": 0.0,
    "rotation": 0.0,
    "scale_range": [1.0, 1.0],
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}
# the whole training part is one batch, so an epoch is one step
ONE_STEP = {"batch_size": TRAIN}


class Bare(nn.Module):
    """A network without batch normalisation: parts of a batch know nothing of each other."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, num_classes, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dropout(self.body(images))
        return logits


@dataclass
class Seen:
    """A training, from the outside."""

    history: list[Row]
    out: Path
    # of each step: pictures and masks as they are, as they were trained on
    before: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    after: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.history]

    @property
    def raw(self) -> dict[str, Tensor]:
        """The weights at the end."""
        weights: dict[str, Tensor] = checkpoint.read(self.out / "last.pt")["raw"]
        return weights

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Their moving average, which is scored and kept."""
        weights: dict[str, Tensor] = checkpoint.read(self.out / "last.pt")["state_dict"]
        return weights


class Bench:
    """Trains, and watches what reaches the augmentation and the loss."""

    def __init__(self, faces: FaceData, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faces, self.folder = faces, folder
        self._runs = 0
        self._seen = Seen([], folder)

        def watched_augment(images: Tensor, masks: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            result = augment.augmented(images, masks, *rest)
            self._seen.before.append((images, masks))
            self._seen.after.append(result)
            return result

        def watched_loss(outputs: Any, *rest: Any, **options: Any) -> Any:
            self._seen.outputs.append(outputs)
            return training_loss(outputs, *rest, **options)

        monkeypatch.setattr(trainer.step, "augmented", watched_augment)
        monkeypatch.setattr(trainer.step, "training_loss", watched_loss)

    def config(self, **values: Any) -> Config:
        names = {name.replace("__", "."): value for name, value in values.items()}
        return choose_runtime(with_values(config_from_dict(TINY), {**PLAIN, **names}))

    def train(self, data: FaceData | None = None, /, **values: Any) -> Seen:
        """Train the plain config with some values changed; `section__key` is `section.key`."""
        config = self.config(**values)
        self._runs += 1
        self._seen = seen = Seen([], self.folder / str(self._runs))
        seen.history = fit(config, data or self.faces, out=seen.out).history
        return seen

    def train_on_blocks(self, **values: Any) -> Seen:
        """Train on masks that are easy to follow: a block above the middle."""
        root = self.folder / "blocks"
        if not root.exists():
            data_folders.course(root, [f"p{n:02d}" for n in range(40)], side=32)
            block = np.zeros((32, 32))
            block[4:12, 12:20] = 1
            for path in (root / "train" / "masks").iterdir():
                data_folders.save_mask(block, path)
        blocks = load_faces(str(root), image_size=32)
        return self.train(blocks, model__name=BARE, epochs=3, **values)

    def command(self, *sets: str) -> Seen:
        """Train by the command, one epoch of tiny settings on top of which `sets` stand."""
        self._runs += 1
        self._seen = seen = Seen([], self.folder / str(self._runs))
        tiny = ["epochs=1", "width=0.2", "batch_size=8", "image_size=16", "synthetic_images=24"]
        flags = [f"--set={text}" for text in (*tiny, "warmup_epochs=0", "threads=1", *sets)]
        assert main(["--device", "cpu", "--out", str(seen.out), *flags]) == 0
        return seen

    def fresh(self, **values: Any) -> nn.Module:
        """The network as the training of the same config begins with it."""
        config = self.config(**values)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(config.training.seed, "init"))
            return model_of(config)


@pytest.fixture(scope="module")
def faces() -> FaceData:
    data = load_faces("synthetic", image_size=24, synthetic_images=IMAGES)
    assert len(data.train) == TRAIN
    return data


@pytest.fixture
def bench(faces: FaceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(faces, tmp_path, monkeypatch)


def plain_pictures(seen: Seen) -> list[Tensor]:
    return [augment.normalise(images) for images, _ in seen.before]


def same_masks(seen: Seen) -> bool:
    pairs = zip(seen.before, seen.after, strict=True)
    return all(torch.equal(before[1].long(), after[1]) for before, after in pairs)


def unchanged(seen: Seen) -> bool:
    """Whether the training saw the pictures and masks as they are."""
    pairs = zip(plain_pictures(seen), seen.after, strict=True)
    return same_masks(seen) and all(torch.equal(plain, after[0]) for plain, after in pairs)


def colours(images: Tensor) -> Tensor:
    """Normalised pictures back in units of the full range."""
    sd = torch.tensor(augment.SD_RGB)[:, None, None]
    return images * sd + torch.tensor(augment.MEAN_RGB)[:, None, None]


def first_logits(bench: Bench, seen: Seen, **values: Any) -> tuple[Tensor, Tensor]:
    """What a fresh network says to the first batch in training mode, and the truth."""
    images, masks = seen.after[0]
    with torch.no_grad():
        logits = bench.fresh(**values).train()(images)
    return logits, masks


def both_colours(seen: Seen) -> tuple[Tensor, Tensor]:
    """Colours of all pictures as they are and as they were trained on."""
    return colours(torch.cat(plain_pictures(seen))), colours(torch.cat([a[0] for a in seen.after]))


def followed(seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """Of every block after moving: x and y of its middle from the picture's, and its pixels."""
    on = (torch.cat([masks for _, masks in seen.after]) == 1).double()
    at = torch.arange(on.shape[-1]) - (on.shape[-1] - 1) / 2
    area = on.sum(dim=(1, 2))
    return (on.sum(1) * at).sum(1) / area, (on.sum(2) * at).sum(1) / area, area


def norm(weights: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(w.double().square().sum()) for w in weights.values()))


# ------------------------------------------------------------------------------- what a key does

Effect = Callable[[Bench], None]
EFFECTS: dict[str, Effect] = {}


def of(*keys: str) -> Callable[[Effect], Effect]:
    """Say of which keys a function shows the effect."""

    def register(effect: Effect) -> Effect:
        for key in keys:
            assert key not in EFFECTS, key
            EFFECTS[key] = effect
        return effect

    return register


@of("model.name")
def _the_network_is_the_named_one(bench: Bench) -> None:
    names = bench.train(model__name=BARE).averaged.keys()
    assert set(names) == {"body.weight", "body.bias"}
    assert "stem.0.weight" in bench.train(model__name="lmsa").averaged


@of("model.width")
def _the_channels_are_as_many_as_the_width_says(bench: Bench) -> None:
    for width in (0.2, 0.5):
        weights = bench.train(width=width).averaged
        assert len(weights["stage16.0.0.weight"]) == channels_at(width)[-1]


@of("model.dropout")
def _a_share_of_the_channels_is_silent_in_training(bench: Bench) -> None:
    def silent(dropout: float) -> float:
        shares = []
        model = bench.fresh(dropout=dropout).train()

        def count(module: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
            heard = (given[0] != 0).flatten(2).any(2)
            shares.append((made == 0).flatten(2).all(2)[heard].float().mean())

        model.get_submodule("dropout").register_forward_hook(count)
        for _ in range(8):
            model(torch.randn(8, 3, 32, 32))
        return float(torch.stack(shares).mean())

    assert silent(0.0) == 0
    assert silent(0.3) == pytest.approx(0.3, abs=0.06)
    calm, noisy = bench.train(dropout=0.0), bench.train(dropout=0.5)
    # the same order and the same first weights: dropout alone makes the difference
    assert torch.equal(calm.before[0][0], noisy.before[0][0])
    assert calm.column("train_loss") != noisy.column("train_loss")


@of("data.root")
def _the_pictures_are_those_of_the_folder(bench: Bench) -> None:
    root = data_folders.course(bench.folder / "own", [f"p{n:02d}" for n in range(20)], side=16)
    halves = np.full((16, 16), 13)
    halves[:8] = 18
    for path in (root / "train" / "masks").iterdir():
        data_folders.save_mask(halves, path)
    seen = bench.command(f"data.root={root}")
    assert {int(number) for _, masks in seen.before for number in masks.unique()} == {13, 18}


@of("data.image_size")
def _the_grid_has_that_many_pixels(bench: Bench) -> None:
    for size in (16, 20):
        seen = bench.command(f"image_size={size}")
        assert {images.shape[1:3] for images, _ in seen.before} == {(size, size)}


@of("data.synthetic_images")
def _so_many_built_in_faces_are_shared_out(bench: Bench) -> None:
    counts = []
    for images in (24, 48):
        seen = bench.command(f"synthetic_images={images}", "batch_size=2")
        counts.append(2 * len(seen.before))
    # about a tenth each for validation and test
    assert 16 <= counts[0] <= 24
    assert 34 <= counts[1] <= 46


@of("data.batch_size")
def _a_step_takes_that_many_pictures(bench: Bench) -> None:
    for size in (4, 16):
        seen = bench.train(batch_size=size)
        assert {len(images) for images, _ in seen.before} == {size}
        assert seen.column("step") == [TRAIN // size]


@of("augmentation.horizontal_flip")
def _pictures_are_mirrored_with_left_and_right_exchanged(bench: Bench) -> None:
    assert unchanged(bench.train(horizontal_flip=0.0))
    seen = bench.train(horizontal_flip=1.0)
    for plain, before, after in zip(plain_pictures(seen), seen.before, seen.after, strict=True):
        images, masks = augment.flip_swap(plain, before[1].long())
        assert torch.equal(after[0], images)
        assert torch.equal(after[1], masks)


@of("augmentation.rotation")
def _pictures_turn_by_at_most_the_angle(bench: Bench) -> None:
    for degrees in (0.0, 10.0, 40.0):
        x, y, area = followed(bench.train_on_blocks(rotation=degrees))
        angles = torch.rad2deg(torch.atan2(x, -y)).abs()
        assert float(angles.max()) <= degrees + 4
        assert float(angles.max()) >= 0.7 * degrees
        assert float((area / BLOCK - 1).abs().max()) < 0.25


@of("augmentation.scale_range")
def _pictures_grow_and_shrink_as_the_ends_say(bench: Bench) -> None:
    for low, high in ((1.0, 1.0), (0.5, 0.5), (0.8, 1.25)):
        _, _, area = followed(bench.train_on_blocks(scale_range=[low, high]))
        sides = (area / BLOCK).sqrt()
        assert float(sides.min()) == pytest.approx(low, abs=0.13)
        assert float(sides.max()) == pytest.approx(high, abs=0.13)


@of("augmentation.shift")
def _pictures_move_by_at_most_the_share_of_the_side(bench: Bench) -> None:
    for share in (0.0, 0.06, 0.12):
        x, y, area = followed(bench.train_on_blocks(shift=share))
        for way in (x, y + 8):
            assert float(way.abs().max()) <= 32 * share + 0.5
            assert float(way.abs().max()) >= 0.7 * 32 * share
        assert float((area / BLOCK).min()) == float((area / BLOCK).max()) == 1


@of("augmentation.crop")
def _that_share_of_the_pictures_is_a_window_of_itself(bench: Bench) -> None:
    for probability in (0.0, 0.5, 1.0):
        seen = bench.train_on_blocks(crop=probability)
        cropped = torch.cat([a[1] != b[1] for a, b in zip(seen.after, seen.before, strict=True)])
        # a window is smaller, so the block grows, unless the window cuts it
        _, _, area = followed(seen)
        inside = area[cropped.flatten(1).any(1)] > BLOCK
        share = cropped.flatten(1).any(1).float().mean()
        assert float(share) == pytest.approx(probability, abs=0.15)
        assert probability == 0 or float(inside.float().mean()) > 0.6


@of("augmentation.color_jitter.brightness")
def _pictures_get_brighter_or_darker_as_a_whole(bench: Bench) -> None:
    seen = bench.train(brightness=0.5, model__name=BARE)
    assert same_masks(seen)
    plain, after = both_colours(seen)
    ratio = after.mean(dim=(1, 2, 3)) / plain.mean(dim=(1, 2, 3))
    assert torch.allclose(after, plain * ratio[:, None, None, None], atol=1e-4)
    assert 0.5 <= float(ratio.min()) < 0.75
    assert 1.25 < float(ratio.max()) <= 1.5


@of("augmentation.color_jitter.contrast")
def _the_spread_of_the_colours_changes_and_their_mean_grey_stays(bench: Bench) -> None:
    seen = bench.train(contrast=0.5, model__name=BARE)
    assert same_masks(seen)
    plain, after = both_colours(seen)
    grey = torch.tensor(augment.GREY_RGB)[:, None, None]
    assert torch.allclose(
        (after * grey).sum(1).mean((1, 2)), (plain * grey).sum(1).mean((1, 2)), atol=1e-4
    )
    ratio = after.std(dim=(2, 3)) / plain.std(dim=(2, 3))
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-3)
    assert 0.5 <= float(ratio.min()) < 0.75
    assert 1.25 < float(ratio.max()) <= 1.5 + 1e-4


@of("augmentation.color_jitter.saturation")
def _colours_get_paler_or_richer_and_the_grey_of_each_pixel_stays(bench: Bench) -> None:
    seen = bench.train(saturation=0.5, model__name=BARE)
    assert same_masks(seen)
    plain, after = both_colours(seen)
    grey = torch.tensor(augment.GREY_RGB)[:, None, None]
    assert torch.allclose((after * grey).sum(1), (plain * grey).sum(1), atol=1e-4)
    away = (after - (after * grey).sum(1, keepdim=True)).std(dim=(1, 2, 3))
    ratio = away / (plain - (plain * grey).sum(1, keepdim=True)).std(dim=(1, 2, 3))
    assert 0.5 <= float(ratio.min()) < 0.75
    assert 1.25 < float(ratio.max()) <= 1.5 + 1e-4


@of("augmentation.noise")
def _each_value_gets_noise_of_that_spread(bench: Bench) -> None:
    for sd in (0.05, 0.2):
        seen = bench.train(noise=sd, model__name=BARE)
        assert same_masks(seen)
        plain, after = both_colours(seen)
        assert float((after - plain).std()) == pytest.approx(sd, rel=0.03)
        assert float((after - plain).mean()) == pytest.approx(0, abs=0.01)


@of("augmentation.cutmix")
def _that_share_of_the_pictures_holds_a_piece_of_another(bench: Bench) -> None:
    share = []
    for probability in (0.0, 1.0):
        seen = bench.train(cutmix=probability, model__name=BARE)
        of_another = 0
        for plain, before, after in zip(plain_pictures(seen), seen.before, seen.after, strict=True):
            changed = (after[0] != plain).any(dim=1)
            of_another += int(changed.flatten(1).any(dim=1).sum())
            # every pixel is some picture's of the batch at the same place, its mask too
            found = torch.zeros_like(changed)
            for other_image, other_mask in zip(plain, before[1].long(), strict=True):
                same = (after[0] == other_image).all(dim=1) & (after[1] == other_mask)
                found |= same
            assert bool(found.all())
        share.append(of_another / TRAIN)
    # a picture may draw itself, or a piece of no pixel
    assert share[0] == 0
    assert share[1] > 0.7


@of("augmentation.erasing")
def _that_share_of_the_pictures_has_a_grey_piece(bench: Bench) -> None:
    share = []
    for probability in (0.0, 0.5, 1.0):
        seen = bench.train(erasing=probability, epochs=3, model__name=BARE)
        assert same_masks(seen)
        erased = 0
        for plain, after in zip(plain_pictures(seen), seen.after, strict=True):
            changed = (after[0] != plain).any(dim=1, keepdim=True)
            assert bool((after[0][changed.expand_as(after[0])] == 0).all())
            erased += int(changed.flatten(1).any(dim=1).sum())
        share.append(erased / (3 * TRAIN))
    assert share[0] == 0
    assert 0.3 < share[1] < 0.7
    assert share[2] > 0.95


@of("loss.ce_weight")
def _cross_entropy_counts_by_its_weight(bench: Bench) -> None:
    for weight in (0.0, 1.0, 2.5):
        (row,) = bench.train(ce_weight=weight).history
        expected = weight * row["train_ce"] + 1.5 * row["train_dice"]
        assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


@of("loss.dice_weight")
def _dice_counts_by_its_weight(bench: Bench) -> None:
    for weight in (0.0, 1.5, 4.0):
        (row,) = bench.train(dice_weight=weight).history
        assert row["dice_weight"] == weight
        expected = row["train_ce"] + weight * row["train_dice"]
        assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


@of("loss.dice_schedule")
def _the_dice_weight_moves_as_the_schedule_says(bench: Bench) -> None:
    # 3 epochs of 4 steps: the last step of each begins at 3, 7 and 11 twelfths
    expected = {
        "constant": (0.0, [1.5, 1.5, 1.5]),
        "step": (1.0, [1.0, 1.5, 2.0]),
        "linear": (1.0, [1.0 + at / 12 for at in (3, 7, 11)]),
        "cosine": (1.0, [1.0 + (1 - math.cos(math.pi * at / 12)) / 2 for at in (3, 7, 11)]),
    }
    for schedule, (ramp, weights) in expected.items():
        seen = bench.train(dice_schedule=schedule, dice_ramp=ramp, epochs=3, model__name=BARE)
        assert seen.column("dice_weight") == pytest.approx(weights)
    # a column is a promise: the loss of each step must have used it
    (row,) = bench.train(dice_schedule="step", dice_ramp=1.0, dice_weight=1.5, **ONE_STEP).history
    assert row["train_loss"] == pytest.approx(row["train_ce"] + row["train_dice"], rel=1e-5)


@of("loss.dice_ramp")
def _the_ramp_is_the_way_from_the_first_weight_to_the_last(bench: Bench) -> None:
    for ramp in (0.6, -0.4):
        seen = bench.train(dice_schedule="step", dice_ramp=ramp, epochs=3, model__name=BARE)
        first, middle, last = seen.column("dice_weight")
        assert (middle, last - first) == (pytest.approx(1.5), pytest.approx(ramp))


@of("loss.dice_average")
def _absent_classes_count_or_do_not(bench: Bench) -> None:
    by_average = {}
    for average in ("all", "present"):
        seen = bench.train(dice_average=average, model__name=BARE, **ONE_STEP)
        logits, masks = first_logits(bench, seen, model__name=BARE)
        expected = float(segmentation_loss(logits, masks, dice_average=average).dice)
        assert seen.column("train_dice") == pytest.approx([expected], abs=1e-5)
        by_average[average] = seen.history[0]
    assert by_average["all"]["train_dice"] - by_average["present"]["train_dice"] > 0.01
    assert by_average["all"]["val_dice"] - by_average["present"]["val_dice"] > 0.01


@of("loss.label_smoothing")
def _cross_entropy_asks_for_a_smoothed_truth(bench: Bench) -> None:
    for smoothing in (0.0, 0.2):
        seen = bench.train(label_smoothing=smoothing, **ONE_STEP)
        logits, masks = first_logits(bench, seen)
        expected = float(functional.cross_entropy(logits, masks, label_smoothing=smoothing))
        assert seen.column("train_ce") == pytest.approx([expected], abs=1e-4)
        assert seen.column("train_loss") == pytest.approx(
            [expected + 1.5 * seen.history[0]["train_dice"]], abs=1e-4
        )


@of("loss.lovasz_weight")
def _lovasz_counts_by_its_weight(bench: Bench) -> None:
    for weight in (0.0, 0.7):
        seen = bench.train(lovasz_weight=weight, **ONE_STEP)
        logits, masks = first_logits(bench, seen)
        (row,) = seen.history
        extra = row["train_loss"] - row["train_ce"] - 1.5 * row["train_dice"]
        assert extra == pytest.approx(
            weight * float(lovasz_loss(logits.softmax(1), masks)), abs=1e-4
        )


@of("loss.aux_weight")
def _auxiliary_logits_are_trained_by_their_weight(bench: Bench) -> None:
    seen = bench.train()
    assert all(isinstance(output, Tensor) for output in seen.outputs)
    assert not any(name.startswith("aux_head") for name in seen.averaged)
    extra = {}
    for weight in (0.5, 1.0):
        seen = bench.train(aux_weight=weight, **ONE_STEP)
        (row,) = seen.history
        extra[weight] = row["train_loss"] - row["train_ce"] - 1.5 * row["train_dice"]
        ((_, auxiliary),) = seen.outputs
        assert [tuple(logits.shape) for logits in auxiliary] == [(TRAIN, 19, 6, 6)]
        moved = (
            seen.raw["aux_head.weight"]
            - bench.fresh(aux_weight=weight).state_dict()["aux_head.weight"]
        )
        assert float(moved.abs().max()) > 1e-3
    # untrained, a head's loss is about that of the main one
    assert extra[1.0] == pytest.approx(2 * extra[0.5], rel=1e-4)
    assert extra[1.0] > 1


@of("training.optimizer", "training.scheduler")
def _no_other_is_offered(bench: Bench) -> None:
    for key, name in (("optimizer", "SGD"), ("scheduler", "StepLR")):
        with pytest.raises(ConfigError, match=f"training.{key}.*{name}"):
            bench.config(**{f"training__{key}": name})


def lr_by_hand(peak: float, eta_min: float, step: int, steps: int) -> float:
    """A cosine cycle at its step, counted from 0."""
    return eta_min + (peak - eta_min) * (1 + math.cos(math.pi * step / (steps - 1))) / 2


@of("training.learning_rate")
def _weights_move_by_the_rate(bench: Bench) -> None:
    for rate in (1e-3, 5e-3):
        seen = bench.train(learning_rate=rate, epochs=2, model__name=BARE)
        expected = [lr_by_hand(rate, 1e-6, step, 8) for step in (3, 7)]
        assert seen.column("lr") == pytest.approx(expected)
        # the first step of Adam is the rate itself, whatever the gradient
        one = bench.train(learning_rate=rate, weight_decay=0.0, model__name=BARE, **ONE_STEP)
        fresh = bench.fresh(model__name=BARE).state_dict()
        moved = (one.raw["body.weight"] - fresh["body.weight"]).abs()
        assert float(moved.median()) == pytest.approx(rate, rel=1e-2)


@of("training.weight_decay")
def _weights_shrink_by_rate_times_decay(bench: Bench) -> None:
    kept = bench.train(weight_decay=0.0, learning_rate=0.01, model__name=BARE, **ONE_STEP).raw
    shrunk = bench.train(weight_decay=0.5, learning_rate=0.01, model__name=BARE, **ONE_STEP).raw
    fresh = bench.fresh(model__name=BARE).state_dict()
    for name, value in fresh.items():
        # decoupled: both steps had the same gradient
        assert torch.allclose(kept[name] - shrunk[name], 0.01 * 0.5 * value, atol=1e-7)


@of("training.epochs")
def _so_many_epochs_are_trained(bench: Bench) -> None:
    for epochs in (1, 3):
        seen = bench.train(epochs=epochs, model__name=BARE)
        assert seen.column("epoch") == list(range(1, epochs + 1))
        # the schedule ends with the budget
        assert seen.column("lr")[-1] == pytest.approx(1e-6)


@of("training.scheduler_params.T_0")
def _a_cycle_of_the_rate_has_that_many_epochs(bench: Bench) -> None:
    low = {}
    for t_0 in (None, 2, 1.5):
        rates = bench.train(T_0=t_0, epochs=6, model__name=BARE).column("lr")
        low[t_0] = [epoch for epoch, rate in enumerate(rates, start=1) if rate < 2e-6]
    # 1.5 epochs end in the middle of an epoch every other time
    assert low == {None: [6], 2: [2, 4, 6], 1.5: [3, 6]}


@of("training.scheduler_params.T_mult")
def _each_cycle_is_so_many_times_as_long_as_the_last(bench: Bench) -> None:
    low = {}
    for t_mult in (1, 2):
        rates = bench.train(T_0=1, T_mult=t_mult, epochs=7, model__name=BARE).column("lr")
        low[t_mult] = [epoch for epoch, rate in enumerate(rates, start=1) if rate < 2e-6]
    assert low == {1: [1, 2, 3, 4, 5, 6, 7], 2: [1, 3, 7]}


@of("training.scheduler_params.eta_min")
def _a_cycle_ends_at_the_lowest_rate(bench: Bench) -> None:
    for eta_min in (0.0, 1e-4):
        rates = bench.train(eta_min=eta_min, T_0=1, epochs=2, model__name=BARE).column("lr")
        assert rates == pytest.approx([eta_min, eta_min])


@of("training.warmup_epochs")
def _the_rate_rises_for_so_many_epochs(bench: Bench) -> None:
    plain = bench.train(epochs=3, warmup_epochs=0.0, model__name=BARE).column("lr")
    slow = bench.train(epochs=3, warmup_epochs=2.0, model__name=BARE).column("lr")
    # 8 steps of warm-up: the last of the first epoch is the fourth, the next epoch's the eighth
    assert [a / b for a, b in zip(slow, plain, strict=True)] == pytest.approx([0.5, 1.0, 1.0])


@of("training.max_grad_norm")
def _gradients_are_cut_to_the_norm(bench: Bench) -> None:
    def gradient(limit: float) -> float:
        seen = bench.train(max_grad_norm=limit, model__name=BARE, **ONE_STEP)
        # after one step Adam's first moment is a tenth of the gradient
        return 10 * norm(checkpoint.read(seen.out / "last.pt")["adamw"]["mean"])

    free = gradient(0.0)
    assert free > 0.1
    assert gradient(free / 4) == pytest.approx(free / 4, rel=1e-3)
    assert gradient(4 * free) == pytest.approx(free, rel=1e-3)


@of("training.ema")
def _what_is_scored_is_the_average_over_that_horizon(bench: Bench) -> None:
    none = bench.train(ema=0.0, model__name=BARE)
    assert all(torch.equal(none.raw[name], value) for name, value in none.averaged.items())
    # one step an epoch, a horizon of two: half of each new weight, at first more
    first = bench.train(ema=2.0, epochs=1, model__name=BARE, **ONE_STEP)
    fresh = bench.fresh(model__name=BARE).state_dict()
    for name, value in first.averaged.items():
        assert torch.allclose(value, 0.1 * fresh[name] + 0.9 * first.raw[name], atol=1e-7)
    # 24 epochs in, 1 - 1 / 2 is below (1 + n) / (10 + n)
    weights = {}
    for epochs in (23, 24):
        at = bench.train(ema=2.0, epochs=epochs, eta_min=3e-3, model__name=BARE, **ONE_STEP)
        weights[epochs] = at
    for name, value in weights[24].averaged.items():
        expected = (weights[23].averaged[name] + weights[24].raw[name]) / 2
        assert torch.allclose(value, expected, atol=1e-6)


@of("training.early_stopping_patience")
def _training_ends_so_many_epochs_after_its_best(bench: Bench) -> None:
    # a rate so small that every epoch scores alike: the first one stays the best
    stuck = {"epochs": 6, "learning_rate": 1e-12, "eta_min": 1e-13, "weight_decay": 0.0}
    for patience, length in ((None, 6), (1, 2), (3, 4)):
        seen = bench.train(early_stopping_patience=patience, ema=0.0, model__name=BARE, **stuck)
        assert len(seen.history) == length


@of("training.seed")
def _weights_and_order_are_drawn_from_the_seed(bench: Bench) -> None:
    one, same, other = (bench.train(seed=seed, model__name=BARE) for seed in (5, 5, 6))
    assert timeless(one.history) == timeless(same.history)
    assert not torch.equal(one.before[0][0], other.before[0][0])
    fresh = [bench.fresh(seed=seed, model__name=BARE).state_dict() for seed in (5, 6)]
    assert not torch.equal(fresh[0]["body.weight"], fresh[1]["body.weight"])


@of("experiment.name", "experiment.description")
def _labels_change_no_number(bench: Bench) -> None:
    plain = bench.train(epochs=2)
    named = bench.train(epochs=2, experiment__name="mine", description="of last summer")
    assert timeless(named.history) == timeless(plain.history)


# ---------------------------------------------------------------------------- how it was computed


@of("runtime.device")
def _tensors_live_on_the_device(bench: Bench) -> None:
    seen = bench.train(device="cpu")
    assert {images.device.type for images, _ in seen.after} == {"cpu"}
    with pytest.raises(ConfigError, match="cuda:99"):
        bench.config(device="cuda:99")


@of("runtime.threads")
def _sums_are_computed_by_so_many_threads(bench: Bench) -> None:
    used: list[int] = []

    def heard(progress: object) -> None:
        used.append(torch.get_num_threads())

    for threads in (1, 2):
        config = bench.config(threads=threads, model__name=BARE)
        fit(config, bench.faces, out=bench.folder / f"threads-{threads}", report=heard)
    assert used == [1, 2]


@of("runtime.precision")
def _the_network_computes_in_that_precision(bench: Bench) -> None:
    exact = bench.train(precision="float32")
    coarse = bench.train(precision="bfloat16")
    assert {output.dtype for output in exact.outputs} == {torch.float32}
    assert {output.dtype for output in coarse.outputs} == {torch.bfloat16}
    # weights and the sums of the loss stay exact: 8 bits of mantissa cost about a percent
    assert {value.dtype for value in coarse.raw.values()} <= {torch.float32, torch.int64}
    assert coarse.column("train_loss") == pytest.approx(exact.column("train_loss"), rel=0.02)


@of("runtime.channels_last")
def _weights_lie_with_channels_last(bench: Bench) -> None:
    def lies_so(seen: Seen) -> bool:
        # a file keeps how a tensor lay
        return seen.raw["stage2.0.0.weight"].is_contiguous(memory_format=torch.channels_last)

    last, first = bench.train(channels_last=True), bench.train(channels_last=False)
    assert (lies_so(last), lies_so(first)) == (True, False)
    assert last.column("train_loss") == pytest.approx(first.column("train_loss"), rel=1e-3)


@of("runtime.micro_batch")
def _a_step_is_computed_in_pieces_with_the_same_result(bench: Bench) -> None:
    loss = {"label_smoothing": 0.1, "lovasz_weight": 0.5}
    runs = {}
    # 3 does not divide 8: the last piece counts by its size
    for size in (8, 4, 3):
        seen = bench.train(micro_batch=size, epochs=2, model__name=BARE, **loss)
        pieces = [len(output) for output in seen.outputs[: math.ceil(8 / size)]]
        assert pieces == [min(size, 8 - start) for start in range(0, 8, size)]
        runs[size] = seen
    for size in (4, 3):
        for name, whole in runs[8].raw.items():
            assert torch.allclose(runs[size].raw[name], whole, atol=1e-4)
        for column in ("train_loss", "train_ce", "train_dice", "val_ce", "val_f"):
            assert runs[size].column(column) == pytest.approx(runs[8].column(column), abs=1e-4)


@of("runtime.compile")
def _the_network_is_compiled_for_training(bench: Bench) -> None:
    compiled = []
    real = torch.compile

    def traced(model: nn.Module, **options: Any) -> Any:
        compiled.append(model)
        # traced as it would be, without a compiler's minute
        return real(model, backend="eager", **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", traced)
        plain = bench.train(compile=False, model__name=BARE)
        assert compiled == []
        quick = bench.train(compile=True, model__name=BARE)
    assert len(compiled) == 1
    assert quick.column("train_loss") == pytest.approx(plain.column("train_loss"), rel=1e-4)
    # a checkpoint of one is a checkpoint of the other
    assert quick.raw.keys() == plain.raw.keys()


@of("runtime.cuda_graph")
def _steps_are_replayed_from_a_graph_on_a_gpu(bench: Bench) -> None:
    assert can_be_captured(bench.config(cuda_graph=True))
    assert not can_be_captured(bench.config(cuda_graph=False))
    # on a CPU there is none
    assert bench.train(cuda_graph=False).raw.keys() == bench.train(cuda_graph=True).raw.keys()


# ------------------------------------------------------------------------------------------ tests


@pytest.mark.parametrize("key", leaf_keys())
def test_the_key_does_what_its_name_says(key: str, bench: Bench) -> None:
    assert key in EFFECTS, f"{key} has no entry here: what does it do, and how is that seen?"
    EFFECTS[key](bench)


def test_every_entry_is_a_key() -> None:
    assert set(EFFECTS) == set(leaf_keys())
