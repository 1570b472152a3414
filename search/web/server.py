"""optuna-dashboard on a store, served to this machine or, with a password, to others."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import waitress
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import wsgi

from search.web.guard import ARTIFACTS, Guard
from search.web.password import HOST, PASSWORD, PORT, password_of
from search.web.path_prefix import Rebased, checked
from storage import LeasedStorage, StorageError, open_storage
from storage.optuna_internals import id_of_study
from trainer.errors import UserError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# what optuna-dashboard takes at most; waitress keeps a body on disk before anything is asked
LARGEST_BODY = 128 * 1024 * 1024
SMALLEST_BODY = 64 * 1024
CONNECTIONS = 32
# an id that every store's integer columns hold
MOST_DIGITS = 9


@dataclass(frozen=True)
class ServerOptions:
    """What the dashboard is asked for. parent: process with which it ends. port: None: a free one
    where the usual one is taken. allow_host: further names under which it is called."""

    storage: str
    runs: str
    host: str = HOST
    port: int | None = None
    password_file: str | None = None
    read_only: bool = False
    allow_host: Sequence[str] = ()
    path_prefix: str = ""
    parent: int | None = None


def serve(options: ServerOptions) -> None:
    """Serve the dashboard until SIGINT, SIGTERM or its parent's end. Raises UserError."""
    password = password_of(options.password_file)
    family, where = _resolved(options.host, PORT if options.port is None else options.port)
    # %: an address of one network card only
    ip = ipaddress.ip_address(where[0].partition("%")[0])
    if password is None and not ip.is_loopback:
        raise UserError(
            f"--host {options.host}: others can reach it, so a password is needed; "
            f"give one by --password-file FILE or in {PASSWORD}"
        )
    prefix = checked(options.path_prefix)
    hosts = {*map(_plain_name, options.allow_host), options.host, socket.gethostname()}

    logging.getLogger("waitress").setLevel(logging.ERROR)
    storage = open_storage(options.storage, create=False, read_only=options.read_only)
    for study in storage.get_all_studies():
        try:
            storage.check_numbers(id_of_study(study))
        except StorageError as error:
            # the others can be looked at
            print(f"warning: one of them is not shown: {error}", file=sys.stderr, flush=True)
    artifacts = Path(options.runs) / "artifacts"
    if not options.read_only:
        artifacts.mkdir(parents=True, exist_ok=True)
    application = _application(storage, artifacts)
    if prefix:
        application = Rebased(application, prefix)

    with _listening(family, where, options) as server_socket:
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
            Guard(application, password, options.read_only, hosts),
            sockets=[server_socket],
            ident=None,
            # bodies are taken in before the guard is asked: strangers must not fill the disk
            max_request_body_size=SMALLEST_BODY if options.read_only else LARGEST_BODY,
            connection_limit=CONNECTIONS,
            # taken off where the proxy has left it on
            url_prefix=prefix,
        )
        address = _address(options.host, ip.is_unspecified, server_socket.getsockname()[1])
        address += prefix.removeprefix("/") + "/" * bool(prefix)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if options.parent is not None:
                threading.Thread(target=_end_with, args=(options.parent,), daemon=True).start()
            print(f"optuna-dashboard: {address}", flush=True)
            server.run()
        server.close()


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(
            f"--allow-host {name}: a host name alone is needed, without scheme, port or path"
        )
    return name


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The first address that a host name or address stands for. Raises UserError if none does."""
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
    family: socket.AddressFamily, where: tuple[Any, ...], options: ServerOptions
) -> socket.socket:
    """A socket at that address; at a free port where none was named and the usual one is taken."""
    try:
        return socket.create_server(where, family=family)
    except OSError as error:
        said = os.strerror(error.errno or 0)
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--host {options.host}: {said}; name an address of this machine"
            ) from None
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        if options.port is not None:
            raise UserError(f"--port {options.port}: {said}; name another port") from None
    return socket.create_server((where[0], 0, *where[2:]), family=family)


def _address(host: str, everywhere: bool, port: int) -> str:
    """What to type into a browser."""
    name = socket.gethostname() if everywhere else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _application(storage: LeasedStorage, artifacts: Path) -> WSGIApplication:
    """optuna-dashboard, without its ways to end in an internal error or outside the folder."""

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
