"""Our commands as processes without their imports: forked from one that has torch and all loaded.

Half of what the tests once computed was the import of torch in child processes. With `install`, a
process that would be started as `python -m search.run …` is forked instead, from a server that has
imported everything and done nothing: no thread, no open store, no patched function. It is a child
of who starts it, with its own pid, signals, streams, folder and environment.
The tests marked `long` or `proof` start theirs in earnest.

What a fork cannot give is started as ever: another interpreter, user, locale, time zone, `space.py`
or library path, and anything but Linux.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import importlib
import json
import os
import pkgutil
import platform
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PACKAGES = ("search", "trainer", "storage")
# these start processes of their own, so each gets a server of its own
STARTING = ("search.run", "search.confirm")
# the number of clone(2), and its flag for a brother instead of a child
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
CLONE_PARENT = 0x8000
# what an interpreter and its libraries read once, as they start
AT_START = ("LANG", "LC_", "LOCPATH", "PYTHON", "LD_", "TZ", "CUDA_", "MALLOC_")

# a test may set another one
_INTERPRETER = sys.executable
_execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_server: socket.socket | None = None
_started_by: int | None = None
_process: subprocess.Popen[bytes] | None = None


def install() -> None:
    """Fork what can be forked, from now on in this process and in those it starts."""
    global _started_by
    if CLONE is not None and sys.platform == "linux":
        _started_by = os.getpid()
        subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def uninstall() -> None:
    """Start every process in earnest again."""
    subprocess.Popen._execute_child = _execute  # type: ignore[attr-defined]


def end() -> None:
    """End the server."""
    global _server, _process
    uninstall()
    if _server is not None and _process is not None:
        _server.close()
        _process.wait()
        _server = _process = None


def _execute_child(self: Any, args: Any, *more: Any) -> None:
    """As in subprocess, whose arguments these are: set self.pid, close the child's ends."""
    names = ("executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo")
    names += ("creationflags", "shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite")
    names += ("errread", "errwrite", "restore_signals", "gid", "gids", "uid", "umask")
    names += ("start_new_session", "process_group")
    given = dict(zip(names, more, strict=True))
    order = _order(args, given)
    pid = None if order is None else _forked(order, given)
    if pid is None:
        return _execute(self, args, *more)  # type: ignore[no-any-return]
    self.pid = pid
    self._child_created = True
    ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    self._close_pipe_fds(*(given[end] for end in ends))
    return None


def _order(args: Any, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the server is to run, None where a fork would not be the same."""
    if isinstance(args, (str, bytes, os.PathLike)) or given["shell"] or given["executable"]:
        return None
    words = [os.fspath(word) for word in args]
    if not all(isinstance(word, str) for word in words) or words[:1] != [_INTERPRETER]:
        return None
    ours = (*(f"{name}." for name in PACKAGES), "scripts.benchmarks.")
    if words[1:2] != ["-m"] or not words[2:] or not words[2].startswith(ours):
        return None
    special = ("preexec_fn", "pass_fds", "gid", "gids", "uid")
    if any(given[name] for name in special) or given["umask"] >= 0 or given["process_group"] >= 0:
        return None
    env = os.environ if given["env"] is None else given["env"]
    env = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    cwd = os.path.abspath(os.fsdecode(given["cwd"] or "."))
    if not _same_start(env, cwd):
        return None
    return {
        "module": words[2],
        "words": words[3:],
        "env": env,
        "cwd": cwd,
        "session": given["start_new_session"],
        "group": os.getpgrp(),
        "umask": _umask(),
        "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }


def _same_start(env: Mapping[str, str], cwd: str) -> bool:
    """Whether a process with that environment would begin as the server has begun."""

    def read_once(variables: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in variables.items()
            if name.startswith(AT_START) and name not in ("PYTHONPATH", "PYTHONUNBUFFERED")
        }

    if read_once(env) != read_once(_at_start) or _powers() != _own_powers:
        return False
    # which `space.py` and which packages it would import
    places = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    for place in places:
        if os.path.realpath(place) == str(ROOT):
            return os.path.isdir(cwd)
        if any(os.path.exists(os.path.join(place, name)) for name in ("space.py", *PACKAGES)):
            return False
    return os.path.isdir(cwd) and str(ROOT) in _path


_at_start = dict(os.environ)
_path = list(map(os.path.realpath, sys.path))


def _powers() -> list[str]:
    """The user, and what the kernel allows this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Uid:", "Gid:", "CapEff:"))]


_own_powers = _powers() if sys.platform == "linux" else []


def _umask() -> int:
    now = os.umask(0o77)
    os.umask(now)
    return now


def _forked(order: Mapping[str, Any], given: Mapping[str, Any]) -> int | None:
    """The pid of a child of this process, None where no server serves it."""
    global _server
    if threading.current_thread() is not threading.main_thread():
        return None
    if _server is None:
        if _started_by != os.getpid():
            return None
        _server = _started()
    ends = ("p2cread", "c2pwrite", "errwrite")
    streams = [given[end] if given[end] >= 0 else fd for fd, end in enumerate(ends)]
    try:
        body = json.dumps(order).encode()
        rights = array.array("i", streams)
        head = len(body).to_bytes(4, "big")
        _server.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        _server.sendall(body)
        answer = _server.recv(4)
    except OSError:  # a stream is closed, or the server is gone
        return None
    return int.from_bytes(answer, "big") or None


def _started() -> socket.socket:
    """A server for this process."""
    global _process
    ours, its = socket.socketpair()
    with its:
        command = [_INTERPRETER, "-m", "tests.support.fork_server", str(its.fileno())]
        paths = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        _process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**_at_start, "PYTHONPATH": paths},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    return ours


