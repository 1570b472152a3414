"""SQLite with the cures that several processes need.

Left alone, Python's sqlite3 and Optuna hand one waiting trial to several workers and report
"database is locked". The cures: a write-ahead log, transactions that take the write lock at their
very beginning, and patience. The log is emptied into the file whenever somebody comes or goes, so
that the file alone is the whole store while nobody is at work.
"""

from __future__ import annotations

import contextlib
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
# how long who leaves waits for others to end their transactions; who stays empties the log himself
LEAVING_S = 1.0
_OPTUNA_TABLES = frozenset({"studies", "trials", "version_info"})
# a store that lacks one of these is still to be made
INITIALISED = frozenset({"version_info", "alembic_version", "studies"})


@dataclass(frozen=True)
class SqliteFile:
    """A file that was looked at and may be opened.

    read_only: nothing is written through it. ours: the file and its folder may be written to, so
    that who only reads can still empty the log. identity: device and inode, so that a file deleted
    or replaced in mid-run is noticed. warning: one line for the user when the safe mode for
    network file systems is on.
    """

    path: Path
    read_only: bool
    ours: bool
    wal: bool
    identity: tuple[int, int]
    initialised: bool
    warning: str | None

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode: the engine begins every transaction itself.

        Raises StorageError where the log of somebody else's store cannot be read.
        """
        connection = _open(self.path, "rw" if self.ours else _foreign_mode(self.path))
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        if self.read_only:
            connection.execute("PRAGMA query_only = ON")
        elif self.wal:
            # the log survives a crash of the process; only a power cut can cost the last commits
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def settle(self) -> None:
        """Empty the log into the file; for who leaves.

        SQLite does so when the last connection is closed, but two that close at the same moment
        both take the other for the last one. Where others are in mid-transaction it is left to
        them, and somebody else's store is left as it is. Never raises.
        """
        # an error here must not hide what the command has to say, and no data are lost by it
        with contextlib.suppress(StorageError, sqlite3.Error, OSError):
            if self.ours:
                self.check_identity()
                with closing(_open(self.path, "rw")) as connection:
                    _empty_log(connection, LEAVING_S)

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

    What an unclean end left in the log is brought into the file, also by who only reads, if the
    file is his to write. Raises StorageError for a missing, unreadable, read-only or foreign file.
    """
    _refuse_lone_log(path)
    if not _exists(path):
        if not create:
            raise StorageError(
                f"store {path} does not exist: start a search first, or name another --storage"
            )
        _make(path)
    network = network_type(path, mounts)
    try:
        ours = not read_only or _is_ours(path)
        if ours:
            _refuse_strange_log(path)
        with closing(_open(path, "rw" if ours else _foreign_mode(path))) as connection:
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
            if ours:
                _empty_log(connection, 0)
        stat = os.stat(path)
    except sqlite3.Error as error:
        # SQLite only says that it cannot open what it cannot make in the folder
        readable = "unable to open" in str(error) and os.access(path, os.R_OK)
        known = "readonly" if readable and not _is_ours(path) else str(error)
        raise StorageError(f"store {path}: {reason(known)}") from None
    except OSError as error:
        raise StorageError(f"store {path}: {error.strerror or error}") from None
    return SqliteFile(
        path=path,
        read_only=read_only,
        ours=ours,
        wal=wal,
        identity=(stat.st_dev, stat.st_ino),
        initialised=tables >= INITIALISED,
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
    query = "immutable=1" if mode == "immutable" else f"mode={mode}"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{query}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _is_ours(path: Path) -> bool:
    # the log and its index are made in the folder
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _foreign_mode(path: Path) -> str:
    """`ro` or `immutable`: how to read a file that is not ours, leaving nothing beside it.

    A log or an index that we made there would lock its owner out. Raises StorageError where the
    log cannot be read without making the index.
    """
    log, index = _beside(path, "-wal"), _beside(path, "-shm")
    if not _in_log_mode(path) or (log.exists() and index.exists()):
        return "ro"
    if _size(log):
        raise StorageError(
            f"store {path} may not be written to, and its newest rows are in {log.name}, which"
            f" cannot be read there: copy both files to a folder of your own and name that, or let"
            " the owner open it once (python -m search.queue list)"
        )
    return "immutable"


def _in_log_mode(path: Path) -> bool:
    # read and write version in the file's header (https://www.sqlite.org/fileformat.html)
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\x02\x02"


def _refuse_lone_log(path: Path) -> None:
    """Raise StorageError for a log without its file: SQLite deletes it with whatever it holds."""
    # in this order: whoever makes a store fills the file before the log
    log = _beside(path, "-wal")
    logged = _size(log)
    if logged and not _size(path):
        raise StorageError(
            f"store {path} is {'empty' if path.exists() else 'missing'}, but its log {log.name}"
            f" ({logged:,} bytes) is there: put the file back beside it, or move the log away to"
            " begin anew"
        )


def _refuse_strange_log(path: Path) -> None:
    """Raise StorageError for a log of another or an older file, before it is brought into this one.

    SQLite takes any log that lies beside a file: rows would be lost, or the file damaged.
    """
    if not _size(_beside(path, "-wal")):
        return
    # in this order: what others write meanwhile makes both larger
    size = _size(path)
    with closing(_open(path, "ro")) as connection:
        sound = _is_sound(connection)
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if sound else 0
    if sound and size <= pages * page:
        return
    with closing(_open(path, "immutable")) as connection:
        if not _is_sound(connection):
            # the file itself is damaged, which is reported where it is read
            return
    what = "older than the file" if sound else "not of this file"
    raise StorageError(
        f"store {path}: its log {path.name}-wal is {what}: put back the log that belongs to it, or"
        " move the log away to have the file as it is"
    )


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        if "malformed" not in str(error):
            raise
        return False


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    """Bytes; 0 for a file that is missing or cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _empty_log(connection: sqlite3.Connection, wait_s: float) -> None:
    """Bring the log into the file and cut it to nothing, unless others are in mid-transaction."""
    connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
    # no error where others are busy, and nothing to do in another journal mode
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


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


def reason(text: str) -> str:
    """What SQLite said, with what to do where that is known."""
    for part, meaning in _REASONS:
        if part in text.lower():
            return meaning
    return " ".join(text.split())


def is_known(text: str) -> bool:
    """Whether `text` of SQLite tells of a state of the store, not of a wrong statement."""
    return any(part in text.lower() for part, _ in _REASONS)


_REASONS = (
    ("not a database", "the file is not a database: name another file"),
    (
        "readonly",
        "it is read-only: make the file and its folder writable, name another, or look at it only"
        " (search.report, search.dashboard --read-only)",
    ),
    ("disk is full", "the disk is full: make room and start again"),
    ("unable to open", "the file cannot be opened: check its folder and its permissions"),
    ("disk i/o error", "the disk reports an error (full, unplugged or broken): check it"),
    ("malformed", "the file is damaged: restore it, or python -m search.rebuild"),
    ("no such table", "the file was emptied while in use: restore it or start again"),
    ("locked", f"another process has held it for {BUSY_S:.0f} s: find and end that process"),
)
