from __future__ import annotations

import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
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
from tests.support.marks import long
from tests.support.studies import environment


def nfs(folder: Path) -> str:
    """The table of mounts with that folder on a network."""
    place = str(folder).replace(" ", r"\040")
    return f"/dev/sda1 / ext4 rw 0 0\nserver:/x {place} nfs4 rw 0 0\n"


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
            storage.take_slot(study_id, 1, "test")
    assert storage.take_slot(study_id, 1, "test") is not None


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
    mounts = nfs(tmp_path)
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
        lambda: storage.take_slot(1, 10, "test"),
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


# ------------------------------------------------------------------------- the file and its log


def names(path: Path) -> list[str]:
    """The studies in this one file, as its copy without the log has them."""
    alone = path.parent / "alone"
    alone.mkdir(exist_ok=True)
    copy = shutil.copy(path, alone / path.name)
    try:
        with closing(sqlite3.connect(copy)) as file:
            return [
                name for (name,) in file.execute("SELECT study_name FROM studies ORDER BY study_id")
            ]
    except sqlite3.OperationalError:
        # no tables yet
        return []
    finally:
        shutil.rmtree(alone)


def killed(path: Path) -> Path:
    """A store with one study, as kill -9 leaves it: all of it is in the log."""
    life = made(path.parent / "life" / path.name)
    life.unlink()
    storage = open_storage(url_of(life))
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    for file in life.parent.iterdir():
        shutil.copy(file, path.parent / file.name)
    storage.close()
    shutil.rmtree(life.parent)
    assert names(path) == []
    return path


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Names of a folder's files, with owner and size."""
    return {file.name: (file.stat().st_uid, file.stat().st_size) for file in folder.iterdir()}


@pytest.mark.parametrize("read_only", [False, True])
def test_what_a_killed_process_left_in_the_log_is_in_the_file_once_it_was_opened(
    tmp_path: Path, read_only: bool
) -> None:
    path = killed(tmp_path / "search.db")
    storage = open_storage(url_of(path), create=False, read_only=read_only)
    # already now: this one may be killed as well
    assert names(path) == ["faces"]
    assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
    storage.close()
    assert [file.name for file in tmp_path.iterdir()] == ["search.db"]


def test_who_leaves_puts_everything_into_the_file_though_others_stay(tmp_path: Path) -> None:
    path = made(tmp_path / "search.db")
    stays, leaves = open_storage(url_of(path)), open_storage(url_of(path))
    assert [study.study_name for study in stays.get_all_studies()] == ["faces"]
    leaves.create_new_study([StudyDirection.MAXIMIZE], "later")
    assert names(path) == ["faces"]
    leaves.close()
    assert names(path) == ["faces", "later"]
    stays.create_new_study([StudyDirection.MAXIMIZE], "last")
    stays.close()
    assert names(path) == ["faces", "later", "last"]


def test_who_leaves_waits_for_nobody_and_the_next_one_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LEAVING_S", 0.05)
    path = made(tmp_path / "search.db")
    storage = open_storage(url_of(path))
    storage.create_new_study([StudyDirection.MAXIMIZE], "later")
    with closing(sqlite3.connect(path)) as reader:
        # it needs the file as it was, so the log cannot be emptied
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM studies").fetchone() == (2,)
        storage.create_new_study([StudyDirection.MAXIMIZE], "last")
        storage.close()
        assert "last" not in names(path)
        open_storage(url_of(path), read_only=True).close()
    assert names(path) == ["faces", "later", "last"]


def test_a_storage_that_nobody_holds_any_longer_leaves_the_file_alone(tmp_path: Path) -> None:
    storage = open_storage(url_of(tmp_path / "search.db"))
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    assert {file.name for file in tmp_path.iterdir()} > {"search.db"}
    del storage
    gc.collect()
    assert [file.name for file in tmp_path.iterdir()] == ["search.db"]


SPEAKING = """
import sys, time
from optuna.study import StudyDirection
from storage import open_storage
from trainer.cli import guarded

def body():
    storage = open_storage("sqlite:///search.db")
    storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    print("written", flush=True)
    if sys.argv[1:] == ["crash"]:
        raise RuntimeError("a bug")
    while len(sys.argv) > 1:
        time.sleep(0.01)
    return 0

sys.exit(guarded(body))
"""


@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ([], None, 0),
        long(["crash"], None, 1),
        long(["wait"], signal.SIGINT, 130),
        (["wait"], signal.SIGTERM, 143),
    ],
)
def test_a_command_that_never_closes_its_store_leaves_the_file_alone_however_it_ends(
    tmp_path: Path, how: list[str], number: int | None, code: int
) -> None:
    command = [sys.executable, "-c", SPEAKING, *how]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        if number is not None:
            process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert [file.name for file in tmp_path.iterdir()] == ["search.db"]
    assert names(tmp_path / "search.db") == ["faces"]


