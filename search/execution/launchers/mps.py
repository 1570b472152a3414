"""Several workers on one GPU at the same time: NVIDIA's Multi-Process Service (MPS).

Without it the processes on a GPU take turns, and several are no faster than one. It is said and
never demanded: whatever fails, the run goes on without. One that runs already, or that the
environment names, is used as it is; CUDA_MPS_PIPE_DIRECTORY=/dev/null is the switch that turns it
off. A fatal error of one worker ends the others of its GPU as well, whose trials then wait.

Source: NVIDIA, Multi-Process Service, "Environment Variables" and "Starting and Stopping MPS".
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from search.execution.launchers.launcher import last_words
from trainer.cli import one_line

LOG = logging.getLogger(__name__)
_CONTROL = "nvidia-cuda-mps-control"
_PIPES, _LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# before Volta a wrong address of one process could reach the memory of another
_VOLTA = (7, 0)
# characters of a folder's path: a socket's may have 108, and the daemon names its own in there
_LONGEST = 80
_PATIENCE_S, _ANSWER_S = 60.0, 5.0
# asks the daemon to end once this process has, however that was, and takes its folder away
_KEEPER = f'read -r _; echo quit | {_CONTROL} > /dev/null 2>&1; rm -rf "$1"'
# the first use of each GPU: a worker would end with what goes wrong here. Where CUDA cannot connect
# it goes on without a word, so whether there is a server now is asked as well
_CLIENT = """
import ctypes, subprocess, sys
cuda = ctypes.CDLL("libcuda.so.1")
def ask(name, *words):
    code = getattr(cuda, name)(*words)
    if code:
        said = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(said))
        sys.exit(f"{name}: {said.value.decode() if said.value else code}")
count = ctypes.c_int()
ask("cuInit", 0)
ask("cuDeviceGetCount", ctypes.byref(count))
if count.value != int(sys.argv[1]):
    sys.exit(f"a process sees {count.value} of {sys.argv[1]} GPUs through it")
for number in range(count.value):
    device, context = ctypes.c_int(), ctypes.c_void_p()
    ask("cuDeviceGet", ctypes.byref(device), number)
    ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
listed = subprocess.run(sys.argv[2:], input="get_server_list\\n", capture_output=True, text=True)
if not listed.stdout.strip():
    sys.exit("it is not served")
"""


class _Without(Exception):
    """Why there is no MPS."""


class SharedGpus:
    """MPS for the workers of a run. Used through `with`: what was started here ends with it.

    environment: what processes on the GPUs need in theirs. served: whether they are by MPS.
    """

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.served = False
        self._begun = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def __enter__(self) -> SharedGpus:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, devices: Sequence[str]) -> None:
        """Let processes on these devices compute at the same time, or say why they take turns."""
        gpus = sorted({device for device in devices if device.startswith("cuda")})
        if self._begun or not gpus:
            return
        self._begun = True
        try:
            whose = self._start(gpus)
        except subprocess.TimeoutExpired:
            self._go_without(f"it did not answer within {_PATIENCE_S:g} s")
        except (_Without, OSError, RuntimeError) as error:
            self._go_without(one_line(error))
        else:
            self.served = True
            LOG.info(f"workers on one GPU compute at the same time, by NVIDIA's MPS ({whose})")

    def _go_without(self, why: str) -> None:
        self.stop()
        LOG.info(f"workers on one GPU take turns, without NVIDIA's MPS: {why}")

    def start_for(self, devices: Sequence[str]) -> None:
        """The same for the devices of all workers, one each; nothing where none has two."""
        shared = [device for device, workers in Counter(devices).items() if workers > 1]
        if shared:
            self.start(shared)
        else:
            self.stop()

    def stop(self) -> None:
        """End what was started here."""
        keeper, self._keeper = self._keeper, None
        self.environment, self.served = {}, False
        if keeper is not None:
            assert keeper.stdin is not None
            with suppress(BrokenPipeError):
                keeper.stdin.close()
            try:
                keeper.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start(self, gpus: Sequence[str]) -> str:
        """Whose it is, in words. Raises _Without, OSError, RuntimeError and TimeoutExpired."""
        named = os.environ.get(_PIPES)
        if shutil.which(_CONTROL) is None:
            raise _Without(f"{_CONTROL} is not to be found")
        if _answers(os.environ):
            return "the one that runs here" if named is None else f"the one of {_PIPES}"
        if named is not None:
            raise _Without(f"none answers in {_PIPES}={named}")
        for gpu in gpus:
            if torch.cuda.get_device_capability(gpu) < _VOLTA:
                raise _Without(f"{torch.cuda.get_device_name(gpu)} is older than Volta")
        self.environment = self._own(Path(tempfile.mkdtemp(prefix="mps-")))
        variables = os.environ | self.environment
        # a file, since the daemon keeps what it was given open
        said = Path(self.environment[_LOGS]) / "start"
        with said.open("wb") as output:
            begun = subprocess.run(
                [_CONTROL, "-d"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                timeout=_PATIENCE_S,
            )
        if begun.returncode or not _answers(variables, within_s=_ANSWER_S):
            raise _Without(f"it did not start ({last_words(said)})")
        client = subprocess.run(
            [sys.executable, "-I", "-c", _CLIENT, str(torch.cuda.device_count()), _CONTROL],
            capture_output=True,
            text=True,
            env=variables,
            timeout=_PATIENCE_S,
        )
        if client.returncode:
            lines = client.stderr.strip().splitlines() or [f"exit code {client.returncode}"]
            raise _Without(f"a process cannot use it ({lines[-1]})")
        return "started for this run"

    def _own(self, folder: Path) -> dict[str, str]:
        """The environment of a daemon in a folder of its own, which is looked after from now on."""
        if len(str(folder)) > _LONGEST:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="mps-", dir="/tmp"))
        self._folder = folder
        (folder / "log").mkdir()
        # by name: a daemon numbers the devices that it is given anew, and its clients number those
        uuids = (str(torch.cuda.get_device_properties(gpu).uuid) for gpu in _all_gpus())
        visible = ",".join(uuid if "-" in uuid[:4] else f"GPU-{uuid}" for uuid in uuids)
        own = {_PIPES: str(folder), _LOGS: str(folder / "log"), _VISIBLE: visible}
        self._keeper = subprocess.Popen(
            ["sh", "-c", _KEEPER, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | own,
            # Ctrl-C is for this process
            start_new_session=True,
        )
        return own


def _all_gpus() -> list[str]:
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _answers(variables: Mapping[str, str], within_s: float = 0.0) -> bool:
    """Whether a daemon is there."""
    until = time.monotonic() + within_s
    while True:
        said = subprocess.run(
            [_CONTROL],
            input="get_server_list\n",
            capture_output=True,
            text=True,
            env=variables,
            timeout=_PATIENCE_S,
        )
        if said.returncode == 0 or time.monotonic() > until:
            return said.returncode == 0
        time.sleep(0.1)
