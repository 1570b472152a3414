"""Runs that were trained elsewhere, as read from files, and what their configs say.

Names of keys go through `trainer.config.old_files`, which drops what this trainer does not have.
Here nothing that made runs differ is lost: such keys stay as they were written. What had no effect
on a run is kept apart, for a difference in it is none between the runs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from search.study.search_space import is_number
from search.study.setup import flat
from search.study.wording import counted
from trainer.config import as_today
from trainer.config.old_files import translate
from trainer.notation import switch

# the old trainer never read these, whatever stood there
_NEVER_READ = (("augmentation",), ("loss", "label_smoothing"))
# how and where, not what
_NO_SETTING = ("output_dir", "data.num_workers")
# switch -> what says nothing while it is off
_SWITCHES = {
    "loss.use_focal": ("loss.focal_alpha", "loss.focal_gamma"),
    "training.use_mixup": ("training.mixup_prob", "training.mixup_alpha"),
    "training.use_cutmix": ("augmentation.cutmix", "training.cutmix_alpha"),
}
T_0, EPOCHS = "training.scheduler_params.T_0", "training.epochs"
# labels and records, no settings; the seed has a place of its own
_NO_CONFIG = ("experiment.", "search.", "training.seed")
# keys that name the weights which a run starts from
_WEIGHTS = ("resume", "resume_from", "checkpoint", "pretrained", "init_from", "continue_from")
_CONTINUES = re.compile(r"(?<![a-z])(continue[sd]?|fine-?tuned?|resumed?)(?![a-z])")
_CONTINUES_FROM = re.compile(r"(?<![a-z])(continu\w*|fine-?tun\w*|resum\w*)\s+(from|of)(?![a-z])")
_DROPPED = " is dropped: "


@dataclass(frozen=True)
class Run:
    """One run, as its file tells it.

    name: None where the file gives none. where: file and run, for messages. config: nested, as it
    was written. f_scores: of every epoch, in [0, 1]; empty for a row of a table. series: what
    else was recorded, name -> one number per epoch. metrics: columns of
    `search.study.training_metrics` that a table gave. metric: what its file says that the score
    is. notes: what was left out.
    """

    name: str | None
    where: str
    config: dict[str, Any]
    f_scores: tuple[float, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    note: str | None = None
    metric: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> float:
        """The highest score."""
        return max(self.f_scores, default=self.metrics.get("best_val_f", 0.0))

    @cached_property
    def settings(self) -> Settings:
        return settings_of(self.config)

    @property
    def known_seed(self) -> int | None:
        """The seed beside the config, else the one in it."""
        return self.settings.seed if self.seed is None else self.seed

    @cached_property
    def mark(self) -> str:
        """By which it is known again, whatever its file is called and however it is written."""
        config = self.settings.config
        given = [self.name, self.known_seed, config, self.f_scores, self.series, self.metrics]
        text = json.dumps(given, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Unfinished:
    """A row without a score. why: what stands in its place."""

    where: str
    why: str


@dataclass(frozen=True)
class Settings:
    """config: by dotted name. ignored: what had no effect, as it was written. notes: a line per key
    that was renamed or that this trainer does not have. seed, metric, experiment, description: as
    given, None or "" where not. weights: a file that the run started from.
    """

    config: dict[str, Any]
    ignored: dict[str, Any]
    notes: list[str]
    seed: int | None
    metric: str | None
    experiment: str
    description: str
    weights: str | None


def settings_of(raw: Mapping[str, Any]) -> Settings:
    """What a nested config says. Unknown keys stay as they are."""
    written = dict(flat(raw))
    is_old = bool(translate(raw)[1])
    read, ignored = _split(raw) if is_old else (copy.deepcopy(dict(raw)), {})
    new, notes = as_today(read)
    config = dict(flat(new))
    for note in notes:
        key = note.partition(":")[0]
        if _DROPPED in note:
            # of a mapping where one value is meant there is no such key
            config |= {
                name: item for name, item in written.items() if f"{name}.".startswith(f"{key}.")
            }
    if "model.name" in written:
        # another network stays another network
        config["model.name"] = written["model.name"]
        notes = [note for note in notes if not note.startswith("model.name:")]
    if config.get("training.scheduler") is not None and config.get(T_0) is None:
        # plain cosine: one cycle over the whole budget
        config |= {T_0: float(config[EPOCHS])} if is_number(config.get(EPOCHS)) else {}
    idle = [
        key for name, keys in _SWITCHES.items() if switch(config.get(name)) is False for key in keys
    ]
    for key in (*_NO_SETTING, *idle):
        if key in config:
            ignored[key] = config.pop(key)
    # named already, as what had no effect
    notes = [note for note in notes if note.partition(":")[0] not in ignored]
    labels = {key: config.pop(key) for key in [*config] if key.startswith(_NO_CONFIG)}
    seed, metric = labels.get("training.seed"), labels.get("search.metric")
    return Settings(
        config=config,
        ignored=ignored,
        notes=notes,
        seed=seed if isinstance(seed, int) else None,
        metric=None if metric is None else str(metric),
        experiment=str(labels.get("experiment.name") or ""),
        description=str(labels.get("experiment.description") or ""),
        weights=next(
            (
                value
                for key, value in config.items()
                if key.rpartition(".")[2] in _WEIGHTS and isinstance(value, str) and value
            ),
            None,
        ),
    )


def _split(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config without what the old trainer never read, and that, flat."""
    read = copy.deepcopy(dict(raw))
    ignored: dict[str, Any] = {}
    for *above, last in _NEVER_READ:
        node: Any = read
        for part in above:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            ignored |= flat({".".join((*above, last)): node.pop(last)})
    return read, ignored


