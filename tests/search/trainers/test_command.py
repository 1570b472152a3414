from __future__ import annotations

import logging
import resource
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from search.execution.worker_loop import work
from search.study.attributes import DIVERGED, REASON
from search.study.lookup import load_setup
from search.study.run_folders import read_history, trial_folder
from search.study.setup import trial_seed
from search.trainers import command
from search.trainers.configs import trial_values
from search.trainers.output_log import OutputLog
from search.trainers.placeholders import filled, words_of
from storage import LeasedStorage
from tests.support.programs import PYTHON, command_study, kill, processes_that_say, program_at
from tests.support.studies import context_at, start_worker, store, wait_until
from trainer.errors import UserError
from trainer.notation import load_yaml

# reads its config and reports some epochs by hand, as a program without our package does
REPORTS = """
import json, os, sys, time, yaml
config = yaml.safe_load(open(sys.argv[1]))
report = open(os.environ["SEARCH_REPORT"], "a")
for epoch in range(1, config["epochs"] + 1):
    score = 0.5 + config["x"] / 4 - 0.5 / (epoch + 1)
    print(json.dumps({"epoch": epoch, "score": score, "loss": 1 - score}), file=report, flush=True)
"""


def trained(
    folder: Path, text: str, *, total: int = 1, **options: object
) -> tuple[LeasedStorage, optuna.Study]:
    """A study of a program, worked on to its end in this process."""
    program_at(folder, text)
    storage = store(folder)
    study = command_study(storage, folder, total=total, **options)  # type: ignore[arg-type]
    work(context_at(folder, storage, "own"))
    return storage, study


def reported(study: optuna.Study, epoch: int) -> bool:
    return any(epoch in trial.intermediate_values for trial in study.trials)


def own_folder(folder: Path, number: int = 0) -> Path:
    """Where the latest claim of a trial wrote."""
    tokens = trial_folder(folder / "runs", "own", number).iterdir()
    return max(tokens, key=lambda path: int(path.name))


def lines_about(text: str, captured: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in captured.records if text in record.getMessage()]


# ------------------------------------------------------------------------------- how it is trained


def test_a_command_trains_by_its_config_and_reports_each_epoch(tmp_path: Path) -> None:
    storage, study = trained(tmp_path, REPORTS)
    (trial,) = study.get_trials()
    x = trial.params["x"]
    expected = {epoch: 0.5 + x / 4 - 0.5 / (epoch + 1) for epoch in range(1, 5)}
    assert (trial.state, trial.intermediate_values) == (TrialState.COMPLETE, expected)
    assert trial.value == expected[4]
    out = own_folder(tmp_path)
    config = load_yaml((out / "program.yaml").read_text(), "config", lambda _: False)
    # the sampled value and the seed are written, all else passes
    assert config == {"x": x, "epochs": 4, "seed": trial_seed(0, 0), "name": "kept"}
    assert config == trial_values(trial, load_setup(study))
    assert [row["loss"] for row in read_history(out)] == [1 - score for score in expected.values()]
    names = {meta.filename for meta in get_all_artifact_meta(trial, storage=storage)}
    assert names == {"config.yaml", "program.yaml", "output.log"}
    assert not storage.live_claims(study._study_id)


def test_scores_are_read_from_a_pattern_over_bytes_and_bars(tmp_path: Path) -> None:
    text = r"""
import sys
write = sys.stdout.buffer.write
for epoch in (1, 2, 3, 4):
    for share in (20, 60, 100):
        write(b"\r\xff\xfe %d%% F: 0.%d%d" % (share, epoch, share % 7))
    write(b"\nepoch %d done, F: 0.%d5\n" % (epoch, epoch))
"""
    _, study = trained(tmp_path, text, pattern="epoch {epoch} done, F: {score}")
    assert study.get_trials()[0].intermediate_values == {1: 0.15, 2: 0.25, 3: 0.35, 4: 0.45}


