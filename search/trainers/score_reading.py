"""The three ways in which a program that is not changed tells its scores.

`ReportFile`: lines of JSON that it appends. `History`: a file that it keeps, wherever it lies.
`OutputPattern`: what it prints. Each is looked at often, and says with `why_nothing` why it found
nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from search.trainers.growing_files import GrowingFile, parsed
from search.trainers.history_files import HistoryFile
from search.trainers.output_patterns import OutputPattern as OutputPattern
from search.trainers.readings import Reading as Reading
from search.trainers.readings import Readings, at

# seconds; file systems keep coarser times than the clock
_COARSE_S = 0.02
# a search for files is done again after so many times what it took
_LOOK_AGAIN = 50


class ReportFile:
    """Lines of JSON that a program appends, an object an epoch, with `epoch` and a score.

    A line without an epoch is the next one. Half a line waits for its rest; a line that is no
    object, or has no score, is passed over. A file that was written anew is read anew.
    after, from_zero: see `Readings`.
    """

    def __init__(
        self, path: Path, score_key: str = "score", *, after: int = 0, from_zero: bool = False
    ) -> None:
        self._file = GrowingFile(path)
        self._score_key = score_key
        self.readings = Readings(after=after, from_zero=from_zero)

    @property
    def odd(self) -> list[str]:
        """What was passed over, in short."""
        return self.readings.odd

    def new(self, *, ended: bool = False) -> list[Reading]:
        """What has come since the last look. ended: the program has; a last line needs no end."""
        return list(self._new(ended))

    def _new(self, ended: bool) -> Iterator[Reading]:
        lines = self._file.lines(ended=ended)
        if lines and self._file.from_start:
            self.readings.begin()
        for line in lines:
            row = parsed(line)
            if isinstance(row, Mapping) and at(row, self._score_key) is not None:
                yield from self.readings.of_row(row, self._score_key)
            else:
                what = f"no {self._score_key!r}" if isinstance(row, Mapping) else "no JSON object"
                self.readings.pass_over(f"{what} in {line.decode(errors='replace')!r}")

    def why_nothing(self) -> str:
        """Why there is no reading, as one line."""
        return f"{self._file.path}: {'; '.join(self.odd) or 'nothing was written'}"


class History:
    """The newest file that matches a pattern and was made or changed since a program's start.

    folders: where to look; a match in an earlier one goes before those in later ones. pattern: a
    glob, `**` among it. since: the start, as `time.time()` tells it; make this before the program
    starts, since files that are there already come after those that are not. A file that gave a
    reading is kept to, and no other trial of this machine reads it until `close`, which `with`
    calls too. score_key: see `HistoryFile`; after, from_zero: see `Readings`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        pattern: str,
        score_key: str,
        since: float,
        *,
        after: int = 0,
        from_zero: bool = False,
    ) -> None:
        self._given = pattern
        whole = Path(pattern).is_absolute()
        self._folders = [Path("/")] if whole else [Path(folder) for folder in folders]
        self._pattern = pattern.lstrip("/") if whole else pattern
        self._score_key, self._since = score_key, since
        self._before = {path for _, path in self._matches()}
        self._file: HistoryFile | None = None
        self._lock: int | None = None
        self._taken: Path | None = None
        self._look_at = 0.0
        self.readings = Readings(after=after, from_zero=from_zero)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def odd(self) -> list[str]:
        """What was passed over, in short."""
        return self.readings.odd

    @property
    def path(self) -> Path | None:
        """The file that is read; None while there is none."""
        return None if self._file is None else self._file.path

    def close(self) -> None:
        """Let another trial read the file."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def new(self, *, ended: bool = False) -> list[Reading]:
        """What has come since the last look. ended: the program has; a last line needs no end."""
        if not len(self.readings) and (ended or time.monotonic() >= self._look_at):
            begun = time.monotonic()
            self._find()
            # of a large tree only a small share of the time is spent in looking
            self._look_at = time.monotonic() + _LOOK_AGAIN * (time.monotonic() - begun)
        return [] if self._file is None else list(self._file.new(ended=ended))

    def why_nothing(self) -> str:
        """Why there is no reading, as one line: no file, or no such key, with the nearest."""
        if self._file is not None:
            return self._file.why_nothing()
        if self._taken is not None:
            return (
                f"--history {self._given}: {self._taken} is read by another trial; have the"
                " program write below {out}"
            )
        places = " and ".join(str(folder) for folder in self._folders)
        return f"--history {self._given}: no file of that name was made or changed in {places}"

    def _matches(self) -> Iterator[tuple[int, Path]]:
        """Each match, with the place of its folder; `**` does not follow links."""
        for place, folder in enumerate(self._folders):
            for path in folder.glob(self._pattern):
                yield place, path

    def _find(self) -> None:
        """Turn to the best of the files that nobody else reads."""
        self._taken = None
        for _, path in sorted(self._changed(), reverse=True):
            if path == self.path:
                return
            lock = _lock_of(path)
            if lock is None:
                self._taken = self._taken or path
                continue
            self.close()
            self._lock, self._file = lock, HistoryFile(path, self._score_key, self.readings)
            return

    def _changed(self) -> Iterator[tuple[tuple[int, bool, int], Path]]:
        """Those made or changed since the start, the better ones with the greater rank."""
        for place, path in self._matches():
            try:
                found = path.stat()
            except OSError:
                continue
            # clocks of file servers differ: what was not there before needs none
            made = path not in self._before
            changed = max(found.st_mtime, found.st_ctime) >= self._since - _COARSE_S
            if (made or changed) and path.is_file():
                yield (-place, made, found.st_mtime_ns), path


def _lock_of(path: Path) -> int | None:
    """An open file that holds the lock on reading a history; None where another trial has it."""
    # not the history itself: a program may put another file in its place, or lock it
    folder = Path(tempfile.gettempdir()) / f"search-histories-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
