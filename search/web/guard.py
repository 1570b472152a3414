"""What stands between the network and optuna-dashboard: a password, no foreign pages, read-only."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any
from wsgiref.headers import Headers

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# wrong passwords from one address within the window, after which it has to wait
MOST_FAILURES = 10
WINDOW_S = 60.0
# addresses that are remembered; beyond that the longest quiet ones are forgotten
MOST_ADDRESSES = 10_000

# methods that change nothing; every other one, known or not, may
READING = frozenset({"GET", "HEAD", "OPTIONS"})

ARTIFACTS = "/artifacts/"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # no-referrer would also turn the Origin of a form's request into null
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # optuna-dashboard's page brings its own; this is for its answers that are no page
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
# an uploaded HTML or SVG file, opened by itself, is a stranger to the page and runs no scripts
_ARTIFACT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class _Refusal:
    """An answer in place of the application's: a status, and one line that says the fix."""

    status: str
    line: str
    headers: tuple[tuple[str, str], ...] = ()


class Attempts:
    """Wrong passwords of the last minute, by address; an IPv6 address counts by its /64."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        # the address that failed last stands last
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._failures)

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 if it may now."""
        with self._lock:
            failures = self._failures.get(_counted_as(address))
            if failures is None or len(failures) < MOST_FAILURES:
                return 0.0
            return max(0.0, failures[0] + WINDOW_S - self._clock())

    def failed(self, address: str) -> None:
        """Count one wrong password."""
        now = self._clock()
        key = _counted_as(address)
        with self._lock:
            self._failures.setdefault(key, deque(maxlen=MOST_FAILURES)).append(now)
            self._failures.move_to_end(key)
            while self._oldest_is_idle(now) or len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def _oldest_is_idle(self, now: float) -> bool:
        oldest = next(iter(self._failures.values()))
        return oldest[-1] + WINDOW_S <= now


class Guard:
    """A WSGI application that lets through to another one only what is allowed.

    password: of HTTP Basic, with any user name; None asks for none. read_only: refuse every
    request that could change something. hosts: names, besides localhost and any IP address, under
    which this server may be called. clock: seconds, for the limit of failed attempts.
    """

    def __init__(
        self,
        app: WSGIApplication,
        password: str | None,
        read_only: bool,
        hosts: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._password = None if password is None else password.encode(errors="surrogateescape")
        self._read_only = read_only
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._attempts = Attempts(clock)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        artifact = environ.get("PATH_INFO", "").startswith(ARTIFACTS)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, self._secured(headers, artifact), *exc_info)

        refusal = self._refusal(environ)
        if refusal is None:
            # nothing behind this point needs it, so nothing can log it
            environ.pop("HTTP_AUTHORIZATION", None)
            return self._app(environ, start)
        body = f"{refusal.line}\n".encode()
        kind = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start(refusal.status, [*kind, *refusal.headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _secured(self, headers: Iterable[tuple[str, str]], artifact: bool) -> list[tuple[str, str]]:
        """The answer's headers, and those of security that it lacks."""
        kept = Headers(list(headers))
        if (location := kept["Location"]) is not None:
            # the browser's scheme stays: TLS where a proxy speaks it
            kept["Location"] = location.removeprefix("http:")
        if artifact:
            del kept["Access-Control-Allow-Origin"]
            # its type is what the uploader said, and it is no script here
            if "script" in "".join(kept.get_all("Content-Type")).lower():
                kept["Content-Type"] = "text/plain; charset=utf-8"
            kept.setdefault("Content-Security-Policy", _ARTIFACT_POLICY)
        if self._password is not None:
            kept.setdefault("Cache-Control", "no-store")
        for name, value in _HEADERS.items():
            kept.setdefault(name, value)
        return kept.items()

    def _refusal(self, environ: WSGIEnvironment) -> _Refusal | None:
        changing = environ["REQUEST_METHOD"] not in READING
        if self._password is not None and (refusal := self._without_password(environ)):
            return refusal
        if changing and self._read_only:
            return _Refusal(
                "403 Forbidden",
                "this dashboard is read-only; start it without --read-only to change something",
            )
        # a foreign name can be made to point here: its pages would then read the answers, too
        if (changing or self._password is None) and (refusal := self._misnamed(environ)):
            return refusal
        return _from_elsewhere(environ) if changing else None

    def _without_password(self, environ: WSGIEnvironment) -> _Refusal | None:
        address = environ.get("REMOTE_ADDR", "")
        if wait_s := math.ceil(self._attempts.wait_s(address)):
            return _Refusal(
                "429 Too Many Requests",
                f"too many wrong passwords from this address; try again in {wait_s} s",
                (("Retry-After", str(wait_s)),),
            )
        credentials = environ.get("HTTP_AUTHORIZATION")
        if credentials is not None:
            assert self._password is not None
            if hmac.compare_digest(_password_of(credentials), self._password):
                return None
            self._attempts.failed(address)
        return _Refusal(
            "401 Unauthorized",
            "a password is needed: the one that this dashboard was started with, any user name",
            (("WWW-Authenticate", 'Basic realm="dashboard", charset="UTF-8"'),),
        )

    def _misnamed(self, environ: WSGIEnvironment) -> _Refusal | None:
        """A refusal if the request calls this server by a name that is not known to be its own."""
        name = _host_name(environ.get("HTTP_HOST", ""))
        if name is not None and (_is_address(name) or name in self._hosts):
            return None
        return _Refusal(
            "403 Forbidden",
            f"Host {name or 'missing or malformed'}: not a name of this machine; if it is one, "
            f"start the dashboard with --allow-host {name or 'NAME'}",
        )


def _from_elsewhere(environ: WSGIEnvironment) -> _Refusal | None:
    """A refusal if a browser says that another site's page sent the request."""
    origin = environ.get("HTTP_ORIGIN")
    # the scheme may differ: a proxy in front may speak TLS
    same = origin is None or origin.lower().partition("://")[2] == environ["HTTP_HOST"].lower()
    if same and environ.get("HTTP_SEC_FETCH_SITE") != "cross-site":
        return None
    return _Refusal(
        "403 Forbidden",
        "the request comes from another site's page; use the dashboard's own page (a proxy in "
        "front must pass the Host header on unchanged)",
    )


def _password_of(credentials: str) -> bytes:
    """The password of an Authorization header; empty, which none is, where it has none."""
    scheme, _, encoded = credentials.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _host_name(header: str) -> str | None:
    """The name or address of a Host header, without its port; None if it is malformed.

    >>> _host_name("Lab.example:8080"), _host_name("[::1]:80"), _host_name("a@b")
    ('lab.example', '::1', None)
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d*)?", header, re.ASCII)
    return None if match is None else (match[1] or match[2]).lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _counted_as(address: str) -> str:
    """What an address's failures are counted under: one machine owns a whole /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip if ip.version == 4 else ipaddress.ip_network((ip, 64), strict=False))