def test_a_history_that_is_written_beside_the_program_is_told_from_its_neighbours(
    tmp_path: Path,
) -> None:
    text = """
import json, pathlib, sys, yaml
config = yaml.safe_load(open(sys.argv[1]))
place = pathlib.Path("checkpoints") / config["name"]
place.mkdir(parents=True)
for epoch in range(1, 5):
    scores = [config["x"] + at / 10 for at in range(epoch)]
    (place / "history.json").write_text(json.dumps({"val_f": scores}))
"""
    (tmp_path / "checkpoints" / "kept").mkdir(parents=True)
    _, study = trained(
        tmp_path,
        text,
        total=2,
        command=f"{PYTHON} main.py {{config}}",
        history="checkpoints/*/history.json",
        score_key="val_f",
    )
    for trial in study.get_trials():
        x = trial.params["x"]
        assert trial.intermediate_values == {n: x + (n - 1) / 10 for n in range(1, 5)}
    # the project's own folder stays as it was
    assert list((tmp_path / "checkpoints" / "kept").iterdir()) == []


def test_a_loss_is_kept_as_its_negative_and_told_by_its_name(tmp_path: Path) -> None:
    _, study = trained(tmp_path, REPORTS, direction="minimize", metric="val_loss")
    (trial,) = study.get_trials()
    assert trial.value == max(trial.intermediate_values.values())
    assert study.metric_names == ["-val_loss"]
    (first, *_) = read_history(own_folder(tmp_path))
    assert first["val_loss"] == -first["val_f"] == 0.25 + trial.params["x"] / 4


def test_a_program_that_tells_only_at_its_end_is_trained_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so long may a program take to end on a busy machine
    monkeypatch.setattr(command, "_HOLD_S", 10.0)
    caplog.set_level(logging.INFO)
    text = "import time; time.sleep(0.3); print('final 0.7')"
    _, study = trained(tmp_path, text, total=2, pattern="final {score}")
    assert [trial.intermediate_values for trial in study.get_trials()] == [{4: 0.7}] * 2
    assert len(lines_about("only at its end", caplog)) == 1


# ------------------------------------------------------------------------------------ how it fails


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "print('one'); print('two'); raise SystemExit(3)",
            "exit code 3; its last lines:\none\nt",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code 139, SIGSEGV"),
        ("print('hello')", "told no score"),
        ("import time\nwhile True: time.sleep(1)", "nothing for 0.5 s (--epoch-timeout)"),
    ],
)
def test_a_command_that_fails_goes_the_way_of_an_exception(
    tmp_path: Path, text: str, said: str
) -> None:
    program_at(tmp_path, text)
    storage = store(tmp_path)
    # a busy machine may need that long to start a program
    limit = 0.5 if "--epoch-timeout" in said else None
    study = command_study(storage, tmp_path, total=1, epoch_timeout_s=limit)
    with pytest.raises(UserError, match="3 trials in a row failed"):
        work(context_at(tmp_path, storage, "own"))
    trial = study.get_trials()[0]
    assert trial.state == TrialState.FAIL
    assert said in trial.user_attrs["traceback"]


def test_a_score_that_is_no_number_is_a_divergence(tmp_path: Path) -> None:
    text = REPORTS.replace('"score": score', '"score": score if epoch < 3 else float("nan")')
    _, study = trained(tmp_path, text)
    (trial,) = study.get_trials()
    assert (trial.state, sorted(trial.intermediate_values)) == (TrialState.PRUNED, [1, 2])
    assert DIVERGED in trial.constraints
    assert trial.user_attrs[REASON] == "diverged: the score is nan in epoch 3"


def test_a_pattern_that_matches_nothing_is_told_with_the_lines_it_was_held_against(
    tmp_path: Path,
) -> None:
    program_at(tmp_path, "print('val f 0.3')")
    storage = store(tmp_path)
    study = command_study(storage, tmp_path, total=1, pattern="Val F: {score}")
    with pytest.raises(UserError, match="in a row"):
        work(context_at(tmp_path, storage, "own"))
    assert "found in no line; the last ones: 'val f 0.3'" in study.trials[0].user_attrs["traceback"]


