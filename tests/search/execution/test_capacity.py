from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.execution.launchers import capacity
from search.execution.launchers.capacity import (
    Device,
    Reading,
    candidates,
    chosen,
    climb,
    result_line,
    side_by_side,
    workers_per_device,
)
from search.execution.worker_loop import work
from search.run import main
from tests.support.data_folders import course
from tests.support.paths import ROOT
from tests.support.studies import context_at, real_study, store
from trainer.cli import guarded
from trainer.config import Config, to_yaml, with_values

TINY = {"width": 0.1, "image_size": 16, "batch_size": 8, "runtime.device": "cpu"}
BRIEF = (0.05, 0.1)
ONE_CORE = Device("cpu", 1, threads=1)
# a network that a device with room for four pictures, or for none, can train
HUNGRY = """
import torch
from torch import nn

class Hungry(nn.Module):
    room = {room}

    def __init__(self, num_classes, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(dropout),
            nn.Conv2d(8, num_classes, 1),
        )

    def forward(self, images):
        if self.training and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layers(images)
"""


def tiny(**values: Any) -> Config:
    return with_values(Config(), {**TINY, **values})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACE_PARSING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measuring(sums: Mapping[int, float], peak_mb: float = 10) -> Callable[[int], Reading | None]:
    """A measurement whose results are known; None where there is none."""

    def measure(workers: int) -> Reading | None:
        return Reading(sums[workers], peak_mb) if workers in sums else None

    return measure


def climbed(
    tries: Sequence[int], sums: Mapping[int, float], peak_mb: float = 10
) -> dict[int, float | None]:
    """Pictures a second by number of workers, on a device with 100 MB free."""
    readings = climb(tries, measuring(sums, peak_mb), 100)
    return {n: None if one is None else one.images_per_s for n, one in readings.items()}


def best(sums: Mapping[int, float | None], free_mb: float = 1000) -> int:
    """What is chosen of workers that take 10 MB each."""
    readings = {n: None if total is None else Reading(total, 10) for n, total in sums.items()}
    return chosen(readings, free_mb)


# ----------------------------------------------------------------------------------- the choice


def test_the_climb_goes_on_while_more_workers_bring_more() -> None:
    assert climbed([1, 2, 4], {1: 100, 2: 190, 4: 300}) == {1: 100, 2: 190, 4: 300}


def test_the_climb_ends_where_the_sum_grows_by_less_than_5_percent() -> None:
    assert climbed([1, 2, 4, 8], {1: 100, 2: 104, 4: 900, 8: 900}) == {1: 100, 2: 104}


def test_what_would_not_fit_with_a_tenth_to_spare_is_not_tried() -> None:
    sums = {1: 100.0, 2: 200.0, 4: 400.0, 8: 800.0}
    # 4 x 22 + 10 % < 100 <= 4 x 23 + 10 %
    assert climbed([1, 2, 4, 8], sums, 22)[4] == 400
    assert climbed([1, 2, 4, 8], sums, 23) == {1: 100, 2: 200, 4: None}


def test_running_out_of_memory_ends_the_climb() -> None:
    assert climbed([1, 2, 4], {1: 100, 4: 900}) == {1: 100, 2: None}


def test_the_fewest_workers_within_5_percent_of_the_best_are_chosen() -> None:
    assert best({1: 240, 2: 410, 4: 415}) == 2
    assert best({1: 240, 2: 410, 4: 435}) == 4
    assert best({1: 240, 2: 230}) == 1
    # the trial itself then takes smaller micro-batches
    assert best({1: None}) == 1


def test_what_others_have_taken_of_a_device_since_counts() -> None:
    sums = {1: 240, 2: 410, 4: 600}
    # with a tenth to spare
    assert [best(sums, free_mb) for free_mb in (44, 43, 22, 21, 5)] == [4, 2, 2, 1, 1]


def test_memory_needed_and_free_is_said_in_the_line() -> None:
    readings = {1: Reading(240.4, 9_800), 2: Reading(410, 9_900), 4: None}
    assert result_line(readings, 23_400, remembered=True) == (
        "2 workers per device: 1: 240 images/s, 2: 410 images/s, 4: does not fit;"
        " 9.9 GB each at most, 23.4 GB free (measured earlier)"
    )
    assert result_line({1: None}, 5_000, remembered=False) == (
        "1 worker per device: 1: does not fit; 5.0 GB free (measured)"
    )


