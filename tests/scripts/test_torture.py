"""Torture, soak and the bench of the store: their judges find what they are there to find."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from scripts.benchmarks import store as bench_store
from scripts.reliability import service, soak, torture
from scripts.reliability import torture_judge as judge
from search.study.lookup import load_setup
from storage import LeasedStorage, open_storage
from tests.support.studies import play, study_of

TRIALS = 8


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals as they were; scripts that import each other when they run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ------------------------------------------------------------------------------- the whole torture


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_a_torture_goes_on_with_the_next_call_loses_nothing_and_is_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "torture.json"
    words = ["--kills", "3", "--trials", "4", "--workers", "2", "--seed", "3", "--json", str(kept)]
    assert torture.main([*words, "--minutes", "0.05"]) == 0
    first = json.loads(kept.read_text())["stores"]["sqlite"]["progress"]
    assert (first["done"], first["studies"], first["findings"]) == (False, [], [])
    assert service.living(Path(first["work"])) == []

    words += ["--minutes", "4"]
    assert torture.main(words) == 0, capsys.readouterr()
    store = json.loads(kept.read_text())["stores"]["sqlite"]
    figures, progress = store["figures"], store["progress"]
    # a study that ends before the last kill is followed by another
    trials = 4 * len(progress["studies"])
    assert (figures["finished"], figures["violations"], figures["kills"]) == (trials, 0, 3)
    assert figures["steps"] >= trials >= 4
    assert progress["work"] == first["work"]
    assert not Path(progress["work"]).exists()
    assert store["versions"]["optuna"]
    assert "finished trials" in capsys.readouterr().out

    # nothing is done twice
    assert torture.main(words) == 0
    assert json.loads(kept.read_text())["stores"]["sqlite"]["progress"] == progress
    assert torture.main([*words, "--kills", "5"]) == 2
    assert "holds another torture" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- the judge


def test_a_worker_that_sleeps_in_mid_write_does_not_keep_the_judge_waiting(
    storage: LeasedStorage, sqlite_url: str
) -> None:
    study_id = storage.get_study_id_from_name("faces")
    watching = torture.watched(sqlite_url)
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as asleep:
        asleep.execute("BEGIN IMMEDIATE")
        rows = judge.read_rows(watching.engine, study_id)
        log = judge.read_log(watching.engine, study_id)
        asleep.execute("ROLLBACK")
    watching.close()
    assert rows == judge.read_rows(storage.engine, study_id)
    assert log == judge.read_log(storage.engine, study_id)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study that was played to its end under the eyes of the triggers."""
    file = tmp_path_factory.mktemp("played") / "search.db"
    play_in(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def storage(played: Path, sqlite_url: str) -> Iterator[LeasedStorage]:
    """A copy of it, to spoil."""
    shutil.copy(played, sqlite_url.removeprefix("sqlite:///"))
    opened = open_storage(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def each_storage(store_url: str) -> Iterator[LeasedStorage]:
    """The same on each kind of database."""
    opened = play_in(store_url)
    yield opened
    opened.close()


def play_in(url: str) -> LeasedStorage:
    opened = open_storage(url)
    judge.audit(opened.engine)
    study = study_of(opened)
    play(study, opened, load_setup(study), TRIALS)
    return opened


def evidence(storage: LeasedStorage, **more: Any) -> Any:
    study_id = storage.get_study_id_from_name("faces")
    rows = judge.read_rows(storage.engine, study_id)
    return judge.Evidence(rows=rows, log=judge.read_log(storage.engine, study_id), **more)


def found(storage: LeasedStorage, total: int = TRIALS, **more: Any) -> list[str]:
    return list(judge.judge(evidence(storage, **more), total))


def sql(storage: LeasedStorage, statement: str, **values: Any) -> None:
    with storage.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def trial_id(storage: LeasedStorage, number: int = 0) -> int:
    study_id = storage.get_study_id_from_name("faces")
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def steps(storage: LeasedStorage, number: int = 0) -> int:
    return len(storage.get_trial(trial_id(storage, number)).intermediate_values)


def test_a_study_without_accidents_is_found_whole(storage: LeasedStorage) -> None:
    assert found(storage) == []
    seen = {key: judge.digest(row) for key, row in evidence(storage).rows.items()}
    assert found(storage, seen=seen) == []
    judge.audit(storage.engine)  # once more changes nothing
    judge.end_audit(storage.engine)
    assert not sa.inspect(storage.engine).has_table(judge.LOG)


def test_one_trial_too_many_and_one_too_few_are_found(storage: LeasedStorage) -> None:
    assert found(storage, total=7) == ["8 finished trials at the end, not 7"]
    assert found(storage, total=9) == ["8 finished trials at the end, not 9"]


@pytest.mark.parametrize("state", ["RUNNING", "WAITING", "FAIL"])
def test_a_trial_that_is_not_finished_is_found(storage: LeasedStorage, state: str) -> None:
    sql(storage, f"UPDATE trials SET state = '{state}' WHERE trial_id = {trial_id(storage)}")
    lines = found(storage)
    assert "7 finished trials at the end, not 8" in lines
    assert f"trial 0 is {state} at the end" in lines


def test_a_changed_value_of_a_finished_trial_is_found(storage: LeasedStorage) -> None:
    seen = {key: judge.digest(row) for key, row in evidence(storage).rows.items()}
    sql(storage, f"UPDATE trial_values SET value = 0.5 WHERE trial_id = {trial_id(storage)}")
    lines = found(storage, seen=seen)
    assert any(line.startswith("trial 0: value 0 (") and "after it was" in line for line in lines)
    assert "trial 0: finished, and then changed" in lines


def test_a_change_behind_the_triggers_is_found(storage: LeasedStorage) -> None:
    log = evidence(storage).log
    sql(
        storage,
        f"UPDATE trial_params SET param_value = 1 WHERE trial_id = {trial_id(storage)}"
        " AND param_name = 'dice_weight'",
    )
    blind = judge.Evidence(rows=evidence(storage).rows, log=log)
    assert judge.judge(blind, TRIALS) == ["trial 0: param dice_weight not as written"]


def test_a_deleted_trial_is_found(storage: LeasedStorage) -> None:
    seen = {key: judge.digest(row) for key, row in evidence(storage).rows.items()}
    last = trial_id(storage, TRIALS - 1)
    for table in ("trial_intermediate_values", "trial_values", "trial_params"):
        sql(storage, f"DELETE FROM {table} WHERE trial_id = {last}")
    for table in ("trial_user_attributes", "trial_system_attributes", "trials"):
        sql(storage, f"DELETE FROM {table} WHERE trial_id = {last}")
    lines = found(storage, seen=seen)
    assert "7 finished trials at the end, not 8" in lines
    assert f"trial id {last}: finished, and then lost" in lines


def test_a_step_without_a_lease_a_step_twice_and_a_gap_are_found(
    each_storage: LeasedStorage,
) -> None:
    storage = each_storage
    study_id = storage.get_study_id_from_name("faces")
    token = storage.take_slot(study_id, None, "host:1")
    assert token is not None
    new = storage.new_trial(study_id, token)
    for step in (1, 2, 4):
        storage.set_trial_intermediate_value(new, step, 0.1 * step)
    assert found(storage) == [
        "trial 8 is RUNNING at the end",
        "trial 8: steps [1, 2, 4] are not whole",
    ]
    # what a sleeper would do that does not ask for its token
    storage.release(token)
    plain = open_storage(storage.address.text)
    plain.set_trial_intermediate_value(new, 3, 0.3)
    plain.set_trial_intermediate_value(new, 1, 0.9)
    plain.close()
    assert found(storage) == [
        "trial 8 is RUNNING at the end",
        "trial 8: step 3 (0.3) was written without a lease",
        "trial 8: step 1 (0.1 -> 0.9) was written without a lease",
        "trial 8: step 1 (0.1 -> 0.9): update",
    ]


def row(epoch: int, seconds: float) -> dict[str, Any]:
    return {"epoch": epoch, "val_f": 0.1 * epoch, "seconds": seconds}


def test_where_a_claim_began_is_read_from_its_history() -> None:
    first = [row(1, 0.3), row(2, 0.4), row(3, 0.5)]
    second = [*first[:2], row(3, 0.6), row(4, 0.3)]
    third = [*second, row(5, 0.2)]
    assert judge.starts({1: first, 5: second, 9: third}) == {1: 0, 5: 2, 9: 4}
    assert judge.repeated({1: first, 5: second, 9: third}) == 1
    assert judge.repeated({1: first}) == 0


def test_a_claim_that_goes_back_behind_a_report_is_found(storage: LeasedStorage) -> None:
    study_id = storage.get_study_id_from_name("faces")
    first = storage.take_slot(study_id, None, "host:1")
    assert first is not None
    trial = storage.new_trial(study_id, first)
    for step in (1, 2):
        storage.set_trial_intermediate_value(trial, step, 0.1 * step)
    storage.requeue(trial, first)
    second = storage.take_slot(study_id, None, "host:2")
    assert second is not None
    assert storage.pop_waiting(study_id, second) == trial
    mine = [row(1, 0.3), row(2, 0.4)]
    for again, expected in (
        ([*mine, row(3, 0.5)], []),
        (
            [mine[0], row(2, 0.7)],
            [f"trial 8: claim {second} went on from epoch 1, but epoch 2 had been reported"],
        ),
    ):
        histories = {8: {first: mine, second: again}}
        assert judge.behind_a_report(evidence(storage, histories=histories)) == expected
    twice = {8: {first: mine, second: [row(1, 0.8), row(2, 0.9)]}}
    kills = (judge.Kill(0.0, "worker SIGKILL"),)
    assert judge.too_much_repeated(evidence(storage, histories=twice, kills=kills * 2)) == []
    assert judge.too_much_repeated(evidence(storage, histories=twice, kills=kills)) == [
        "2 epochs were trained again after 1 kills"
    ]


def entry(at_s: float, kind: str, deed: str, token: int | None, new: Any = None) -> Any:
    return judge.Entry(int(10 * at_s), at_s, kind, deed, 1, "0", None, new, token)


def test_the_time_from_a_kill_to_the_next_owner_is_measured() -> None:
    begun = [
        entry(0.0, "claim", "insert", 7, "host:42"),
        entry(0.1, "state", "insert", None, "RUNNING"),
        entry(0.2, "claim", "update", 7, "host:42"),
    ]
    kill = judge.Kill(10.0, "worker SIGKILL", (42,))
    requeued = [*begun, entry(13.5, "state", "update", None, "WAITING")]
    assert judge.recoveries(requeued, [kill]) == [(kill, 3.5)]
    assert judge.recoveries(begun, [kill]) == [(kill, None)]
    # its verdict was in the store already, or somebody else was killed
    ended = [*begun, entry(9.0, "state", "update", 7, "COMPLETE")]
    assert judge.recoveries(ended, [kill]) == []
    assert judge.recoveries(requeued, [judge.Kill(10.0, "worker SIGKILL", (43,))]) == []
    # nobody was left to find it until the second supervisor had gone, too
    cut = judge.Kill(12.0, "power cut", ())
    assert judge.recoveries(requeued, [kill, cut]) == [(kill, 1.5)]
    assert judge.recoveries(requeued, [kill, judge.Kill(12.0, "worker SIGTERM", ())])[0][1] == 3.5
    slow = [*begun, entry(41.0, "state", "update", None, "WAITING")]
    late = judge.Evidence(rows={}, log=slow, kills=[kill])
    assert judge.found_too_late(late) == ["after worker SIGKILL a trial lay dead for 31.0 s"]


# ---------------------------------------------------------------------------- the store under load


def values(trials: int, reports: int) -> list[tuple[int, int, float]]:
    return [
        (number, step, bench_store.value_of(number, step))
        for number in range(trials)
        for step in range(1, reports + 1)
    ]


def test_every_value_that_is_missing_changed_or_doubled_is_counted() -> None:
    whole, numbers = values(70, 3), list(range(70))
    sound = bench_store.checked(whole, numbers, trials=70, reports=3)
    assert sound.pop("values") == 210
    assert set(sound.values()) == {0}
    broken = [*whole[1:-1], whole[5], (69, 3, 0.5)]
    runs = [*numbers[1:], 59, 65]
    assert bench_store.checked(broken, runs, trials=70, reports=3) == {
        "values": 210,
        "missing": 1,
        "wrong": 1,
        "doubled_values": 1,
        "run_twice": 2,
        "enqueued_run_twice": 1,
        "enqueued_not_run": 1,
    }


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_writers_and_readers_share_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "store.json"
    words = ["--store", "sqlite", "--writers", "2", "--trials", "33", "--reports", "2"]
    words += ["--rival-trials", "2", "--json", str(kept)]
    assert bench_store.main(words) == 0, capsys.readouterr()
    part = json.loads(kept.read_text())["stores"]["sqlite"]
    ours, rival = part["figures"]["ours"], part["figures"]["rival"]
    assert (ours["values"], ours["errors"], ours["run_twice"]) == (132, {}, 0)
    assert ours["reads"] > 0
    assert rival["reports_per_s"] > 0
    assert not Path(part["work"]).exists()


# ------------------------------------------------------------------------------------------- soak


def track(slope_mb_s: float, files: list[int]) -> Any:
    it = soak.Track("worker 1", 1)
    for index, count in enumerate(files):
        it.at_s.append(10.0 * index)
        it.uss_mb.append(100.0 + slope_mb_s * 10 * index)
        it.rss_mb.append(200.0)
        it.files.append(count)
        it.threads.append(7)
    return it


def test_growth_is_told_from_a_flat_line() -> None:
    flat = soak.verdict(track(0.0, [9, 8, 9, 9, 8, 9]), 10)
    assert (flat["flat"], flat["mb_per_hour"], flat["uss_mb_at_the_end"]) == (True, 0.0, 100.0)
    grown = soak.verdict(track(0.5, [9] * 6), 10)
    assert (grown["flat"], grown["mb_per_hour"]) == (False, 1800.0)
    assert not soak.verdict(track(0.0, [9, 9, 9, 10, 11, 12]), 0)["flat"]
    # two trials a second of a quarter of a megabyte each: it is the study that grows
    known = soak.verdict(track(0.5, [9] * 6), 10, [(0.0, 0), (50.0, 100)], 0.25)
    assert (known["flat"], known["mb_per_hour"]) == (True, 1800.0)
    assert known["mb_per_hour_without_the_study"] == 0.0
    assert soak.verdict(track(0.0, [9] * 3), 20) is None


def test_the_rate_of_trials_is_told_for_begin_and_end() -> None:
    seen = [(0.0, 0), (10.0, 5), (20.0, 25), (30.0, 45), (40.0, 50), (50.0, 55)]
    assert soak.rates(seen, window_s=20) == (120.0, 30.0)
    assert soak.rates(seen[:1]) == (0.0, 0.0)


@pytest.mark.proof
def test_a_soak_of_seconds_watches_every_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SAMPLE_S", 1.0)
    kept = tmp_path / "soak.json"
    # so short that it may well call a start growth
    assert soak.main(["--minutes", "0.3", "--workers", "2", "--json", str(kept)]) in (0, 1)
    told = json.loads(kept.read_text())
    assert list(told["samples"]) == ["supervisor", "worker 1", "worker 2"]
    assert told["lost"] == []
    assert all(min(samples["uss_mb"]) > 0 for samples in told["samples"].values())
    assert f"{told['trials']} trials of " in capsys.readouterr().out


@pytest.mark.parametrize("module", [torture, bench_store, soak])
def test_every_flag_has_help(module: ModuleType) -> None:
    assert all(action.help for action in module.parser()._actions)
