"""optuna-dashboard on this store, with contact sheets and configs of the trials."""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.study.names import RUNS, STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from storage import LeasedStorage

HOST = "127.0.0.1"
PORT = 8080
PASSWORD = "SEARCH_DASHBOARD_PASSWORD"
# what optuna-dashboard takes at most; waitress keeps a body on disk before anything is asked
LARGEST_BODY = 128 * 1024 * 1024
SMALLEST_BODY = 64 * 1024
CONNECTIONS = 32
# an id that every store's integer columns hold
MOST_DIGITS = 9


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.dashboard", description=__doc__)
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of the artifacts (runs)")
    it.add_argument(
        "--host",
        default=HOST,
        metavar="H",
        help=f"address to serve at; other than this machine alone needs a password ({HOST})",
    )
    it.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"(default: {PORT}, or a free one where that is taken)",
    )
    it.add_argument(
        "--password-file",
        metavar="FILE",
        help=f"its first line is the password; or set {PASSWORD} in the environment",
    )
    it.add_argument(
        "--read-only", action="store_true", help="refuse whatever would change the store"
    )
    it.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name under which the dashboard is called (repeatable)",
    )
    it.add_argument(
        "--path-prefix",
        default="",
        metavar="PATH",
        help="path of a proxy under which the dashboard is called, /optuna say",
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
    import optuna
    import waitress

    from search.web.guard import Guard
    from search.web.path_prefix import Rebased, checked
    from storage import StorageError, open_storage
    from storage.optuna_internals import id_of_study
    from trainer.errors import UserError

    password = _password(args.password_file)
    family, where = _resolved(args.host, PORT if args.port is None else args.port)
    # %: an address of one network card only
    ip = ipaddress.ip_address(where[0].partition("%")[0])
    if password is None and not ip.is_loopback:
        raise UserError(
            f"--host {args.host}: others can reach it, so a password is needed; "
            f"give one by --password-file FILE or in {PASSWORD}"
        )
    prefix = checked(args.path_prefix)
    hosts = {*map(_plain_name, args.allow_host), args.host, socket.gethostname()}

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("waitress").setLevel(logging.ERROR)
    storage = open_storage(args.storage, create=False, read_only=args.read_only)
    for study in storage.get_all_studies():
        try:
            storage.check_numbers(id_of_study(study))
        except StorageError as error:
            # the others can be looked at
            print(f"warning: one of them is not shown: {error}", file=sys.stderr, flush=True)
    artifacts = Path(args.runs) / "artifacts"
    if not args.read_only:
        artifacts.mkdir(parents=True, exist_ok=True)
    application = _application(storage, artifacts)
    if prefix:
        application = Rebased(application, prefix)

    with _listening(family, where, args) as server_socket:
        if not ip.is_loopback:
            # a look-up that can take seconds
            hosts.add(socket.getfqdn())
            print(
                "note: the password travels unencrypted; put TLS in front (a reverse proxy or an "
                "ssh tunnel) where the network is not yours",
                file=sys.stderr,
                flush=True,
            )
        server = waitress.create_server(
            Guard(application, password, args.read_only, hosts),
            sockets=[server_socket],
            ident=None,
            # bodies are taken in before the guard is asked: strangers must not fill the disk
            max_request_body_size=SMALLEST_BODY if args.read_only else LARGEST_BODY,
            connection_limit=CONNECTIONS,
            # taken off where the proxy has left it on
            url_prefix=prefix,
        )
        address = _address(args.host, ip.is_unspecified, server_socket.getsockname()[1])
        address += prefix.removeprefix("/") + "/" * bool(prefix)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if args.parent is not None:
                threading.Thread(target=_end_with, args=(args.parent,), daemon=True).start()
            print(f"optuna-dashboard: {address}", flush=True)
            server.run()
        server.close()
    return 0


def _password(file: str | None) -> str | None:
    """The password, if one was given; no process that this one starts inherits it."""
    from trainer.errors import UserError

    source, password = PASSWORD, os.environ.pop(PASSWORD, None)
    if file is not None:
        source = f"--password-file {file}"
        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as opened:
                others_read = os.fstat(opened.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH)
                password = opened.readline().rstrip("\r\n")
        except OSError as error:
            raise UserError(
                f"{source}: {error.strerror}; name a file whose first line is the password"
            ) from None
        if others_read:
            print(
                f"warning: {source}: others on this machine can read it; chmod 600 mends that",
                file=sys.stderr,
                flush=True,
            )
    if password is not None and not password.strip():
        raise UserError(f"{source}: empty; the password must be in its first line")
    return password


def _plain_name(name: str) -> str:
    from trainer.errors import UserError

    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(
            f"--allow-host {name}: a host name alone is needed, without scheme, port or path"
        )
    return name


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The first address that a host name or address stands for. Raises UserError if none does."""
    from trainer.errors import UserError

    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: a number from 0 to 65535 is needed")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        said = getattr(error, "strerror", None) or "not a host name"
        raise UserError(f"--host {host}: {said}; name an address of this machine") from None
    family, _, _, _, where = found[0]
    return family, where


def _listening(
    family: socket.AddressFamily, where: tuple[Any, ...], args: argparse.Namespace
) -> socket.socket:
    """A socket at that address; at a free port where none was named and the usual one is taken."""
    from trainer.errors import UserError

    try:
        return socket.create_server(where, family=family)
    except OSError as error:
        said = os.strerror(error.errno or 0)
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--host {args.host}: {said}; name an address of this machine"
            ) from None
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        if args.port is not None:
            raise UserError(f"--port {args.port}: {said}; name another port") from None
    return socket.create_server((where[0], 0, *where[2:]), family=family)


def _address(host: str, everywhere: bool, port: int) -> str:
    """What to type into a browser."""
    name = socket.gethostname() if everywhere else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _application(storage: LeasedStorage, artifacts: Path) -> WSGIApplication:
    """optuna-dashboard, without its ways to end in an internal error or outside the folder."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.artifacts.exceptions import ArtifactNotFound
    from optuna_dashboard import wsgi

    from search.web.guard import ARTIFACTS

    class Artifacts(FileSystemArtifactStore):
        def open_reader(self, artifact_id: str) -> Any:
            """A file of the folder itself; a link could lead out of it."""
            file = artifacts / artifact_id
            if file.is_symlink() or not file.is_file():
                raise ArtifactNotFound(artifact_id)
            return super().open_reader(artifact_id)

        def remove(self, artifact_id: str) -> None:
            """One that is gone already must not keep its study from being deleted."""
            with contextlib.suppress(ArtifactNotFound):
                super().remove(artifact_id)

    dashboard = wsgi(storage, artifact_store=Artifacts(artifacts))
    # what a look-up raises comes here instead of becoming an internal error
    dashboard.catchall = False
    application: WSGIApplication = dashboard

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # optuna-dashboard reads it without asking whether it is there
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        path = environ["PATH_INFO"]
        if not _leads_astray(path):
            try:
                return application(environ, start_response)
            except (KeyError, ArtifactNotFound):
                if not path.startswith(ARTIFACTS):
                    raise
        environ["PATH_INFO"] = "/not-found"
        return application(environ, start_response)

    return answer


def _leads_astray(path: str) -> bool:
    """Whether a path, as WSGI gives it, steps out of a folder or names an id that no store has.

    >>> _leads_astray("/artifacts/1/2/0f-3a"), _leads_astray("/static/../x")
    (False, True)
    """
    try:
        text = path.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return True
    parts = text.split("/")
    too_large = re.compile(rf"-?\d{{{MOST_DIGITS + 1},}}")
    return "\0" in text or "\\" in text or ".." in parts or any(map(too_large.fullmatch, parts))


def _end_with(parent: int) -> None:
    """End this process, as SIGTERM does, once it has another parent than `parent`."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
