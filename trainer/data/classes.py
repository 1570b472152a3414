"""The 19 classes: names, the left/right swap, colours, and the two groups that scores speak of.

The order is CelebAMask-HQ's own. `l_` is the person's left, so it lies on the RIGHT of the image.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
NUM_CLASSES = len(NAMES)
IDS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}

# a second order in wide use; a mask in it has valid ids and wrong meanings
OTHER_NAMES: tuple[str, ...] = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)


def _swapped(name: str) -> str:
    # only sided parts have a partner: l_lip is the LOWER lip, so the partner must exist by name
    sides = {"l_": "r_", "r_": "l_"}
    partner = sides.get(name[:2], name[:2]) + name[2:]
    return partner if partner in IDS else name


SWAP: tuple[int, ...] = tuple(IDS[_swapped(name)] for name in NAMES)
"""SWAP[id] is the id of the part on the other side; one lookup, so that 4 -> 5 is not undone."""

FROM_OTHER_ORDER: tuple[int, ...] = tuple(IDS[name] for name in OTHER_NAMES)
"""FROM_OTHER_ORDER[id in the second order] is the id here."""

LARGE: tuple[int, ...] = tuple(IDS[name] for name in ("background", "skin", "hair"))
SMALL: tuple[int, ...] = tuple(
    IDS[name] for name in ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
)

COLOURS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (204, 120, 96),
    (255, 160, 60),
    (60, 60, 90),
    (51, 204, 255),
    (0, 102, 204),
    (153, 102, 51),
    (102, 60, 20),
    (255, 102, 178),
    (178, 51, 120),
    (255, 255, 255),
    (220, 20, 60),
    (150, 0, 40),
    (80, 50, 140),
    (0, 153, 76),
    (255, 255, 0),
    (255, 215, 120),
    (230, 170, 140),
    (70, 130, 80),
)
PALETTE: list[int] = [value for colour in COLOURS for value in colour] + [0] * (
    768 - 3 * NUM_CLASSES
)
"""Flat RGB palette of 256 entries, as Pillow's `putpalette` takes it."""