def test_a_cpu_is_filled_up_to_its_cores_and_a_gpu_up_to_8() -> None:
    assert candidates(Device("cpu", 1)) == [1]
    assert candidates(Device("cpu", 6)) == [1, 2, 4, 6]
    assert candidates(Device("cuda:0", 2)) == [1, 2, 4, 8]
    assert Device("cpu", 6).threads_of(4) == 1
    assert Device("cpu", 6, threads=3).threads_of(4) == 3


# ----------------------------------------------------------------------------------- real probes


def last_line(caplog: pytest.LogCaptureFixture) -> str:
    """The latest message; memory, which differs from machine to machine, as a word."""
    return re.sub(r"[0-9.]+ GB", "SOME", caplog.messages[-1])


def test_workers_are_measured_once_and_remembered_for_the_same_configuration(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "search")

    def ask(config: Config) -> int:
        return workers_per_device(config, ONE_CORE, pictures=8, val=4, seconds=BRIEF)

    assert ask(tiny()) == 1
    (file,) = cache.glob("*-packing.json")
    reading = json.loads(file.read_text())["readings"]["1"]
    speed = reading["images_per_s"]
    assert speed > 0
    line = f"1 worker per device: 1: {speed:.0f} images/s; SOME each at most, SOME free"
    assert last_line(caplog) == f"{line} (measured)"
    before = file.stat().st_mtime_ns
    # learning rate and budget change neither speed nor memory
    assert ask(tiny(learning_rate=1e-3, epochs=7)) == 1
    assert last_line(caplog) == f"{line} (measured earlier)"
    assert file.stat().st_mtime_ns == before
    file.write_text(json.dumps({"readings": {"1": reading, "2": {**reading, "images_per_s": 1e9}}}))
    assert ask(tiny()) == 2
    monkeypatch.setattr(capacity, "free_memory_mb", lambda device: 500.0)
    monkeypatch.setattr(capacity, "side_by_side", lambda *_, **__: Reading(7.0, 100.0))
    measured = "1 worker per device: 1: 7 images/s; 0.1 GB each at most, 0.5 GB free (measured)"
    for other in (tiny(batch_size=4), tiny(image_size=32), tiny(width=0.2), tiny(ce_weight=2.0)):
        ask(other)
        assert caplog.messages[-1] == measured
    # half a file is no answer, nor is one of an earlier version
    for text in ("{", json.dumps({"images_per_s": {"1": 5.0}})):
        file.write_text(text)
        ask(tiny())
        assert caplog.messages[-1] == measured


@pytest.mark.usefixtures("cache")
def test_what_did_not_fit_is_measured_again_once_more_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_mb, tried = 300.0, list[int]()

    def side_by_side(_: Config, device: Device, workers: int, **__: Any) -> Reading:
        tried.append(workers)
        return Reading(100.0 * workers, 200.0)

    monkeypatch.setattr(Device, "hardware", "a GPU")
    monkeypatch.setattr(capacity, "free_memory_mb", lambda device: free_mb)
    monkeypatch.setattr(capacity, "side_by_side", side_by_side)

    def ask() -> int:
        return workers_per_device(tiny(), Device("cuda:0", 8), pictures=8, val=4)

    # somebody else has the rest
    assert (ask(), tried) == (1, [1])
    assert (ask(), tried) == (1, [1])
    free_mb = 2000.0
    assert (ask(), tried) == (8, [1, 1, 2, 4, 8])
    free_mb = 1000.0
    assert (ask(), tried) == (4, [1, 1, 2, 4, 8])


def hungry(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, room: int) -> str:
    """The name of a model that has room for so many pictures, here and in child processes."""
    (folder / f"{name}.py").write_text(HUNGRY.format(room=room))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    return f"{name}:Hungry"


def test_a_probe_that_runs_out_of_memory_does_not_fit(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "search")
    config = tiny(**{"model.name": hungry(tmp_path, monkeypatch, "hungry_probe", room=4)})
    assert workers_per_device(config, ONE_CORE, pictures=8, val=4, seconds=BRIEF) == 1
    assert last_line(caplog) == "1 worker per device: 1: does not fit; SOME free (measured)"


