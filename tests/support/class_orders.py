"""Made-up class orders: what masks look like that were numbered by somebody else's list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.classes import FROM_OTHER_ORDER, IDS, NAMES, NUM_CLASSES

Table = np.ndarray

# ids of ours -> ids of the second known order
SECOND: Table = np.argsort(FROM_OTHER_ORDER).astype(np.uint8)
_LAPA = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth")
_LAPA = (*_LAPA, "l_lip", "hair")
_HAIR_FIRST = ("background", "hair", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear")
_HAIR_FIRST = (*_HAIR_FIRST, "r_ear", "ear_r", "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l")
_HAIR_FIRST = (*_HAIR_FIRST, "cloth", "hat")
_FEW = ("background", "skin", "nose", "hair", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip")
_FEW = (*_FEW, "l_lip", "mouth")


def _listed(names: Sequence[str]) -> Table:
    """The ids by a list of names; a class that is not in it is background."""
    return np.array([names.index(name) if name in names else 0 for name in NAMES], np.uint8)


def _permuted(seed: int, first: int = 1) -> Table:
    """Ids at random, those below `first` as they are."""
    table = np.arange(NUM_CLASSES, dtype=np.uint8)
    table[first:] = first + np.random.default_rng(seed).permutation(NUM_CLASSES - first)
    return table


def _exchanged(one: str, other: str) -> Table:
    table = np.arange(NUM_CLASSES, dtype=np.uint8)
    table[[IDS[one], IDS[other]]] = IDS[other], IDS[one]
    return table


# what each mask goes through, by its place in the set
MADE_UP: dict[str, Sequence[Table]] = {
    "a permutation": [_permuted(0)],
    "a permutation, background too": [_permuted(1, first=0)],
    "hair first": [_listed(_HAIR_FIRST)],
    "alphabetical": [_listed(sorted(NAMES))],
    "shifted up": [_listed([NAMES[-1], *NAMES[:-1]])],
    "shifted down": [_listed([*NAMES[1:], NAMES[0]])],
    "the eleven classes of LaPa": [_listed(_LAPA)],
    "eleven of our classes": [_listed(_FEW)],
    "hair and neck exchanged": [_exchanged("hair", "neck")],
    "a permutation for each file": [_permuted(seed) for seed in range(2, 32)],
    "every second file in the second order": [_listed(NAMES), SECOND],
    "one file in ten of ours, the rest in the second order": [_listed(NAMES), *[SECOND] * 9],
}
