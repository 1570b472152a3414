"""NVIDIA's Multi-Process Service without a GPU: a daemon and a driver that do as documented, for
processes that find them on PATH and LD_LIBRARY_PATH.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer.data.cache import locked
from trainer.files import atomic_path

_HERE = Path(__file__).parent


@functools.cache
def _driver() -> Path:
    """The folder of libcuda.so.1, compiled once; a test is skipped where it cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("MPS without a GPU needs a C compiler: install gcc")
    folder = Path(os.environ["FACE_PARSING_TEST_CACHE"]) / "libcuda"
    folder.mkdir(exist_ok=True)
    built = folder / "libcuda.so.1"
    with locked(folder / "lock"):
        if not built.exists():
            with atomic_path(built) as temporary:
                source = str(_HERE / "libcuda.c")
                subprocess.run(
                    [compiler, "-shared", "-fPIC", source, "-o", str(temporary)], check=True
                )
    return folder


class Mps:
    """What is on this machine, as its processes see it. folder: of the stand-in's own files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpus: int = 1) -> None:
        self.folder = folder
        (folder / "default").mkdir(parents=True)
        path = os.pathsep.join([str(_HERE), os.environ["PATH"]])
        for name, value in {
            "STAND_IN": str(folder),
            "PATH": path,
            "LD_LIBRARY_PATH": str(_driver()),
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, stub in {
            "is_available": lambda: True,
            "device_count": lambda: gpus,
            "get_device_capability": lambda device: (9, 0),
            "get_device_name": lambda device: "Fake GPU",
            "get_device_properties": lambda device: SimpleNamespace(uuid=f"uuid{device[-1]}-1"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stub)

    @property
    def journal(self) -> list[str]:
        """What daemons were asked: "start PIPES LOGS DEVICES" and "quit PIPES"."""
        file = self.folder / "journal"
        return file.read_text().splitlines() if file.exists() else []
