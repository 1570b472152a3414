"""The 19 classes: names, the left/right swap, colours, and the two groups that scores speak of.

The order is CelebAMask-HQ's own. `l_` is the person's left, so it lies on the RIGHT of the image.
"""

from __future__ import annotations

# name, and the colour in which masks are shown
_CLASSES = (
    ("background", (0, 0, 0)),
    ("skin", (204, 120, 96)),
    ("nose", (255, 160, 60)),
    ("eye_g", (60, 60, 90)),
    ("l_eye", (51, 204, 255)),
    ("r_eye", (0, 102, 204)),
    ("l_brow", (153, 102, 51)),
    ("r_brow", (102, 60, 20)),
    ("l_ear", (255, 102, 178)),
    ("r_ear", (178, 51, 120)),
    ("mouth", (255, 255, 255)),
    ("u_lip", (220, 20, 60)),
    ("l_lip", (150, 0, 40)),
    ("hair", (80, 50, 140)),
    ("hat", (0, 153, 76)),
    ("ear_r", (255, 255, 0)),
    ("neck_l", (255, 215, 120)),
    ("neck", (230, 170, 140)),
    ("cloth", (70, 130, 80)),
)
NAMES: tuple[str, ...] = tuple(name for name, _ in _CLASSES)
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

COLOURS: tuple[tuple[int, int, int], ...] = tuple(colour for _, colour in _CLASSES)
PALETTE: list[int] = [value for colour in COLOURS for value in colour] + [0] * (
    768 - 3 * NUM_CLASSES
)
"""Flat RGB palette of 256 entries, as Pillow's `putpalette` takes it."""
