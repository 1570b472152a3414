from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from search import report
from search.execution.worker_loop import work
from search.results.reading import results_of
from search.study.lineages import counts
from search.study.lookup import load_setup
from search.study.names import repeats_name
from tests.support.marks import proof
from tests.support.old_trainer import CONFIG, PROGRAM
from tests.support.paths import ROOT
from tests.support.programs import PYTHON, command_study, processes_that_say, program_at
from tests.support.studies import context_at, environment, running, store, wait_until
from trainer.errors import UserError

OLD = f'"{PYTHON}" "{PROGRAM}" --config {{config}} --seed {{seed}} --resume {{resume}}'
OLD_FLAGS = (
    *("--command", OLD, "--config", "base.yaml", "--study", "old"),
    *("--history", "checkpoints/*/history.json", "--score-key", "val_f_score"),
    *("--resume-file", "checkpoints/*/checkpoint_epoch_*.pth"),
    *("--range", "loss.dice_weight=.5:4", "--range", "training.learning_rate=1e-4:1e-2:log"),
    *("--trials", "20", "--workers", "2", "--beat-s", "0.2", "--grace-s", "2", "--plain"),
)
FUNCTION = """
import json, time
def train(config, *, report, out, seed, resume_from):
    start = 0 if resume_from is None else json.loads(resume_from.read_text())
    for epoch in range(start + 1, config["epochs"] + 1):
        time.sleep(0.05)
        (out / "state.json").write_text(json.dumps(epoch))
        score = 0.4 + config["x"] * (1 - 0.5 ** epoch) / 2 + (seed % 97) / 1e5
        try:
            report(epoch=epoch, score=score, width=3)
        except Exception:
            # a program that catches all it can
            report(epoch=epoch + 1, score=score)
"""
FUNCTION_FLAGS = (
    *("--trainer", "fits:train", "--config", "base.yaml", "--study", "old"),
    *("--resume-file", "state.json", "--range", "x=0:1"),
    *("--trials", "20", "--workers", "2", "--beat-s", "0.2", "--grace-s", "2", "--plain"),
)
EXAMPLES = ("torch_digits", "sklearn_partial_fit")


def old_project(folder: Path) -> None:
    config = {**CONFIG, "training": {**CONFIG["training"], "epoch_s": 0.05}}
    (folder / "base.yaml").write_text(yaml.safe_dump(config))


def function_project(folder: Path) -> None:
    program_at(folder, FUNCTION, "fits.py")


def study_at(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="old", storage=store(folder))


def finished_at(folder: Path) -> int:
    with contextlib.suppress(KeyError):
        return sum(counts(trial) for trial in study_at(folder).get_trials())
    return 0


def worker_of(folder: Path) -> int:
    """A worker that is at a trial."""
    storage = store(folder)
    claims = storage.live_claims(storage.get_study_id_from_name("old"))
    return int(claims[0].owner.rpartition(":")[2])


@pytest.mark.long
@pytest.mark.parametrize(
    ("project", "flags"),
    [proof(old_project, OLD_FLAGS), (function_project, FUNCTION_FLAGS)],
    ids=["command", "function"],
)
def test_a_search_outlives_a_killed_worker_and_an_ended_supervisor(
    tmp_path: Path, project: object, flags: tuple[str, ...]
) -> None:
    """The program is not changed: 20 trials are finished, and no process is left over."""
    project(tmp_path)  # type: ignore[operator]
    (tmp_path / "runs").mkdir()
    flags = (*flags, "--storage", "sqlite:///search.db")
    with running(tmp_path, "search.run", *flags) as run:
        wait_until(lambda: finished_at(tmp_path) >= 2, "two finished trials")
        os.kill(worker_of(tmp_path), signal.SIGKILL)
        wait_until(lambda: finished_at(tmp_path) >= 6, "six finished trials")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert not processes_that_say(str(tmp_path))
    with running(tmp_path, "search.run", *flags) as run:
        out, err = run.communicate(timeout=200)
        assert (run.returncode, err) == (0, ""), out
    trials = study_at(tmp_path).get_trials()
    assert sum(counts(trial) for trial in trials) == 20
    assert not processes_that_say(str(tmp_path))
    epochs = load_setup(study_at(tmp_path)).epochs
    for trial in trials:
        reported = sorted(trial.intermediate_values)
        whole = trial.state == TrialState.COMPLETE and "continues" not in trial.user_attrs
        assert reported == list(range(reported[0], reported[-1] + 1)) if reported else True
        assert not whole or reported == list(range(1, epochs + 1))
    assert Counter(trial.state for trial in trials)[TrialState.FAIL] == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_searched_as_functions(tmp_path: Path, name: str) -> None:
    shutil.copyfile(ROOT / "scripts" / "examples" / f"{name}.yaml", tmp_path / "base.yaml")
    storage = store(tmp_path)
    study = command_study(
        storage,
        tmp_path,
        total=2,
        ranges=(),
        epochs=2,
        function=f"scripts.examples.{name}:train",
        space_file=ROOT / "scripts" / "examples" / f"{name}_space.yaml",
    )
    work(context_at(tmp_path, storage, "own"))
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE] * 2
    assert all(sorted(trial.intermediate_values) == [1, 2] for trial in study.get_trials())


