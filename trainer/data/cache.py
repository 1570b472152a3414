"""Decoded, reduced pairs on disk, mapped into memory and so shared by all worker processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.sources import Source, content_hash
from trainer.files import atomic_path, atomic_write_text

Bytes = NDArray[np.uint8]
# called with pairs done and pairs in all
Tick = Callable[[int, int], None]

# raise when the reduction below changes: older caches are then left alone
FORMAT = 1


def cache_folder() -> Path:
    """`$FACE_PARSING_CACHE`, else a folder of ours in the user's cache folder."""
    own = os.environ.get("FACE_PARSING_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "face-parsing-search"


def reduce_image(image_HW3: Bytes, size: int) -> Bytes:
    """uint8 [H, W, 3] -> [size, size, 3], averaging over the pixels that fall together."""
    picture = Image.fromarray(image_HW3)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def reduce_mask(mask_HW: Bytes, size: int) -> Bytes:
    """uint8 [H, W] -> [size, size], nearest at pixel centres: a majority gives other scores."""
    height, width = mask_HW.shape
    centres = np.arange(size) + 0.5
    rows = (centres * (height / size)).astype(np.intp)
    columns = (centres * (width / size)).astype(np.intp)
    return np.ascontiguousarray(mask_HW[rows[:, None], columns])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: one process decodes, the others wait for its result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached_part(
    source: Source,
    indices: Sequence[int],
    *,
    key: str,
    image_size: int,
    folder: Path,
    tick: Tick | None = None,
) -> tuple[Bytes, Bytes]:
    """Pictures uint8 [N, S, S, 3] and masks uint8 [N, S, S], read-only and memory-mapped.

    indices: the part's pairs in the source. key: identifies their contents.
    Decodes only where no earlier call did. Raises DataError at the first pair that is unsound.
    """
    digest = hashlib.sha256(f"{FORMAT} {key} {image_size}".encode()).hexdigest()[:24]
    images_path = folder / f"{digest}-images.npy"
    masks_path = folder / f"{digest}-masks.npy"
    if not (images_path.is_file() and masks_path.is_file()):
        with locked(folder / f"{digest}.lock"):
            if not (images_path.is_file() and masks_path.is_file()):
                images, masks = _decoded(source, indices, image_size, tick)
                for path, array in ((images_path, images), (masks_path, masks)):
                    with atomic_path(path) as temporary:
                        np.save(temporary, array)
    return np.load(images_path, mmap_mode="r"), np.load(masks_path, mmap_mode="r")


def _decoded(
    source: Source, indices: Sequence[int], size: int, tick: Tick | None
) -> tuple[Bytes, Bytes]:
    images = np.empty((len(indices), size, size, 3), dtype=np.uint8)
    masks = np.empty((len(indices), size, size), dtype=np.uint8)

    def decode(at: int) -> int:
        # the mask first: it knows most of what can be wrong with a pair
        masks[at] = reduce_mask(source.mask(indices[at]), size)
        images[at] = reduce_image(source.image(indices[at]), size)
        return at

    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(indices))), start=1):
            if tick is not None:
                tick(done, len(indices))
    return images, masks


def content_hashes(source: Source, root: Path, folder: Path) -> list[str]:
    """One hash a pair over its files' contents; files unchanged since the last call are not read.

    A file counts as unchanged while its size and modification time are the same.
    """
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    store = folder / f"{key}-hashes.json"
    known: Mapping[str, str] = {}
    if store.is_file():
        try:
            known = json.loads(store.read_text(encoding="utf-8"))
        except ValueError:
            known = {}
    hashes, fresh = [], {}
    for index in range(len(source.stems)):
        files = source.files(index)
        stats = [file.stat() for file in files]
        stamp = "|".join(
            f"{file}:{stat.st_size}:{stat.st_mtime_ns}"
            for file, stat in zip(files, stats, strict=True)
        )
        # the picture's own hash first: exact duplicates are found by it
        both = known.get(stamp) or f"{content_hash(files[:1])} {content_hash(files)}"
        fresh[stamp] = both
        hashes.append(both)
    if fresh != known:
        atomic_write_text(store, json.dumps(fresh))
    return hashes
