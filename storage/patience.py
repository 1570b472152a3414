"""How a call reaches the store: opened and checked once, repeated while the store is away, and
refused within its own transaction where the trial belongs to somebody else by now.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from alembic.util import CommandError
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from storage import claims, postgres, rows, sqlite, tables, trouble
from storage.errors import StorageError
from storage.optuna_internals import GuardedRDBStorage
from storage.url import StoreUrl, for_optuna, parse_url

R = TypeVar("R")

PAUSE_S = 0.2
_TELL_AFTER_S = 3.0
_INIT_ATTEMPTS = 20


class PatientStorage(GuardedRDBStorage):
    """Optuna's storage on a store that is checked when opened and waited for when away.

    Arguments and errors: see `storage.rdb.LeasedStorage`.
    """

    _head_version: ClassVar[str | None] = None

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        read_only: bool = False,
        patience_s: float = 120.0,
    ) -> None:
        self.address = parse_url(url)
        self.given = {
            # absolute, for a process in another folder
            "url": self.address.text,
            "create": create,
            "read_only": read_only,
            "patience_s": patience_s,
        }
        self.patience_s = patience_s
        self.read_only = read_only
        self.warning: str | None = None
        self.tell: Callable[[str], None] | None = None
        self._away = False
        self._telling = threading.Lock()
        self._local = threading.local()
        self._fences: dict[int, int] = {}
        # trial_id -> number of those that Optuna's cache asks for again
        self._unfinished: dict[int, int] = {}
        create = create and not read_only
        file = None
        if self.address.path is not None:
            file = sqlite.prepare(self.address.path, create=create, read_only=read_only)
            self.warning = file.warning
            connecting: dict[str, Any] = {"creator": file.connect}
            if not file.ours:
                # how it can be read changes when its owner comes and goes
                connecting["poolclass"] = sa.NullPool
            self._start(connecting, fresh=not file.initialised)
            self._begin_like_sqlite(file)
            sa.event.listen(self.scoped_session.session_factory, "before_flush", rows.give_ids)
        else:
            options = postgres.engine_options(self.address)
            self._start(options, fresh=_is_fresh(self.address, options, create=create))
            postgres.listen(self.engine)
            # connections made so far were not set up
            self.engine.dispose()
        self._file = file
        # when the process ends too, and without holding on to this object: see _leave
        weakref.finalize(self, _leave, self.engine, file)
        # for a statement that needs no BEGIN and no COMMIT around it: each is a round trip.
        # SQLite has no network in between, and a BEGIN of its own
        self._alone = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT")
            if file is None
            else self.engine
        )
        self._listen_to_sessions()
        self._check_schema()
        if not read_only:
            self._repeat_races(lambda: tables.OURS.create_all(self.engine))
        with self.engine.connect() as connection:
            inspector = sa.inspect(connection)
            self._has_claims = inspector.has_table(tables.CLAIMS.name)
            self._has_events = inspector.has_table(tables.EVENTS.name)

    def __repr__(self) -> str:
        return f"LeasedStorage({self.address.shown!r})"

    def __getstate__(self) -> dict[Any, Any]:
        return {"given": dict(self.given), "fences": dict(self._fences)}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__init__(**state["given"])  # type: ignore[misc]
        self._fences.update(state["fences"])

    def close(self) -> None:
        """Give every connection back; the storage can still be used and then opens new ones.

        Happens by itself when the process ends.
        """
        self.scoped_session.remove()
        _leave(self.engine, self._file)

    def guarded(
        self, attempt: Callable[[], R], *, reading: bool = False, trial_id: int | None = None
    ) -> R:
        """Wait while the store is away; a reader takes no write lock.

        A write to a trial is refused in its own transaction where our claim on the trial is gone.
        """
        if reading:
            with self._marked("reading", True):
                return self._patiently(attempt)
        if trial_id is None:
            return self._patiently(attempt)
        token = self._fences.get(trial_id)
        with self._marked("fence", None if token is None else (token, trial_id)):
            return self._patiently(attempt)

    # Trouble

    def explain(self, error: BaseException) -> str | None:
        """One line about an error of the store, without its password; None for other errors."""
        if isinstance(error, StorageError):
            return str(error)
        if trouble.kind_of(error) is None:
            return None
        return trouble.one_line(error, self.address)

    def _patiently(self, attempt: Callable[[], R]) -> R:
        """Run `attempt` again while the store is away; it must bear being run twice."""
        began = time.monotonic()
        while True:
            try:
                with self._marked("at_work", True):
                    answer = attempt()
            except UnicodeEncodeError as error:
                # a name from a shell may hold any byte
                raise StorageError(
                    f"store {self._shown()}: {error.object!a} is no text in UTF-8, and stores hold"
                    " no other: write it otherwise"
                ) from None
            except (SQLAlchemyError, StorageInternalError) as error:
                kind = trouble.kind_of(error)
                if kind is None:
                    raise
                waited_s = time.monotonic() - began
                if kind == "lasting" or waited_s >= self.patience_s:
                    # without the chain: its messages may show the password
                    raise StorageError(trouble.one_line(error, self.address)) from None
                if waited_s >= _TELL_AFTER_S:
                    self._tell_away(error)
            else:
                self._tell_back()
                return answer
            # at odd moments, so that many workers do not return all at once
            time.sleep(PAUSE_S * (0.5 + random.random()))

    def _tell_away(self, error: Exception) -> None:
        # threads wait side by side, and one line is enough
        with self._telling:
            if self.tell is not None and not self._away:
                self._away = True
                line = trouble.one_line(error, self.address)
                self.tell(f"{line}; waiting for it up to {self.patience_s:g} s")

    def _tell_back(self) -> None:
        if self._away:
            with self._telling:
                if self.tell is not None and self._away:
                    self._away = False
                    self.tell(f"store {self._shown()} answers again")

    def _write(self, work: Callable[[Connection], R]) -> R:
        def attempt() -> R:
            with self.engine.begin() as connection:
                return work(connection)

        return self._patiently(attempt)

    def _in_one(self, statement: Callable[[Connection], bool]) -> bool:
        """Run a single statement, which is its own transaction; False where the database refuses it
        as wrong.
        """

        def attempt() -> bool:
            try:
                with self._alone.begin() as connection:
                    return statement(connection)
            except SQLAlchemyError as error:
                if trouble.kind_of(error) is None:
                    return False
                raise

        return self._patiently(attempt)

    def _read(self, work: Callable[[Connection], R]) -> R:
        def attempt() -> R:
            # PostgreSQL shows every statement what is there by then, in a transaction too
            with self._alone.begin() as connection:
                return work(connection)

        with self._marked("reading", True):
            return self._patiently(attempt)

    def at_work(self) -> bool:
        """Whether this thread is in the middle of a call; for a signal's handler, which must not
        raise then: the transaction would stay open, and its lock with it.
        """
        return bool(getattr(self._local, "at_work", False))

    # The fence, and how transactions begin

    def _fenced_from_now(self, trial_id: int, token: int) -> int:
        self._fences[trial_id] = token
        return trial_id

    @contextmanager
    def _marked(self, name: str, value: object) -> Iterator[None]:
        """Tell the events below about this thread's present call."""
        before = getattr(self._local, name, None)
        setattr(self._local, name, value)
        try:
            yield
        finally:
            setattr(self._local, name, before)

    # SQLAlchemy never forgets a listener, so none of them holds on to `self`

    def _listen_to_sessions(self) -> None:
        local = self._local

        @sa.event.listens_for(self.scoped_session.session_factory, "after_begin")
        def check(session: Any, transaction: Any, connection: Connection) -> None:
            fence = getattr(local, "fence", None)
            if fence is not None:
                claims.check(connection, *fence)

        @sa.event.listens_for(self.scoped_session.session_factory, "after_flush")
        def record(session: Any, context: Any) -> None:
            # not when it begins: Optuna commits what it is about to refuse
            event, local.event = getattr(local, "event", None), None
            if event is not None:
                event(session.connection())

    def _begin_like_sqlite(self, file: sqlite.SqliteFile) -> None:
        read_only, local = self.read_only, self._local

        @sa.event.listens_for(self.engine, "begin")
        def begin(connection: Connection) -> None:
            file.check_identity()
            # the write lock from the start: a read that turns into a write would find its
            # snapshot outdated, and two workers would take the same trial
            reading = read_only or getattr(local, "reading", False)
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    # Opening

    def _start(self, options: dict[str, Any], *, fresh: bool) -> None:
        def start() -> None:
            RDBStorage.__init__(
                self,
                for_optuna(self.address.text),
                engine_kwargs=dict(options),
                # ours follows, with one line instead of a paragraph
                skip_compatibility_check=True,
                # a store of another schema is not touched before it was checked
                skip_table_creation=not fresh,
            )

        self._repeat_races(start)

    def _repeat_races(self, attempt: Callable[[], None]) -> None:
        """Several processes may make the same new store: the loser finds its tables there."""
        for attempts_left in reversed(range(_INIT_ATTEMPTS)):
            try:
                attempt()
                return
            except (SQLAlchemyError, StorageInternalError, CommandError) as error:
                if trouble.kind_of(error) is not None or not attempts_left:
                    raise _refusal(error, self.address) from None
            time.sleep(PAUSE_S * random.random())

    def get_head_version(self) -> str:
        """The schema of the installed Optuna, which loads every migration to find it: once."""
        cls = PatientStorage
        cls._head_version = cls._head_version or super().get_head_version()
        return cls._head_version

    def _check_schema(self) -> None:
        try:
            present = self.get_current_version()
            if present == self.get_head_version():
                return
            known = self.get_all_versions()
        except (SQLAlchemyError, StorageInternalError, CommandError) as error:
            raise _refusal(error, self.address) from None
        if present in known:
            upgrade = "run `optuna storage upgrade --storage URL` once"
            raise StorageError(
                f"store {self._shown()} has the older schema {present}: {upgrade}, or name another"
            )
        raise StorageError(
            f"store {self._shown()} was made by a newer Optuna (schema {present}): "
            "pip install -U optuna, or name another store"
        )

    def _shown(self) -> str:
        return str(self.address.path or self.address.shown)


def _leave(engine: sa.Engine, file: sqlite.SqliteFile | None) -> None:
    """Close every connection, and leave a SQLite store whole in its one file."""
    engine.dispose()
    if file is not None:
        file.settle()


def _refusal(error: Exception, address: StoreUrl) -> StorageError:
    passing = trouble.kind_of(error) == "passing"
    return StorageError(trouble.one_line(error, address), passing=passing)


def _is_fresh(address: StoreUrl, options: dict[str, Any], *, create: bool) -> bool:
    """True for a database without Optuna's tables. Raises StorageError where it is unreachable."""
    try:
        engine = sa.create_engine(address.text, **options)
        try:
            with engine.connect() as connection:
                fresh = not all(map(sa.inspect(connection).has_table, sqlite.INITIALISED))
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        raise _refusal(error, address) from None
    if fresh and not create:
        raise StorageError(f"store {address.shown} holds no studies: start a search first")
    return fresh
