"""What a command prints, kept in a file that cannot grow without end."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Self

# bytes of the beginning and of the end that are kept, and lines that a message holds
_HEAD, _TAIL, _LINES, _LINE = 1 << 19, 1 << 19, 20, 300


class OutputLog:
    """A log that is cut in its middle. Used through `with`: what is left out is known at its end.

    size: bytes that came in all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail: deque[bytes] = deque()
        self._held = 0
        self.size = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        rest = b"".join(self._tail)
        left_out = self.size - min(self.size, _HEAD) - len(rest)
        if left_out:
            self._file.write(f"\n[... {left_out} bytes left out ...]\n".encode())
        self._file.write(rest)
        self._file.close()

    def add(self, output: bytes) -> None:
        """Keep a piece."""
        head = output[: max(0, _HEAD - self.size)]
        if head:
            self._file.write(head)
            # somebody may be reading along
            self._file.flush()
        self.size += len(output)
        rest = output[len(head) :]
        if rest:
            self._tail.append(rest)
            self._held += len(rest)
        while self._held - len(self._tail[0] if self._tail else b"") > _TAIL:
            self._held -= len(self._tail.popleft())

    def last_lines(self) -> list[str]:
        """The last lines, as they stood after the last carriage return, each cut to some length."""
        wanted = _LINES * _LINE * 2
        end = b"".join(self._tail)[-wanted:]
        if len(end) < wanted:
            self._file.flush()
            head = self._path.read_bytes()
            end = head[-(wanted - len(end)) :] + end
        lines = end.decode(errors="replace").replace("\r\n", "\n").split("\n")
        drawn = [line.rstrip("\r").rpartition("\r")[2].rstrip()[:_LINE] for line in lines]
        return [line for line in drawn if line][-_LINES:]
