"""The start of a run: its study opened, or made, and its queue filled."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from search.management.enqueue import enqueue
from search.management.first_trials import enqueue_first
from search.management.options import FacesPlan, Plan, StudyOptions
from search.management.transfer import transfer_trials
from search.strategy.loading import load_study, set_sampler_and_pruner
from search.study import search_space
from search.study.attributes import SETUP
from search.study.identity import metric_names, resolved_setup
from search.study.lookup import load_setup, study_or_none
from search.study.names import CONFIRM_SUFFIX, is_repeats
from search.study.program import Program
from search.study.run_folders import token_folders_of, trial_folder, written_by
from search.study.setup import CHANGEABLE, Setup, StudyError
from search.study.shared_state import lease_of, set_lease, set_total
from storage import LeasedStorage
from trainer.cli import progress_bar
from trainer.data.dataset import load_faces, mask_warnings
from trainer.presets import DEMO_WARNING, PRESETS, steps_per_epoch
from trainer.presets import table as preset_rows

LOG = logging.getLogger(__name__)


def opened(
    options: StudyOptions,
    plan: Plan,
    storage: LeasedStorage,
    console: Console,
    *,
    runs: Path,
    trials: int,
) -> tuple[optuna.Study, Setup]:
    """Open the study and fill its queue; faces are decoded before anything is written.

    trials: finished ones that the study should reach. Raises StudyError and UserError.
    """
    for flag, name in (("--study", options.study), ("--from", options.old)):
        if name is not None and is_repeats(name):
            raise StudyError(
                f"{flag} {name}: names in {CONFIRM_SUFFIX} are kept for repeats, which python -m"
                " search.confirm goes on with; name a search"
            )
    if options.old:
        load_study(storage, options.old)
    explicit = [name for name in ("seed", *CHANGEABLE) if getattr(options, name) is not None]
    # a study made for something else is refused before a long decoding
    resolved_setup(study_or_none(storage, plan.setup.name), plan.setup, explicit=explicit)
    lease = lease_of(storage, plan.setup.name).changed(options.beat_s, options.grace_s)
    refuse_orphans(storage, plan.setup.name, runs)
    notes = [] if plan.faces is None else _looked_at_faces(plan.setup)
    study = open_study(storage, plan.setup, explicit=explicit)
    setup = load_setup(study)
    for note in (*plan.notes, *(() if plan.faces is None else plan.faces.summary.notes)):
        LOG.info(f"note: {note}")
    if plan.faces is not None:
        _introduce_faces(console, setup, plan.faces)
    elif setup.program is not None:
        _introduce_program(setup, setup.program)
    _introduce_space(setup)
    if setup.preset == "demo":
        LOG.info(DEMO_WARNING)
    for note in notes:
        LOG.info(f"note: {note}")
    lines = transfer_trials(study, storage, options.old) if options.old else []
    if plan.requests:
        made = enqueue(study, setup, plan.requests, where=str(options.enqueue))
        lines.append(
            f"{options.enqueue}: {len(made)} of {len(plan.requests)} configurations enqueued"
        )
    set_total(study, trials)
    set_lease(study, lease)
    if options.priors:
        lines += enqueue_first(study, setup, trials)
    for line in lines:
        LOG.info(line)
    return study, setup


def _looked_at_faces(setup: Setup) -> list[str]:
    """Notes on the masks of faces that are decoded by then."""
    decode_faces(setup)
    with progress_bar("looking at the masks") as tick:
        return list(mask_warnings(setup.data["root"], tick=tick))


def decode_faces(setup: Setup) -> None:
    """Decode the study's faces, once, into the cache that the workers share."""
    settings = setup.base["data"]
    with progress_bar("decoding faces") as tick:
        load_faces(
            setup.data["root"],
            image_size=settings["image_size"],
            synthetic_images=settings["synthetic_images"],
            tick=tick,
        )


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


def _introduce_program(setup: Setup, program: Program) -> None:
    ways = {
        program.history: f"{program.score_key} of {program.history}",
        program.pattern: f'"{program.pattern}" in its output',
    }
    how = next((text for way, text in ways.items() if way is not None), "what it reports")
    better = "lower is better, kept as its negative" if program.minimize else "higher is better"
    LOG.info(f"{program.kind}: {program.call}")
    LOG.info(f"{program.metric} ({better}): {how}; {setup.epochs} epochs a trial")
    if not program.takes_seeds:
        LOG.info(
            "note: no seed reaches the program, so its trials cannot be repeated with others; write"
            " {seed} in --command, or have a key seed in its config"
        )


def _introduce_faces(console: Console, setup: Setup, plan: FacesPlan) -> None:
    data, training = setup.base["data"], setup.base["training"]
    summary = plan.summary
    steps = setup.epochs * steps_per_epoch(summary.train, data["batch_size"])
    width = setup.base["model"].get("width")
    LOG.info(
        f"study {setup.name}: {summary.name}, {summary.train} train / {summary.val} val /"
        f" {summary.test} test, {data['image_size']} pixels, batch {data['batch_size']},"
        f" {setup.epochs} epochs = {steps:,} steps, {setup.base['model']['name']} with"
        f" {plan.parameters:,} parameters (width {width}), learning rate"
        f" {training.get('learning_rate', 'searched')}",
    )
    headings = ("preset", "pixels", "width", "batch", "lr", "steps", "for")
    table = Table(*headings, box=None, padding=(0, 2, 0, 0))
    for row in preset_rows():
        chosen = row[0] == plan.preset
        table.add_row(f"{'*' if chosen else ' '} {row[0]}", *row[1:], style="" if chosen else "dim")
    console.print(table)
    LOG.info(f"* chosen: {PRESETS[plan.preset].why}")


def _introduce_space(setup: Setup) -> None:
    for name, spec in setup.specs().items():
        fixed = f"  fixed at {setup.fixed[name]}" if name in setup.fixed else ""
        LOG.info(f"  {name:<16} {search_space.describe(spec)}{fixed}")


def open_study(
    storage: LeasedStorage, setup: Setup, *, explicit: Collection[str] = ()
) -> optuna.Study:
    """Make the study, or open it where its identity is the same.

    explicit: as in `resolved_setup`. The stored setup takes over ranges, fixed values, runtime and
    `CHANGEABLE`. Raises StudyError, before anything is written.
    """
    setup = resolved_setup(study_or_none(storage, setup.name), setup, explicit=explicit)
    study = optuna.create_study(
        study_name=setup.name, storage=storage, direction="maximize", load_if_exists=True
    )
    set_sampler_and_pruner(study, setup)
    study.set_user_attr(SETUP, setup.to_json())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # what the dashboard calls the value
        study.set_metric_names(metric_names(setup))
    return study
