"""Files that another program is writing: looked at cheaply, and often."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# bytes; a longer line is no line of figures
_LONGEST = 1 << 20
_BLOCK = 1 << 18
# of what was read, kept to tell whether the file was written anew
_KEPT = 64
# a file may change twice in one tick of the file system's clock
_TICK_S = 0.05


class Watched:
    """Whether a file has changed since it was last read; costs one call of `stat`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """True at the first look and after each change; False where there is no such file."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        state = found.st_ino, found.st_size, found.st_mtime_ns
        if state == self._seen:
            return False
        # what has just been written may still change unseen: look again
        settled = time.time() - found.st_mtime > _TICK_S
        self._seen = state if settled else None
        return True


class GrowingFile:
    """Lines that a program appends to a file.

    A line counts once it has ended. A file that shrank, or no longer begins or goes on as it did,
    was written anew and is read from its start. from_start: whether the lines that were given last
    are the file's first ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watched = Watched(path)
        self._start()

    def _start(self) -> None:
        self._read_to = 0
        self._head = self._tail = b""
        # within a line that is too long
        self._skipping = False
        self._given = 0
        self.from_start = True

    def lines(self, *, ended: bool = False) -> list[bytes]:
        """The lines that have come since the last look, without blank ones.

        ended: nothing more comes: what stands behind the last line end is a line too.
        """
        # a program that has ended may have written in the last tick
        if not (self._watched.changed() or ended):
            return []
        try:
            with self.path.open("rb") as file:
                if not self._goes_on(file.fileno()):
                    self._start()
                self.from_start = self._given == 0
                return list(self._lines(file.fileno(), ended))
        except OSError:
            # it was taken away between two looks
            return []

    def _lines(self, file: int, ended: bool) -> Iterator[bytes]:
        rest = b""
        while block := os.pread(file, _BLOCK, self._read_to + len(rest)):
            if not self._head:
                self._head = block[:_KEPT]
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield from self._line(line + b"\n")
            if len(rest) > _LONGEST:
                self._took(rest)
                self._skipping, rest = True, b""
        if ended and rest:
            yield from self._line(rest)

    def _line(self, line: bytes) -> Iterator[bytes]:
        skipped, self._skipping = self._skipping, False
        self._took(line)
        text = line.strip()
        if text and not skipped:
            self._given += 1
            yield text

    def _took(self, read: bytes) -> None:
        self._read_to += len(read)
        self._tail = (self._tail + read)[-_KEPT:]

    def _goes_on(self, file: int) -> bool:
        """Whether what was read still stands there."""
        if os.fstat(file).st_size < self._read_to:
            return False
        head, tail = self._head[: self._read_to], self._tail
        return (
            os.pread(file, len(head), 0) == head
            and os.pread(file, len(tail), self._read_to - len(tail)) == tail
        )


def parsed(text: bytes) -> Any:
    """What a text holds as JSON, NaN and infinity among it; None where it holds none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
