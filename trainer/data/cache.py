"""Decoded, reduced pairs on disk, mapped into memory and so shared by all worker processes."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.image_files import quiet_pillow, unlike_stored
from trainer.data.source import Bytes, Source, content_hash
from trainer.errors import DataError
from trainer.files import atomic_path, atomic_write_text

# called with pairs done and pairs in all
Tick = Callable[[int, int], None]

# raise when the reduction below changes, or how files are read (`image_files`, `mask_files`): older
# caches are then left alone
FORMAT = 2
_NAME = "face-parsing-search"


def cache_folder() -> Path:
    """`$FACE_PARSING_CACHE`, else a folder of ours in the user's cache folder.

    Where the user has no home that can be written to, as in a container, it is a folder of the
    user's own in the temporary folder, which is said once. Raises DataError where that is none.
    """
    own = os.environ.get("FACE_PARSING_CACHE")
    if own:
        return Path(own)
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / _NAME
    home = usable_home()
    return _temporary() if home is None else home / ".cache" / _NAME


def usable_home() -> Path | None:
    """The user's home, None where they have none of their own or it cannot be written to."""
    try:
        home = Path.home()
    except RuntimeError:
        # no HOME, and no entry in the list of users
        return None
    # what is there of the folder that is to be made
    parts = (home / ".cache" / _NAME, home / ".cache", home)
    there = next((folder for folder in parts if folder.is_dir()), None)
    if there is None or home.resolve() == Path("/") or not os.access(there, os.W_OK | os.X_OK):
        return None
    return home


# once a process is enough to say it
@functools.cache
def _temporary() -> Path:
    fix = "set HOME, or name a folder in FACE_PARSING_CACHE"
    try:
        folder = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # everybody may write there: it must not be a trap of somebody else's
        if folder.is_symlink() or not _is_own(folder):
            raise DataError(f"cache folder {folder} belongs to somebody else; {fix}")
    except OSError as error:
        raise DataError(
            f"there is neither a home nor a temporary folder to keep decoded faces in"
            f" ({error.strerror}); {fix}"
        ) from None
    line = f"note: no home that can be written to, so decoded faces are kept in {folder}; {fix}"
    print(line, file=sys.stderr, flush=True)
    return folder


def _is_own(folder: Path) -> bool:
    return folder.stat().st_uid == os.getuid()


def usable_folder() -> Path:
    """The cache folder, made if need be. Raises DataError."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cache folder {folder}: {error.strerror}; name another one in FACE_PARSING_CACHE"
        ) from None
    return folder


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
    side, count = image_size, len(indices)
    files = {
        folder / f"{digest}-images.npy": (count, side, side, 3),
        folder / f"{digest}-masks.npy": (count, side, side),
    }
    opened = _mapped(files)
    if opened is None:
        with locked(folder / f"{digest}.lock"):
            opened = _mapped(files)
            if opened is None:
                _write(files, _decoded(source, indices, image_size, tick))
                opened = _mapped(files)
    if opened is None:
        raise DataError(
            f"cache folder {folder} does not keep what is written; name another one in"
            " FACE_PARSING_CACHE"
        )
    images, masks = opened
    return images, masks


def _mapped(files: Mapping[Path, tuple[int, ...]]) -> list[Bytes] | None:
    """The arrays, memory-mapped; None if one is missing or is not what it should be."""
    arrays = []
    for path, shape in files.items():
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != shape or array.dtype != np.uint8:
            return None
        arrays.append(array)
    return arrays


def _write(files: Mapping[Path, tuple[int, ...]], rows: Iterator[tuple[Bytes, ...]]) -> None:
    """Write one .npy file per array, row by row: a part may be larger than the memory.

    A stream, not a writable map: there a full disk is a crash, here it is an error.
    """
    with ExitStack() as stack:
        outputs = []
        for path, shape in files.items():
            temporary = stack.enter_context(atomic_path(path))
            output = stack.enter_context(temporary.open("wb"))
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(output, header)
            outputs.append(output)
        for row in rows:
            for output, array in zip(outputs, row, strict=True):
                output.write(np.ascontiguousarray(array).data)


def _decoded(
    source: Source, indices: Sequence[int], size: int, tick: Tick | None
) -> Iterator[tuple[Bytes, ...]]:
    """Picture and mask of each pair in turn, at `size`. Raises DataError at an unsound pair."""

    def decode(index: int) -> tuple[Bytes, Bytes]:
        # the mask first: it knows most of what can be wrong with a pair
        mask = reduce_mask(source.mask(index), size)
        return reduce_image(source.image(index), size), mask

    # bounds what waits in memory for the writer
    window = 256
    # Pillow lets go of the interpreter lock while it decodes
    with quiet_pillow, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), window):
            rows = pool.map(decode, indices[start : start + window])
            for done, row in enumerate(rows, start=start + 1):
                yield row
                if tick is not None:
                    tick(done, len(indices))


def content_hashes(source: Source, root: Path, folder: Path) -> list[str]:
    """One line a pair, two hashes: of the picture and of all its files; where the picture's pixels
    are not the stored ones, a third word says why (`image_files.unlike_stored`).

    Files unchanged since the last call are not read: while size and modification time are the same.
    """
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    store = folder / f"{key}-hashes-2.json"
    known: Mapping[str, str] = {}
    if store.is_file():
        try:
            known = json.loads(store.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
    hashes, fresh = [], {}
    for index in range(len(source.stems)):
        files = source.files(index)
        try:
            stats = [file.stat() for file in files]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from None
        stamp = "|".join(
            f"{file}:{stat.st_size}:{stat.st_mtime_ns}"
            for file, stat in zip(files, stats, strict=True)
        )
        # the picture's own hash first: exact duplicates are found by it
        both = known.get(stamp)
        if both is None:
            both = f"{content_hash(files[:1])} {content_hash(files)} {unlike_stored(files[0])}"
            both = both.rstrip()
        fresh[stamp] = both
        hashes.append(both)
    if fresh != known:
        with suppress(OSError):  # it only saves reading the files again
            atomic_write_text(store, json.dumps(fresh))
    return hashes
