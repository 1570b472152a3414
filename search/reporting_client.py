"""`report` tells a search how a training goes: `from search.reporting_client import report`.

Standard library alone: the file may be copied beside a program that does not see this package.
"""

from __future__ import annotations

import json
import os
from typing import SupportsFloat


def report(epoch: int, score: SupportsFloat, **figures: SupportsFloat) -> None:
    """Tell the score after an epoch, and any more numbers. Epochs count from 1.

    Appends one line of JSON to the file that the variable SEARCH_REPORT names; does nothing where
    it is not set, so that a program may report wherever it runs. Numbers may be those of numpy and
    tensors of one element. Raises OSError where the file cannot be written.
    """
    path = os.environ.get("SEARCH_REPORT")
    if not path:
        return
    numbers = {"score": float(score), **{name: float(value) for name, value in figures.items()}}
    line = json.dumps({"epoch": int(epoch), **numbers}) + "\n"
    # in one write, and past every buffer: a reader never waits for its end
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
