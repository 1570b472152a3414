"""What our programs print, and what becomes of it where it cannot be shown or taken.

One rule for every command: what the terminal cannot show is printed as an escape; a reader that
leaves (`| head`, `less` quit) ends nothing, the rest goes nowhere; what a full disk or a closed
stream did not take is remembered, for commands whose output is what they were run for.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import shlex
import sys
from collections.abc import Sequence
from typing import BinaryIO, TextIO, cast

# nobody reads any more: a closed pipe, a terminal that is gone
_LEFT = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET})
_PLAIN = {"…": "~", "×": "x", "±": "+-", "–": "-", "—": "-", "⭐": "*", "→": ">"}
# what no UTF-8 text holds: bytes of a file name that are not UTF-8, as Python carries them
_BYTES = re.compile("[\udc80-\udcff]")
_NOT_IN_QUOTES = re.compile("[\x00-\x1f\x7f\udc80-\udcff]")
_NOT_ASCII = re.compile("[^ -~]")


class _Steady(io.FileIO):
    """Writes to a file descriptor, and does not mind where that is no longer possible.

    lost: why something was not written; None where all was, or where the reader left.
    """

    def __init__(self, descriptor: int, *, closed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._closed = closed
        self.lost: OSError | None = None

    def write(self, data: object) -> int:
        """Write, or drop, all of `data`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self._closed:
            self.lost = OSError(errno.EBADF, "closed")
            return len(view)
        done = 0
        while done < len(view):
            try:
                count = super().write(view[done:])
            except OSError as error:
                if error.errno in _LEFT:
                    # processes that share the descriptor, and libraries in C, write there too
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, self.fileno())
                    os.close(null)
                else:
                    self.lost = error
                break
            if count is None:
                # somebody else made the pipe non-blocking
                select.select([], [self.fileno()], [])
            else:
                done += count
        return len(view)


def settle() -> None:
    """Put standard output and error under the rule above; what tests or notebooks put there stays.

    Also opens descriptors 0 to 2 where they are closed: else a store or a checkpoint would get
    one of them, and a library's warning would be written into it.
    """
    codecs.register_error(_shown_in.__name__, _shown_in)
    closed = _fill_descriptors()
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            if descriptor not in closed:
                continue
            encoding, line_buffering = "utf-8", True
        elif (
            type(stream) is io.TextIOWrapper
            and stream is getattr(sys, f"__{name}__")
            and stream.fileno() == descriptor
        ):
            stream.flush()
            encoding, line_buffering = stream.encoding, stream.line_buffering
        else:
            continue
        raw = _Steady(descriptor, closed=descriptor in closed)
        # PYTHONUNBUFFERED
        through = bool(getattr(stream, "write_through", False))
        steady = io.TextIOWrapper(
            cast(BinaryIO, raw) if through else io.BufferedWriter(raw),
            encoding=encoding,
            errors=_shown_in.__name__,
            line_buffering=line_buffering,
            write_through=through,
        )
        setattr(sys, name, steady)


def _fill_descriptors() -> set[int]:
    """Open /dev/null at each of 0 to 2 that is closed; which these were."""
    closed = set()
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            # the lowest free one is the one that is missing
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
    return closed


def flushed() -> OSError | None:
    """Why something printed on standard output was lost; None where nothing was."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    return None if raw is None else raw.lost


def _raw(stream: TextIO) -> _Steady | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Steady) else None


def write_product(text: str) -> None:
    """Print a file's content: in UTF-8 as the file would be, unless a terminal is to show it."""
    stream = sys.stdout
    if _raw(stream) is not None and not stream.isatty():
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    else:
        stream.write(text)


# ------------------------------------------------------------------------------------------ text


def _shown_in(error: UnicodeError) -> tuple[str, int]:
    """The handler of what an encoding lacks: no character is dropped, no two look the same."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or _escaped(one) for one in missing), error.end


def _escaped(one: str) -> str:
    if _BYTES.match(one):
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("ascii", "backslashreplace").decode()


def shown(text: object) -> str:
    r"""Text as UTF-8 can hold it: a byte of a file name that is not UTF-8 becomes an escape.

    >>> print(shown(os.fsdecode(b"M\xfcller")))
    M\xfcller
    """
    return _BYTES.sub(lambda match: _escaped(match[0]), str(text))


def command_line(words: Sequence[str]) -> str:
    r"""A command that can be pasted into a shell, on one line, whatever its words hold.

    >>> print(command_line(["ls", "my faces", os.fsdecode(b"M\xfcller")]))
    ls 'my faces' $'M\374ller'
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    # where names are not in UTF-8, what is written in UTF-8 would be another name
    special = _NOT_IN_QUOTES if sys.getfilesystemencoding() == "utf-8" else _NOT_ASCII
    if not special.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    # three octal digits end by themselves, a hexadecimal escape takes what follows along
    return (
        "$'" + special.sub(lambda one: "".join(map("\\{:03o}".format, _bytes(one[0]))), plain) + "'"
    )


def _bytes(one: str) -> bytes:
    """A character as a name of a file has it, or in UTF-8 where it can be in none."""
    try:
        return os.fsencode(one)
    except UnicodeEncodeError:
        return one.encode()