def test_a_probe_that_cannot_train_ends_the_run_with_its_own_line(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(**{"model.name": "no_such_module:factory"})

    def body() -> int:
        return workers_per_device(config, ONE_CORE, pictures=8, val=4)

    assert guarded(body) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --workers-per-device auto: model.name: 'no_such_module:factory'")
    assert not list(cache.glob("*-packing.json"))


ENDING = """
import signal, sys, time
def end(*_):
    print("ended", file=sys.stderr, flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "deaf" else end)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("kind", "said"), [("polite", "ended\n"), ("deaf", "")])
def test_probes_are_asked_to_end_and_killed_where_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.setattr(capacity, "_ENDING_S", 5.0 if kind == "polite" else 0.2)
    command = [sys.executable, "-c", ENDING, kind]
    with capacity._probes(command, 2, os.environ, tmp_path, 60) as probes:
        assert capacity._answers(probes) == ["ready", "ready"]
    assert [probe.log.read_text() for probe in probes] == [said] * 2
    assert {probe.process.returncode for probe in probes} == {143 if said else -9}


def test_two_trainings_side_by_side_are_measured_together() -> None:
    reading = side_by_side(tiny(), Device("cpu", 2), 2, pictures=8, seconds=BRIEF)
    assert reading is not None
    assert reading.images_per_s > 0
    # PyTorch alone takes more than 50 MB
    assert reading.peak_mb > 50
    assert capacity.free_memory_mb(ONE_CORE) > 50


def test_probes_have_the_environment_of_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = hungry(tmp_path, monkeypatch, "hungry_by_environment", room=4)
    module = tmp_path / "hungry_by_environment.py"
    module.write_text(module.read_text().replace("room = 4", "room = int(os.environ['ROOM'])"))
    module.write_text("import os" + module.read_text())
    monkeypatch.setenv("ROOM", "99")
    config = tiny(**{"model.name": name})
    assert (
        side_by_side(config, ONE_CORE, 1, pictures=8, seconds=BRIEF, environment={"ROOM": "4"})
        is None
    )


# ------------------------------------------------------------------------------------- the flags


def test_one_number_of_workers_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--workers", "2", "--workers-per-device", "auto"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--workers-per-device: not allowed with argument --workers" in line


@pytest.mark.long
def test_a_run_starts_the_workers_that_were_measured(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # what is measured here would depend on the machine
    monkeypatch.setattr(capacity, "side_by_side", lambda *_, **__: Reading(5.0, 1.0))
    data = {"synthetic_images": 40, "runtime.threads": 1}
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny(**data)))
    flags = ["--config", "tiny.yaml", "--plain", "--timeout", "0.5", "--trials", "9"]
    assert main([*flags, "--workers-per-device", "auto"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 worker per device: 1: 5" in out
    assert "1 worker on cpu, 1 thread each" in out
    assert main([*flags, "--workers-per-device", "3"]) == 0
    assert "3 workers on cpu, 1 thread each" in " ".join(capsys.readouterr().out.split())


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, with its time and size."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.long
def test_a_second_start_on_the_same_faces_decodes_and_writes_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    faces = course(tmp_path / "faces", [f"face-{number}" for number in range(40)])
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny()))
    flags = ["--config", "tiny.yaml", "--plain", "--timeout", "0.5", "--workers", "1"]
    flags += ["--data", str(faces)]
    assert main([*flags, "--study", "first"]) == 0
    before = stamps(cache)
    assert any(name.endswith("-images.npy") for name in before)
    assert main([*flags, "--study", "second"]) == 0
    assert stamps(cache) == before


# -------------------------------------------------------------------------------- out of memory


def test_a_trial_that_runs_out_of_memory_completes_in_smaller_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = hungry(tmp_path, monkeypatch, "hungry_of_four", room=4)
    storage = store(tmp_path)
    study = real_study(storage, total=1, config={"model.name": name, "epochs": 2})
    assert work(context_at(tmp_path, storage)) == 0
    (trial,) = study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert sorted(trial.intermediate_values) == [1, 2]
    assert trial.user_attrs["micro_batch"] == 4
    assert trial.user_attrs["runtime"]["micro_batch"] == 4


def test_a_trial_for_which_one_picture_is_too_much_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = hungry(tmp_path, monkeypatch, "hungry_of_none", room=0)
    storage = store(tmp_path)
    study = real_study(storage, total=1, config={"model.name": name, "epochs": 2})
    with pytest.raises(Exception, match="3 trials in a row failed, .* CUDA out of memory"):
        work(context_at(tmp_path, storage))
    for trial in study.get_trials():
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs["micro_batch"] == 1
        assert trial.user_attrs["reason"] == "OutOfMemoryError: CUDA out of memory"
