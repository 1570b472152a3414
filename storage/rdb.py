"""Optuna's RDBStorage, made safe for many workers.

Added to it: SQLite's cures, patience with a store that is away for a moment, claims on trials, and
a fence: a write to a trial whose claim is gone is refused inside the write's own transaction.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic.util import CommandError
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from storage import claims, postgres, rows, sqlite, trouble
from storage.claims import Beat, Claim
from storage.errors import StorageError
from storage.optuna_internals import STUDIES, TRIALS, GuardedRDBStorage
from storage.url import StoreUrl, for_optuna, parse_url

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_PAUSE_S = 0.2
_TELL_AFTER_S = 3.0
_INIT_ATTEMPTS = 20


@dataclass(frozen=True)
class StudyActivity:
    """latest: when a trial of the study last started or ended (UTC); None without any."""

    study_id: int
    name: str
    latest: datetime | None


class LeasedStorage(GuardedRDBStorage):
    """An Optuna storage with claims. Open it with `open_storage`.

    url: sqlite:///FILE or postgresql://...; create: make a missing store; read_only: never write.
    patience_s: how long a call waits for a store that is locked, restarting or out of reach;
    `tell` gets a line when such a wait has become long and when it is over.
    Raises StorageError (one line, no password) for a store that cannot be used. Every method may
    raise StorageError when patience ends or the trouble is a lasting one, such as a full disk.
    """

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
        self._check_fences()
        self._check_schema()
        if not read_only:
            self._repeat_races(lambda: claims.METADATA.create_all(self.engine))
        with self.engine.connect() as connection:
            self._has_claims = sa.inspect(connection).has_table(claims.CLAIMS.name)

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
        with self._marked("fence", self._fence_of(trial_id)):
            return self._patiently(attempt)

    def free_number(self, connection: Connection, study_id: int, trial_id: int) -> int:
        return rows.free_number(connection, study_id, trial_id)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return super(LeasedStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # the first attempt went through and only its answer was lost
                if attempts > 1 and self.get_trial(trial_id).state == state:
                    return True
                raise

        return self.guarded(attempt, trial_id=trial_id)

    def delete_study(self, study_id: int) -> None:
        self._patiently(lambda: super(LeasedStorage, self).delete_study(study_id))
        # the database drops the claims itself; this is for a store whose trigger was lost
        self._write(
            lambda connection: connection.execute(
                sa.delete(claims.CLAIMS).where(claims.CLAIMS.c.study_id == study_id)
            )
        )

    # Places and leases

    def take_slot(self, study_id: int, total: int | None, owner: str) -> int | None:
        """Claim one place of a budget of `total` finished trials; the token, or None if none left.

        Finished trials and live claims are counted and the claim is made in one transaction.
        total None takes a place without a budget, for a revived trial. Raises KeyError for an
        unknown study, StorageError as `check_numbers` does.
        """

        def take(connection: Connection) -> int | None:
            self._refuse_doubled(connection, study_id)
            return claims.take_slot(connection, study_id, total, owner)

        return self._write(take)

    def pop_waiting(self, study_id: int, token: int, *, revivals: bool = False) -> int | None:
        """Start the next waiting trial under this claim; its id, or None where none waits.

        Order: those with reported epochs, then the user attribute `priority` (higher first), then
        the number. revivals: only rows that do not count, for a claim without a place of the
        budget. Raises LeaseLost.
        """
        trial_id = self._write(lambda c: claims.pop_waiting(c, study_id, token, revivals=revivals))
        return None if trial_id is None else self._fenced_from_now(trial_id, token)

    def new_trial(self, study_id: int, token: int) -> int:
        """Make a running trial under this claim, in one transaction; its id. Raises LeaseLost."""
        trial_id = self._made(study_id, token, None, lambda connection: True)
        assert trial_id is not None
        return trial_id

    def revive(self, study_id: int, token: int, row: FrozenTrial, revivals: int) -> int | None:
        """Make the running trial `row` under this claim, in one transaction; its id.

        row: as it is to be, with the attribute `continues`. revivals: how many rows with that
        attribute the study had when this one was chosen. None, and nothing is made, where it has
        another number by now: somebody else has revived a trial, perhaps this one. Raises
        LeaseLost.
        """
        return self._made(
            study_id,
            token,
            row,
            lambda connection: claims.count_revivals(connection, study_id) == revivals,
        )

    def _made(
        self,
        study_id: int,
        token: int,
        row: FrozenTrial | None,
        allowed: Callable[[Connection], bool],
    ) -> int | None:
        def attempt() -> int | None:
            with self.session() as session:
                connection = session.connection()
                claim = claims.find(connection, token, lock=True)
                if claim.trial_id is not None:
                    # an earlier attempt whose answer was lost
                    return claim.trial_id
                claims.lock_study(connection, study_id)
                if not allowed(connection):
                    return None
                trial_id, number = self.added(session, study_id, row)
                claims.attach(connection, token, trial_id, number)
                return trial_id

        trial_id = self._patiently(attempt)
        return None if trial_id is None else self._fenced_from_now(trial_id, token)

    def attach(self, token: int, trial_id: int) -> None:
        """Bind a running trial to this claim; an older claim on it is fenced out.

        Raises LeaseLost.
        """
        self._write(lambda c: claims.attach(c, token, trial_id, None))
        self._fenced_from_now(trial_id, token)

    @contextmanager
    def hold(self, token: int) -> Iterator[Claim]:
        """Fence the claim's trial: from here on, writes through this object check the token.

        `pop_waiting`, `new_trial` and `attach` have done so already. The fence outlives the block:
        a late write of a worker that gave its trial back must be refused too. Raises LeaseLost.
        """
        claim = self._read(lambda c: claims.find(c, token, lock=False))
        if claim.trial_id is None:
            raise ValueError(f"claim {token} has no trial yet: pop or make one first")
        self._fenced_from_now(claim.trial_id, token)
        yield claim

    def beat(self, token: int) -> Beat:
        """Show that the owner lives; a single attempt. Raises LeaseLost, or the driver's error."""
        with self.engine.begin() as connection:
            return claims.beat(connection, token)

    def release(self, token: int) -> bool:
        """Give the claim back; False if it was gone already."""
        return self._write(lambda c: claims.release(c, token))

    def requeue(self, trial_id: int, token: int | None = None) -> bool:
        """Put a running trial back in the queue and release its claim, in one transaction.

        It keeps number, parameters, attributes and reported values. False if it was not running.
        Without a token any claim on it is dropped. Raises LeaseLost if the token is gone.
        """
        return self._write(lambda c: claims.requeue(c, trial_id, token))

    def set_wish(self, trial_id: int | None, study_id: int, wish: str) -> int:
        """Ask the owner of a trial (None: of every claim of the study) to "stop" or "requeue".

        The owner hears it with its next beat. Returns how many claims were asked.
        """
        _check_wish(wish)
        return self._write(lambda c: claims.set_wish(c, study_id, wish, trial_id=trial_id))

    def set_wish_for_number(self, study_id: int, number: int, wish: str) -> int:
        """Like `set_wish`, by trial number. 0: nobody is at work on it."""
        _check_wish(wish)
        return self._write(lambda c: claims.set_wish(c, study_id, wish, number=number))

    def last_token(self) -> int | None:
        """The highest token that any claim of the store has had; None where that is not known."""
        if self.address.path is None:
            return None
        return self._read(claims.last_token) if self._has_claims else 0

    def live_claims(self, study_id: int) -> list[Claim]:
        """Every claim on the study, oldest first."""
        if not self._has_claims:
            return []
        return self._read(lambda c: claims.live(c, study_id))

    def survey(self, study_id: int) -> tuple[list[Claim], list[tuple[int, int]]]:
        """The claims, and (trial_id, number) of running trials that nobody claims."""
        return self._read(lambda c: (claims.live(c, study_id), list(claims.unclaimed(c, study_id))))

    def reap(self, claim: Claim) -> bool | None:
        """End a claim whose beat still stands where `claim` saw it.

        True: its running trial waits again; False: it had none; None: it beat or ended meanwhile.
        """
        return self._write(lambda c: claims.reap(c, claim))

    def adopt(self, trial_id: int) -> bool:
        """Queue a running trial that nobody claims; False if that is no longer so."""
        return self._write(lambda c: claims.adopt(c, trial_id))

    # Counting

    def count_finished(self, study_id: int) -> int:
        """COMPLETE and PRUNED trials, without the attributes `continues` and `copied_from`."""
        return self._read(lambda c: claims.count_finished(c, study_id))

    def count_states(self, study_id: int) -> dict[TrialState, int]:
        """Number of rows in each state, zeros included."""
        trials = TRIALS
        query = (
            sa.select(trials.c.state, sa.func.count())
            .where(trials.c.study_id == study_id)
            .group_by(trials.c.state)
        )
        rows = self._read(lambda c: [(row[0], row[1]) for row in c.execute(query)])
        return dict.fromkeys(TrialState, 0) | dict(rows)

    def check_numbers(self, study_id: int) -> None:
        """Raise StorageError where two trials of the study have one number.

        Optuna's cache shows only one of them, so counts would differ for ever, and their files
        would lie in one folder.
        """
        self._read(lambda c: self._refuse_doubled(c, study_id))

    def _refuse_doubled(self, connection: Connection, study_id: int) -> None:
        twice = rows.doubled(connection, study_id)
        if twice is None:
            return
        *_, last = twice.trial_ids
        name = connection.execute(
            sa.select(STUDIES.c.study_name).where(STUDIES.c.study_id == study_id)
        ).scalar()
        raise StorageError(
            f'store {self._shown()}: {len(twice.trial_ids)} trials of study "{name}" have the'
            f" number {twice.number} (trial_id {', '.join(map(str, twice.trial_ids))}), as happens"
            " after a row was deleted by SQL: end whoever works on it, give the last one a number"
            f" of its own with UPDATE trials SET number = {twice.free} WHERE trial_id = {last}, and"
            f" move what it left, the newest folder in the study's {twice.number} below the runs"
            f" folder, to {twice.free}"
        )

    def studies_by_activity(self) -> list[StudyActivity]:
        """All studies, the one with the latest start or end of a trial first."""
        trials, studies = TRIALS, STUDIES
        query = (
            sa.select(
                studies.c.study_id,
                studies.c.study_name,
                sa.func.max(trials.c.datetime_start),
                sa.func.max(trials.c.datetime_complete),
            )
            .select_from(studies.outerjoin(trials, trials.c.study_id == studies.c.study_id))
            .group_by(studies.c.study_id, studies.c.study_name)
        )

        def read(connection: Connection) -> list[StudyActivity]:
            found = []
            for study_id, name, started, ended in connection.execute(query):
                moments = [moment.replace(tzinfo=UTC) for moment in (started, ended) if moment]
                found.append(StudyActivity(study_id, name, max(moments, default=None)))
            return found

        nothing = datetime.min.replace(tzinfo=UTC)
        return sorted(
            self._read(read),
            key=lambda study: (study.latest or nothing, study.study_id),
            reverse=True,
        )

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
                if kind is trouble.Kind.LASTING or waited_s >= self.patience_s:
                    # without the chain: its messages may show the password
                    raise StorageError(trouble.one_line(error, self.address)) from None
                if waited_s >= _TELL_AFTER_S:
                    self._tell_away(error)
            else:
                self._tell_back()
                return answer
            # at odd moments, so that many workers do not return all at once
            time.sleep(_PAUSE_S * (0.5 + random.random()))

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

    def _read(self, work: Callable[[Connection], R]) -> R:
        with self._marked("reading", True):
            return self._write(work)

    def at_work(self) -> bool:
        """Whether this thread is in the middle of a call; for a signal's handler, which must not
        raise then: the transaction would stay open, and its lock with it.
        """
        return bool(getattr(self._local, "at_work", False))

    # The fence, and how transactions begin

    def _fence_of(self, trial_id: int) -> tuple[int, int] | None:
        token = self._fences.get(trial_id)
        return None if token is None else (token, trial_id)

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

    def _check_fences(self) -> None:
        local = self._local

        @sa.event.listens_for(self.scoped_session.session_factory, "after_begin")
        def check(session: Any, transaction: Any, connection: Connection) -> None:
            fence = getattr(local, "fence", None)
            if fence is not None:
                claims.check(connection, *fence)

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
            time.sleep(_PAUSE_S * random.random())

    def _check_schema(self) -> None:
        try:
            present = self.get_current_version()
            if present == self.get_head_version():
                return
            known = self.get_all_versions()
        except (SQLAlchemyError, StorageInternalError, CommandError) as error:
            raise _refusal(error, self.address) from None
        if present in known:
            mend = "run `optuna storage upgrade --storage URL` once"
            raise StorageError(
                f"store {self._shown()} has the older schema {present}: {mend}, or name another"
            )
        raise StorageError(
            f"store {self._shown()} was made by a newer Optuna (schema {present}): "
            "pip install -U optuna, or name another store"
        )

    def _shown(self) -> str:
        return str(self.address.path or self.address.shown)


