"""A real PostgreSQL server in a folder of its own, for one test session. Works as root too."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.reliability import own_postgres

_numbers = itertools.count()


@contextmanager
def server() -> Iterator[Any]:
    """Start a server and stop it again. Raises whatever keeps it from starting."""
    # not pytest's folder: the server may run as another user, who must be able to enter it. Not
    # TMPDIR: its socket's path may hold no space and 100 characters at most
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        # writing everything out takes half a minute
        with own_postgres.server(folder / "data", signal.SIGQUIT) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_schema(running: Any) -> str:
    """The URL of an empty schema on the running server.

    A database each would be 300 files each, and half a minute to stop the server.
    """
    import psycopg

    name = f"search_{next(_numbers)}"
    with psycopg.connect(running.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{running.get_uri()}&options=-csearch_path%3D{name}"
