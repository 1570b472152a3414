"""The command that starts the next search, from what a study remembers of the one before."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import space
from search.results.evidence import Evidence
from search.results.findings.next_ranges import changes, fix_texts, flag_text, range_texts
from search.results.trials import Results
from search.study.identity import identity_differences
from search.study.lineages import finished
from search.study.names import is_repeats
from search.study.run_folders import token_folders_of, trial_folder
from search.study.search_space import resolve
from search.study.setup import PRUNE_RISK, PRUNER, REVIVE, SAMPLER, Setup, base_of, base_values
from storage import redact
from trainer.config import Config, compose, get
from trainer.errors import ConfigError
from trainer.presets import SYNTHETIC, default_preset

_FEWEST_TRIALS = 20
_FLAGS = {
    "training.epochs": "--epochs",
    "data.image_size": "--image-size",
    "data.batch_size": "--batch-size",
}


def next_command(evidence: Evidence, storage: str, runs: str) -> list[str] | None:
    """The words of the command that starts the search that the advice speaks of.

    Where ranges change it is a study of its own, which takes over the trials of this one; else it
    goes on with this one. None for imported results and repeats, and where the study's config
    cannot be told by flags and lies in no file of the runs folder. Passwords are left out.
    """
    results = evidence.results
    setup = results.setup
    if setup is None or is_repeats(results.name):
        return None
    changed = {change.name: change.after for change in changes(evidence)}
    ended = len(finished(results.rows))
    words = [sys.executable, "-m", "search.run"]
    if changed:
        new, trials = _next_name(setup.name, Path(runs)), max(_FEWEST_TRIALS, ended)
        words += ["--study", new, "--from", setup.name, "--trials", str(trials)]
    else:
        words += ["--study", setup.name, "--trials", str(ended + _FEWEST_TRIALS)]
    words += ["--storage", redact(storage), "--runs", runs]
    own = _config_flags(setup) or _config_file_flags(results, setup, Path(runs))
    if own is None:
        return None
    for text in fix_texts(setup):
        words += ["--fix", text]
    for text in range_texts(setup, changed):
        words += ["--range", text]
    return words + own + _search_flags(setup)


def _next_name(name: str, runs: Path) -> str:
    """faces -> faces-2 -> faces-3, the first whose folder is free."""
    stem, dash, end = name.rpartition("-")
    stem, number_ = (stem, int(end) + 1) if dash and end.isdecimal() else (name, 2)
    # an image size is no count
    if number_ > 16:
        stem, number_ = name, 2
    while trial_folder(runs, f"{stem}-{number_}", 0).parent.exists():
        number_ += 1
    return f"{stem}-{number_}"


def _config_flags(setup: Setup) -> list[str] | None:
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
            f"{key}={flag_text(value)}"
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


def _config_file_flags(results: Results, setup: Setup, runs: Path) -> list[str] | None:
    """--config with a trial's own file, if it gives the study's base config."""
    for path in _files(results, setup, runs):
        try:
            config = compose(file=path, flags={"data.root": setup.data["root"]}).config
            if _has_identity(setup, config, []):
                return ["--config", str(path), *_data_flags(setup)]
        except ConfigError:
            continue
    return None


def _files(results: Results, setup: Setup, runs: Path) -> Iterator[Path]:
    for one in (*results.scored(), *results.outcomes):
        for folder in token_folders_of(trial_folder(runs, setup.name, one.number)):
            if (folder / "config.yaml").is_file():
                yield folder / "config.yaml"


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


def _search_flags(setup: Setup) -> list[str]:
    """Flags for what of the search differs from the defaults."""
    words = []
    for flag, value, plain in (
        ("--seed", setup.seed, 0),
        ("--sampler", setup.sampler, SAMPLER),
        ("--pruner", setup.pruner, PRUNER),
        ("--revive", setup.revive, REVIVE),
        ("--prune-risk", setup.prune_risk, PRUNE_RISK),
    ):
        if value != plain:
            words += [flag, str(value)]
    return words
