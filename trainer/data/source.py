"""Pairs of pictures and masks, decoded on demand: what a data set is to the rest of training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

Bytes = NDArray[np.uint8]


class Source(Protocol):
    """Pairs of pictures and masks, decoded on demand."""

    @property
    def name(self) -> str:
        """Short name: `synthetic`, or the folder's."""
        ...

    @property
    def stems(self) -> tuple[str, ...]:
        """Names without suffix, sorted."""
        ...

    def image(self, index: int) -> Bytes:
        """Picture `index`: uint8 [H, W, 3]. Raises DataError."""
        ...

    def mask(self, index: int) -> Bytes:
        """Mask `index`: uint8 [H, W], ids 0-18. Raises DataError."""
        ...

    def files(self, index: int) -> tuple[Path, ...]:
        """The files of a pair, the picture first; empty for built-in faces."""
        ...


def content_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, hexadecimal. Raises DataError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()
