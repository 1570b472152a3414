"""SQLite with the cures that several processes need.

Left alone, Python's sqlite3 and Optuna hand one waiting trial to several workers and report
"database is locked". The cures: a write-ahead log, transactions that take the write lock at their
very beginning, and patience.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from storage.errors import StorageError
from storage.mounts import network_type

T = TypeVar("T")

BUSY_S = 60.0
_OPTUNA_TABLES = frozenset({"studies", "trials", "version_info"})


@dataclass(frozen=True)
class SqliteFile:
    """A file that was looked at and may be opened.

    identity: device and inode, so that a file deleted or replaced in mid-run is noticed.
    warning: one line for the person when the safe mode for network file systems is on.
    """

    path: Path
    mode: str
    wal: bool
    identity: tuple[int, int]
    initialised: bool
    warning: str | None

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode: the engine begins every transaction itself."""
        connection = _open(self.path, self.mode)
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        if self.wal:
            # the log survives a crash of the process; only a power cut can cost the last commits
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def check_identity(self) -> None:
        """Raise StorageError if the file was deleted or replaced since it was opened.

        SQLite would go on writing into the deleted file, and all of it would be lost.
        """
        try:
            present = os.stat(self.path)
        except OSError as error:
            raise StorageError(
                f"store {self.path} is gone ({error.strerror or error}): put the file back, or "
                "rebuild the study with python -m search.rebuild"
            ) from None
        if (present.st_dev, present.st_ino) != self.identity:
            raise StorageError(
                f"store {self.path} was replaced by another file while it was in use: "
                "start again to use the new one"
            )


def prepare(path: Path, *, create: bool, read_only: bool, mounts: str | None = None) -> SqliteFile:
    """Look at the file (made together with its folder when `create`), and set its journal.

    Raises StorageError for a missing, unreadable, read-only or foreign file.
    """
    if not _exists(path):
        if not create:
            raise StorageError(
                f"store {path} does not exist: start a search first, or name another --storage"
            )
        _make(path)
    network = network_type(path, mounts)
    try:
        mode = "rw" if not read_only else _read_mode(path)
        with closing(_open(path, mode)) as connection:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type='table'"
                )
            }
            _check_tables(path, tables, create=create)
            if read_only:
                wal = False
            else:
                _patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
                # only a write fails at once where the file or its folder is read-only
                connection.execute("PRAGMA user_version = 0")
                connection.execute("ROLLBACK")
                wal = _set_journal(connection, "delete" if network else "wal") == "wal"
        stat = os.stat(path)
    except sqlite3.Error as error:
        raise StorageError(f"store {path}: {_reason(error)}") from None
    except OSError as error:
        raise StorageError(f"store {path}: {error.strerror or error}") from None
    return SqliteFile(
        path=path,
        mode=mode,
        wal=wal,
        identity=(stat.st_dev, stat.st_ino),
        initialised={"version_info", "alembic_version", "studies"} <= tables,
        warning=None
        if network is None or read_only
        else (
            f"store {path} lies on a network file system ({network}): SQLite runs in its slow and "
            "safe mode there; take PostgreSQL where several machines write"
        ),
    )


def _exists(path: Path) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # a folder that may not be entered, a name too long
        raise StorageError(f"store {path}: {error.strerror or error}") from None
    return True


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # an empty file is an empty database
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
    except OSError as error:
        raise StorageError(
            f"store {path} cannot be made ({error.strerror or error}): "
            "name a file in a folder that you may write to"
        ) from None


def _open(path: Path, mode: str) -> sqlite3.Connection:
    # rw, never rwc: a store that was deleted must not come back as an empty one
    how = "immutable=1" if mode == "immutable" else f"mode={mode}"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{how}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _read_mode(path: Path) -> str:
    """`ro`, or `immutable` for a log-mode file whose folder takes no helper files."""
    try:
        with closing(_open(path, "ro")) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        return "immutable"
    return "ro"


def _check_tables(path: Path, tables: set[str], *, create: bool) -> None:
    own = {name for name in tables if not name.startswith("sqlite_")}
    if own and not own & _OPTUNA_TABLES:
        raise StorageError(
            f"store {path} is the database of another program (tables: "
            f"{', '.join(sorted(own)[:3])}): name another file"
        )
    if not create and _OPTUNA_TABLES - own:
        raise StorageError(f"store {path} holds no studies: start a search first")


def _set_journal(connection: sqlite3.Connection, wanted: str) -> str:
    def switch() -> str:
        (present,) = connection.execute("PRAGMA journal_mode").fetchone()
        if present != wanted:
            (present,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
        return str(present)

    return _patiently(switch)


def _patiently(attempt: Callable[[], T]) -> T:
    """Changing the journal ignores the busy timeout, so wait here while others have it open."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _reason(error: sqlite3.Error) -> str:
    return reason(str(error))


def reason(text: str) -> str:
    """What SQLite said, with the mend where one is known."""
    for part, meaning in _REASONS:
        if part in text.lower():
            return meaning
    return " ".join(text.split())


def is_known(text: str) -> bool:
    """Whether `text` of SQLite tells of a state of the store, not of a wrong statement."""
    return any(part in text.lower() for part, _ in _REASONS)


_REASONS = (
    ("not a database", "the file is not a database: name another file"),
    ("readonly", "it is read-only: make the file and its folder writable, or name another"),
    ("disk is full", "the disk is full: make room and start again"),
    ("unable to open", "the file cannot be opened: check its folder and its permissions"),
    ("disk i/o error", "the disk reports an error (full, unplugged or broken): check it"),
    ("malformed", "the file is damaged: restore it, or python -m search.rebuild"),
    ("no such table", "the file was emptied while in use: restore it or start again"),
    ("locked", f"another process has held it for {BUSY_S:.0f} s: find and end that process"),
)