@pytest.mark.parametrize("rest", ["empty", "missing"])
def test_a_log_without_its_file_is_kept_for_it(tmp_path: Path, rest: str) -> None:
    path = killed(tmp_path / "search.db")
    elsewhere = tmp_path / "moved"
    path.rename(elsewhere)
    if rest == "empty":
        path.touch()
    before = files(tmp_path)
    for options in ({}, {"create": False}, {"read_only": True}):
        line = refusal(url_of(path), **options)
        assert f"search.db is {rest}, but its log search.db-wal (" in line
        assert "put the file back beside it" in line
    assert files(tmp_path) == before
    elsewhere.replace(path)
    storage = open_storage(url_of(path), create=False)
    assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
    storage.close()


def filled(storage: LeasedStorage, trials: int) -> None:
    """A study with so many trials of some size."""
    study = optuna.create_study(storage=storage, study_name="filled", load_if_exists=True)
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("text", "long " * 100)
        study.tell(trial, number)


@pytest.mark.parametrize(
    ("log", "what"), [long("first", "older than the file"), ("later", "not of this file")]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_that_does_not_belong_to_the_file_is_not_brought_into_it(
    tmp_path: Path, log: str, what: str, read_only: bool
) -> None:
    path = tmp_path / "search.db"
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("first", "later"):
        storage = open_storage(url_of(path))
        filled(storage, 3)
        # as of a backup that was made while somebody was at work
        shutil.copy(tmp_path / "search.db-wal", logs / name)
        storage.close()
    storage = open_storage(url_of(path))
    filled(storage, 30)
    storage.close()
    before = path.read_bytes()
    shutil.copy(logs / log, tmp_path / "search.db-wal")
    line = refusal(url_of(path), create=False, read_only=read_only)
    assert f"its log search.db-wal is {what}: put back the log that belongs to it" in line
    assert path.read_bytes() == before
    assert (tmp_path / "search.db-wal").read_bytes() == (logs / log).read_bytes()
    for file in tmp_path.glob("search.db-*"):
        file.unlink()
    storage = open_storage(url_of(path), read_only=read_only)
    assert len(storage.get_all_trials(1)) == 36
    storage.close()


# ------------------------------------------------------------------------- somebody else's store


def test_looking_at_somebody_elses_store_leaves_nothing_beside_it(open_folder: Path) -> None:
    path = made(open_folder / "search.db")
    path.chmod(0o444)
    before = files(open_folder)
    with without_powers():
        storage = open_storage(url_of(path), read_only=True)
        assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
        # a log of ours would keep its owner from writing
        assert files(open_folder) == before
        storage.close()
    assert files(open_folder) == before


@pytest.mark.parametrize("mode", [0o555, 0o777])
def test_the_log_of_somebody_elses_store_is_read_and_stays(open_folder: Path, mode: int) -> None:
    path = killed(open_folder / "search.db")
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(mode)
    before = files(open_folder)
    with without_powers():
        storage = open_storage(url_of(path), read_only=True)
        assert [study.study_name for study in storage.get_all_studies()] == ["faces"]
        storage.close()
    assert files(open_folder) == before


def test_a_log_that_cannot_be_read_without_writing_is_refused_in_a_line(open_folder: Path) -> None:
    path = killed(open_folder / "search.db")
    (open_folder / "search.db-shm").unlink()
    path.chmod(0o444)
    before = files(open_folder)
    with without_powers():
        line = refusal(url_of(path), read_only=True)
    assert "its newest rows are in search.db-wal" in line
    assert "copy both files to a folder of your own" in line
    assert files(open_folder) == before


def test_a_reader_sees_what_the_owner_of_the_store_writes_meanwhile(open_folder: Path) -> None:
    path = made(open_folder / "search.db")
    path.chmod(0o644)
    with without_powers():
        if os.access(path, os.W_OK):
            pytest.skip("this needs a second user, whom only root can be")
        reader = open_storage(url_of(path), read_only=True)
        assert len(reader.get_all_studies()) == 1
    owner = open_storage(url_of(path))
    for count, name in enumerate(("later", "last"), 2):
        owner.create_new_study([StudyDirection.MAXIMIZE], name)
        with without_powers():
            assert len(reader.get_all_studies()) == count
    owner.close()
    with without_powers():
        assert len(reader.get_all_studies()) == 3
        reader.close()
    assert [file.name for file in open_folder.iterdir()] == ["search.db"]


def test_somebody_elses_store_in_the_older_journal_is_read_under_its_locks(
    open_folder: Path,
) -> None:
    path = made(open_folder / "search.db")
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA journal_mode = delete")
    path.chmod(0o444)
    with without_powers():
        storage = open_storage(url_of(path), read_only=True)
        with storage.engine.connect() as connection:
            # an immutable file would take no lock, and a writer could be seen half-way
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "delete"
        assert len(storage.get_all_studies()) == 1
        storage.close()
