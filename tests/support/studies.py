"""What the tests of `search/` share: small studies, and curves without training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from search.execution.objective import suggest
from search.execution.stop_requests import WorkerSignals
from search.execution.trial_runner import take_up
from search.execution.worker_context import WorkerContext
from search.management.opening import open_study
from search.strategy.loading import load_study
from search.study.lookup import load_setup
from search.study.search_space import resolve
from search.study.setup import Setup, make_setup, trial_seed
from search.study.shared_state import Lease, set_total
from search.trainers.contract import Machine
from search.trainers.selection import trainer_of
from storage import LeasedStorage, open_storage
from tests.support.paths import ROOT
from trainer.config import Config, with_values
from trainer.data.dataset import DataSummary, describe
from trainer.fit import fit

EPOCHS = 12
FACES = DataSummary("synthetic", 40, 8, 8, "0123456789abcdef")

Curve = Callable[[Mapping[str, Any], int], float]


def store(folder: Path) -> LeasedStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return open_storage(f"sqlite:///{folder}/search.db")


def setup_of(
    name: str = "faces",
    *,
    fixes: tuple[str, ...] = (),
    ranges: tuple[str, ...] = (),
    config: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    data: DataSummary = FACES,
    **options: Any,
) -> Setup:
    base = with_values(Config(), {"epochs": EPOCHS, **(config or {})})
    # the quicker sampler, where a test does not ask for one
    options = {"sampler": "tpe", **options}
    return make_setup(name, resolve(base, fixes, ranges, table=table), data, **options)


def study_of(storage: LeasedStorage, name: str = "faces", **options: Any) -> optuna.Study:
    study = open_study(storage, setup_of(name, **options))
    set_total(study, 40)
    return study


def by_dice(params: Mapping[str, Any], epoch: int) -> float:
    """A smooth learning curve, best at dice 2.5."""
    top: float = 0.7 - 0.05 * abs(params["dice_weight"] - 2.5)
    return float(top * (1 - 2 ** (-epoch / 3)))


def play(
    study: optuna.Study,
    storage: LeasedStorage,
    setup: Setup,
    trials: int,
    curve: Curve = by_dice,
) -> list[dict[str, Any]]:
    """Run trials as a worker would, with a curve in place of training; their parameters."""
    played = []
    for _ in range(trials):
        token = storage.take_slot(study._study_id, None, "test")
        assert token is not None
        trial_id = storage.pop_waiting(study._study_id, token)
        if trial_id is None:
            trial_id = storage.new_trial(study._study_id, token)
        trial = take_up(study, trial_id)
        params = suggest(trial, setup)
        trial.set_user_attr("seed", trial_seed(setup.seed, trial.number))
        try:
            for epoch in range(1, setup.epochs + 1):
                trial.report(curve(params, epoch), epoch)
                if epoch < setup.epochs and trial.should_prune():
                    raise optuna.TrialPruned
            study.tell(trial, max(curve(params, epoch) for epoch in range(1, setup.epochs + 1)))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        storage.release(token)
        played.append(params)
    return played


# a training of a second or two: the smallest grid, few faces, a narrow network
TINY = {
    "image_size": 16,
    "batch_size": 8,
    "synthetic_images": 40,
    "width": 0.1,
    "epochs": 4,
    "ema": 0.2,
    "warmup_epochs": 0.2,
}
FAST = ("--beat-s", "0.2", "--grace-s", "2")


def real_study(
    storage: LeasedStorage, name: str = "faces", *, total: int, **options: Any
) -> optuna.Study:
    """A study on the built-in faces that workers can really train."""
    config = {**TINY, **options.pop("config", {})}
    data = describe("synthetic", config["synthetic_images"])
    study = open_study(storage, setup_of(name, config=config, data=data, **options))
    set_total(study, total)
    return study


def start_worker(folder: Path, study: str = "faces", *flags: str) -> subprocess.Popen[str]:
    """A worker process on the store of `folder`."""
    command = [
        *(sys.executable, "-m", "search.worker", "--storage", f"sqlite:///{folder}/search.db"),
        *("--study", study, "--runs", str(folder / "runs"), "--device", "cpu", "--threads", "1"),
        *(*FAST, *flags),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(first: Path = ROOT) -> dict[str, str]:
    """For a process that works in any folder. first: where it looks for modules before ours."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys((first, ROOT))))}


@contextmanager
def running(
    folder: Path, module: str, *flags: str, before: Sequence[str] = (), **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A command in a folder, as a process that does not outlive the block.

    before: words before the command. more: variables of its environment.
    """
    with subprocess.Popen(
        [*before, sys.executable, "-m", module, *flags],
        cwd=folder,
        env=environment() | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def started(
    folder: Path, *flags: str, before: Sequence[str] = (), **more: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """`search.run --config tiny.yaml` in a folder; see `running`."""
    flags = ("--config", "tiny.yaml", *flags)
    return running(folder, "search.run", *flags, before=before, **more)


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Look ten times a second until it is true."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.1)


def context_at(
    folder: Path, storage: LeasedStorage, name: str = "faces", **options: Any
) -> WorkerContext:
    """A worker of this process."""
    study = load_study(storage, name)
    return WorkerContext(
        storage=storage,
        study=study,
        runs=folder / "runs",
        signals=WorkerSignals(),
        trainer=trainer_of(load_setup(study), Machine("cpu", 1)),
        lease=Lease(beat_s=0.2, grace_s=2.0),
        **options,
    )


def fit_and(act: Callable[[], None]) -> Any:
    """Training that does something after the first epoch, before that is reported."""

    def run(config: Any, data: Any, *, out: Path, report: Any, resume_from: Any) -> Any:
        def heard(progress: Any) -> None:
            if progress.epoch == 1:
                act()
            report(progress)

        return fit(config, data, out=out, report=heard, resume_from=resume_from)

    return run
