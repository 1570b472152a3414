from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection

from storage import StorageError, claims, open_storage, parse_url
from storage.trouble import kind_of, one_line
from tests.support.paths import ROOT


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", connect_args={"timeout": 0})
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE faces (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
        connection.execute(sa.text("INSERT INTO faces VALUES (1, 'ann')"))
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(parse_url(postgres_url).text)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE faces (id INTEGER PRIMARY KEY, name VARCHAR(9))"))
        connection.execute(sa.text("INSERT INTO faces VALUES (1, 'ann'), (2, 'bob')"))
    yield engine
    engine.dispose()


def caught(act: Callable[[], object]) -> sa.exc.SQLAlchemyError:
    with pytest.raises(sa.exc.SQLAlchemyError) as info:
        act()
    return info.value


def statement(engine: sa.Engine, *texts: str) -> Exception:
    """What SQLAlchemy raises for the last of the statements."""

    def run() -> None:
        with engine.begin() as connection:
            for text in texts:
                connection.execute(sa.text(text))

    return caught(run)


def test_a_locked_file_is_passing(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        error = statement(sqlite_engine, "DELETE FROM faces")
    assert isinstance(error, sa.exc.OperationalError)
    assert kind_of(error) == "passing"
    line = one_line(error, parse_url(f"sqlite:///{tmp_path}/x.db"))
    assert line == (
        f"store {tmp_path}/x.db: another process has held it for 60 s: find and end that process"
    )


def test_a_full_disk_is_lasting(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    error = statement(
        sqlite_engine, "PRAGMA max_page_count = 3", "INSERT INTO faces VALUES (2, zeroblob(90000))"
    )
    assert kind_of(error) == "lasting"
    line = one_line(error, parse_url(f"sqlite:///{tmp_path}/x.db"))
    assert line == f"store {tmp_path}/x.db: the disk is full: make room and start again"


def test_a_file_that_may_not_grow_ends_a_run_with_one_line(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/search.db")
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    storage.close()
    code = """if True:
        import resource, sys
        from storage import StorageError, open_storage

        storage = open_storage(sys.argv[1])
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit))
        try:
            for trial in range(10_000):
                storage.set_study_user_attr(1, f"note {trial}", "x" * 1000)
        except StorageError as error:
            print(error)
            # what is there can still be read
            print(len(storage.get_study_user_attrs(1)) > 10)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path}/search.db"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"store {tmp_path}/search.db: the disk reports an error (full, unplugged or broken): "
        "check it",
        "True",
    ]
    # with room again it goes on, whole
    storage = open_storage(f"sqlite:///{tmp_path}/search.db")
    storage.set_study_user_attr(study_id, "note 0", "again")
    assert storage.get_study_user_attrs(study_id)["note 0"] == "again"
    storage.close()


def test_a_damaged_a_foreign_and_a_missing_file_are_lasting(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n" * 500)
    for name, says in (
        ("text", "not a database: name another file"),
        ("no/folder", "cannot be opened: check its folder"),
    ):
        engine = sa.create_engine(f"sqlite:///{tmp_path}/{name}")
        error = statement(engine, "SELECT * FROM sqlite_master")
        assert kind_of(error) == "lasting"
        assert says in one_line(error, parse_url(f"sqlite:///{tmp_path}/{name}"))
        engine.dispose()


def test_a_read_only_and_an_emptied_file_are_lasting(
    sqlite_engine: sa.Engine, tmp_path: Path
) -> None:
    url = parse_url(f"sqlite:///{tmp_path}/x.db")
    error = statement(sqlite_engine, "PRAGMA query_only = 1", "DELETE FROM faces")
    assert kind_of(error) == "lasting"
    assert "it is read-only" in one_line(error, url)
    error = statement(sqlite_engine, "PRAGMA query_only = 0", "SELECT * FROM trials")
    assert kind_of(error) == "lasting"
    assert "emptied while in use" in one_line(error, url)


def test_mistakes_and_refusals_are_no_trouble_of_sqlite(sqlite_engine: sa.Engine) -> None:
    for text in ("INSERT INTO faces VALUES (2, 'ann')", "SELEC 1", "SELECT nothing FROM faces"):
        assert kind_of(statement(sqlite_engine, text)) is None
    bound = caught(lambda: sqlite_engine.connect().execute(sa.text("SELECT :x"), {"x": object()}))
    assert isinstance(bound, sa.exc.DBAPIError)
    assert kind_of(bound) is None


def test_the_cause_is_found_behind_optunas_own_error(sqlite_engine: sa.Engine) -> None:
    locked = sa.exc.OperationalError("BEGIN", {}, sqlite3.OperationalError("database is locked"))
    outer = StorageInternalError("An exception is raised during the commit.")
    outer.__cause__ = locked
    assert kind_of(outer) == "passing"
    refused = StorageInternalError("the same")
    refused.__cause__ = statement(sqlite_engine, "INSERT INTO faces VALUES (1, 'bob')")
    assert kind_of(refused) is None
    circle = ValueError("no store here")
    circle.__context__ = KeyError("nor here")
    circle.__context__.__context__ = circle
    assert kind_of(circle) is None


def test_a_pool_without_a_free_connection_is_passing(tmp_path: Path) -> None:
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/x.db", pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with engine.connect():
        error = caught(engine.connect)
    assert kind_of(error) == "passing"
    engine.dispose()


def test_mistakes_and_refusals_are_no_trouble_of_postgresql(postgres_engine: sa.Engine) -> None:
    for text in (
        "INSERT INTO faces VALUES (1, 'eve')",
        "INSERT INTO faces VALUES (3, 'a name too long')",
        "SELEC 1",
        "SELECT 1 / 0",
    ):
        assert kind_of(statement(postgres_engine, text)) is None


def test_lasting_states_of_postgresql(postgres_engine: sa.Engine) -> None:
    for texts in (
        ("SET TRANSACTION READ ONLY", "DELETE FROM faces"),
        ("SELECT * FROM emptied",),
        ("CREATE ROLE nobody_here", "SET ROLE nobody_here", "DELETE FROM faces"),
    ):
        assert kind_of(statement(postgres_engine, *texts)) == "lasting"


def test_passing_states_of_postgresql(postgres_engine: sa.Engine) -> None:
    killed = statement(postgres_engine, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert kind_of(killed) == "passing"
    with postgres_engine.begin() as first:
        first.execute(sa.text("SELECT * FROM faces FOR UPDATE"))
        waiting = statement(postgres_engine, "SELECT * FROM faces FOR UPDATE NOWAIT")
        assert kind_of(waiting) == "passing"
    with postgres_engine.connect() as first:
        first.execute(sa.text("SET idle_in_transaction_session_timeout = 50"))
        first.commit()
        first.execute(sa.text("SELECT pg_sleep(0)"))
        with postgres_engine.connect() as second:
            second.execute(sa.text("SELECT pg_sleep(0.3)"))
        slept = caught(lambda: first.execute(sa.text("SELECT 1")))
        assert kind_of(slept) == "passing"
        first.invalidate()


def test_two_transactions_that_wait_for_each_other_are_passing(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    ids = [storage.create_new_study([StudyDirection.MAXIMIZE], name) for name in ("a", "b")]
    other = storage.engine.connect()
    with storage.engine.begin() as one:
        claims.lock_study(one, ids[0])
        claims.lock_study(other, ids[1])
        fails: list[Exception] = []

        def cross() -> None:
            try:
                claims.lock_study(other, ids[0])
            except sa.exc.DBAPIError as error:
                fails.append(error)
            other.rollback()

        thread = threading.Thread(target=cross)
        thread.start()
        try:
            claims.lock_study(one, ids[1])
        except sa.exc.DBAPIError as error:
            fails.append(error)
            one.rollback()
        thread.join()
    other.close()
    assert [kind_of(error) for error in fails] == ["passing"]
    storage.close()


def test_other_errors_are_none_of_the_stores(tmp_path: Path) -> None:
    assert kind_of(ValueError("no")) is None
    assert kind_of(OSError(28, os.strerror(28))) is None
    assert kind_of(StorageError("told already")) is None
