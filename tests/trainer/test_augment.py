from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.paths import SHARED
from trainer.augment import MEAN_RGB, augmented, drawn, flip_swap, normalise

REAL_MASKS = SHARED / "celebamask-mini" / "train" / "masks"

# key -> its value that switches it off, and one that does not
VALUES = {
    "horizontal_flip": (0.0, 1.0),
    "rotation": (0.0, 20.0),
    "scale_range": ((1.0, 1.0), (0.7, 0.8)),
    "shift": (0.0, 0.2),
    "crop": (0.0, 1.0),
    "brightness": (0.0, 0.4),
    "contrast": (0.0, 0.4),
    "saturation": (0.0, 0.9),
    "noise": (0.0, 0.1),
    "cutmix": (0.0, 1.0),
    "erasing": (0.0, 1.0),
}
OFF = {key: off for key, (off, _) in VALUES.items()}
ON = {key: on for key, (_, on) in VALUES.items()}
GEOMETRIC = ("horizontal_flip", "rotation", "scale_range", "shift", "crop", "cutmix")


def settings(**changes):
    """All off but `changes`; the attributes of the config's section."""
    values = OFF | changes
    jitter = SimpleNamespace(**{k: values.pop(k) for k in ("brightness", "contrast", "saturation")})
    return SimpleNamespace(**values, color_jitter=jitter)


