"""What every command shares: one line and exit code 2 for a mistake, a traceback for a bug."""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from trainer import streams
from trainer.errors import DeviceLost, UserError

N = TypeVar("N", int, float)
# states of the file system that the user, not the programmer, has to fix
_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space within the quota",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "name a path that you may use",
    errno.EPERM: "name a path that you may use",
    errno.ENOTDIR: "a file stands where a folder is needed; name another path",
    errno.EEXIST: "a file stands where a folder is needed; name another path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line, and whose help shows the defaults."""

    def __init__(self, *args: object, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # an abbreviated flag would change its meaning when a longer one is added
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What every command does first: put its output under one rule, and keep torch, which is
        loaded later, from spinning."""
        streams.settle()
        limit_spinning()
        return super().parse_known_args(args, namespace)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """After --help, and after a mistake."""
        lost = streams.flushed() if status == 0 else None
        if lost is not None:
            status, message = 2, f"error: {_missing(lost)}\n"
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n")


def checked(
    kind: Callable[[str], N], allowed: Callable[[N], bool], needed: str, *, name: str
) -> Callable[[str], N]:
    """For argparse: reads a number that is allowed. needed, name: what it is, for messages."""

    def read(text: str) -> N:
        number = kind(text)
        if not allowed(number):
            raise argparse.ArgumentTypeError(f"{text}: {needed} is needed")
        return number

    # argparse names the type where the text is no number at all
    read.__name__ = name
    return read


def whole(least: int) -> Callable[[str], int]:
    """For argparse: reads a whole number from `least` up."""
    return checked(int, lambda n: n >= least, f"a whole number from {least} up", name="count")


from_zero = checked(float, lambda n: 0 <= n < math.inf, "a number from 0 up", name="number")


def one_line(text: object) -> str:
    """Any text on a single line."""
    return " ".join(str(text).split())


def complain(message: object) -> int:
    """Print one line on stderr; returns the exit code 2."""
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    return 2


def guarded(
    body: Callable[[], int], errors: tuple[type[Exception], ...] = (), *, printed: bool = False
) -> int:
    """Run a command's body and turn a user's mistakes into one line and exit code 2.

    errors: further exception types that are a user's mistake, besides UserError. printed: what
    the command prints is what it was run for, so output that a full disk or a closed stream did
    not take is a mistake as well; other commands have done their work, and say so in a line.
    Returns the body's exit code, 2 after a mistake, or where a GPU was lost or memory did not
    suffice, 130 after Ctrl-C. After SIGTERM, SystemExit with 143 is raised. All else is a bug and
    propagates.
    """
    code = _guarded(body, (UserError, *errors))
    lost = streams.flushed()
    if lost is None:
        return code
    if printed and code == 0:
        return complain(_missing(lost))
    print(f"note: {_missing(lost)}", file=sys.stderr, flush=True)
    return code


def _missing(lost: OSError) -> str:
    fix = _FIXES.get(lost.errno or 0, "give it a file or a terminal")
    return f"standard output did not take all lines ({lost.strerror}); {fix}"


def _guarded(body: Callable[[], int], users_errors: tuple[type[Exception], ...]) -> int:
    try:
        with _sigterm_as_exit():
            return body()
    except users_errors as error:
        return complain(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    except OSError as error:
        fix = _FIXES.get(error.errno or 0)
        if fix is None:
            raise
        where = error.filename or "a file"
        return complain(f"{where}: {error.strerror}; {fix}")
    except (DeviceLost, RuntimeError) as error:
        # not above: who raises one of them has loaded torch
        from trainer.runtime import first_line, is_lost, is_out_of_memory

        if is_out_of_memory(error):
            return complain(
                f"out of memory: {first_line(error)}; free some of it, or compute elsewhere, by"
                " --device"
            )
        if not is_lost(error):
            raise
        return complain(
            f"the GPU was lost: {first_line(error)}; see with nvidia-smi whether it is well, then"
            " run the same again, a training with --resume"
        )


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the block instead of killing the process: what it holds is closed.

    Whoever handles it already, or ignores it, goes on doing so.
    """

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    mine = (
        # only there may handlers be set
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if mine:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def progress_bar(text: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that draws a bar on stderr where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    # only now: --help need not wait for it
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# how long a thread that waits for others spins before it sleeps: times around, about .5 ms, in
# torch; 2 to this power cycles, a few microseconds, in numpy and scipy
_SPINNING = {"GOMP_SPINCOUNT": "20000", "OPENBLAS_THREAD_TIMEOUT": "14"}
# with which a user says it too
_WAITING = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def limit_spinning() -> None:
    """Let threads that wait for each other sleep soon, in torch and in numpy.

    To be called before they are loaded, which is when they look; processes that this one starts
    inherit it. Where a user has set anything of that kind, nothing is changed.
    """
    # libgomp, which torch brings along, spins 300,000 times, 7 ms, at each barrier before it
    # sleeps. Beside other work the thread that is waited for has lost its core, and that spinning
    # keeps it from coming back: with 2 threads beside 2 busy loops a step took 4.2 times as long
    # as alone, and takes 2.4 times as long with 20,000. Fewer cost time on a quiet machine, since
    # waking a thread takes longer than it mostly waits: without any (OMP_WAIT_POLICY=PASSIVE) a
    # step takes 1.8 times as long there. OpenBLAS spins for 22 ms, and so against torch's threads
    # too: a proposal of the sampler takes .6 of the time alone and .3 of it beside busy loops.
    if not any(name in os.environ for name in (*_SPINNING, *_WAITING)):
        os.environ.update(_SPINNING)
