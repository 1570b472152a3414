"""Banks of curves: files that are checked, and the script that records them."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

import space
from scripts.benchmarks import record_bank
from search.execution.trial_runner import take_up
from search.strategy.forecast.curve_banks import Recorded, read_bank, seed_deviation, write_bank
from search.study.attributes import DIVERGED
from search.study.lookup import load_setup
from storage import open_storage
from tests.support.scripts import loaded_by_help
from tests.support.studies import EPOCHS, ROOT, environment, play, store, study_of, wait_until
from trainer.errors import UserError

TINY = """\
model: {width: 0.1}
data: {image_size: 16, batch_size: 8, synthetic_images: 40}
training: {epochs: 12, ema: 0.2, warmup_epochs: 0.2}
runtime: {device: cpu, threads: 1}
"""
ENTRY: dict[str, Any] = {
    "config": 0,
    "seed": 1,
    "params": {"dice_weight": 1.5},
    "val_f": [0.5],
    "lr": [0.01],
}


def curve(config: int, seed: int, *val_f: float, **params: Any) -> Recorded:
    return Recorded(
        config, seed, {"dice_weight": float(config), **params}, val_f, (0.1,) * len(val_f)
    )


# ---------------------------------------------------------------------------------------- the file


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    params = {"dice_schedule": "step", "T_0": 12, "nested": True}
    curves = (
        curve(0, 5, 0.1, 0.123456, **params),
        curve(0, 6, 0.2, 0.3, **params),
        curve(1, 7, 0, 1),
    )
    file = tmp_path / "new" / "bank.json"
    write_bank(file, curves)
    again = read_bank(file)
    assert again == curves
    assert [type(value) for value in again[0].params.values()] == [float, str, int, bool]
    keys = ["config", "seed", "params", "val_f", "lr"]
    assert [list(entry) for entry in json.loads(file.read_text())] == [keys] * 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([{"val_f": [1.5]}], r"entry 1: val_f: .*less than or equal to 1, got 1\.5"),
        ([{"val_f": [float("nan")]}], "entry 1: val_f: .*got nan"),
        ([{"lr": [-0.1]}], "entry 1: lr: "),
        ([{"lr": [float("inf")]}], "entry 1: lr: "),
        ([{"lr": [0.1, 0.1]}], r"entry 1 .*: lr has 2 numbers, .* val_f 1: one number per epoch"),
        ([{"val_f": [], "lr": []}], "entry 1 .*val_f has 0 numbers"),
        ([{"seed": "1"}], "entry 1: seed: "),
        ([{"config": -1}], "entry 1: config: "),
        ([{"params": {"dice_weight": None}}], "entry 1: params: "),
        ([{"params": {"dice_weight": float("nan")}}], "entry 1: params: "),
        ([{"epochs": 1}], "entry 1: epochs: .*got 1"),
        ([{}, {"seed": 2, "params": {"dice_weight": 2.0}}], "entry 2 .*: other params than before"),
        ([{}, {}], r"entry 2 \(config 0, seed 1\): twice"),
        (
            [{}, {"config": 1, "val_f": [0.1, 0.2], "lr": [0.1, 0.1]}],
            "entry 2 .*val_f has 2 numbers",
        ),
        ([], "no curves"),
    ],
)
def test_a_bank_amiss_is_refused_in_one_line_and_never_written(
    tmp_path: Path, changes: Sequence[dict[str, Any]], says: str
) -> None:
    entries = [ENTRY | change for change in changes]
    file = tmp_path / "bank.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=f"bank.json: {says}") as caught:
        read_bank(file)
    assert "\n" not in str(caught.value)
    if all(entry.keys() == ENTRY.keys() for entry in entries):
        curves = [Recorded(**entry) for entry in entries]
        with pytest.raises(ValueError, match="entry|validation error|no curves|JSON compliant"):
            write_bank(tmp_path / "none.json", curves)
        assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize("text", ["", "[{", "{}", "3", "[[]]", '[{"config": 0}]'])
def test_a_file_that_holds_no_bank_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bank.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"bank\.json: ") as caught:
        read_bank(file)
    assert "\n" not in str(caught.value)


def test_a_missing_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json: no such file"):
        read_bank(tmp_path / "none.json")


def test_the_seeds_deviation_is_pooled_over_repeated_configurations() -> None:
    # bests .4 .6, and .1 .2 .3, and one alone: (.02 + .02) / 3
    bests = [(0, 0.4), (0, 0.6), (1, 0.1), (1, 0.2), (1, 0.3), (2, 0.9)]
    curves = [curve(config, seed, best, 0.05) for seed, (config, best) in enumerate(bests)]
    assert seed_deviation(curves) == pytest.approx((0.04 / 3) ** 0.5)
    assert seed_deviation(curves[-1:]) is None


@pytest.mark.parametrize(
    "file",
    sorted((ROOT / "search" / "strategy" / "forecast" / "banks").glob("*.json")),
    ids=lambda f: f.stem,
)
def test_the_banks_that_ship_are_sound(file: Path) -> None:
    curves = read_bank(file)
    assert len(curves) > 1
    assert all(one.params.keys() == space.SPACE.keys() for one in curves)


# ------------------------------------------------------------------------------------- the repeats


def rows(values: Sequence[float | None]) -> list[FrozenTrial]:
    """Finished trials by their values; None: diverged before it was scored."""
    made = []
    for number, value in enumerate(values):
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        made.append(create_trial(state=state, value=value))
        made[-1].number = number
    return made


def test_half_of_the_repeats_are_the_best_and_none_is_taken_twice_or_diverged() -> None:
    trials = rows([0.1, 0.9, None, 0.5, 0.8, 0.2, 0.9, 0.3])
    chosen = [row.number for row in record_bank.to_repeat(trials, 5, seed=0)]
    assert chosen[:2] == [1, 6]
    assert len(set(chosen)) == 5
    assert 2 not in chosen
    assert chosen == [row.number for row in record_bank.to_repeat(trials, 5, seed=0)]
    everyone = {row.number for row in record_bank.to_repeat(trials, 8, seed=0)}
    assert everyone == {0, 1, 3, 4, 5, 6, 7}
    others = {
        tuple(row.number for row in record_bank.to_repeat(trials, 5, seed=s)) for s in range(9)
    }
    assert len(others) > 1


def asked(folder: Path, *flags: str) -> argparse.Namespace:
    words = ["--study", "faces", "--storage", f"sqlite:///{folder}/search.db"]
    args: argparse.Namespace = record_bank.parser().parse_args(
        [*words, "--out", f"{folder}/b.json", *flags]
    )
    return args


def test_repeats_are_enqueued_once_whatever_has_become_of_them(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = study_of(storage, sampler="random", pruner="none")
    setup = load_setup(study)
    first = play(study, storage, setup, 4)
    args = asked(tmp_path, "--configs", "4", "--repeats", "2", "--seeds", "3")
    record_bank.enqueue_repeats(args)
    repeats = record_bank.repeats(study.get_trials())
    assert [row.state for row in repeats] == [TrialState.WAITING] * 6
    assert len({row.user_attrs["seed"] for row in study.get_trials()} - {None}) == 10
    again = play(study, storage, setup, 2)
    assert all(params in first for params in again)
    # by now there are other trials that are better
    record_bank.enqueue_repeats(args)
    assert [row.number for row in record_bank.repeats(study.get_trials())] == [4, 5, 6, 7, 8, 9]
    assert [row.number for row in record_bank.originals(study.get_trials())] == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------- the bank


def test_only_whole_trainings_are_collected_and_the_others_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    study = study_of(storage, sampler="random", pruner="none")
    setup = load_setup(study)
    assert record_bank.main(["--collect", *written(tmp_path)]) == 2
    assert "no training has reached its end" in capsys.readouterr().err
    play(study, storage, setup, 2)
    for how in ("diverged", "stopped"):
        trial = take_up(study, storage.new_trial(study._study_id, taken(storage, study)))
        if how == "diverged":
            trial.set_constraint(DIVERGED, 1.0)
        study.tell(trial, state=TrialState.PRUNED)
    args = asked(tmp_path, "--configs", "2", "--repeats", "1", "--seeds", "1")
    record_bank.enqueue_repeats(args)
    play(study, storage, setup, 1)
    assert record_bank.main(["--collect", *written(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "left out: 1 diverged (trial 2)" in told
    assert "left out: 1 ended early (trial 3)" in told
    curves = read_bank(tmp_path / "b.json")
    # one seed differs from the other in nothing: the curves are drawn, not trained
    assert f"3 curves of 2 configurations, {EPOCHS} epochs; seed SD 0.0000 (pooled over 1)" in told
    repeated = curves[2].config
    assert [one.config for one in curves[:2]] == [0, 1]
    assert curves[2].val_f == curves[repeated].val_f
    assert curves[2].seed != curves[repeated].seed
    best = max(max(one.val_f) for one in curves)
    assert f"best {best:.4f}" in told


def taken(storage: Any, study: optuna.Study) -> int:
    token = storage.take_slot(study._study_id, None, "test")
    assert isinstance(token, int)
    return token


def written(folder: Path) -> list[str]:
    return [
        "--study",
        "faces",
        "--storage",
        f"sqlite:///{folder}/search.db",
        "--out",
        f"{folder}/b.json",
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--trials", "5"], "--trials: a recording sets that itself"),
        (["--enqueue=x.yaml"], "--enqueue=x.yaml: a recording sets that itself"),
        (["--configs", "3"], "--repeats 12 of --configs 3"),
        (["--collect", "--workers", "2"], "--workers: --collect trains nothing"),
        (["--collect"], "faces"),
        (["--repeats", "-1"], "a whole number from 0 up"),
    ],
)
def test_flags_amiss_are_refused_in_one_line(tmp_path: Path, flags: list[str], says: str) -> None:
    store(tmp_path).close()
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.record_bank", *written(tmp_path), *flags],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_flag_has_help_and_help_does_not_wait_for_optuna() -> None:
    assert all(action.help for action in record_bank.parser()._actions)
    assert loaded_by_help("scripts.benchmarks.record_bank")[1] == set()


@pytest.mark.proof
def test_a_recording_goes_on_where_it_was_interrupted_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [
        sys.executable,
        "-m",
        "scripts.benchmarks.record_bank",
        "--configs",
        "2",
        "--repeats",
        "1",
    ]
    command += [
        "--seeds",
        "3",
        "--out",
        "b.json",
        "--config",
        "tiny.yaml",
        "--workers",
        "1",
        "--plain",
    ]

    def trials() -> list[FrozenTrial]:
        # before its first trial begins the store may still be in the making
        if not (tmp_path / "runs" / "bank" / "0").is_dir():
            return []
        storage = open_storage(f"sqlite:///{tmp_path}/runs/search.db", read_only=True)
        found = [
            trial
            for study in storage.get_all_studies()
            for trial in storage.get_all_trials(study._study_id)
        ]
        storage.close()
        return found

    def begun() -> bool:
        assert one.poll() is None, "it ended too early"
        return any(row.state != TrialState.WAITING for row in record_bank.repeats(trials()))

    options: dict[str, Any] = {"cwd": tmp_path, "env": environment(), "text": True}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options
    ) as one:
        try:
            wait_until(begun, "a repeat", 120)
            one.send_signal(signal.SIGINT)
            _, said = one.communicate(timeout=120)
        finally:
            one.kill()
    assert one.returncode == 130, said
    assert "of 5 trainings have ended; the same command goes on" in said
    assert not (tmp_path / "b.json").exists()

    done = subprocess.run(command, capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    before = trials()
    assert [trial.state for trial in before] == [TrialState.COMPLETE] * 5
    assert "b.json: 5 curves of 2 configurations, 12 epochs; seed SD 0." in done.stdout
    curves = read_bank(tmp_path / "b.json")
    repeated = curves[2].config
    assert [one.config for one in curves] == [0, 1, repeated, repeated, repeated]
    assert len({one.seed for one in curves}) == 5
    assert len({one.val_f for one in curves}) == 5
    for number, recorded in enumerate(curves):
        (newest, *_) = sorted((tmp_path / "runs" / "bank" / str(number)).iterdir(), reverse=True)
        history = json.loads((newest / "history.json").read_text())
        assert recorded.lr == pytest.approx([entry["lr"] for entry in history], rel=1e-5)
        assert recorded.val_f == pytest.approx([entry["val_f"] for entry in history], abs=1e-6)

    # nothing lacks: no search is started
    (tmp_path / "b.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert record_bank.main([*command[2:-1], "--no-such-flag"]) == 0
    assert trials() == before
    assert read_bank(tmp_path / "b.json") == curves