def open_storage(
    url: str,
    *,
    create: bool = True,
    read_only: bool = False,
    patience_s: float = 120.0,
    wait_s: float = 0.0,
    tell: Callable[[str], None] | None = None,
) -> LeasedStorage:
    """Open the store at `url`; see `LeasedStorage` for the arguments and errors.

    wait_s: how long to try again where its server is away; 0 for a person, who sees a wrong URL at
    once then. tell: gets a line about each long wait, at opening and later.
    """
    until, told = time.monotonic() + wait_s, False
    while True:
        try:
            opened = LeasedStorage(url, create=create, read_only=read_only, patience_s=patience_s)
        except StorageError as error:
            if not error.passing or time.monotonic() >= until:
                raise
            if tell is not None and not told:
                tell(f"{error}; waiting for it up to {wait_s:g} s")
                told = True
        else:
            opened.tell = tell
            if told and tell is not None:
                tell(f"store {opened.address.path or opened.address.shown} answers again")
            return opened
        time.sleep(_PAUSE_S * (0.5 + random.random()))


def _leave(engine: sa.Engine, file: sqlite.SqliteFile | None) -> None:
    """Close every connection, and leave a SQLite store whole in its one file."""
    engine.dispose()
    if file is not None:
        file.settle()


def _refusal(error: Exception, address: StoreUrl) -> StorageError:
    passing = trouble.kind_of(error) is trouble.Kind.PASSING
    return StorageError(trouble.one_line(error, address), passing=passing)


def _is_fresh(address: StoreUrl, options: dict[str, Any], *, create: bool) -> bool:
    """True for a database without Optuna's tables. Raises StorageError where it is unreachable."""
    try:
        engine = sa.create_engine(address.text, **options)
        try:
            with engine.connect() as connection:
                inspector = sa.inspect(connection)
                names = ("version_info", "alembic_version", "studies")
                fresh = not all(inspector.has_table(name) for name in names)
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        raise _refusal(error, address) from None
    if fresh and not create:
        raise StorageError(f"store {address.shown} holds no studies: start a search first")
    return fresh


def _check_wish(wish: str) -> None:
    if wish not in claims.WISHES:
        raise ValueError(f"wish must be one of {', '.join(claims.WISHES)}, got {wish!r}")
