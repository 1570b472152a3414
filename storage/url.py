"""What a user writes after --storage. Standard library only, so that `--help` stays fast."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from storage.errors import StorageError

EXAMPLES = "write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"

# from the first colon, for a user may hold an @, up to the last @, for a password may
_PASSWORD = re.compile(r"://[^:]*:(?P<secret>.*)@", re.DOTALL)
_DATABASE = re.compile(r"(?i)(--[\w-]+=)?(sqlite|postgres)[\w+]*://")
_SECRET_OPTION = re.compile(r"(?i)[?&][^=&]*(?:pass|secret|token|pwd)[^=&]*=(?P<secret>[^&]*)")


@dataclass(frozen=True)
class StoreUrl:
    """A checked URL. `path` is absolute and given for SQLite only; `text` may hold a password."""

    text: str
    path: Path | None

    @property
    def shown(self) -> str:
        """The URL as it may be printed."""
        return redact(self.text)


def redact(url: str) -> str:
    """The URL with every password in it replaced, also where the URL is malformed.

    >>> redact("postgresql://ann:se@cret@db/faces?sslpassword=x")
    'postgresql://ann:***@db/faces?sslpassword=***'
    """
    if "://" not in url and "@" in url:
        # it is not known where the password begins
        return f"***{url[url.rindex('@') :]}"
    return _hide(url)


def _hide(text: str) -> str:
    shown, end = "", 0
    for start, stop in sorted(match.span("secret") for match in _matches(text)):
        # where two overlap, neither alone covers the password
        if start >= end:
            shown += f"{text[end:start]}***"
        end = max(end, stop)
    return shown + text[end:]


def _matches(text: str) -> Iterator[re.Match[str]]:
    yield from _PASSWORD.finditer(text)
    yield from _SECRET_OPTION.finditer(text)


def redact_words(words: Sequence[str]) -> list[str]:
    """A command line as it may be printed: without the passwords of databases.

    >>> redact_words(["--storage=postgresql://ann:pw@db/x", "--on-event", "curl http://h:8/a@b"])
    ['--storage=postgresql://ann:***@db/x', '--on-event', 'curl http://h:8/a@b']
    """
    return [redact(word) if _DATABASE.match(word) else word for word in words]


def scrub(text: str, url: str) -> str:
    """`text` of a driver's error, on one line, without the secrets of `url`."""
    line = " ".join(_hide(text).split())
    for secret in _secrets(url):
        line = line.replace(secret, "***")
    return line if len(line) <= 300 else line[:297] + "..."


def for_optuna(url: str) -> str:
    """The URL as plain Optuna and optuna-dashboard want it: they fill in braces as a template."""
    return url.replace("{", "{{").replace("}", "}}")


def parse_url(url: str) -> StoreUrl:
    """Check a storage URL without opening anything.

    A relative SQLite path counts from the present folder and is made absolute at once. Raises
    StorageError for an empty URL, another kind of database, or a SQLite URL without a file.

    >>> parse_url("postgres://ann:pw@db/faces").text
    'postgresql+psycopg://ann:pw@db/faces'
    """
    given = url.strip()
    scheme, separator, rest = given.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise StorageError(f"storage {redact(url)!r} is not a URL: {_guess(given)}")
    if scheme in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_url(given, rest)
    if scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        if not rest.strip("/"):
            raise StorageError(
                f"storage {redact(url)!r} names no server and no database: {EXAMPLES}"
            )
        password = _PASSWORD.search(given)
        if password is not None and "@" in password["secret"]:
            # SQLAlchemy would take the second half for the server, and every error would show it
            raise StorageError(
                f"storage {redact(url)!r}: an @ inside user, password or options is written %40"
            )
        return StoreUrl(f"postgresql+psycopg://{rest}", None)
    raise StorageError(f"storage {redact(url)!r}: no support for {scheme!r}: {EXAMPLES}")


def _sqlite_url(given: str, rest: str) -> StoreUrl:
    if not rest.startswith("/"):
        raise StorageError(
            f"storage {redact(given)!r}: a SQLite URL has three slashes before the file: "
            f"write sqlite:///{rest or 'runs/search.db'}"
        )
    name, _, options = rest[1:].partition("?")
    if options:
        raise StorageError(
            f"storage {redact(given)!r}: options after the ? are not supported for SQLite "
            "(waiting times and the journal are chosen here): leave them out"
        )
    if not name or name == ":memory:":
        raise StorageError(
            f"storage {given!r} names no file, and a store must outlive its process: "
            "write sqlite:///runs/search.db"
        )
    if name.startswith("~"):
        raise StorageError(
            f"storage {given!r}: ~ has no meaning inside a URL: "
            f"write sqlite:///{os.path.expanduser(name)}"
        )
    # SQLAlchemy, and with it plain Optuna, decodes the name too: both must mean the same file
    path = Path(os.path.abspath(unquote(name, errors="surrogateescape")))
    if name.endswith("/") or os.path.isdir(path):
        raise StorageError(f"storage {given!r} is a folder: name a file in it, search.db say")
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    return StoreUrl(f"sqlite:///{encoded}", path)


def _guess(given: str) -> str:
    if given and "@" not in given and ":" not in given:
        return f"write {shlex.quote(f'sqlite:///{given}')} for a file"
    return EXAMPLES


def _secrets(url: str) -> list[str]:
    """Passwords in the URL as written and as decoded, longest first."""
    found = [match["secret"] for match in _matches(url)]
    both = {part for secret in found for part in (secret, unquote(secret)) if part}
    return sorted(both, key=len, reverse=True)