def augment(images, masks, settings, generator):
    return augmented(images, masks, settings, drawn(len(images), generator))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_batch(images=4, side=24):
    """Smooth colourful pictures and masks of quarters; no two rows of the batch alike."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    pictures = torch.stack(
        [torch.stack([x * (i + 1) / images, y, (x + y) / 2], dim=0) for i in range(images)]
    )
    masks = (2 * (y > 0.5).long() + (x > 0.5).long()).repeat(images, 1, 1)
    masks[:, :6, :6] = 1
    masks = masks + 4 * (torch.arange(images) % 4)[:, None, None]
    return (255 * pictures).to(torch.uint8), masks


def test_all_off_gives_the_normalised_picture_and_the_mask_itself():
    pictures, masks = a_batch()
    images, same = augment(pictures, masks, settings(), seeded())
    assert torch.equal(images, normalise(pictures))
    assert torch.equal(same, masks)


@pytest.mark.parametrize("key", OFF)
def test_each_key_has_an_effect_of_its_own(key):
    pictures, masks = a_batch()
    images, moved = augment(pictures, masks, settings(**{key: ON[key]}), seeded())
    assert not torch.allclose(images, normalise(pictures), atol=1e-3)
    assert torch.equal(moved, masks) == (key not in GEOMETRIC)


@pytest.mark.parametrize("key", OFF)
def test_a_key_does_not_shift_the_random_numbers_of_the_others(key):
    pictures, masks = a_batch()
    generator, other = seeded(), seeded()
    augment(pictures, masks, settings(**{key: ON[key]}), generator)
    augment(pictures, masks, settings(), other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_a_second_key_leaves_the_first_ones_choices_as_they_were():
    # the flip of each picture, read off its mask, is the same with and without colour and noise
    pictures, masks = a_batch(images=16)
    _, alone = augment(pictures, masks, settings(horizontal_flip=0.5), seeded())
    _, beside = augment(
        pictures, masks, settings(horizontal_flip=0.5, brightness=0.3, noise=0.1), seeded()
    )
    assert torch.equal(alone, beside)
    assert not torch.equal(alone, masks)


def test_the_same_seed_gives_the_same_batch_and_another_seed_another():
    pictures, masks = a_batch()
    everything = settings(**ON)
    first = augment(pictures, masks, everything, seeded(1))
    again = augment(pictures, masks, everything, seeded(1))
    other = augment(pictures, masks, everything, seeded(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_inputs_are_left_as_they_are():
    pictures, masks = a_batch()
    images = normalise(pictures)
    before = images.clone(), masks.clone()
    augment(images, masks, settings(**ON), seeded())
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_picture_and_mask_move_together():
    # the mask is the picture: where red is bright the mask says 1
    side = 64
    masks = torch.zeros(8, side, side, dtype=torch.long)
    masks[:, 20:50, 12:30] = 1
    pictures = torch.zeros(8, 3, side, side, dtype=torch.uint8)
    pictures[:, 0] = (255 * masks).to(torch.uint8)
    moving = settings(
        horizontal_flip=0.5, rotation=30.0, scale_range=(0.7, 1.4), shift=0.1, crop=0.5, cutmix=0.5
    )
    images, moved = augment(pictures, masks, moving, seeded())
    bright = images[:, 0] > normalise(pictures)[:, 0].mean(dim=(1, 2), keepdim=True)
    red = (images[:, 0] - images[:, 0].amin()) / (images[:, 0].amax() - images[:, 0].amin()) > 0.5
    assert bright.any()
    assert (red == moved.bool()).float().mean() > 0.995


def test_rotation_turns_by_at_most_the_given_angle_and_keeps_the_centre():
    side = 65
    masks = torch.zeros(64, side, side, dtype=torch.long)
    masks[:, :, 32] = 1  # an upright line through the centre
    pictures = torch.zeros(64, 3, side, side, dtype=torch.uint8)
    _, moved = augment(pictures, masks, settings(rotation=15.0), seeded())
    assert bool((moved[:, 32, 32] == 1).all())
    # 20 rows above the centre the line is off by 20 * tan(angle) columns
    columns = (moved[:, 12] * torch.arange(side)).sum(dim=1) / moved[:, 12].sum(dim=1)
    turned = torch.rad2deg(torch.atan((columns - 32) / 20))
    assert 10 < float(turned.max()) < 16.5
    assert -16.5 < float(turned.min()) < -10


def test_crop_looks_inside_the_frame_only():
    side = 64
    masks = torch.full((64, side, side), 1, dtype=torch.long)
    masks[:, 0, :] = masks[:, -1, :] = masks[:, :, 0] = masks[:, :, -1] = 0
    pictures = torch.zeros(64, 3, side, side, dtype=torch.uint8)
    _, moved = augment(pictures, masks, settings(crop=1.0), seeded())
    # a window smaller than the frame sees at most two of its borders, and never both of a pair
    top, bottom = (moved[:, 0] == 0).all(dim=1), (moved[:, -1] == 0).all(dim=1)
    assert not bool((top & bottom).any())
    assert bool((moved == 1).any(dim=2).any(dim=1).all())


def test_cutmix_pastes_picture_and_mask_of_the_same_partner():
    side = 32
    masks = torch.arange(8)[:, None, None].repeat(1, side, side)
    pictures = masks[:, None].repeat(1, 3, 1, 1).to(torch.uint8) * 10
    images, mixed = augment(pictures, masks, settings(cutmix=1.0), seeded())
    assert torch.equal(images, normalise((mixed[:, None] * 10).repeat(1, 3, 1, 1).to(torch.uint8)))
    own = (mixed == masks).float().mean(dim=(1, 2))
    assert bool((own >= 0.45).all())
    assert bool((own < 1).any())


def test_erasing_greys_a_part_of_the_picture_and_none_of_the_mask():
    pictures, masks = a_batch(images=16, side=40)
    images, same = augment(pictures, masks, settings(erasing=1.0), seeded())
    assert torch.equal(same, masks)
    grey = (images == 0).all(dim=1).float().mean(dim=(1, 2))
    assert bool((grey > 0.005).all())
    assert bool((grey < 0.15).all())


def test_pictures_of_either_layout_normalise_alike():
    pictures, _ = a_batch()
    images = normalise(pictures)
    assert torch.equal(images, normalise(pictures.permute(0, 2, 3, 1)))
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    expected = (pictures[0, 1, 3, 5].item() / 255 - MEAN_RGB[1]) / 0.265
    assert float(images[0, 1, 3, 5]) == pytest.approx(expected, abs=1e-5)


def test_pictures_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match=r"got torch.float32 \(1, 3, 4, 4\)"):
        normalise(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"got torch.uint8 \(3, 4, 4\)"):
        normalise(torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_flip_with_swap_exchanges_left_and_right_parts():
    masks = torch.tensor([[[4, 6, 8, 1, 9, 7, 5]]])
    _, flipped = flip_swap(torch.zeros(1, 3, 1, 7), masks)
    assert flipped.tolist() == [[[4, 6, 8, 1, 9, 7, 5]]]
    _, one_sided = flip_swap(torch.zeros(1, 3, 1, 3), torch.tensor([[[15, 4, 0]]]))
    assert one_sided.tolist() == [[[0, 5, 15]]]


def test_flip_with_swap_is_its_own_inverse_on_real_masks():
    if not REAL_MASKS.is_dir():
        pytest.skip("needs ../shared/celebamask-mini, which is not part of the project")
    files = sorted(REAL_MASKS.glob("*.png"))[:24]
    masks = torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files])).long()
    images = torch.rand(len(files), 3, *masks.shape[1:])
    flipped_images, flipped_masks = flip_swap(images, masks)
    assert not torch.equal(flipped_masks, masks.flip(-1))
    images_again, masks_again = flip_swap(flipped_images, flipped_masks)
    assert torch.equal(images_again, images)
    assert torch.equal(masks_again, masks)
