"""A study's setup as flags of `search.run`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import space
from search.results.trials import Results
from search.study.identity import identity_differences
from search.study.program import Program
from search.study.run_folders import token_folders_of, trial_folder
from search.study.search_space import Spec, Value, resolve
from search.study.setup import (
    PRUNE_RISK,
    PRUNER,
    REVIVE,
    SAMPLER,
    SPEND_SAVED,
    Setup,
    base_of,
    base_values,
)
from trainer.config import Config, compose, get
from trainer.errors import ConfigError
from trainer.presets import SYNTHETIC, default_preset

Range = space.Float | space.Int

_FLAGS = {
    "training.epochs": "--epochs",
    "data.image_size": "--image-size",
    "data.batch_size": "--batch-size",
}


def config_flags(setup: Setup) -> list[str] | None:
    """Flags that give the study's base config from a preset; None where flags cannot."""
    root = setup.data["root"]
    preset = setup.preset or default_preset(root, cuda=False)
    words = ["--preset", preset, *_data_flags(setup)]
    flags: dict[str, Any] = {"data.root": root}
    try:
        config = compose(preset=preset, flags=flags, train_images=setup.data["train"]).config
        base = base_values(setup)
        for key, flag in _FLAGS.items():
            if key in base and get(config, key) != base[key]:
                flags[key] = base[key]
                words += [flag, str(base[key])]
        config = compose(preset=preset, flags=flags, train_images=setup.data["train"]).config
        fixes = [
            f"{key}={_flag_text(value)}"
            for key, value in base.items()
            if value is not None and get(config, key) != value
        ]
        if not _has_identity(setup, config, fixes):
            return None
    except (ConfigError, TypeError):
        # a list or an empty value has no form as a flag
        return None
    return words + [word for text in fixes for word in ("--fix", text)]


def _data_flags(setup: Setup) -> list[str]:
    root = setup.data["root"]
    return [] if root == SYNTHETIC else ["--data", root]


def config_file_flags(results: Results, setup: Setup, runs: Path) -> list[str] | None:
    """--config with a trial's own file, if it gives the study's base config."""
    places = (
        trial_folder(runs, setup.name, one.number) for one in (*results.scored(), *results.outcomes)
    )
    files = (folder / "config.yaml" for place in places for folder in token_folders_of(place))
    for path in files:
        with contextlib.suppress(ConfigError):
            if path.is_file():
                config = compose(file=path, flags={"data.root": setup.data["root"]}).config
                if _has_identity(setup, config, []):
                    return ["--config", str(path), *_data_flags(setup)]
    return None


def _has_identity(setup: Setup, config: Config, fixes: Sequence[str]) -> bool:
    """Whether a run with that config has the study's identity."""
    searched = resolve(config, [*fix_texts(setup), *fixes], range_texts(setup, {}))
    new = dataclasses.replace(
        setup,
        base=base_of(searched),
        space={name: space.to_json(spec) for name, spec in searched.specs.items()},
        epochs=searched.config.training.epochs,
    )
    return not identity_differences(setup, new) and setup.fixed == searched.fixed


def search_flags(setup: Setup) -> list[str]:
    """Flags for what of the search differs from the defaults."""
    words = []
    for flag, value, plain in (
        ("--seed", setup.seed, 0),
        ("--sampler", setup.sampler, SAMPLER),
        ("--pruner", setup.pruner, PRUNER),
        ("--revive", setup.revive, REVIVE),
        ("--prune-risk", setup.prune_risk, PRUNE_RISK),
        ("--spend-saved", setup.spend_saved, SPEND_SAVED),
    ):
        if value != plain:
            words += [flag, str(value)]
    return words


def program_flags(setup: Setup, program: Program, changed: Mapping[str, Range]) -> list[str]:
    """Flags that name a user's program, its scores and its space; --config as the user has it.

    changed: ranges that the next search should have otherwise.
    """
    given = {
        "--command" if program.kind == "command" else "--trainer": program.call,
        "--config": None if not setup.base else f"base.{program.format}",
        "--epochs": setup.epochs,
        "--history": program.history,
        "--score-key": program.score_key,
        "--score": program.pattern,
        "--metric": program.metric,
        "--direction": "minimize" if program.minimize else None,
        "--resume-file": program.resume_file,
    }
    words = [word for flag, it in given.items() if it is not None for word in (flag, str(it))]
    for name, spec in setup.specs().items():
        wanted: Spec = changed.get(name, spec)
        if isinstance(wanted, space.Choice):
            values = ",".join(_flag_text(value) for value in wanted.choices)
            words += ["--choice", f"{name}={values}"]
        else:
            end = ":log" if wanted.log else ""
            ends = f"{_flag_text(wanted.low)}:{_flag_text(wanted.high)}{end}"
            words += ["--range", f"{name}={ends}"]
    return words + [word for text in fix_texts(setup) for word in ("--fix", text)]


def fix_texts(setup: Setup) -> list[str]:
    """What each `--fix` takes."""
    return [f"{name}={_flag_text(value)}" for name, value in setup.fixed.items()]


def range_texts(setup: Setup, changed: Mapping[str, Range]) -> list[str]:
    """What each `--range` takes: those that a plain run would not have, and the changed ones."""
    plain = space.concrete(space.SPACE, setup.epochs)
    found = []
    for name, spec in {**changed, **setup.specs()}.items():
        wanted: Spec = changed.get(name, spec)
        if not isinstance(wanted, space.Choice) and wanted != plain.get(name):
            end = ":log" if wanted.log else ""
            found.append(f"{name}={_flag_text(wanted.low)}:{_flag_text(wanted.high)}{end}")
    return found


def _flag_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
