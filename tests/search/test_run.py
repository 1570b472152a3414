from __future__ import annotations

import importlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import space
from search import clean, compare, confirm, export, queue, rebuild, report, worker
from search.run import main, parser
from search.strategy.loading import load_study
from search.study.lookup import load_setup
from search.study.names import PRUNERS, SAMPLERS
from search.study.shared_state import Lease, lease_of
from storage import Claim, open_storage
from storage.claims import CLAIMS
from tests.support.data_folders import course, save_mask, troubled
from tests.support.documents import section
from tests.support.marks import long
from tests.support.shells import command, locale_of, one_line, surroundings
from tests.support.studies import ROOT, environment, running, started, store, wait_until
from trainer import checkpoint
from trainer.config import read_config
from trainer.data.dataset import describe

NAME = "synthetic-demo-16"
# a keyword of the language
importing = importlib.import_module("search.import_results")
TINY = """\
model: {width: 0.1}
data: {image_size: 16, batch_size: 8, synthetic_images: 40}
training: {epochs: 2, ema: 0.2, warmup_epochs: 0.2}
runtime: {device: cpu, threads: 1}
"""
# ends before a worker has begun: all that a run does before its first trial
# over before a worker has begun
AT_ONCE = ("--timeout", "1e-6")
C, P, R, W, F = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAIL,
)


