"""Where the workers of a run on this machine compute: decided or measured, and told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from search.execution.launchers.capacity import Device, workers_per_device
from search.execution.launchers.local import WorkerPlan, devices_of, plan_workers
from search.execution.launchers.mps import SharedGpus
from search.execution.options import RunOptions
from search.study.setup import Setup, config_for
from search.study.wording import counted
from trainer.errors import UserError
from trainer.runtime import check_precision, precision_note, usable_cores

LOG = logging.getLogger(__name__)


def local_plans(
    options: RunOptions, setup: Setup, most: int, shared: SharedGpus
) -> list[WorkerPlan]:
    """Where the workers of a run compute. most: as in `plan_workers`.

    Measures what a device carries where that is asked for, with `shared` as the workers will have
    it. Raises UserError.
    """
    cores, gpus = usable_cores(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    device, threads = setup.runtime["device"], setup.runtime["threads"]
    per_device = options.per_device
    if isinstance(per_device, str):
        if setup.program is not None:
            raise UserError("--workers-per-device auto: it measures our own trainer; give a number")
        devices = devices_of(device, gpus)
        target = Device(devices[0], max(1, cores // len(devices)), threads)
        shared.start(devices)
        per_device = workers_per_device(
            config_for(setup, {**setup.defaults, **setup.fixed}, seed=setup.seed),
            target,
            pictures=setup.data["train"],
            val=setup.data["val"],
            environment=shared.environment,
            by_mps=shared.served,
        )
    plans = plan_workers(
        options.workers,
        device=device,
        cores=cores,
        gpus=gpus,
        threads=threads,
        per_device=per_device,
        most=most,
    )
    shared.start_for([plan.device for plan in plans])
    return plans


def check_precision_here(options: RunOptions, setup: Setup) -> None:
    """Raises ConfigError if a GPU of this machine that is to be used has not the study's precision.

    Before a study is made: all its trials would be refused by their workers.
    """
    if setup.program is not None or options.launcher != "local":
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in devices_of(setup.runtime["device"], gpus):
        check_precision(setup.runtime["precision"], device)


def tell_plans(plans: Sequence[WorkerPlan], setup: Setup, logs: Path) -> None:
    """Say how many workers there are and where, and where a GPU lacks the usual precision."""
    LOG.info(
        f"{counted(len(plans), 'worker')} on {plans[0].device},"
        f" {counted(plans[0].threads, 'thread')} each; logs in {logs}"
    )
    if setup.program is not None:
        return
    notes = (precision_note(setup.runtime["precision"], plan.device) for plan in plans)
    for note in dict.fromkeys(note for note in notes if note is not None):
        LOG.info(f"note: {note}")
