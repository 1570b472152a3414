"""The start of a run: what the command line comes to, checked before anything is written."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from rich.console import Console
from rich.table import Table

import space
from search.management.enqueue import Request, complete, enqueue, read_requests
from search.management.first_trials import enqueue_first
from search.management.transfer import transfer_trials
from search.strategy.equipping import load_study
from search.study import search_space
from search.study.attributes import SETUP
from search.study.checkpoints import written_by
from search.study.identity import agreed
from search.study.lookup import load_setup
from search.study.names import CONFIRM_SUFFIX, default_name, is_repeats
from search.study.run_folders import token_folders_of, trial_folder
from search.study.search_space import Searched
from search.study.setup import (
    CHANGEABLE,
    PRUNE_RISK,
    PRUNER,
    REVIVE,
    SAMPLER,
    Setup,
    StudyError,
    make_setup,
)
from search.study.shared_state import lease_of, set_lease, set_total
from search.study.wording import tell
from storage import LeasedStorage
from trainer.cli import progress_bar
from trainer.config import compose
from trainer.data.dataset import DataSummary, describe, load_faces, mask_warnings
from trainer.model import build_model, parameter_count
from trainer.presets import DEMO_WARNING, PRESETS, default_preset, steps_per_epoch
from trainer.presets import table as preset_rows
from trainer.runtime import check_device

if TYPE_CHECKING:
    from trainer.data.dataset import DataSummary
from search.strategy.equipping import equip
from search.study.identity import METRIC_NAMES


@dataclass(frozen=True)
class Plan:
    """What the command line and the config came to, before the store is touched."""

    setup: Setup
    summary: DataSummary
    preset: str
    parameters: int
    notes: Sequence[str]
    requests: Sequence[Request]


def planned(args: argparse.Namespace) -> Plan:
    """Check all that can be checked without the store; nothing is written."""
    requests = read_requests(args.enqueue) if args.enqueue else []
    flags = {
        "data.root": args.data,
        "data.image_size": args.image_size,
        "data.batch_size": args.batch_size,
        "training.epochs": args.epochs,
        "runtime.device": None if args.device == "auto" else args.device,
    }
    # the first pass finds the data set, whose size turns a preset's steps into epochs
    draft = compose(file=args.config, preset=args.preset, flags={**flags, "training.epochs": None})
    root, device = draft.config.data.root, draft.config.runtime.device
    check_device(device)
    cuda = torch.cuda.is_available() and device != "cpu"
    preset = args.preset or default_preset(root, cuda=cuda)
    draft = compose(
        file=args.config,
        preset=args.preset,
        default_preset=preset,
        flags={**flags, "training.epochs": None},
    )
    summary = describe(root, draft.config.data.synthetic_images)
    composed = compose(
        file=args.config,
        preset=args.preset,
        default_preset=preset,
        flags=flags,
        train_images=summary.train,
        keep=[
            search_space.canonical(text.partition("=")[0].strip(), list(space.SPACE))
            for text in (*args.fix, *args.ranges)
        ],
    )
    searched = search_space.resolve(composed.config, args.fix, args.ranges)
    config = searched.config
    model = build_model(
        config.model.name,
        width=config.model.width,
        # whether dropout acts is a question for a network that has some
        dropout=_highest_dropout(searched),
        aux=config.loss.aux_weight > 0,
    )
    setup = make_setup(
        args.study or default_name(summary.name, preset, config.data.image_size),
        searched,
        summary,
        seed=args.seed or 0,
        sampler=args.sampler or SAMPLER,
        pruner=args.pruner or PRUNER,
        preset=preset,
        revive=REVIVE if args.revive is None else args.revive,
        prune_risk=args.prune_risk or PRUNE_RISK,
    )
    for number, request in enumerate(requests, start=1):
        complete(request, setup, f"{args.enqueue}: entry {number}")
    return Plan(setup, summary, preset, parameter_count(model), composed.notes, requests)


def opened(
    args: argparse.Namespace, plan: Plan, storage: LeasedStorage, console: Console
) -> tuple[optuna.Study, Setup]:
    """Open the study and fill its queue; faces are decoded before anything is written."""
    for flag, name in (("--study", args.study), ("--from", args.old)):
        if name is not None and is_repeats(name):
            raise StudyError(
                f"{flag} {name}: names in {CONFIRM_SUFFIX} are kept for repeats, which python -m"
                " search.confirm goes on with; name a search"
            )
    if args.old:
        load_study(storage, args.old)
    explicit = [name for name in ("seed", *CHANGEABLE) if getattr(args, name) is not None]
    # a study made for something else is refused before a long decoding
    agreed(storage, plan.setup, explicit=explicit)
    lease = lease_of(storage, plan.setup.name).changed(args.beat_s, args.grace_s)
    refuse_orphans(storage, plan.setup.name, Path(args.runs))
    data = plan.setup.base["data"]
    root = plan.setup.data["root"]
    with progress_bar("decoding faces") as tick:
        # once, into the cache that the workers share
        load_faces(
            root,
            image_size=data["image_size"],
            synthetic_images=data["synthetic_images"],
            tick=tick,
        )
    with progress_bar("looking at the masks") as tick:
        warnings = mask_warnings(root, tick=tick)
    study = open_study(storage, plan.setup, explicit=explicit)
    setup = load_setup(study)
    for note in (*plan.notes, *plan.summary.notes):
        tell(console, f"note: {note}")
    _introduce(console, setup, plan)
    if plan.preset == "demo":
        tell(console, DEMO_WARNING)
    for warning in warnings:
        tell(console, f"note: {warning}")
    lines = transfer_trials(study, storage, args.old) if args.old else []
    if plan.requests:
        made = enqueue(study, setup, plan.requests, where=str(args.enqueue))
        lines.append(f"{args.enqueue}: {len(made)} of {len(plan.requests)} configurations enqueued")
    set_total(study, args.trials)
    set_lease(study, lease)
    if not args.no_priors:
        lines += enqueue_first(study, setup, args.trials)
    for line in lines:
        tell(console, line)
    return study, setup


def refuse_orphans(storage: LeasedStorage, name: str, runs: Path) -> None:
    """Raise StudyError where a study would write over trials that its store has lost."""
    folder = trial_folder(runs, name, 0).parent
    known = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
    if name in known:
        _refuse_older_copy(storage, known[name], folder)
        return
    if any(token_folders_of(number) for number in folder.glob("[0-9]*")):
        raise StudyError(
            f"{folder} holds trials of a study that is not in this store: bring it back with python"
            " -m search.rebuild, give this run another --study or --runs, or remove that folder"
        )


def _refuse_older_copy(storage: LeasedStorage, attrs: Mapping[str, Any], folder: Path) -> None:
    """Raise StudyError where the files of a study know of claims that its store has yet to make."""
    last = storage.last_token()
    if last is None or SETUP not in attrs:
        return
    numbers = [number for number in folder.glob("[0-9]*") if number.name.isdecimal()]
    later = [
        token
        for number in numbers
        for token in token_folders_of(number)
        if int(token.name) > last and written_by(token) == attrs[SETUP].get("uid")
    ]
    if later:
        raise StudyError(
            f"{folder} holds work that this store does not know of ({later[-1]}): the store is an"
            " older copy, or one made without its log (search.db-wal); put the latest one back,"
            " bring all back with python -m search.rebuild --storage sqlite:///NEW.db, or give"
            " this run another --study or --runs"
        )


def _highest_dropout(searched: Searched) -> float:
    fixed = searched.fixed.get("dropout")
    if fixed is not None:
        return float(fixed)
    spec = searched.specs.get("dropout")
    if spec is None:
        return searched.config.model.dropout
    return (
        max(float(choice) for choice in spec.choices)
        if isinstance(spec, space.Choice)
        else spec.high
    )


def _introduce(console: Console, setup: Setup, plan: Plan) -> None:
    data, training = setup.base["data"], setup.base["training"]
    summary = plan.summary
    steps = setup.epochs * steps_per_epoch(summary.train, data["batch_size"])
    width = setup.base["model"].get("width")
    tell(
        console,
        f"study {setup.name}: {summary.name}, {summary.train} train / {summary.val} val /"
        f" {summary.test} test, {data['image_size']} pixels, batch {data['batch_size']},"
        f" {setup.epochs} epochs = {steps:,} steps, {setup.base['model']['name']} with"
        f" {plan.parameters:,} parameters (width {width}), learning rate"
        f" {training.get('learning_rate', 'searched')}",
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("preset", "pixels", "width", "batch", "lr", "steps", "for"):
        table.add_column(heading)
    for row in preset_rows():
        chosen = row[0] == plan.preset
        table.add_row(f"{'*' if chosen else ' '} {row[0]}", *row[1:], style="" if chosen else "dim")
    console.print(table)
    tell(console, f"* chosen: {PRESETS[plan.preset].why}")
    for name, spec in setup.specs().items():
        fixed = f"  fixed at {setup.fixed[name]}" if name in setup.fixed else ""
        tell(console, f"  {name:<16} {search_space.describe(spec)}{fixed}")


def open_study(
    storage: LeasedStorage, setup: Setup, *, explicit: Collection[str] = ()
) -> optuna.Study:
    """Make the study, or open it where its identity is the same.

    explicit: as in `agreed`. The stored setup takes over ranges, fixed values, runtime and
    `CHANGEABLE`. Raises StudyError, before anything is written.
    """
    setup = agreed(storage, setup, explicit=explicit)
    study = optuna.create_study(
        study_name=setup.name, storage=storage, direction="maximize", load_if_exists=True
    )
    equip(study, setup)
    study.set_user_attr(SETUP, setup.to_json())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # what the dashboard calls the value
        study.set_metric_names(METRIC_NAMES)
    return study
