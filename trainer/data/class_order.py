"""Which class order the ids of a set of masks are in, told by where their parts lie.

# N mask, K id, C class
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.classes import FROM_OTHER_ORDER, NAMES, NUM_CLASSES
from trainer.data.mask_geometry import Shape

# uint8 [K, 3], the colour of id k in row k
Palette = NDArray[np.uint8]

# where parts usually lie on published masks, whatever their side: middle height, its spread, share
# of the pixels, share of the masks that show them
_USUAL = {
    "background": (0.41, 0.12, 0.29, 1.0),
    "skin": (0.556, 0.045, 0.255, 1.0),
    "nose": (0.578, 0.02, 0.0206, 1.0),
    "eye_g": (0.457, 0.12, 0.053, 0.06),
    "l_eye": (0.478, 0.02, 0.0023, 0.97),
    "r_eye": (0.478, 0.02, 0.0023, 0.97),
    "l_brow": (0.415, 0.02, 0.0041, 0.97),
    "r_brow": (0.415, 0.02, 0.0041, 0.97),
    "l_ear": (0.562, 0.055, 0.0075, 0.5),
    "r_ear": (0.562, 0.055, 0.0075, 0.5),
    "mouth": (0.745, 0.02, 0.0046, 0.56),
    "u_lip": (0.726, 0.02, 0.0040, 1.0),
    "l_lip": (0.768, 0.02, 0.0067, 1.0),
    "hair": (0.362, 0.14, 0.31, 0.97),
    "hat": (0.226, 0.10, 0.21, 0.06),
    "ear_r": (0.708, 0.08, 0.0047, 0.23),
    "neck_l": (0.924, 0.06, 0.0005, 0.05),
    "neck": (0.918, 0.04, 0.042, 0.97),
    "cloth": (0.925, 0.055, 0.040, 0.6),
}
_USUAL_C4 = np.array([_USUAL[name] for name in NAMES])
# one part that lies far off counts as much as one that lies farther
_WORST = 9.0
OURS, SECOND, NEITHER = "ours", "second", "neither"


def misfit(shapes: Sequence[Shape], meaning: Sequence[int]) -> float | None:
    """How far the parts of a set of masks lie from where they usually do, in [0, 9]; 0 is perfect.

    meaning: class of each id. Of each mask the height and size of its face are taken out first, so
    that another framing is no misfit; then the medians over the set are looked at. None where fewer
    than three ids besides the background are in the set: too few to tell.
    """
    # how much background there is, and where, is a matter of framing
    ids = [number for number in _ids_of(shapes) if meaning[number] != 0]
    if len(ids) < 3:
        return None
    area_NK = np.stack([shape.area_C for shape in shapes])[:, ids]
    y_NK = np.stack([shape.y_C for shape in shapes])[:, ids]
    there_NK = area_NK > 0
    height_K, spread_K, usual_K, share_K = _USUAL_C4[np.asarray(meaning)[ids]].T
    # the straight line from usual to present heights, by the parts that lie most firmly
    weight_NK = there_NK / spread_K**2
    weight_NK /= np.maximum(weight_NK.sum(axis=1, keepdims=True), 1e-9)
    y_NK = np.where(there_NK, y_NK, 0.0)
    above_NK = height_K - (weight_NK @ height_K)[:, None]
    over_NK = y_NK - (weight_NK * y_NK).sum(axis=1, keepdims=True)
    slope_N = (weight_NK * above_NK * over_NK).sum(axis=1)
    slope_N /= np.maximum((weight_NK * above_NK**2).sum(axis=1), 1e-9)
    slope_N1 = np.clip(slope_N, 0.1, 2.5)[:, None]
    away_NK = (over_NK - slope_N1 * above_NK) / (spread_K * np.maximum(slope_N1, 0.25))
    size_NK = np.log(np.where(there_NK, area_NK / usual_K, np.nan))
    with warnings.catch_warnings():
        # a mask without any of these ids has no median
        warnings.simplefilter("ignore", RuntimeWarning)
        size_NK -= np.nanmedian(size_NK, axis=1, keepdims=True)
    away_K = np.nanmedian(np.where(there_NK, away_NK, np.nan), axis=0)
    # an area within a factor of three of the usual one says nothing
    beyond_K = np.maximum(0.0, np.abs(np.nanmedian(size_NK, axis=0)) - 1.1)
    misfit_K = np.minimum(away_K**2 + beyond_K**2, _WORST)
    # what few faces have cannot be on most of them
    misfit_K[(share_K < 0.3) & (there_NK.mean(axis=0) > 0.6)] = _WORST
    return float(np.mean(misfit_K))


def order_of(shapes: Sequence[Shape]) -> str | None:
    """The class order that the ids of some masks are in, all together: OURS, SECOND or NEITHER.

    None where too few ids are there to tell. Of published masks, eight taken at random fit their
    own order to 1.5 at worst and a random one to 5.3 at best (400 draws); one alone to 3.3 and 4.6.
    """
    ours, second = (misfit(shapes, meaning) for meaning in (range(NUM_CLASSES), FROM_OTHER_ORDER))
    if ours is None or second is None:
        return None
    # the fewer masks, the farther off are their medians
    limit = 1.5 + 3.0 / len(shapes)
    if ours <= min(second, limit):
        return OURS
    return SECOND if second <= limit else NEITHER


def _ids_of(shapes: Sequence[Shape]) -> NDArray[np.intp]:
    """The ids in a set of masks; a stray pixel in one mask of fifty says nothing of an id."""
    masks_C = np.sum([shape.area_C > 0 for shape in shapes], axis=0)
    return np.flatnonzero(masks_C >= max(1.0, 0.02 * len(shapes)))


@dataclass(frozen=True)
class Order:
    """What the ids of a set of masks mean.

    whole: OURS, SECOND or NEITHER; None where nothing tells. second, neither: stems of the masks
    whose ids fit that order, each taken alone. renumbered: stems of the masks whose palette has the
    colours of the others under other ids.
    """

    whole: str | None
    second: tuple[str, ...] = ()
    neither: tuple[str, ...] = ()
    renumbered: tuple[str, ...] = ()

    @property
    def doubtful(self) -> frozenset[str]:
        """Stems of the masks that have other ids than the rest of the set."""
        second = () if self.whole == SECOND else self.second
        return frozenset((*second, *self.neither, *self.renumbered))


def order_of_set(
    shapes: Mapping[str, Shape], palettes: Mapping[str, Palette | None] | None = None
) -> Order:
    """The class order of a data set, decided for the whole of it at once.

    shapes, palettes: by stem. A set with single masks in our order is never SECOND: a translation
    would spoil those.
    """
    if not shapes:
        return Order(None)
    whole = order_of(list(shapes.values()))
    alone = {stem: order_of([shape]) for stem, shape in shapes.items()}
    renumbered = _renumbered(shapes, palettes or {})
    # a handful of ids may fit by chance, and a translation is not undone
    few = len(_ids_of(list(shapes.values()))) < 8
    if whole == SECOND and (few or renumbered or OURS in alone.values()):
        whole = NEITHER
    return Order(
        whole,
        second=tuple(stem for stem, order in alone.items() if order == SECOND),
        neither=tuple(stem for stem, order in alone.items() if order == NEITHER),
        renumbered=renumbered,
    )


def _renumbered(
    shapes: Mapping[str, Shape], palettes: Mapping[str, Palette | None]
) -> tuple[str, ...]:
    """Stems of masks whose palette has the colours of most masks under other ids."""
    colours = {
        stem: {
            int(number): tuple(palette[number].tolist())
            for number in np.flatnonzero(shapes[stem].area_C)
            if number < len(palette)
        }
        for stem, palette in palettes.items()
        if palette is not None and stem in shapes
    }
    counts: dict[int, Counter[tuple[int, ...]]] = {}
    for own in colours.values():
        for number, colour in own.items():
            counts.setdefault(number, Counter())[colour] += 1
    usual = {number: count.most_common(1)[0][0] for number, count in counts.items()}
    known = set(usual.values())
    return tuple(
        stem
        for stem, own in colours.items()
        # a palette of other colours is another taste, not another numbering
        if known >= set(own.values()) and any(usual[n] != colour for n, colour in own.items())
    )