# ------------------------------------------------------------------------------------- the server


def load_everything() -> None:
    """Import all of ours, and what it imports when it is called."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for one in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(one.name)
    late = ("matplotlib.figure", "plotly.graph_objects", "plotly.io", "scipy.stats", "rich.live")
    late += ("optuna.importance", "optuna_dashboard", "waitress", "torch.optim", "trainer.train")
    for name in late:
        importlib.import_module(name)


def serve(server: socket.socket) -> None:
    """Fork what is asked for until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        head, rights, _, _ = server.recvmsg(4, socket.CMSG_SPACE(12))
        if not head:
            os._exit(0)
        length = int.from_bytes(head, "big")
        body = b""
        while len(body) < length:
            body += server.recv(length - len(body))
        streams = array.array("i", rights[0][2])
        pid = _brother()
        if pid == 0:
            server.close()
            _become(json.loads(body), streams)
        for stream in streams:
            os.close(stream)
        server.sendall(max(pid, 0).to_bytes(4, "big"))


def _brother() -> int:
    """fork(2), but for the parent: the new process is a child of this one's parent."""
    python, system = ctypes.pythonapi, ctypes.PyDLL(None)
    python.PyOS_BeforeFork()
    pid = int(system.syscall(CLONE, ctypes.c_long(CLONE_PARENT | signal.SIGCHLD), 0, 0, 0, 0))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return pid


def _become(order: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Be the process that was asked for, to its end."""
    global _server
    code: Any = 1
    try:
        if order["session"]:
            os.setsid()
        elif order["group"] != os.getpgrp():
            os.setpgid(0, order["group"])
        for fd, stream in enumerate(streams):
            os.dup2(stream, fd)
        os.closerange(3, 256)
        _server = None
        if order["module"] in STARTING:
            _server = _own_server()
        deaf = order["deaf"]
        signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
        os.umask(order["umask"])
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        _open_streams()
        _run(order["module"], order["words"])
        code = 0
    except SystemExit as ended:
        code = ended.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
    _end(code or 0)


def _own_server() -> socket.socket:
    """A server that is a child of this process, before that has done anything."""
    ours, its = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        with open(os.devnull, "r+b") as nothing:
            for fd in range(3):
                os.dup2(nothing.fileno(), fd)
        serve(its)
    its.close()
    return ours


def _open_streams() -> None:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for fd, name, mode, errors in (
        (0, "stdin", "r", sys.__stdin__.errors if sys.__stdin__ else "strict"),
        (1, "stdout", "w", sys.__stdout__.errors if sys.__stdout__ else "strict"),
        (2, "stderr", "w", "backslashreplace"),
    ):
        lines = fd == 2 or (fd == 1 and os.isatty(1))
        encoding = getattr(getattr(sys, f"__{name}__"), "encoding", "utf-8")
        buffering = 1 if lines else -1
        made = open(fd, mode, buffering, encoding, errors, closefd=False)  # noqa: SIM115
        if unbuffered and fd:
            made.reconfigure(write_through=True)  # type: ignore[attr-defined]
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def _run(module: str, words: Sequence[str]) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        import torch

        torch.set_num_threads(int(threads))
    sys.argv = [module, *words]
    # a test may have put a folder of its own there since the server began
    own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [os.getcwd(), *own]
    # it is loaded already, as it would not be
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end(code: int) -> None:
    """As an interpreter ends: threads, what is to happen at the end, streams, exit code."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 120
    except BaseException:
        traceback.print_exc()
        code = code or 120
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    # the functions that a child finds installed are those of the module, not of __main__
    from tests.support import fork_server

    fork_server.load_everything()
    assert threading.active_count() == 1
    fork_server.install()
    fork_server._started_by = None
    fork_server.serve(socket.socket(fileno=int(sys.argv[1])))
