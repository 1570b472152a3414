"""The cluster templates, run as SLURM and Kubernetes would run them, on a real study."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from optuna.trial import TrialState

from storage import open_storage
from tests.support.marks import long
from tests.support.paths import ROOT
from tests.support.studies import real_study, store, wait_until

SBATCH = ROOT / "scripts" / "cluster" / "slurm_array.sbatch"
JOB = ROOT / "scripts" / "cluster" / "kubernetes_job.yaml"
TEMPLATES = pytest.mark.parametrize("template", ["slurm", "kubernetes"])
LONG = {"epochs": 300}
W, C = TrialState.WAITING, TrialState.COMPLETE


def job() -> dict[str, Any]:
    return dict(yaml.safe_load(JOB.read_text(encoding="utf-8")))


def container() -> dict[str, Any]:
    (one,) = job()["spec"]["template"]["spec"]["containers"]
    return dict(one)


def environment(folder: Path) -> dict[str, str]:
    """What both systems give; `python` and `scontrol` as on a node, the latter only notes down."""
    tools = folder / "tools"
    tools.mkdir()
    script(tools / "python", f'exec "{sys.executable}" "$@"')
    script(tools / "scontrol", f'echo "$@" >> "{folder}/scontrol.txt"')
    own = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "STORAGE": f"sqlite:///{folder}/search.db",
        "STUDY": "faces",
        "RUNS": str(folder / "runs"),
        # Kubernetes has it from the manifest
        "OMP_NUM_THREADS": "1",
        # SLURM's own
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "4711",
        "SLURM_ARRAY_JOB_ID": "4709",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    return {**os.environ, **own}


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@contextmanager
def running(template: str, folder: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    words = {
        "slurm": ["bash", str(SBATCH)],
        "kubernetes": [*container()["command"], *container()["args"]],
    }
    with subprocess.Popen(
        words[template],
        cwd=ROOT,
        env={**environment(folder), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else ():
                child.kill()
            process.kill()


def states(folder: Path) -> list[TrialState]:
    storage = open_storage(f"sqlite:///{folder}/search.db", create=False)
    study_id = storage.get_study_id_from_name("faces")
    assert storage.live_claims(study_id) == []
    return [trial.state for trial in storage.get_all_trials(study_id)]


def wait_for_an_epoch(folder: Path) -> None:
    storage = store(folder)
    study_id = storage.get_study_id_from_name("faces")
    wait_until(
        lambda: any(trial.intermediate_values for trial in storage.get_all_trials(study_id)),
        "the first epoch",
    )


def requeued(folder: Path) -> str:
    """What `scontrol` was asked."""
    noted = folder / "scontrol.txt"
    return noted.read_text() if noted.exists() else ""


@pytest.mark.long
@TEMPLATES
def test_a_worker_ends_with_0_when_the_study_is_done(tmp_path: Path, template: str) -> None:
    real_study(store(tmp_path), total=2)
    with running(template, tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert states(tmp_path) == [C, C]
    assert requeued(tmp_path) == ""


@pytest.mark.parametrize(
    ("template", "number", "code", "asked"),
    [
        # scancel, preemption
        long("slurm", signal.SIGTERM, 0, ""),
        # notice before the time limit
        long("slurm", signal.SIGUSR1, 0, "requeue 4711\n"),
        # a drained node: the Job replaces a pod that ended so
        ("kubernetes", signal.SIGTERM, 75, ""),
    ],
)
def test_a_worker_that_is_asked_to_leave_in_mid_trial_puts_it_back(
    tmp_path: Path, template: str, number: int, code: int, asked: str
) -> None:
    real_study(store(tmp_path), total=2, config=LONG)
    with running(template, tmp_path) as process:
        wait_for_an_epoch(tmp_path)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (code, "")
    assert states(tmp_path) == [W]
    assert requeued(tmp_path) == asked


@pytest.mark.parametrize(("template", "code"), [("slurm", 0), ("kubernetes", 75)])
def test_a_worker_that_is_asked_to_leave_before_it_has_begun_costs_nothing(
    tmp_path: Path, template: str, code: int
) -> None:
    real_study(store(tmp_path), total=2, config=LONG)
    with running(template, tmp_path) as process:
        wait_until(lambda: bool(psutil.Process(process.pid).children()), "the worker")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == code
    assert set(states(tmp_path)) <= {W}


@pytest.mark.long
@pytest.mark.parametrize(("template", "code"), [("slurm", 0), ("kubernetes", 75)])
def test_a_signal_right_after_the_start_leaves_no_worker_behind(
    tmp_path: Path, template: str, code: int
) -> None:
    real_study(store(tmp_path), total=2, config=LONG)
    # bash reads it first: the signal comes when the worker is there and not yet known by its number
    hook = tmp_path / "hook.sh"
    hook.write_text("""trap '[[ $BASH_COMMAND == "worker="*"!" ]] && kill -TERM $$' DEBUG\n""")
    with running(template, tmp_path, BASH_ENV=str(hook)) as process:
        process.communicate(timeout=120)
    assert process.returncode == code
    assert set(states(tmp_path)) <= {W}


@pytest.mark.long
@TEMPLATES
def test_a_killed_worker_is_a_failure(tmp_path: Path, template: str) -> None:
    real_study(store(tmp_path), total=2, config=LONG)
    with running(template, tmp_path) as process:
        wait_until(lambda: bool(psutil.Process(process.pid).children()), "the worker")
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("template", [long("slurm"), "kubernetes"])
def test_a_mistake_ends_with_2_and_its_line(tmp_path: Path, template: str) -> None:
    real_study(store(tmp_path), total=2)
    with running(template, tmp_path, STUDY="face") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == 'error: no study "face" in the store: did you mean faces?\n'


@pytest.mark.parametrize("name", ["STORAGE", "STUDY", "RUNS"])
def test_a_variable_that_was_not_exported_is_named(tmp_path: Path, name: str) -> None:
    with running("slurm", tmp_path, **{name: ""}) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{name}: export the" in err


def test_slurm_reads_every_directive() -> None:
    lines = SBATCH.read_text(encoding="utf-8").splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line for line in lines if line.startswith("#SBATCH")]
    # it stops at the first command
    assert [line for line in lines[:first_command] if line.startswith("#SBATCH")] == directives
    assert "#SBATCH --signal=B:USR1@120" in directives
    assert "#SBATCH --requeue" in directives


def test_a_drained_pod_is_replaced_and_a_mistake_fails_the_job() -> None:
    spec = job()["spec"]
    # a fixed number of successes would count drained pods, or never be reached
    assert "completions" not in spec
    # Kubernetes refuses podFailurePolicy with any other
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    codes = {rule["action"]: rule["onExitCodes"] for rule in rules if "onExitCodes" in rule}
    assert {action: rule["values"] for action, rule in codes.items()} == {
        "FailJob": [2],
        "Ignore": [75],
    }
    assert {rule["containerName"] for rule in codes.values()} == {container()["name"]}


def test_the_pod_gets_every_variable_and_its_store_from_a_secret() -> None:
    given = {entry["name"]: entry for entry in container()["env"]}
    used = set(re.findall(r"\$\{?([A-Z_]+)", container()["args"][0]))
    assert used == given.keys()
    assert given["STORAGE"]["valueFrom"]["secretKeyRef"]["name"] == "search-store"
    (mount,) = container()["volumeMounts"]
    assert given["RUNS"]["value"] == mount["mountPath"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubernetes_knows_every_field_of_the_job() -> None:
    # without a server: kubectl's own types drop what they do not know
    command = ["kubectl", "set", "image", "--local", "-f", str(JOB), "worker=another", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lost = list(missing(job(), json.loads(done.stdout)))
    image = f"{container()['image']!r} became 'another'"
    assert lost == [f".spec.template.spec.containers[0].image: {image}"]


def missing(ours: Any, known: Any, where: str = "") -> Iterator[str]:
    """Places of a YAML tree that another does not have, or has otherwise."""
    if isinstance(ours, dict) and isinstance(known, dict):
        for key, item in ours.items():
            yield from missing(item, known.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(known, list) and len(ours) == len(known):
        for index, item in enumerate(ours):
            yield from missing(item, known[index], f"{where}[{index}]")
    elif str(ours) != str(known):
        # quantities come back as text
        yield f"{where}: {ours!r} became {known!r}"
