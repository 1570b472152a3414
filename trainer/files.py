"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an error.

    The parent folder is made. On an error (a full disk, say) the temporary file is removed and
    what stood at `path` stays as it was. Raises whatever the block or the file system raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix is kept: numpy, Pillow and matplotlib choose a format by it
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; a result is as readable as any other file of the user's
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    r"""Write `text` as UTF-8, whole or not at all.

    A byte of a file name that is not UTF-8 becomes `\udcNN`, which JSON, too, reads as that byte.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def umask() -> int:
    """The permissions that this process withholds from files that it makes."""
    # there is no way to read the mask without setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