def continues(settings: Settings, f_scores: Sequence[float]) -> bool:
    """Whether a run started from another run's weights: it says so, or its first epoch does."""
    text = f"{settings.experiment} {settings.description}".lower()
    # nobody learns most of it in one epoch; a run that never learned anything is flat too
    high_at_once = len(f_scores) >= 10 and f_scores[0] >= max(0.3, 0.8 * max(f_scores))
    return bool(
        settings.weights
        or _CONTINUES.search(settings.experiment.lower())
        or _CONTINUES_FROM.search(text)
        or high_at_once
    )


def parent(settings: Settings, others: Mapping[str, float]) -> str:
    """The run whose weights a continued run started from, as far as its config tells.

    others: name of each other run -> its best score.
    """
    path = f"/{settings.weights or ''}/"
    named = [name for name in others if f"/{name}/" in path or f"/{name}." in path]
    if not named:
        # "Continue from best model (0.6889)"
        scores = re.findall(r"\b0\.\d{3,}", settings.description)
        named = [
            name
            for name, best in others.items()
            if any(f"{best:.{len(score) - 2}f}" == score for score in scores)
        ]
    if len(named) == 1:
        return named[0]
    return settings.weights or "a run that is not named"


def summed_up(runs: Iterable[Sequence[str]]) -> list[str]:
    """The notes of all runs, each key once, with how many runs it concerns.

    runs: the notes of each.
    """
    lines: dict[str, list[str]] = {}
    for notes in runs:
        for note in notes:
            found = re.match(r"[\w.]+", note)
            lines.setdefault(found[0] if found else note, []).append(note)
    return [
        f"{_general(key, notes)} ({counted(len(notes), 'run')})" for key, notes in lines.items()
    ]


def _general(key: str, notes: Sequence[str]) -> str:
    """One line for notes on the same key that differ in its value."""
    first = notes[0]
    if _DROPPED in first:
        return f"{key}, kept as it was: {first.partition(_DROPPED)[2]}"
    if " is now a number" in first:
        return f"{key}: the text is now a number"
    return first if len(set(notes)) == 1 else first.rpartition(": ")[0]