def test_a_flood_is_cut_in_its_middle_and_costs_no_memory(tmp_path: Path) -> None:
    flood = "print('first')\nfor _ in range(1600): print('x' * 65535)\nprint('last')\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trained(tmp_path, flood + REPORTS)
    log = (own_folder(tmp_path) / "output.log").read_bytes()
    assert log.startswith(b"first\n")
    assert log.endswith(b"last\n")
    assert b" bytes left out ..." in log
    assert len(log) < 2**21
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 30_000


def test_the_last_lines_of_a_log_are_those_that_were_seen(tmp_path: Path) -> None:
    with OutputLog(tmp_path / "log") as log:
        log.add(b"10%\r50%\r100%\nerror: \xff\r\n\n")
        assert log.last_lines() == ["100%", "error: �"]
        log.add(b"\n".join(b"%d" % n for n in range(300_000)) + b"\n")
        assert log.last_lines() == [str(n) for n in range(299_980, 300_000)]


# ------------------------------------------------------------------------------------ how it ends

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[2] + "/asked", "w").close())
# one in its group, one that leaves it
for own in (False, True):
    words = [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[2]]
    subprocess.Popen(words, start_new_session=own)
""" + REPORTS.replace('["epochs"] + 1', '["epochs"] - 1')


def test_a_stopped_trial_leaves_no_process_whatever_it_ignores(tmp_path: Path) -> None:
    program_at(tmp_path, STUBBORN + "\nwhile True: time.sleep(1)\n")
    storage = store(tmp_path)
    study = command_study(storage, tmp_path, total=1, stop_grace_s=0.5)
    worker = start_worker(tmp_path, "own")
    wait_until(lambda: reported(study, 2), "the second report")
    assert len(processes_that_say(str(tmp_path / "runs"))) >= 4
    storage.ask_owners(study._study_id, "stop", 0)
    wait_until(lambda: study.trials[0].state == TrialState.PRUNED, "the stop")
    assert processes_that_say(f"{tmp_path}/runs/own/0/") == []
    assert (own_folder(tmp_path) / "files" / "asked").exists()
    worker.communicate(timeout=60)


def test_a_killed_worker_leaves_no_process_and_its_trial_begins_anew(tmp_path: Path) -> None:
    program_at(tmp_path, STUBBORN + "\nwhile not os.path.exists('go'): time.sleep(.1)\n")
    storage = store(tmp_path)
    study = command_study(storage, tmp_path, total=1)
    worker = start_worker(tmp_path, "own")
    wait_until(lambda: reported(study, 2), "the second report")
    before = study.trials[0].intermediate_values
    kill(worker.pid)
    worker.communicate()
    wait_until(lambda: not processes_that_say(f"{tmp_path}/runs/own/0/"), "the end of all", 10)
    (tmp_path / "go").touch()
    said = start_worker(tmp_path, "own").communicate(timeout=120)[0]
    (trial,) = study.get_trials()
    assert (trial.state, trial.intermediate_values) == (TrialState.COMPLETE, before)
    assert "trial 0 begins anew" in said
    # of two claims, and nothing of the children that outlived their program
    assert len(list(trial_folder(tmp_path / "runs", "own", 0).iterdir())) == 2
    assert processes_that_say(f"{tmp_path}/runs/own/0/") == []


def test_a_trial_goes_on_from_its_newest_file(tmp_path: Path) -> None:
    text = """
import json, os, pathlib, sys, time, yaml
config = yaml.safe_load(open(sys.argv[1]))
start = int(open(sys.argv[4]).read()) if len(sys.argv) > 3 else 0
for epoch in range(start + 1, config["epochs"] + 1):
    pathlib.Path(sys.argv[2], f"state{epoch}").write_text(str(epoch))
    line = json.dumps({"epoch": epoch, "score": epoch / 10 + start / 1000})
    print(line, file=open(os.environ["SEARCH_REPORT"], "a"))
    while epoch == 2 and not start: time.sleep(1)