def test_an_export_goes_back_into_the_program_and_reaches_the_score(tmp_path: Path) -> None:
    old_project(tmp_path)
    flags = list(OLD_FLAGS)
    flags[flags.index("20")] = "2"
    with running(tmp_path, "search.run", *flags) as run:
        assert run.wait(timeout=120) == 0
    for words in (("--out", "best.yaml"), ("--format", "cli", "--out", "again.sh")):
        with running(tmp_path, "search.export", "--study", "old", *words) as export:
            assert export.wait(timeout=60) == 0, export.communicate()
    subprocess.run(["sh", "again.sh"], cwd=tmp_path, env=environment(), check=True, timeout=60)
    (history,) = (tmp_path / "checkpoints").glob("*/history.json")
    storage = store(tmp_path / "runs")
    value = optuna.load_study(study_name="old", storage=storage).best_value
    assert max(yaml.safe_load(history.read_text())["val_f_score"]) == value


def test_repeats_go_by_seeds_and_are_refused_where_none_reaches_the_program(
    tmp_path: Path,
) -> None:
    from search.confirmation.plan import best_of

    function_project(tmp_path)
    storage = store(tmp_path)
    command_study(storage, tmp_path, total=1, function="fits:train")
    work(context_at(tmp_path, storage, "own"))
    task = best_of(storage, "own", 1, root=None, preset=None)
    assert task.setup.name == repeats_name("own")
    assert (
        task.setup.program
        == load_setup(optuna.load_study(study_name="own", storage=storage)).program
    )
    (tmp_path / "base.yaml").write_text("x: 0.5\nepochs: 2\n")
    text = "def train(config, report):\n    for at in (1, 2): report(epoch=at, score=at / 3)\n"
    (tmp_path / "unseeded.py").write_text(text)
    command_study(storage, tmp_path, total=1, function="unseeded:train", study="other")
    work(context_at(tmp_path, storage, "other"))
    with pytest.raises(UserError, match="no seed reaches unseeded:train"):
        best_of(storage, "other", 1, root=None, preset=None)


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("fits", "write package.module:function"),
        ("nosuch:train", "No module named 'nosuch'"),
        ("fits:nosuch", "has no function nosuch"),
    ],
)
def test_a_function_that_is_not_there_is_refused(tmp_path: Path, function: str, line: str) -> None:
    function_project(tmp_path)
    sys.modules.pop("fits", None)
    with pytest.raises(UserError, match=line):
        command_study(store(tmp_path), tmp_path, total=1, function=function)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def train(config:", "line 1: '\\(' was never closed; fix it"),
        ("import sys\nsys.exit(3)", "ends as it is imported, with SystemExit: 3; fix it"),
        ("raise ValueError('two\\nlines')", "with ValueError: two lines; fix it"),
        ("def train(): pass", "cannot be called as .*: too many positional arguments"),
        ("def train(config, report, width): pass", "missing a required argument: 'width'"),
        ("def train(*, config, report): pass", "cannot be called as train\\(config, \\*, report,"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_any_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    program_at(tmp_path, text, "uncallable.py")
    sys.modules.pop("uncallable", None)
    with pytest.raises(UserError, match=line):
        command_study(store(tmp_path), tmp_path, total=1, function="uncallable:train")


def test_a_parameter_without_a_meaning_is_shown_with_no_trial(tmp_path: Path) -> None:
    text = (
        "import json\n\ndef train(config, *, report):\n"
        "    for epoch in range(1, 5):\n"
        "        report(epoch, 0.1 * epoch + 0.1 * config['x'])\n"
    )
    program_at(tmp_path, text, "fits.py")
    (tmp_path / "base.yaml").write_text("x: 0.5\nkind: a\nepochs: 4\nseed: 1\n")
    (tmp_path / "space.yaml").write_text(
        "x: {low: 0.0, high: 1.0, only_if: {kind: a}}\nkind: [a, b]\n"
    )
    storage = store(tmp_path)
    study = command_study(
        storage,
        tmp_path,
        total=14,
        ranges=(),
        function="fits:train",
        space_file=tmp_path / "space.yaml",
    )
    work(context_at(tmp_path, storage, "own"))
    results = results_of(study)
    kinds = {"x" in one.params: one.params["kind"] for one in results.outcomes}
    assert kinds == {True: "a", False: "b"}
    out = tmp_path / "report.html"
    assert report.main(["--storage", str(storage.url), "--study", "own", "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000
