from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from storage import (
    Heartbeat,
    Reaper,
    StorageError,
    open_storage,
    parse_url,
    postgres,
)
from storage.trouble import kind_of
from tests.support import postgres as servers
from tests.support.claimed import start

PASSWORD = "hun@ter:2/%"
WRONG = "let@me:in/%"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    """A server that may be stopped and set up differently."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(servers.server())
        except Exception as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error!r}")
        yield running


def refusal(url: str) -> str:
    """The one line with which a server is refused, at once."""
    began = time.monotonic()
    with pytest.raises(StorageError) as refused:
        open_storage(url)
    assert time.monotonic() - began < 10
    line = str(refused.value)
    assert "\n" not in line
    assert refused.value.__cause__ is None
    return line


def as_ann(url: str, password: str) -> str:
    """The same database for a user with a password, as a person must write it."""
    quoted = password.replace("%", "%25").replace("@", "%40")
    return url.replace("postgres:@", f"ann:{quoted}@")


@pytest.mark.parametrize(
    "password", ["hunter2", "a%40hunter2", "a:hunter2", "a/hunter2", "hunter2%2Fhunter2", "%20"]
)
def test_a_server_out_of_reach_is_one_line_without_the_password(password: str) -> None:
    line = refusal(f"postgresql://ann:{password}@127.0.0.1:1/faces")
    assert line.startswith("store postgresql+psycopg://ann:***@127.0.0.1:1/faces: ")
    assert "refused" in line
    assert line.endswith("check that the server runs and the URL is right")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ann:hunter2@127.0.0.1/", "names no database"),
        ("postgresql://ann:hunter2@127.0.0.1", "names no database"),
        ("postgresql://ann:a@hunter2@127.0.0.1:1/faces", "written %40"),
        ("postgresql://ann:hunter2@127.0.0.1:port/faces", "not a well-formed URL"),
        ("postgresql://a/b:hunter2@127.0.0.1/faces", "***"),
        ("postgresql://127.0.0.1:1/faces?user=ann&password=hunter2", "password=***"),
        ("postgresql:///faces?pasword=x&password=hunter2", 'invalid connection option "pasword"'),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_without_the_password(url: str, says: str) -> None:
    line = refusal(url)
    assert says in line
    assert "hunter2" not in line


def test_a_server_that_is_stopped_is_one_line(tmp_path: Path) -> None:
    line = refusal(f"postgresql:///faces?host={tmp_path}")
    assert "No such file or directory" in line
    assert str(tmp_path) in line


def test_a_name_that_is_not_found_for_a_while_is_passing() -> None:
    engine = sa.create_engine("postgresql+psycopg://ann:hunter2@faces.invalid/faces")
    with pytest.raises(sa.exc.OperationalError) as info:
        engine.connect()
    # a run that reached the server before may reach it again
    assert kind_of(info.value) == "passing"
    assert "hunter2" not in refusal("postgresql://ann:hunter2@faces.invalid/faces")


def test_a_missing_database_is_one_line(own_server: Any) -> None:
    line = refusal(str(own_server.get_uri(database="nowhere")))
    assert 'database "nowhere" does not exist' in line


def test_a_wrong_password_is_one_line_without_it(own_server: Any) -> None:
    url = servers.new_schema(own_server)
    rules = own_server.pgdata / "pg_hba.conf"
    rules.write_text(f"local all ann scram-sha-256\n{rules.read_text()}")
    own_server.psql("SELECT pg_reload_conf()")
    own_server.psql(f"CREATE ROLE ann LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    with (
        closing(open_storage(as_ann(url, PASSWORD))) as storage,
        storage.engine.connect() as connection,
    ):
        assert connection.execute(sa.text("SELECT current_user")).scalar_one() == "ann"
    line = refusal(as_ann(url, WRONG))
    assert 'password authentication failed for user "ann"' in line
    assert "ann:***@" in line
    for part in ("let", "me:in"):
        assert part not in line
    assert "no password supplied" in refusal(as_ann(url, ""))
    # it is the same in mid-run: a password does not mend itself
    storage = open_storage(as_ann(url, PASSWORD))
    own_server.psql(f"ALTER ROLE ann PASSWORD '{WRONG}'")
    storage.close()
    with pytest.raises(StorageError, match="password authentication failed") as ended:
        storage.get_all_studies()
    assert PASSWORD not in str(ended.value)
    assert PASSWORD not in repr(storage)
    storage.close()


def test_the_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'psycopg[binary]'" in refusal("postgresql://ann:hunter2@db/faces")


def test_connections_notice_a_dead_network_and_the_url_may_say_otherwise() -> None:
    options = postgres.engine_options(parse_url("postgresql://db/faces?connect_timeout=3"))
    assert "connect_timeout" not in options["connect_args"]
    assert options["connect_args"]["tcp_user_timeout"] == 25_000
    default = postgres.engine_options(parse_url("postgresql://db/faces"))
    assert default["connect_args"]["connect_timeout"] == 10


def test_every_connection_is_set_up(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    assert storage.engine.dialect.driver == "psycopg"
    for _ in range(2):
        with storage.engine.connect() as connection:
            for name, value in (
                ("idle_in_transaction_session_timeout", "10s"),
                ("transaction_isolation", "read committed"),
            ):
                assert connection.execute(sa.text(f"SHOW {name}")).scalar_one() == value
        storage.close()


def test_a_worker_that_stops_in_mid_transaction_blocks_nobody_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_IN_TRANSACTION_MS", 300)
    stopped, storage = open_storage(postgres_url), open_storage(postgres_url)
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    connection = stopped.engine.connect()
    connection.execute(sa.text("SELECT * FROM studies FOR UPDATE"))
    began = time.monotonic()
    assert storage.take_slot(study_id, 1, "test") is not None
    assert 0.2 < time.monotonic() - began < 10
    connection.invalidate()
    # who was stopped finds a new connection by itself
    assert stopped.count_finished(study_id) == 0
    stopped.close()
    storage.close()


def test_a_restart_of_the_server_in_mid_study_costs_only_time(own_server: Any) -> None:
    url = servers.new_schema(own_server)
    storage = open_storage(url, patience_s=60)
    study = optuna.create_study(storage=storage, study_name="faces", direction="maximize")
    study_id = study._study_id
    token, trial_id = start(storage, study_id)
    trial = Trial(study, trial_id)
    watcher = open_storage(url, patience_s=60)
    reaper = Reaper(watcher, study_id, grace_s=20)
    reports = 0
    down = threading.Event()
    back = threading.Event()

    def work() -> None:
        nonlocal reports
        while not back.is_set() or reports < 20:
            reports += 1
            trial.report(reports / 1000, reports)
            trial.set_user_attr(f"attr {reports}", reports)
            if not down.is_set():
                time.sleep(0.01)
        study.tell(trial, 0.5)

    with Heartbeat(storage, token, 0.1, 20.0) as heart:
        worker = threading.Thread(target=work)
        worker.start()
        time.sleep(0.3)
        own_server.stop()
        down.set()
        before = reports
        time.sleep(0.5)
        # at most the report in hand was counted
        assert reports <= before + 1
        # this one waits in the outage, and is answered after it
        reaped_claims: list[Any] = []
        looking = threading.Thread(target=lambda: reaped_claims.extend(reaper.look()))
        looking.start()
        own_server.ensure_postgres_running()
        back.set()
        worker.join(60)
        looking.join(60)
        assert not heart.lost.is_set()
    assert reaped_claims == []
    (row,) = study.get_trials()
    assert (row.state, row.value) == (TrialState.COMPLETE, 0.5)
    assert row.intermediate_values == {n: n / 1000 for n in range(1, reports + 1)}
    assert row.user_attrs == {f"attr {n}": n for n in range(1, reports + 1)}
    (claim,) = storage.live_claims(study_id)
    assert claim.token == token
    assert storage.release(token)
    storage.close()
    watcher.close()


def test_a_worker_waits_for_a_server_that_is_away_when_it_starts(own_server: Any) -> None:
    url = servers.new_schema(own_server)
    open_storage(url).close()
    own_server.stop()
    told: list[str] = []
    back = threading.Timer(1.0, own_server.ensure_postgres_running)
    back.start()
    try:
        storage = open_storage(url, create=False, wait_s=60, tell=told.append)
    finally:
        back.join()
    assert storage.get_all_studies() == []
    storage.close()
    assert len(told) == 2
    assert told[0].endswith("; waiting for it up to 60 s")
    assert told[1].endswith(" answers again")


def test_an_outage_longer_than_patience_is_one_line(own_server: Any) -> None:
    url = servers.new_schema(own_server)
    storage = open_storage(url, patience_s=0.5)
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "faces")
    token, trial_id = start(storage, study_id)
    own_server.stop()
    try:
        with Heartbeat(storage, token, 0.1, 0.5) as heart:
            with pytest.raises(StorageError) as ended:
                storage.set_trial_intermediate_value(trial_id, 1, 0.5)
            assert heart.lost.wait(10)
        for error in (ended.value, heart.failure):
            assert isinstance(error, StorageError)
            assert str(error).startswith(f"store {storage.address.shown}: ")
            assert "\n" not in str(error)
            assert "check that the server runs" in str(error)
    finally:
        own_server.ensure_postgres_running()
    assert storage.requeue(trial_id, token)
    storage.close()
