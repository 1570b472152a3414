"""Names of studies and workers, and the defaults that the commands share."""

from __future__ import annotations

import re
import socket

STORAGE, RUNS = "sqlite:///runs/search.db", "runs"
# studies that are not searches of their own
CONFIRM_SUFFIX = "-confirm"
# seconds between the beats of a worker, and seconds of silence after which it counts as dead
BEAT_S = 2.0
GRACE_S = 20.0
# what a setup may name; `search.strategy` makes them
SAMPLERS = ("tpe", "gp", "random")
PRUNERS = (
    *("restart-aware", "median", "percentile", "hyperband", "successive-halving", "patient"),
    "none",
)
# seeds of each configuration that search.confirm repeats at most
SEEDS = 10


def default_name(data: str, preset: str, image_size: int) -> str:
    """`<data>-<preset>-<size>`: built-in faces and one's own data do not collide.

    >>> default_name("synthetic", "demo", 48)
    'synthetic-demo-48'
    """
    plain = re.sub(r"[^\w.-]+", "-", data).strip("-") or "data"
    return f"{plain}-{preset}-{image_size}"


def default_program_name(program: str) -> str:
    """The name of a study that a program of the user's trains.

    >>> default_program_name("train v2")
    'train-v2'
    """
    return re.sub(r"[^\w.-]+", "-", program).strip("-.") or "program"


def owner_name(pid: int) -> str:
    """How a worker of this machine signs its claims: HOST:PID."""
    return f"{socket.gethostname()}:{pid}"


def search_name(name: str) -> str:
    """The name of a search, also where its repeats were named."""
    return name.removesuffix(CONFIRM_SUFFIX)


def repeats_name(name: str) -> str:
    """The name of the repeats of a search, also where they were named themselves."""
    return search_name(name) + CONFIRM_SUFFIX


def is_repeats(name: str) -> bool:
    """Whether a study holds repeats of chosen configurations."""
    return name.endswith(CONFIRM_SUFFIX)
