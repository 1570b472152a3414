"""What flags and config come to, checked before the store is touched."""

from __future__ import annotations

import functools

import torch

import space
from search.management.enqueue import complete, read_requests
from search.management.options import FacesPlan, Plan, StudyOptions
from search.management.program_planning import planned_program, refuse_flags_of_programs
from search.study import search_space
from search.study.names import default_name
from search.study.search_space import Searched
from search.study.setup import CHANGEABLE, make_setup
from trainer.config import compose
from trainer.data.dataset import describe
from trainer.model import build_model, parameter_count
from trainer.presets import default_preset
from trainer.runtime import check_device


def planned(options: StudyOptions) -> Plan:
    """Check all that can be checked without the store; nothing is written."""
    if options.command is not None or options.function is not None:
        return planned_program(options)
    refuse_flags_of_programs(options)
    return _planned_faces(options)


def _planned_faces(options: StudyOptions) -> Plan:
    requests = read_requests(options.enqueue) if options.enqueue else []
    flags = {
        "data.root": options.data,
        "data.image_size": options.image_size,
        "data.batch_size": options.batch_size,
        "training.epochs": options.epochs,
        "runtime.device": None if options.device == "auto" else options.device,
    }
    # the first pass finds the data set, whose size turns a preset's steps into epochs
    composed_with = functools.partial(compose, file=options.config, preset=options.preset)
    without_epochs = {**flags, "training.epochs": None}
    draft = composed_with(flags=without_epochs)
    root, device = draft.config.data.root, draft.config.runtime.device
    check_device(device)
    cuda = torch.cuda.is_available() and device != "cpu"
    preset = options.preset or default_preset(root, cuda=cuda)
    draft = composed_with(default_preset=preset, flags=without_epochs)
    summary = describe(root, draft.config.data.synthetic_images)
    composed = composed_with(
        default_preset=preset,
        flags=flags,
        train_images=summary.train,
        keep=[
            search_space.canonical(text.partition("=")[0].strip(), list(space.SPACE))
            for text in (*options.fix, *options.ranges)
        ],
    )
    searched = search_space.resolve(composed.config, options.fix, options.ranges)
    config = searched.config
    model = build_model(
        config.model.name,
        width=config.model.width,
        # whether dropout acts is a question for a network that has some
        dropout=_highest_dropout(searched),
        aux=config.loss.aux_weight > 0,
    )
    setup = make_setup(
        options.study or default_name(summary.name, preset, config.data.image_size),
        searched,
        summary,
        seed=options.seed or 0,
        preset=preset,
        **{name: given for name in CHANGEABLE if (given := getattr(options, name)) is not None},
    )
    for number, request in enumerate(requests, start=1):
        complete(request, setup, f"{options.enqueue}: entry {number}")
    faces = FacesPlan(summary, preset, parameter_count(model))
    return Plan(setup, composed.notes, requests, faces)


def _highest_dropout(searched: Searched) -> float:
    fixed = searched.fixed.get("dropout")
    if fixed is not None:
        return float(fixed)
    spec = searched.specs.get("dropout")
    if spec is None:
        return searched.config.model.dropout
    return max(map(float, spec.choices)) if isinstance(spec, space.Choice) else spec.high