def place(folder: Path) -> Path:
    """A folder to search in, with a config of tiny trainings."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, empty but for the config."""
    monkeypatch.chdir(place(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def words(*flags: str) -> list[str]:
    return [sys.executable, "-m", "search.run", "--config", "tiny.yaml", *flags]


def here(*flags: str) -> int:
    """The command in this process; its workers are processes all the same."""
    return main(["--config", "tiny.yaml", *flags])


def opened(folder: Path, name: str = NAME) -> optuna.Study:
    url = f"sqlite:///{folder}/runs/search.db"
    return load_study(open_storage(url, create=False), name)


def states(folder: Path, name: str = NAME) -> list[TrialState]:
    return [trial.state for trial in opened(folder, name).get_trials()]


def claims(folder: Path) -> list[Claim]:
    storage = store(folder / "runs")
    return storage.live_claims(storage.get_study_id_from_name(NAME))


def looked_up(folder: Path, query: str, number: int) -> object:
    """One value straight from the file, None before there is one: opening a storage takes long."""
    try:
        with closing(sqlite3.connect(f"file:{folder}/runs/search.db?mode=ro", uri=True)) as file:
            return (file.execute(query, (number,)).fetchone() or (None,))[0]
    except sqlite3.OperationalError:
        return None


def worker_of(folder: Path, number: int) -> int | None:
    """The process that trains a trial."""
    owner = looked_up(folder, f"SELECT owner FROM {CLAIMS.name} WHERE number = ?", number)
    return int(str(owner).rpartition(":")[2]) if owner else None


def epochs(folder: Path, number: int = 0) -> int:
    """How many epochs of a trial are in the store."""
    steps = "SELECT COUNT(*) FROM trial_intermediate_values JOIN trials USING (trial_id)"
    return int(str(looked_up(folder, f"{steps} WHERE number = ?", number) or 0))


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    return one_line(main, capsys, "--config", "tiny.yaml", *flags)


@dataclass(frozen=True)
class Finished:
    """A study of three trials, and what its run said."""

    folder: Path
    out: str
    err: str
    code: int


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = place(tmp_path_factory.mktemp("finished"))
    log = ("--log", "log.jsonl", "--log-format", "json")
    with started(folder, "--trials", "3", "--workers", "2", *log) as process:
        out, err = process.communicate(timeout=120)
    return Finished(folder, out, err, process.returncode)


@pytest.fixture
def copied(finished: Finished, room: Path) -> Path:
    """The finished study, to go on with."""
    shutil.copytree(finished.folder / "runs", room / "runs")
    return room


# ------------------------------------------------------------------------------------ the budget


def test_a_run_ends_with_exactly_the_trials_that_were_asked_for(finished: Finished) -> None:
    assert (finished.code, finished.err) == (0, "")
    assert states(finished.folder) == [C, C, C]
    assert claims(finished.folder) == []
    assert "2 workers on cpu, 1 thread each" in finished.out
    assert "\n3 finished trials, 0 pruned (0%); 6 of 6 epochs trained (100%)\n" in finished.out
    assert "to go on" not in finished.out


def test_after_a_run_the_file_alone_holds_every_trial(finished: Finished) -> None:
    assert rows_alone(finished.folder) == (3, 6)


def test_without_a_terminal_there_are_plain_lines_only(finished: Finished) -> None:
    assert "\x1b" not in finished.out
    assert "\r" not in finished.out
    ended = re.findall(r"^trial (\d) COMPLETE 0\.\d+ after 2/2 epochs", finished.out, re.M)
    assert sorted(ended) == ["0", "1", "2"]
    assert "new best: dice_weight" in finished.out


def test_a_log_holds_the_messages_of_the_run_and_of_its_workers(finished: Finished) -> None:
    lines = (finished.folder / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert {entry["study"] for entry in entries} == {NAME}
    own = [entry["message"] for entry in entries if entry["worker"] is None]
    assert f"study {NAME}: synthetic" in own[0]
    assert all(text in finished.out for text in own)
    ended = [entry for entry in entries if ": COMPLETE, " in entry["message"]]
    assert sorted(entry["trial"] for entry in ended) == [0, 1, 2]
    assert all(entry["worker"] for entry in ended)
    # what a worker prints goes to its own file as before
    logs = "".join(path.read_text() for path in finished.folder.glob("runs/*/workers/*.log"))
    assert all(f"{entry['message']}\n" in logs for entry in ended)


def test_the_beginning_says_what_will_be_searched_on_what(finished: Finished) -> None:
    said = finished.out
    assert f"study {NAME}: synthetic, 31 train / 4 val / 5 test, 16 pixels, batch 8" in said
    assert "2 epochs = 6 steps" in said
    assert "* demo" in said
    assert "demonstration: values do not transfer" in said
    for name in space.SPACE:
        assert f"\n  {name}" in said


def test_the_same_command_again_adds_nothing_and_says_so(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--trials", "3") == 0
    assert f"nothing to do: {NAME} has 3 finished trials; raise --trials" in capsys.readouterr().out
    assert states(copied) == [C, C, C]


def test_a_lower_number_of_trials_takes_none_away(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--trials", "1") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert states(copied) == [C, C, C]


def test_the_printed_export_command_works_when_pasted(finished: Finished, room: Path) -> None:
    (line,) = re.findall(r"^export: (.*)$", finished.out, re.M)
    shutil.copytree(finished.folder / "runs", room / "runs")
    subprocess.run(line, shell=True, cwd=room, check=True, env=environment(), timeout=120)
    config, notes = read_config(room / "best.yaml")
    assert notes == []
    assert config.search is not None
    assert config.search["value"] == opened(room).best_value


@pytest.mark.long
def test_more_trials_go_on_with_what_a_person_asked_for_first(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "more.yaml").write_text(
        "- {params: {dice_weight: 0.7}, note: later}\n"
        "- {params: {dice_weight: 2.9, dropout: 0.3}, seed: 7, note: sooner, priority: 5,"
        " expect: [0.1, 0.9]}\n"
    )
    flags = ("--trials", "6", "--enqueue", "more.yaml", "--workers", "1", "--pruner", "none")
    assert here(*flags) == 0
    said = capsys.readouterr().out
    assert "more.yaml: 2 of 2 configurations enqueued" in said
    assert "first trials: 1 of the seed's configurations enqueued" in said
    later, sooner, first = opened(copied).get_trials()[3:]
    assert states(copied) == [C] * 6
    assert sooner.user_attrs["expect"] == [0.1, 0.9]
    assert (sooner.user_attrs["seed"], sooner.user_attrs["note"]) == (7, "sooner")
    assert (sooner.params["dice_weight"], sooner.params["dropout"]) == (2.9, 0.3)
    assert later.params["dice_weight"] == 0.7
    # what is not named comes from the base config
    assert later.params["dropout"] == 0.15
    # the config's own number, though this one worker might have every core
    assert later.user_attrs["runtime"]["threads"] == 1
    begun = {str(trial.datetime_start): trial.number for trial in (later, sooner, first)}
    assert [number for _, number in sorted(begun.items())] == [4, 3, 5]
    # a run that is repeated does not ask for them a second time
    assert here(*flags) == 0
    assert "0 of 2 configurations enqueued" in capsys.readouterr().out
    assert states(copied) == [C] * 6


def test_nothing_better_for_k_trials_ends_the_run(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--trials", "40", "--stop-after", "1", "--epochs", "1", "--workers", "1") == 0
    done = opened(room).get_trials(states=(C, P))
    best = max(done, key=lambda trial: (trial.value or 0, -trial.number)).number
    assert len(done) == best + 2
    assert all(trial.state == W for trial in opened(room).get_trials()[len(done) :])
    said = capsys.readouterr().out
    assert "--stop-after 1: so many trials brought nothing better" in said
    # the same command would end at once
    assert "to go on: " not in said


def test_a_dashboard_beside_the_search_ends_with_it(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--dashboard", *AT_ONCE) == 0
    said = capsys.readouterr().out
    (port,) = re.findall(r"^optuna-dashboard: http://127\.0\.0\.1:(\d+)/$", said, re.M)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()


# ----------------------------------------------------------------------------------- parked trials


@pytest.fixture(scope="module")
def parked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of which a trial was pruned and none revived."""
    folder = place(tmp_path_factory.mktemp("parked"))
    flags = ("--epochs", "4", "--no-priors", "--pruner", "successive-halving", "--revive", "0")
    with started(folder, "--trials", "3", "--workers", "1", *flags) as process:
        process.communicate(timeout=120)
    assert P in states(folder)
    return folder


@pytest.mark.long
def test_a_finished_study_revives_as_many_as_it_is_told_and_then_has_nothing_to_do(
    parked: Path, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(parked / "runs", room / "runs")
    pruned = [t.number for t in opened(room).get_trials() if t.state == P]
    flags = ("--epochs", "4", "--no-priors", "--trials", "3")
    assert here(*flags) == 0
    assert "nothing to do" in capsys.readouterr().out
    asked = (*flags, "--pruner", "none", "--revive", "1")
    assert here(*asked, *AT_ONCE) == 0
    said = capsys.readouterr().out
    assert "nothing to do" not in said
    assert "to go on: " in said
    assert here(*asked) == 0
    said = capsys.readouterr().out
    (number,) = re.findall(r"^trial (\d) \(goes on as row 3\) after \d/4 epochs$", said, re.M)
    assert int(number) in pruned
    assert f"trial {number} (goes on as row 3) COMPLETE" in said
    assert "revived 1 of them" in said
    *before, revived = opened(room).get_trials()
    assert len(before) == 3
    assert (revived.state, revived.user_attrs["continues"]) == (C, int(number))
    assert claims(room) == []
    assert here(*asked) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(opened(room).get_trials()) == 4
    # more trials go on as before
    assert here("--epochs", "4", "--no-priors", "--trials", "4") == 0
    assert states(room)[4:] == [C]


@pytest.mark.proof
def test_what_an_epoch_takes_is_told_of_this_runs_own(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that an earlier run trained may have slept for an hour."""
    flags = ("--epochs", "30", "--trials", "1", "--workers", "1", "--no-priors")
    with started(room, *flags) as process:
        wait_until(lambda: epochs(room) >= 2, "the second epoch")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert states(room) == [W]
    (path,) = (room / "runs" / NAME / "0").glob("*/last.pt")
    stored = checkpoint.read(path)
    for entry in stored["history"]:
        entry["seconds"] = 3257.4
    checkpoint.write(path, stored)
    path.with_name("history.json").write_text(json.dumps(stored["history"]))
    assert here(*flags) == 0
    (told,) = re.findall(r"an epoch takes about ([\d.]+) s", capsys.readouterr().out)
    assert float(told) < 60


# ------------------------------------------------------------------------------ before the search


def test_timeout_before_a_worker_has_begun_ends_the_run(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--trials", "40", *AT_ONCE) == 0
    said = capsys.readouterr().out
    assert "--timeout 1e-06: over before a worker has begun" in said
    assert states(room) == [W] * 4
    assert "4 trials wait in the queue; to go on: " in said
    again = shlex.split(said.rpartition("to go on: ")[2])
    assert again == words("--trials", "40", *AT_ONCE)


def test_timeout_in_mid_training_lets_the_trial_wait(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--epochs", "300", "--trials", "1", "--workers", "1", "--no-priors")
    assert here(*flags, "--timeout", "2") == 0
    assert "--timeout 2: running trials finish their epoch" in capsys.readouterr().out
    # on a busy machine it may not have begun
    assert set(states(room)) <= {W}
    assert claims(room) == []


def test_no_priors_leaves_the_first_trials_out(room: Path) -> None:
    assert here("--no-priors", *AT_ONCE) == 0
    assert states(room) == []


def test_parameters_are_fixed_and_ranges_changed(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--fix", "dropout=0.2", "--range", "dice_weight=1:2"]
    flags += ["--range", "learning_rate=1e-4:5e-3:log", "--fix", "ce_weight=0.5"]
    assert here("--study", "mine", *flags, *AT_ONCE) == 0
    said = capsys.readouterr().out
    assert "dropout          0..0.4  fixed at 0.2" in said
    assert "dice_weight      1..2" in said
    assert "learning_rate    0.0001..0.005 log" in said
    assert "learning rate searched" in said
    setup = load_setup(opened(room, "mine"))
    assert setup.fixed == {"dropout": 0.2}
    assert setup.base["loss"]["ce_weight"] == 0.5
    assert setup.space["learning_rate"] == {"kind": "float", "low": 1e-4, "high": 5e-3, "log": True}


@pytest.mark.long
@pytest.mark.parametrize("name", ["sampler", "pruner"])
def test_every_name_that_help_and_readme_give_is_accepted(room: Path, name: str) -> None:
    (action,) = (it for it in parser()._actions if it.dest == name)
    told = re.sub(r"\(default\)", "", action.help or "").replace(" or ", ", ")
    in_help = [part.strip() for part in told.split(",")]
    documented = section("`python -m search.run`")
    (row,) = re.findall(rf"^\| `--{name} \w+` \| (.*) \|$", documented, re.M)
    in_readme = re.findall(r"`([\w-]+)`", row)
    known = {"sampler": SAMPLERS, "pruner": PRUNERS}[name]
    assert set(in_help) == set(in_readme) == set(known)
    for value in in_readme:
        assert here(f"--{name}", value, "--no-priors", *AT_ONCE) == 0
        assert getattr(load_setup(opened(room)), name) == value


def test_a_folder_with_every_kind_of_trouble_is_searched_with_a_line_for_each(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = troubled(room / "faces")
    assert here("--data", "faces", "--trials", "1", "--no-priors") == 0
    out = capsys.readouterr().out
    told = [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")]
    assert [line for line in told if line in lines] == lines
    assert "faces, 18 train / 4 val / 0 test" in out
    assert states(room, "faces-small-16") == [C]


def test_masks_of_one_class_are_not_searched_on(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = course(room / "faces", [f"p{number:02d}" for number in range(40)])
    for path in (root / "train" / "masks").iterdir():
        save_mask(np.zeros((64, 64)), path)
    line = refusal(capsys, "--trials", "1", "--data", "faces")
    assert "100.0% of the pixels of its train masks are background" in line
    assert not (room / "runs" / "faces-small-16").exists()


@pytest.mark.parametrize(
    "flags",
    [
        *(("--trials", "0"), ("--trials", "many"), ("--workers", "-1"), ("--timeout", "nan")),
        *(("--revive", "-1"), ("--revive", "all"), ("--prune-risk", "1"), ("--prune-risk", "nan")),
        ("--x",),
    ],
)
def test_an_invalid_flag_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    one_line(main, capsys, *flags)


def test_an_enqueued_value_outside_is_refused_before_anything_is_written(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "more.yaml").write_text("- params: {dropout: 0.1}\n- params: {dropout: 0.9}\n")
    line = refusal(capsys, "--enqueue", "more.yaml")
    assert "more.yaml: entry 2: dropout=0.9: outside 0..0.4" in line
    assert store(room / "runs").get_all_studies() == []


@pytest.mark.long
def test_another_study_of_the_same_identity_gives_its_trials(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--study", "wider", "--range", "dice_weight=0.4:4.2", "--from", NAME, "--no-priors")
    assert here(*flags, *AT_ONCE) == 0
    said = capsys.readouterr().out
    assert f"--from {NAME}: 3 trials taken over with their values and curves" in said
    assert "0 trials wait in the queue" in said
    old, new = opened(copied), opened(copied, "wider")
    assert [trial.value for trial in new.get_trials()] == [t.value for t in old.get_trials()]
    assert new.get_trials()[1].user_attrs["copied_from"] == f"{NAME}/1"
    assert store(copied / "runs").count_finished(new._study_id) == 0
    # a second time changes nothing
    assert here(*flags, *AT_ONCE) == 0
    assert len(opened(copied, "wider").get_trials()) == 3


def test_another_study_of_another_identity_gives_its_best_configurations(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--study", "longer", "--epochs", "4", "--from", NAME, "--no-priors")
    assert here(*flags, *AT_ONCE) == 0
    assert "so no value is comparable: 3 of its best configurations" in capsys.readouterr().out
    assert states(copied, "longer") == [W, W, W]
    best = opened(copied).best_trial
    first = opened(copied, "longer").get_trials()[0]
    assert first.user_attrs["note"] == f"from study {NAME}, trial {best.number}"
    assert first.user_attrs["prediction"].startswith(f"{best.value:.4f} there")


# ---------------------------------------------------------------------------- whatever happens


@pytest.mark.proof
def test_killed_workers_and_supervisors_cost_no_trial(room: Path) -> None:
    flags = ("--trials", "1", "--epochs", "30", "--no-priors", "--workers", "1")
    with started(room, *flags) as first:
        wait_until(lambda: epochs(room) >= 2, "the second epoch")
        victim, seen = worker_of(room, 0), epochs(room)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        # not after the grace period of 20 s: the supervisor has seen it die
        wait_until(lambda: worker_of(room, 0) not in (None, victim), "another worker", 15)
        wait_until(lambda: epochs(room) > seen, "an epoch more")
        first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=120)
    assert (first.returncode, err) == (130, "")
    assert "worker 1 ended by SIGKILL; it is started again" in out
    assert (states(room), claims(room)) == ([W], [])

    with started(room, *flags) as second:
        seen = epochs(room)
        wait_until(lambda: epochs(room) > seen, "an epoch more")
        orphan = worker_of(room, 0)
        assert orphan is not None
        second.kill()
    wait_until(lambda: not alive(orphan), "the worker to leave")
    assert (states(room), claims(room)) == ([W], [])

    # as a shell starts a command in the background
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with started(room, *flags) as run:
            signal.signal(signal.SIGINT, before)
            seen = epochs(room)
            wait_until(lambda: epochs(room) > seen, "an epoch more")
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=120)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (run.returncode, states(room), claims(room)) == (130, [W], [])

    assert here(*flags) == 0
    (trial,) = opened(room).get_trials()
    assert trial.state == C
    assert sorted(trial.intermediate_values) == list(range(1, 31))
    assert "exceptions" not in trial.user_attrs


def rows_alone(folder: Path) -> tuple[int, int]:
    """Trials and reported epochs in search.db by itself, as who copies the one file gets them."""
    (folder / "alone").mkdir(exist_ok=True)
    copy = shutil.copy(folder / "runs" / "search.db", folder / "alone" / "search.db")
    tables = ("trials", "trial_intermediate_values")
    with closing(sqlite3.connect(copy)) as file:
        trials, steps = (
            int(file.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]) for table in tables
        )
    return trials, steps


@pytest.mark.proof
def test_the_file_alone_holds_every_trial_after_every_end_but_kill_9_and_then_after_any_command(
    room: Path,
) -> None:
    lease = ("--beat-s", "0.5", "--grace-s", "2")
    flags = ("--trials", "1", "--epochs", "60", "--no-priors", "--workers", "1", *lease)

    def ended_by(number: int, seen: int) -> int:
        """Start the run, or go on with it, and end it after an epoch more; epochs at its end."""
        with started(room, *flags) as run:
            wait_until(lambda: epochs(room) > seen, "an epoch more")
            worker = worker_of(room, 0)
            assert worker is not None
            run.send_signal(number)
            if number == signal.SIGKILL:
                os.kill(worker, number)
                wait_until(lambda: not alive(worker), "the worker's end")
            _, err = run.communicate(timeout=120)
        assert (run.returncode, err) == (-9 if number == signal.SIGKILL else 130, "")
        if number != signal.SIGKILL:
            assert whole()
        # after the file was looked at: this makes a log
        return epochs(room)

    def whole() -> bool:
        return [file.name for file in (room / "runs").glob("search.db*")] == ["search.db"]

    interrupted = ended_by(signal.SIGINT, 0)
    assert rows_alone(room) == (1, interrupted)
    terminated = ended_by(signal.SIGTERM, interrupted)
    assert rows_alone(room) == (1, terminated)
    killed = ended_by(signal.SIGKILL, terminated)
    assert rows_alone(room)[1] < killed
    with running(room, "search.queue", "list") as looking:
        _, err = looking.communicate(timeout=120)
    assert (looking.returncode, err) == (0, "")
    assert whole()
    assert rows_alone(room) == (1, killed)
    with started(room, *flags) as run:
        assert run.wait(timeout=120) == 0
    assert whole()
    assert rows_alone(room) == (1, 60)


# a process each: they have to end
@pytest.mark.parametrize(
    ("module", "flags", "trials"),
    [
        ("search.queue", ("add", "--set", "dice_weight=1.5"), 4),
        ("search.export", ("--format", "csv"), 3),
        ("search.clean", ("--yes",), 3),
        ("search.import_results", ("table.yaml", "--study", "old"), 4),
        ("search.rebuild", (), 3),
        long("search.confirm", ("--top", "1", "--seeds", "2"), 5),
    ],
)
def test_every_short_command_leaves_the_file_whole(
    copied: Path, module: str, flags: tuple[str, ...], trials: int
) -> None:
    (copied / "table.yaml").write_text("- {best_val_f: 0.5, dice_weight: 1.5}\n")
    if module == "search.rebuild":
        for file in (copied / "runs").glob("search.db*"):
            file.unlink()
    with running(copied, module, *flags) as command:
        _, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    assert rows_alone(copied)[0] == trials
    assert [file.name for file in (copied / "runs").glob("search.db*")] == ["search.db"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dashboard_that_is_ended_leaves_the_file_whole(copied: Path, number: int) -> None:
    with running(copied, "search.dashboard", "--port", "0") as dashboard:
        assert dashboard.stdout is not None
        assert dashboard.stdout.readline()
        with closing(store(copied / "runs")) as storage:
            storage.set_study_user_attr(storage.get_study_id_from_name(NAME), "total", 7)
            dashboard.send_signal(number)
            _, err = dashboard.communicate(timeout=120)
    assert (dashboard.returncode, err) == (0, "")
    assert rows_alone(copied)[0] == 3
    assert [file.name for file in (copied / "runs").glob("search.db*")] == ["search.db"]


# --------------------------------------------------------------------------- rows deleted by SQL


def by_sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "runs" / "search.db")) as file, file:
        file.execute(statement)


def test_a_run_goes_on_after_a_trial_was_deleted_by_sql(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_sql(copied, "DELETE FROM trials WHERE number = 1")
    assert here("--trials", "3", "--workers", "1") == 0
    assert "3 finished trials" in capsys.readouterr().out
    trials = opened(copied).get_trials()
    assert [(trial.number, trial.state) for trial in trials] == [(0, C), (2, C), (3, C)]
    # no two trials share files: the deleted one's stay where they were
    folders = copied / "runs" / NAME
    assert {path.name for path in folders.iterdir() if path.name.isdecimal()} == set("0123")
    assert trials[2].user_attrs["seed"] not in [trial.user_attrs["seed"] for trial in trials[:2]]


@pytest.mark.parametrize(
    "command",
    [
        lambda url: here("--trials", "4"),
        lambda url: worker.main(["--storage", url, "--study", NAME]),
        lambda url: export.main(["--format", "csv"]),
        lambda url: report.main(["--study", NAME]),
        lambda url: queue.main(["list"]),
        lambda url: queue.main(["add", "--set", "dice_weight=1.5"]),
        lambda url: compare.main([NAME, "other"]),
        lambda url: clean.main([]),
    ],
    ids=["run", "worker", "export", "report", "queue list", "queue add", "compare", "clean"],
)
def test_a_number_that_two_trials_have_is_named_by_every_command_with_the_way_out(
    copied: Path, capsys: pytest.CaptureFixture[str], command: Callable[[str], int]
) -> None:
    by_sql(copied, "UPDATE trials SET number = 1 WHERE number = 2")
    capsys.readouterr()
    assert command("sqlite:///runs/search.db") == 2
    (line,) = re.findall(r"^error: .*$", capsys.readouterr().err, re.M)
    assert f'2 trials of study "{NAME}" have the number 1 (trial_id 2, 3)' in line
    (statement,) = re.findall(r"UPDATE trials SET number = 2 WHERE trial_id = 3", line)
    assert len(opened_rows(copied)) == 3
    by_sql(copied, statement)
    assert states(copied) == [C, C, C]


def opened_rows(folder: Path) -> list[int]:
    """The numbers of all rows, straight from the file."""
    with closing(sqlite3.connect(folder / "runs" / "search.db")) as file:
        return [number for (number,) in file.execute("SELECT number FROM trials")]


def test_an_older_copy_of_the_store_does_not_write_over_what_it_does_not_know(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latest = shutil.copy(copied / "runs" / "search.db", copied / "latest.db")
    # as it was when the last trial had not begun
    with closing(sqlite3.connect(latest)) as file:
        (token,) = file.execute("SELECT seq FROM sqlite_sequence").fetchone()
    (number,) = (
        path.parent.name for path in copied.glob(f"runs/{NAME}/[0-9]*/{token}") if path.is_dir()
    )
    by_sql(copied, f"DELETE FROM trials WHERE number = {number}")
    by_sql(copied, f"UPDATE sqlite_sequence SET seq = {token - 1}")
    line = refusal(capsys, "--trials", "4")
    assert f"holds work that this store does not know of (runs/{NAME}/{number}/{token})" in line
    assert "an older copy, or one made without its log" in line
    assert "python -m search.rebuild --storage sqlite:///NEW.db" in line
    shutil.copy(latest, copied / "runs" / "search.db")
    assert here("--trials", "3") == 0


# ------------------------------------------------------------------- studies of somebody's making


@pytest.mark.parametrize("module", ["run", "worker", "queue add", "import", "rebuild", "confirm"])
def test_no_command_takes_over_a_study_that_minimizes(
    copied: Path, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    (copied / "table.yaml").write_text("- {best_val_f: 0.5, dice_weight: 1.5}\n")
    storage = store(copied / "runs")
    name = NAME + "-confirm" if module == "confirm" else "mine"
    optuna.create_study(study_name=name, storage=storage)
    if module == "rebuild":
        (copied / "runs" / NAME).rename(copied / "runs" / "mine")
        for path in copied.glob("runs/mine/*/*/config.yaml"):
            path.write_text(path.read_text().replace(NAME, "mine"))
    url = "sqlite:///runs/search.db"
    capsys.readouterr()
    code = {
        "run": lambda: here("--study", "mine", "--trials", "1"),
        "worker": lambda: worker.main(["--storage", url, "--study", "mine"]),
        "queue add": lambda: queue.main(["add", "--set", "dice_weight=1", "--study", "mine"]),
        "import": lambda: importing.main(["table.yaml", "--study", "mine"]),
        "rebuild": lambda: rebuild.main(["--study", "mine"]),
        "confirm": lambda: confirm.main(["--top", "1"]),
    }[module]()
    (line,) = re.findall(r"^error: .*$", capsys.readouterr().err, re.M)
    assert code == 2
    assert f'study "{name}"' in line
    if module not in ("worker", "queue add"):
        assert "has the direction minimize, and scores here are one objective to maximize" in line
    assert any(way in line for way in ("name another", "delete that study")), line
    study = optuna.load_study(study_name=name, storage=storage)
    assert (study.get_trials(), study.user_attrs) == ([], {})
    assert study.direction.name == "MINIMIZE"


@pytest.mark.proof
def test_a_worker_that_somebody_sends_away_does_not_end_the_search(room: Path) -> None:
    heard = room / "heard"
    lease = ("--beat-s", "0.5", "--grace-s", "2", "--on-event", f"cat >> '{heard}'")
    flags = ("--trials", "2", "--epochs", "20", "--no-priors", "--workers", "1", *lease)
    with started(room, *flags) as run:
        wait_until(lambda: epochs(room) >= 2, "the second epoch")
        worker = worker_of(room, 0)
        assert worker is not None
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not alive(worker), "the worker to leave")
        wait_until(lambda: worker_of(room, 0) not in (None, worker), "another worker")
        # one that is only asleep finds its token gone
        sleeper = worker_of(room, 0)
        assert sleeper is not None
        seen = epochs(room)
        wait_until(lambda: epochs(room) > seen, "an epoch more")
        os.kill(sleeper, signal.SIGSTOP)
        wait_until(lambda: worker_of(room, 0) is None, "the end of its lease", 30)
        os.kill(sleeper, signal.SIGCONT)
        out, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (0, "")
    assert "worker 1 was asked to leave by somebody else; it is started again" in out
    assert "trial 0 lost its worker; it waits in the queue" in out
    assert (len(states(room)), claims(room)) == (2, [])
    trial = opened(room).get_trials()[0]
    assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
    told = [json.loads(line) for line in heard.read_text().splitlines()]
    assert [event["event"] for event in told][-1] == "finished"
    assert told[-1]["reason"] == "done"
    assert told[-1]["finished"] == 2
    best = [event for event in told if event["event"] == "new_best"]
    assert best[-1]["value"] == told[-1]["best"]["value"]


def test_beats_that_do_not_fit_into_the_grace_are_one_line_and_make_no_study(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "--beat-s", "5", "--grace-s", "6", "--trials", "1")
    assert "--beat-s 5 with --grace-s 6: a worker that misses one beat would count as dead" in line
    assert store(room / "runs").get_all_studies() == []


def test_lease_times_go_with_the_study(room: Path) -> None:
    assert here("--trials", "1", "--beat-s", "0.5", "--grace-s", "3", *AT_ONCE) == 0
    storage = store(room / "runs")
    assert lease_of(storage, NAME) == Lease(0.5, 3.0)
    # without the flags they stay
    assert here("--trials", "1", *AT_ONCE) == 0
    assert lease_of(storage, NAME) == Lease(0.5, 3.0)


@pytest.mark.long
def test_a_run_that_asks_for_fewer_trials_ends_an_earlier_one_in_peace(room: Path) -> None:
    flags = ("--epochs", "6", "--no-priors", "--workers", "1")
    with started(room, "--trials", "30", *flags) as run:
        wait_until(lambda: epochs(room, 1) >= 1, "the second trial")
        assert here("--trials", "1", *flags) == 0
        out, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (0, "")
    assert "started again" not in out


def test_a_study_deleted_in_mid_run_is_one_line(room: Path) -> None:
    with started(room, "--trials", "2", "--epochs", "60", "--workers", "1") as run:
        wait_until(lambda: epochs(room) >= 1, "the first epoch")
        storage = store(room / "runs")
        storage.delete_study(storage.get_study_id_from_name(NAME))
        _, err = run.communicate(timeout=120)
    assert run.returncode == 2
    assert re.fullmatch(rf'error: study "{NAME}" was deleted while it was running\n', err)


def test_an_event_command_hears_of_a_run_that_cannot_go_on(room: Path) -> None:
    heard = room / "heard"
    flags = ("--trials", "2", "--epochs", "40", "--no-priors", "--workers", "1")
    with started(room, *flags, "--on-event", f"cat >> '{heard}'") as run:
        wait_until(lambda: epochs(room) >= 1, "the first epoch")
        (room / "runs" / "search.db").unlink()
        _, err = run.communicate(timeout=120)
    assert run.returncode == 2
    assert err.count("\n") == 1
    (event,) = [json.loads(line) for line in heard.read_text().splitlines()]
    assert (event["event"], event["trial"]) == ("failed", None)
    assert f"error: {event['reason']}\n" == err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--ray-address", "10.0.0.1:6379"), "--ray-address 10.0.0.1:6379: only Ray needs it"),
        (("--gpus-per-worker", "0.5"), "--gpus-per-worker 0.5: only Ray needs it; add --launcher"),
        (("--launcher", "ray", "--device", "cuda:1"), "--device cuda:1: Ray chooses the GPU"),
        (("--launcher", "ray", "--workers-per-device", "2"), "give --gpus-per-worker, 0.5 say"),
        (
            ("--launcher", "ray", "--device", "cpu", "--gpus-per-worker", "1"),
            "--gpus-per-worker 1 with --device cpu: leave one of the two out",
        ),
        (
            ("--launcher", "ray", "--device", "cuda", "--gpus-per-worker", "0"),
            "--gpus-per-worker 0 with --device cuda: leave one of the two out",
        ),
    ],
)
def test_flags_of_leases_and_launchers_that_do_not_fit_are_one_line(
    room: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], line: str
) -> None:
    assert line in refusal(capsys, *flags)
    assert not (room / "runs").exists()


def alive(pid: int) -> bool:
    try:
        # one that has ended and that nobody has waited for is not alive
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@contextmanager
def terminal(folder: Path, *flags: str, columns: int = 80) -> Iterator[tuple[int, int]]:
    """The command at a terminal of its own: its process and the terminal's other end."""
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(folder)
        size = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
        os.execve(sys.executable, words(*flags), environment() | size)
    try:
        yield pid, screen
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        os.close(screen)


def read_until_end(screen: int) -> str:
    told = b""
    while True:
        try:
            told += os.read(screen, 65536)
        except OSError:  # how a terminal's other end says that it is over
            # one that hears Ctrl-C drops what it was to show, in mid-character too
            return told.decode(errors="replace")


def without_codes(told: str) -> str:
    """What stands on the screen, without the terminal's codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told)


@pytest.mark.long
def test_ctrl_c_at_a_terminal_lets_trials_wait_and_the_same_command_goes_on(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--trials", "2", "--epochs", "20", "--workers", "1")
    running = re.compile(r"    0   ?[1-9]\d?/20   0\.\d{4}  0\.\d{4}  [▁-█]")
    with terminal(room, *flags) as (pid, screen):
        first = b""
        while not running.search(without_codes(first.decode(errors="replace"))):
            first += os.read(screen, 65536)
        wait_until(lambda: epochs(room) >= 2, "the second epoch")
        os.write(screen, b"\x03")
        told = first.decode(errors="replace") + read_until_end(screen)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    alone = rows_alone(room)
    assert (states(room), claims(room)) == ([W], [])
    before = epochs(room)
    assert alone == (1, before)
    plain = without_codes(told)
    assert "\x1b[" in told
    assert "trial  epoch  F-score    best  curve" in plain
    assert "running 1  waiting 0" in plain
    assert "Ctrl-C: running trials finish their epoch and wait" in plain
    again = shlex.split(plain.rpartition("to go on: ")[2].splitlines()[0])
    assert again == words(*flags)
    capsys.readouterr()
    assert here(*flags) == 0
    assert "2 finished trials" in capsys.readouterr().out
    assert states(room) == [C, C]
    assert before >= 2
    assert sorted(opened(room).get_trials()[0].intermediate_values) == list(range(1, 21))


@pytest.mark.long
def test_a_line_in_space_py_is_searched_shown_and_exported_and_no_password_is_printed(
    room: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = (ROOT / "space.py").read_text()
    line = '    "learning_rate": Float(1e-4, 5e-3, log=True),\n'
    marker = '    "dropout": Float(0.0, 0.4),\n'
    assert marker in edited
    (room / "space.py").write_text(edited.replace(marker, marker + line))
    url = re.sub(
        r"^postgresql(\+psycopg)?://[^@/]*@", "postgresql://postgres:hunter2@", postgres_url
    )
    assert "hunter2" in url
    command = words("--trials", "1", "--no-priors", "--storage", url, "--workers", "1")
    done = subprocess.run(
        command,
        cwd=room,
        env=environment(first=room),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "learning_rate    0.0001..0.005 log" in done.stdout
    assert "learning rate searched" in done.stdout
    # also in the table of the best trials
    assert re.search(r"^learning_rate +0\.0\d+ *$", done.stdout, re.M)
    assert "postgres:***@" in done.stdout
    logs = "".join(path.read_text() for path in room.glob("runs/*/workers/*.log"))
    assert "hunter2" not in done.stdout + done.stderr + logs
    storage = open_storage(url)
    (trial,) = load_study(storage, NAME).get_trials()
    assert trial.state == C
    capsys.readouterr()
    assert export.main(["--storage", url, "--out", "best.yaml"]) == 0
    assert "hunter2" not in "".join(capsys.readouterr())
    assert "hunter2" not in (room / "best.yaml").read_text()
    config, _ = read_config(room / "best.yaml")
    assert config.training.learning_rate == trial.params["learning_rate"]
    storage.close()


@pytest.mark.proof
@pytest.mark.parametrize("name", ["strict", "POSIX", "latin-1"])
def test_folders_of_any_name_are_searched_in_any_locale(tmp_path: Path, name: str) -> None:
    # where the store and the runs lie, and where the faces do
    room = place(tmp_path / os.fsdecode(b"st\xfcdy 1"))
    data = course(tmp_path / os.fsdecode(b"f\xe4ces 1"), [f"f{n:02d}" for n in range(11)], 32)
    odd = os.fsdecode(b"M\xfcller")
    for path in (*data.rglob("f00.jpg"), *data.rglob("f00.png")):
        path.rename(path.with_stem(odd))
    (data / "val.txt").write_bytes(b"f01\nM\xfcller\n")
    fingerprint = describe(str(data)).fingerprint
    env = surroundings(locale_of(name, tmp_path))

    def run(module: str, *flags: str | Path) -> str:
        done = subprocess.run(
            command(module, *flags), cwd=room, env=env, capture_output=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(errors="replace")

    flags = ("--trials", "1", "--workers", "1", "--sampler", "random", "--plain", "--epochs", "1")
    said = run("search.run", "--config", "tiny.yaml", "--data", data, "--study", "a b", *flags)
    assert "7 train / 2 val" in said
    assert "search.report --study 'a b' --out report.html" in said
    assert fingerprint in run("search.export", "--format", "card")
    exported = json.loads(run("search.export", "--format", "json"))
    encoding = "latin-1" if name == "latin-1" else "utf-8"
    root = exported["data"]["root"].encode(encoding, "surrogateescape")
    assert root == os.fsencode(data)
    line = run("search.export", "--format", "cli")
    # the folder as a shell takes it, whatever the terminal shows
    bare = "ls -d " + line.partition("--data ")[2].partition(" --")[0]
    assert subprocess.run(["bash", "-c", bare], env=env, capture_output=True).returncode == 0
    run("search.export", "--out", "best.yaml")
    run("trainer.train", "--config", "best.yaml")
    for module, *more in (("search.report",), ("search.queue", "list"), ("search.clean",)):
        run(module, *more)
    run("search.rebuild", "--storage", "sqlite:///new.db")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "import search.run\n"
        "try: search.run.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'optuna', 'sqlalchemy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--stop-after" in done.stdout
