"""Between a worker and a program of the user's: whatever the program starts ends with it.

Run as a file of its own, `guard.py WORD...`, in a session of its own, with a pipe of the worker's
as standard input. The words are run in its group; the exit code is theirs. Once they have ended, or
the pipe is closed, because the worker wants an end or is dead, every process that came of them is
killed, those too that have left the group. Standard library alone: it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# looks for processes that came of the program while they were killed
_ROUNDS = 50
NOT_STARTED = 127


def main(words: list[str]) -> int:
    """Run the words; their exit code, 128 + N after signal N."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    # one that is not ignored: a program must not inherit it
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    control = _prctl()
    control(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            # should this process itself be killed; it has one thread, so a fork is whole
            preexec_fn=lambda: control(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return NOT_STARTED
    while child.poll() is None:
        ready, _, _ = select.select([0, told], [], [])
        if told in ready:
            os.read(told, 512)
        if 0 in ready and not os.read(0, 512):
            child.kill()
            break
    kill_descendants()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _prctl() -> Callable[[int, int], object]:
    """Linux's prctl; nothing where there is none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return lambda option, value: None
    return lambda option, value: call(option, ctypes.c_ulong(value), 0, 0, 0)


def kill_descendants() -> None:
    """Kill every process that came of this one: as a subreaper it inherits the orphans.

    Without /proc the program alone is known.
    """
    for _ in range(_ROUNDS):
        found = list(descendants(os.getpid()))
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def descendants(of: int) -> Iterator[int]:
    """Living processes below one, from /proc; those that have ended and wait count as gone."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                # the name of the program may hold blanks and brackets
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents[int(name)] = int(parent)
    for pid in parents:
        above = parents.get(pid)
        while above is not None and above != of:
            above = parents.get(above)
        if above == of:
            yield pid


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
