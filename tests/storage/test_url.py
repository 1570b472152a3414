from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from storage import StorageError, for_optuna, open_storage, parse_url, redact
from storage.url import scrub

SECRET = "hunter2"


def test_a_relative_file_counts_from_the_folder_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = parse_url("sqlite:///runs/search.db")
    assert url.path == tmp_path / "runs" / "search.db"
    assert url.text == f"sqlite:///{tmp_path}/runs/search.db"


def test_an_absolute_file_has_four_slashes() -> None:
    assert parse_url("sqlite:////data/search.db").path == Path("/data/search.db")
    assert parse_url(" sqlite+pysqlite:////data/x/../search.db\n").path == Path("/data/search.db")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("{trial}.db", "{trial}.db"),
        ("two words.db", "two words.db"),
        ("two%20words.db", "two words.db"),
        ("50%.db", "50%.db"),
        ("100%2520.db", "100%20.db"),
        ("what%3F.db", "what?.db"),
        ("a#b&c=d@e.db", "a#b&c=d@e.db"),
        ("größe.db", "größe.db"),
    ],
)
def test_every_file_name_means_the_same_file_to_plain_optuna(
    tmp_path: Path, written: str, name: str
) -> None:
    with_leases = open_storage(f"sqlite:///{tmp_path}/{written}")
    optuna.create_study(storage=with_leases, study_name="faces")
    with_leases.close()
    assert (tmp_path / name).is_file()
    for url in (f"sqlite:///{tmp_path}/{written}", with_leases.address.text):
        plain = optuna.storages.RDBStorage(for_optuna(url))
        assert [study.study_name for study in plain.get_all_studies()] == ["faces"]
        plain.engine.dispose()
    assert {file.name for file in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "PostgreSQL"])
def test_postgresql_means_psycopg_3(scheme: str) -> None:
    url = parse_url(f"{scheme}://ann:pw@db:5432/faces?host=/run")
    assert url.text == "postgresql+psycopg://ann:pw@db:5432/faces?host=/run"
    assert url.path is None
    assert make_url(url.text).get_dialect().driver == "psycopg"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a URL"),
        ("runs/search.db", "write sqlite:///runs/search.db for a file"),
        ("my runs/s.db", "write 'sqlite:///my runs/s.db' for a file"),
        ("mysql://ann@db/faces", "no support for 'mysql': write sqlite:///FILE or postgresql://"),
        ("postgresql+psycopg2://db/faces", "no support for 'postgresql+psycopg2'"),
        ("postgresql://", "names no server and no database"),
        ("sqlite://runs/search.db", "write sqlite:///runs/search.db"),
        ("sqlite://", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///~/search.db", "write sqlite:////"),
        ("sqlite:///x.db?timeout=5", "leave them out"),
        ("sqlite:///runs/", "is a folder"),
        ("postgresql://ann:p@ss@db/faces", "written %40"),
    ],
)
def test_another_url_is_refused_with_the_way_to_write_it(url: str, says: str) -> None:
    with pytest.raises(StorageError) as refused:
        parse_url(url)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        parse_url(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:hunter2@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://ann@corp:hunter2@db/faces", "postgresql://ann@corp:***@db/faces"),
        ("postgresql://ann:a@hunter2@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://ann:a:hunter2@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://ann:a/hunter2@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://ann:a?hunter2#@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://ann:a\nhunter2@db/faces", "postgresql://ann:***@db/faces"),
        ("postgresql://a/b:hunter2@db/faces", "postgresql://a/b:***@db/faces"),
        ("postgresql://a#b:hunter2@db/faces", "postgresql://a#b:***@db/faces"),
        ("postgresql://:hunter2@db/faces", "postgresql://:***@db/faces"),
        ("mysql://ann:hunter2@db/faces", "mysql://ann:***@db/faces"),
        ("postgresql://db/faces?password=hunter2", "postgresql://db/faces?password=***"),
        (
            "postgresql://db/x?a=b&SSLPassword=hunter2&c=d",
            "postgresql://db/x?a=b&SSLPassword=***&c=d",
        ),
        ("postgresql://ann:a?pass=hunter2@db/x", "postgresql://ann:***"),
        ("postgresql://ann@db:5432/x?password=a@hunter2", "postgresql://ann@db:***"),
        ("postgresql:ann:hunter2@db/faces", "***@db/faces"),
        ("ann:hunter2@db/faces", "***@db/faces"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert redact(url) == shown
    try:
        told = parse_url(url).shown
    except StorageError as refused:
        told = str(refused)
    assert SECRET not in told


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////data/search.db",
        "postgresql://ann@db:5432/faces",
        "postgresql://ann@[::1]:5432/faces?connect_timeout=3",
    ],
)
def test_a_url_without_a_password_is_shown_whole(url: str) -> None:
    assert redact(url) == url


def test_a_drivers_message_loses_the_password_in_both_spellings_and_stays_one_line() -> None:
    url = "postgresql://ann:hunt%2Fer@db/faces?sslpassword=key%21"
    text = "no way with hunt%2Fer\nor hunt/er\tor key! or key%21, see postgresql://x:y@z"
    assert scrub(text, url) == "no way with *** or *** or *** or ***, see postgresql://x:***@z"
    assert len(scrub("long " * 100, url)) == 300


def test_braces_are_doubled_for_optuna() -> None:
    assert for_optuna("sqlite:///{a}.db") == "sqlite:///{{a}}.db"
