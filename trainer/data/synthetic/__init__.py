"""Built-in faces: drawn with Pillow from a seed, with masks of all 19 classes.

They stand in for photographs where none may be shipped. A head is a rough solid: parts are laid
out on a front view in units of the picture's side, lifted to a depth, turned (yaw, pitch), and
aligned by eyes and mouth the way CelebA-HQ aligns its photographs. How often a part is there, how
large it is and where it lies follow the published masks (a test compares them). A module here draws
one part of a face: of canvas, face, look, pose, side and random numbers it takes what it needs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.synthetic.background import background
from trainer.data.synthetic.body import body
from trainer.data.synthetic.canvas import Canvas
from trainer.data.synthetic.earrings import earring
from trainer.data.synthetic.eyes import brow, eye
from trainer.data.synthetic.glasses import glasses
from trainer.data.synthetic.hair import hair_before, hair_behind
from trainer.data.synthetic.hats import hat
from trainer.data.synthetic.head import ear, head
from trainer.data.synthetic.light import developed
from trainer.data.synthetic.mouth import mouth
from trainer.data.synthetic.nose import nose
from trainer.data.synthetic.person import Face, Look
from trainer.data.synthetic.pose import Pose

# changes with every change of the drawing: caches and fingerprints depend on it
VERSION = "faces-3"
SIDE = 256
SEED = 19

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SyntheticSource:
    """`count` built-in faces; the same index is the same face whatever the count."""

    count: int

    @property
    def name(self) -> str:
        return "synthetic"

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(f"face-{index:05d}" for index in range(self.count))

    def image(self, index: int) -> Bytes:
        return face(index)[0]

    def mask(self, index: int) -> Bytes:
        return _mask(index)

    def files(self, index: int) -> tuple[Path, ...]:
        return ()


# every finished trial is scored against the validation part's own masks, 8 MB of them
@functools.lru_cache(maxsize=128)
def _mask(index: int) -> Bytes:
    return face(index)[1]


# decoding asks for the mask and then for the picture of the same face
@functools.lru_cache(maxsize=16)
def face(index: int) -> tuple[Bytes, Bytes]:
    """Face `index`: picture uint8 [256, 256, 3] and mask uint8 [256, 256], ids 0-18.

    The same index gives the same bytes in every process.
    """
    random = np.random.default_rng([SEED, index])
    person = Face.drawn_from(random)
    canvas = Canvas(SIDE)
    pose = Pose(person, random)
    look = Look.drawn_from(person, random)
    background(canvas, random)
    hair_behind(canvas, person, look, pose, random)
    body(canvas, person, look, pose, random)
    for side in (-1, 1):
        if not look.covered[side]:
            ear(canvas, person, pose, side, random)
    head(canvas, person, look, pose)
    nose(canvas, person, pose, random)
    mouth(canvas, look, pose, random)
    for side in (-1, 1):
        eye(canvas, person, look, pose, side, random)
        brow(canvas, person, look, pose, side, random)
    if look.glasses in ("clear", "dark"):
        glasses(canvas, person, look, pose, random)
    hair_before(canvas, person, look, pose, random)
    if look.hat:
        hat(canvas, person, look, pose, random)
    if look.glasses == "raised":
        glasses(canvas, person, look, pose, random)
    for side in (-1, 1):
        if look.earring[side]:
            earring(canvas, person, pose, side, random)
    return developed(canvas, person, random)
