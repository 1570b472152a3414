"""Errors of the database, sorted: wait and try again, give up with one line, or a bug."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import sqlalchemy.exc

from storage import sqlite
from storage.url import StoreUrl, scrub

Trouble = Literal[
    "passing",  # a restart, a lock, a lost connection: try again
    "lasting",  # a full disk, a lost file, a refused login: one line and the end
]


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING_STATES = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "25P03"})
_PASSING_CLASSES = frozenset({"08"})
_LASTING_STATES = frozenset({"25006", "42501", "3D000", "57P04", "42P01"})
_LASTING_CLASSES = frozenset({"28", "53", "58", "XX"})
# a refused connection carries no code, only text
_LASTING_TEXT = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
)


def kind_of(error: BaseException) -> Trouble | None:
    """How to treat `error`, or None where it is not the store's trouble but a bug or a refusal."""
    for cause in _chain(error):
        if isinstance(cause, sqlalchemy.exc.TimeoutError):
            return "passing"
        if isinstance(cause, sqlalchemy.exc.DBAPIError):
            if isinstance(cause, (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError)):
                return None
            if type(cause.orig).__module__.startswith("sqlite3"):
                return _sqlite_kind(cause)
            return _postgres_kind(cause)
    return None


def one_line(error: BaseException, url: StoreUrl) -> str:
    """What went wrong with the store at `url`, without its password."""
    text = str(error)
    for cause in _chain(error):
        if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.orig is not None:
            text = str(cause.orig)
            break
    if url.path is not None:
        return f"store {url.path}: {sqlite.reason(text)}"
    meaning = scrub(text, url.text).rstrip(".")
    advice = "check that the server runs and the URL is right"
    return f"store {url.shown}: {meaning}: {advice}"


def _sqlite_kind(error: sqlalchemy.exc.DBAPIError) -> Trouble | None:
    text = str(error.orig).lower()
    if "locked" in text or "busy" in text:
        return "passing"
    return "lasting" if sqlite.is_known(text) else None


def _postgres_kind(error: sqlalchemy.exc.DBAPIError) -> Trouble | None:
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in _PASSING_STATES or state[:2] in _PASSING_CLASSES:
        return "passing"
    if state in _LASTING_STATES or state[:2] in _LASTING_CLASSES:
        return "lasting"
    if state:
        return "passing" if error.connection_invalidated else None
    if isinstance(error, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)):
        text = str(error.orig).lower()
        return "lasting" if any(part in text for part in _LASTING_TEXT) else "passing"
    return "passing" if error.connection_invalidated else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    present: BaseException | None = error
    while present is not None and id(present) not in seen:
        seen.add(id(present))
        yield present
        present = present.__cause__ or present.__context__