"""
    program_at(tmp_path, text)
    storage = store(tmp_path)
    command = f"{PYTHON} main.py {{config}} {{out}} --resume {{resume}}"
    study = command_study(storage, tmp_path, total=1, command=command, resume_file="state*")
    worker = start_worker(tmp_path, "own")
    wait_until(lambda: reported(study, 2), "the second report")
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    assert study.trials[0].state == TrialState.WAITING
    assert "goes on from epoch 2" in start_worker(tmp_path, "own").communicate(timeout=60)[0]
    (trial,) = study.get_trials()
    assert trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.302, 4: 0.402}
    assert [row["epoch"] for row in read_history(own_folder(tmp_path))] == [1, 2, 3, 4]


def test_a_report_is_in_the_store_within_half_a_second(tmp_path: Path) -> None:
    text = REPORTS.replace("flush=True)", "flush=True); time.sleep(1)")
    program_at(tmp_path, text)
    storage = store(tmp_path)
    study = command_study(storage, tmp_path, total=1)
    worker = start_worker(tmp_path, "own")
    runs = tmp_path / "runs"
    wait_until(lambda: bool(list(runs.glob("own/0/*/report.jsonl"))), "the first report")
    written = time.monotonic()
    while not study.trials[0].intermediate_values:
        assert time.monotonic() - written < 2
        time.sleep(0.01)
    # half a second on a machine that does nothing else
    assert time.monotonic() - written < 1
    worker.communicate(timeout=60)


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("nosuch {config}", "nosuch: no such program"),
        ("./nosuch {config}", "no such program"),
        (f"{PYTHON} main.py {{confg}}", "{confg} is no placeholder: write {config}"),
        (f"{PYTHON} main.py '{{config}}", "close the quote"),
        (f"{PYTHON} main.py", "write {config} where the file"),
        (f"{PYTHON} main.py {{config}} {{resume}}", "add --resume-file"),
        (f"{PYTHON} main.py {{config}} {{", "for braces"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_before_anything_is_written(
    tmp_path: Path, command: str, line: str
) -> None:
    program_at(tmp_path, REPORTS)
    with pytest.raises(UserError, match=line.replace("{", r"\{").replace("}", r"\}")):
        command_study(store(tmp_path), tmp_path, total=1, command=command)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ranges": ("y=0:1",)}, "no such key in the config.*--new-key"),
        ({"ranges": ()}, "nothing is searched"),
        ({"history": "h.json"}, "go together"),
        ({"pattern": "F: {scor}"}, r"write \{score\}"),
        ({"direction": "minimise"}, "did you mean minimize"),
        ({"resume_file": "/tmp/x"}, "own folder"),
        ({"data": "faces"}, "our own trainer's"),
        ({"fix": ("nam=3",)}, "did you mean name"),
    ],
)
def test_flags_that_say_nothing_are_refused(
    tmp_path: Path, options: dict[str, object], line: str
) -> None:
    program_at(tmp_path, REPORTS)
    with pytest.raises(UserError, match=line):
        command_study(store(tmp_path), tmp_path, total=1, **options)  # type: ignore[arg-type]


def test_words_are_filled_in_where_they_stand_and_blanks_stay() -> None:
    words = words_of("fit.py --in='{config}' --resume {resume} '{{x}}' -e{epochs}")
    known = dict.fromkeys(("config", "out", "seed", "device", "epochs"), "a b")
    assert filled(words, {**known, "resume": None}) == ["fit.py", "--in=a b", "{x}", "-ea b"]
    assert filled(words, {**known, "resume": "r"})[2:4] == ["--resume", "r"]


def test_a_folder_with_blanks_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    folder.mkdir()
    _, study = trained(folder, REPORTS, command=f'"{PYTHON}" "main.py" {{config}}')
    assert study.trials[0].state == TrialState.COMPLETE
