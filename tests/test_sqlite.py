from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection

from storage import LeasedStorage, StorageError, open_storage, sqlite
from storage.sqlite import prepare

NFS = "/dev/sda1 / ext4 rw 0 0\nserver:/x {folder} nfs4 rw 0 0\n"
NOBODY = 65534


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def made(path: Path) -> Path:
    """A store with one study, closed again."""
    opened = open_storage(url_of(path))
    opened.create_new_study([StudyDirection.MAXIMIZE], "faces")
    opened.close()
    return path


def pragma(storage: LeasedStorage, name: str) -> str:
    with storage.engine.connect() as connection:
        return str(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


@contextmanager
def holding(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection that keeps the write lock while the block runs."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


@contextmanager
def without_powers() -> Iterator[None]:
    """Root may write to everything: be nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def refusal(url: str, **options: bool) -> str:
    """The one line with which a store is refused."""
    with pytest.raises(StorageError) as refused:
        open_storage(url, **options)
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_every_connection_gets_the_pragmas(tmp_path: Path) -> None:
    storage = open_storage(url_of(tmp_path / "search.db"))
    assert storage.warning is None
    for _ in range(2):
        assert pragma(storage, "journal_mode") == "wal"
        assert pragma(storage, "synchronous") == "1"
        assert pragma(storage, "busy_timeout") == "60000"
        # and so do the connections after these
        storage.close()
    assert {file.name for file in tmp_path.iterdir()} == {"search.db"}


def test_a_reader_does_not_wait_for_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path), patience_s=0)
    study_id = storage.get_study_id_from_name("faces")
    trial_id = storage.create_new_trial(study_id)
    with holding(path):
        assert storage.get_study_name_from_id(study_id) == "faces"
        assert storage.get_study_user_attrs(study_id) == {}
        assert len(storage.get_all_trials(study_id)) == 1
        assert storage.get_trial(trial_id).number == 0
        assert storage.count_finished(study_id) == 0
        assert sum(storage.count_states(study_id).values()) == 1
        assert storage.live_claims(study_id) == []
        assert storage.survey(study_id) == ([], [(trial_id, 0)])
        assert [study.name for study in storage.studies_by_activity()] == ["faces"]
        with pytest.raises(StorageError, match="another process has held it"):
            storage.take_place(study_id, 1, "test")
    assert storage.take_place(study_id, 1, "test") is not None


def test_a_writer_takes_the_write_lock_before_it_reads(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        with storage.engine.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        with storage.scoped_session() as session:
            session.connection()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        # the lock ends with the transaction
        other.execute("BEGIN IMMEDIATE")


def test_a_missing_store_is_made_with_its_folder_only_where_asked(tmp_path: Path) -> None:
    url = url_of(tmp_path / "new" / "folder" / "search.db")
    for options in ({"create": False}, {"read_only": True}):
        line = refusal(url, **options)
        assert "search.db does not exist: start a search first" in line
        assert list(tmp_path.iterdir()) == []
    open_storage(url).close()
    assert (tmp_path / "new" / "folder" / "search.db").is_file()
    open_storage(url, create=False).close()


def test_an_empty_file_becomes_a_store_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    path.touch()
    assert "holds no studies: start a search first" in refusal(url_of(path), create=False)
    assert "holds no studies" in refusal(url_of(path), read_only=True)
    assert path.stat().st_size == 0
    open_storage(url_of(path)).close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize("text", ["hello\n", "name: lmsa\n" * 1000])
def test_a_text_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "not a database: name another file" in refusal(url_of(path))
    assert path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (id INTEGER)")
    before = path.read_bytes()
    assert "the database of another program (tables: photos)" in refusal(url_of(path))
    assert path.read_bytes() == before


def test_a_folder_that_is_a_file_and_a_name_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be made" in refusal(url_of(tmp_path / "file" / "search.db"))
    assert "does not exist" in refusal(url_of(tmp_path / "file" / "search.db"), create=False)
    assert "File name too long" in refusal(url_of(tmp_path / ("x" * 300)))


def test_a_read_only_file_is_refused_for_writing_and_read_otherwise(open_folder: Path) -> None:
    path = made(open_folder / "search.db")
    path.chmod(0o444)
    with without_powers():
        line = refusal(url_of(path))
        assert "it is read-only: make the file and its folder writable" in line
        storage = open_storage(url_of(path), read_only=True)
        assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
        storage.close()


def test_a_read_only_folder_is_refused_for_writing_and_read_otherwise(open_folder: Path) -> None:
    path = made(open_folder / "search.db")
    path.chmod(0o666)
    open_folder.chmod(0o555)
    with without_powers():
        assert str(path) in refusal(url_of(path))
        storage = open_storage(url_of(path), read_only=True)
        assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
        assert storage.live_claims(1) == []
        storage.close()
        new = open_folder / "new.db"
        assert "new.db cannot be made (Permission denied)" in refusal(url_of(new))
    assert [file.name for file in open_folder.iterdir()] == ["search.db"]


def test_a_log_that_is_not_in_the_file_yet_is_not_left_out(open_folder: Path) -> None:
    path = made(open_folder / "search.db")
    copies = open_folder / "copy"
    copies.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE studies SET study_name = 'later'")
        other.commit()
        for file in open_folder.glob("search.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copies / file.name)
                (copies / file.name).chmod(0o444)
    copies.chmod(0o555)
    with without_powers():
        # the name in the file itself is an older one
        assert str(copies) in refusal(url_of(copies / "search.db"), read_only=True)
    copies.chmod(0o777)


def test_a_folder_that_may_not_be_entered_is_not_called_missing(open_folder: Path) -> None:
    inside = open_folder / "inside"
    inside.mkdir(mode=0o700)
    path = made(inside / "search.db")
    if os.geteuid() != 0:
        inside.chmod(0)
    try:
        with without_powers():
            for options in ({}, {"create": False}):
                assert "search.db: Permission denied" in refusal(url_of(path), **options)
    finally:
        inside.chmod(0o700)


def test_a_read_only_storage_never_writes(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    plain = optuna.storages.RDBStorage(url_of(path))
    plain.create_new_study([StudyDirection.MAXIMIZE], "faces")
    plain.engine.dispose()
    before = path.read_bytes()
    storage = open_storage(url_of(path), read_only=True)
    assert storage.live_claims(1) == []
    with pytest.raises(StorageError, match="it is read-only"):
        storage.set_study_user_attr(1, "total", 40)
    storage.close()
    assert path.read_bytes() == before


def test_a_network_file_system_gets_the_safe_mode_and_a_warning(tmp_path: Path) -> None:
    mounts = NFS.format(folder=tmp_path)
    path = made(tmp_path / "search.db")
    file = prepare(path, create=True, read_only=False, mounts=mounts)
    assert file.warning is not None
    assert f"store {path} lies on a network file system (nfs4)" in file.warning
    assert "\n" not in file.warning
    assert not file.wal
    with closing(file.connect()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        # FULL: without the log, NORMAL may damage the file in a power cut
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    # who only reads changes nothing and need not be warned
    assert prepare(path, create=False, read_only=True, mounts=mounts).warning is None
    local = prepare(path, create=True, read_only=False, mounts="/dev/sda1 / ext4 rw 0 0\n")
    assert (local.warning, local.wal) == (None, True)


def test_the_storage_passes_the_warning_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "network_type", lambda path, mounts: "nfs4")
    storage = open_storage(url_of(tmp_path / "search.db"))
    assert "network file system (nfs4)" in str(storage.warning)
    assert pragma(storage, "journal_mode") == "delete"
    storage.close()


def test_opening_waits_for_a_store_that_somebody_writes_to(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    with closing(sqlite3.connect(path)) as plain:
        # its return to the log asks for the whole file
        plain.execute("PRAGMA journal_mode = delete")
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        began = time.monotonic()
        release.start()
        open_storage(url_of(path)).close()
        assert time.monotonic() - began >= 0.3
        release.join()


def test_a_store_deleted_in_mid_run_is_an_error_and_no_new_file(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path))
    trial_id = storage.create_new_trial(1)
    for file in tmp_path.iterdir():
        file.unlink()
    for act in (
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
        lambda: storage.get_trial(trial_id),
        lambda: storage.take_place(1, 10, "test"),
        lambda: storage.count_finished(1),
        lambda: storage.beat(1),
    ):
        with pytest.raises(StorageError, match=r"search\.db is gone \(No such file or directory\)"):
            act()
    storage.close()
    with pytest.raises(StorageError):
        storage.get_trial(trial_id)
    assert list(tmp_path.iterdir()) == []


def test_a_store_replaced_in_mid_run_is_not_written_to(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path))
    other = made(tmp_path / "other.db")
    before = other.read_bytes()
    other.replace(path)
    with pytest.raises(StorageError, match="was replaced by another file"):
        storage.set_study_user_attr(1, "total", 40)
    storage.close()
    assert path.read_bytes() == before


def test_a_store_put_back_goes_on(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path))
    path.rename(tmp_path / "away")
    with pytest.raises(StorageError):
        storage.create_new_trial(1)
    (tmp_path / "away").rename(path)
    storage.create_new_trial(1)
    assert len(storage.get_all_trials(1)) == 1
