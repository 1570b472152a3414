"""optuna-dashboard on this store, with contact sheets and configs of the trials."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.names import RUNS, STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    from socketserver import BaseServer

HOST = "127.0.0.1"
PORT = 8080


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.dashboard", description=__doc__)
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of the artifacts (runs)")
    it.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"(default: {PORT}, or a free one where that is taken)",
    )
    it.add_argument(
        "--parent", type=int, metavar="PID", help="end when this parent process has ended"
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,))


def _main(args: argparse.Namespace) -> int:
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    import optuna
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    from storage import open_storage
    from trainer.errors import UserError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(args.storage, create=False)
    artifacts = Path(args.runs) / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """The page asks every few seconds; a line each would bury everything else."""

    application = wsgi(storage, artifact_store=FileSystemArtifactStore(str(artifacts)))

    def listening(port: int) -> WSGIServer:
        return make_server(HOST, port, application, Server, Quiet)

    try:
        server = listening(PORT if args.port is None else args.port)
    except OverflowError:
        raise UserError(f"--port {args.port}: a number from 0 to 65535 is needed") from None
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        if args.port is not None:
            raise UserError(f"--port {args.port}: {error.strerror}; name another port") from None
        server = listening(0)
    with server:
        # no password guards it, so it is for this machine only
        print(f"optuna-dashboard: http://{HOST}:{server.server_port}/", flush=True)
        if args.parent is not None:
            threading.Thread(target=_end_with, args=(args.parent, server), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def _end_with(parent: int, server: BaseServer) -> None:
    """Shut the server down once it has another parent than `parent`."""
    while os.getppid() == parent:
        time.sleep(1)
    server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
