"""What a study remembers: `Setup`, its space and base config, and the configs of its trials."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import importlib.metadata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna

import space
from search.study.attributes import RUNTIME, SEED
from search.study.names import PRUNERS, SAMPLERS, is_repeats
from search.study.program import Program
from search.study.search_space import Searched, Spec, Value, distribution
from trainer.config import Config, base_identity, config_from_dict, key_path, to_dict
from trainer.config.keys import put
from trainer.errors import UserError
from trainer.streams import shown

if TYPE_CHECKING:
    from trainer.data.dataset import DataSummary

METRIC = "f_score per image, training grid"
# how a study searches may change from run to run
CHANGEABLE = ("sampler", "pruner", "revive", "prune_risk", "spend_saved")
SAMPLER, PRUNER, REVIVE, PRUNE_RISK, SPEND_SAVED = "gp", "restart-aware", "auto", 0.01, 0.25
# of studies that were made before these were kept with them
_FORMER_RISK, _FORMER_SPENT = 0.05, 0.0
# part of no identity: where the data lie, and what every trial or the search itself decides
_NOT_IDENTITY = ("data.root", "training.seed", "training.early_stopping_patience")


class StudyError(UserError):
    """A study that does not exist, or that was made for something else."""


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know.

    base: the config without experiment, runtime, searched keys, data root and seeds.
    runtime: what the user asked for (auto where nothing). space: name -> parameter as JSON.
    fixed: name -> value. defaults: name -> what a trial takes that does not name it.
    data: root, name, fingerprint, train, val. revive: how many pruned trials may go on, or "auto".
    prune_risk: accepted risk, in (0, 1), of an answer that is worse by more than the noise between
    seeds. spend_saved: share, in [0, 1], of the epochs that pruning has saved, for repeats of
    leading trials. uid: of this study alone, so that files left by a deleted one of the same name
    are not taken for its own. program: what trains; None: our own trainer. Of a program, base is
    its whole config, and there are no runtime and data but the name.
    """

    name: str
    base: dict[str, Any]
    runtime: dict[str, Any]
    space: dict[str, dict[str, Any]]
    fixed: dict[str, Value]
    defaults: dict[str, Value]
    seed: int
    sampler: str
    pruner: str
    epochs: int
    data: dict[str, Any]
    metric: str = METRIC
    preset: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    revive: str | int = REVIVE
    prune_risk: float = _FORMER_RISK
    spend_saved: float = _FORMER_SPENT
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    program: Program | None = None

    @property
    def draws(self) -> bool:
        """Whether the sampler goes on where the queue is empty: repeats are all asked for."""
        return not is_repeats(self.name)

    def specs(self) -> dict[str, Spec]:
        """The searched parameters, in the order of the space."""
        return dict(self._specs)

    @functools.cached_property
    def _specs(self) -> dict[str, Spec]:
        # PostgreSQL may keep JSON objects in another order, so the order is stored as a list
        read = {name: space.from_json(spec) for name, spec in self.space.items()}
        return {n: spec for n, spec in read.items() if not isinstance(spec, space.EpochShare)}

    @property
    def goes_on(self) -> bool:
        """Whether an interrupted or parked trial can go on from where it stood."""
        return self.program is None or self.program.resume_file is not None

    @property
    def own_score(self) -> str | None:
        """What the scores of a user's program are called; None: ours, the F-score."""
        return None if self.program is None else self.program.label

    @property
    def score_name(self) -> str:
        """What its values are called in a line of text."""
        return self.own_score or "f_score"

    def key_of(self, name: str) -> str:
        """The dotted key of the config that a parameter sets. Raises ConfigError."""
        return name if self.program is not None else ".".join(key_path(name))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"order": list(self.space)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Setup:
        """The inverse of `to_json`; keys of later versions are left out."""
        names = {known.name for known in dataclasses.fields(cls)}
        values = {name: item for name, item in stored.items() if name in names}
        values["space"] = {name: stored["space"][name] for name in stored["order"]}
        if values.get("program") is not None:
            values["program"] = Program.from_json(values["program"])
        return cls(**values)


def make_setup(
    name: str,
    searched: Searched,
    data: DataSummary,
    *,
    seed: int = 0,
    sampler: str = SAMPLER,
    pruner: str = PRUNER,
    preset: str | None = None,
    revive: str | int = REVIVE,
    prune_risk: float = PRUNE_RISK,
    spend_saved: float = SPEND_SAVED,
) -> Setup:
    """The setup of a study from what the command line came to. Raises StudyError."""
    config = searched.config
    whole = to_dict(config)
    setup = Setup(
        name=name,
        base=base_of(searched),
        runtime=whole["runtime"],
        space={key: space.to_json(spec) for key, spec in searched.specs.items()},
        fixed=dict(searched.fixed),
        defaults=searched.defaults(),
        seed=seed,
        sampler=sampler,
        pruner=pruner,
        epochs=config.training.epochs,
        data={
            "root": config.data.root,
            "name": data.name,
            "fingerprint": data.fingerprint,
            "train": data.train,
            "val": data.val,
        },
        preset=preset,
        versions=versions(),
        revive=revive,
        prune_risk=prune_risk,
        spend_saved=spend_saved,
    )
    return checked_names(setup)


def checked_names(setup: Setup) -> Setup:
    """The setup, whose names are known ones. Raises StudyError."""
    name = setup.name
    if shown(name) != name:
        raise StudyError(
            f"--study {shown(name)}: a study's name is text in UTF-8, since stores hold no other;"
            " name it otherwise"
        )
    for what, given, known in (
        ("sampler", setup.sampler, SAMPLERS),
        ("pruner", setup.pruner, PRUNERS),
    ):
        if given not in known:
            raise StudyError(f"--{what} {given}: not one of {', '.join(known)}")
    return setup


def base_of(searched: Searched) -> dict[str, Any]:
    """The base config that a study remembers: see `Setup`."""
    return base_identity(searched.config, without=[*searched.specs, *_NOT_IDENTITY])


def trial_seed(study_seed: int, number: int) -> int:
    """A trial's training seed, in [0, 2^31): the same wherever and whenever it runs."""
    text = f"trial {study_seed} {number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31


def config_for(
    setup: Setup,
    params: Mapping[str, Value],
    *,
    seed: int,
    runtime: Mapping[str, Any] | None = None,
    data_root: str | None = None,
) -> Config:
    """The config that a trial trains with.

    Under a constant schedule the ramp is written as 0, whatever was sampled. Early stopping is
    off: in a search that is the pruner's work. runtime None: as the user asked. Raises
    ConfigError for values that cannot be trained together.
    """
    whole = copy.deepcopy(setup.base)
    values: dict[str, Any] = {
        **params,
        "data.root": data_root or setup.data["root"],
        "training.seed": seed,
        "training.early_stopping_patience": None,
    }
    for name, value in values.items():
        put(whole, key_path(name), value)
    if whole["loss"].get("dice_schedule") == "constant":
        whole["loss"]["dice_ramp"] = 0.0
    whole["experiment"] = {"name": setup.name}
    whole["runtime"] = dict(setup.runtime if runtime is None else runtime)
    return config_from_dict(whole, where=f"study {setup.name}")


def base_values(setup: Setup) -> dict[str, Any]:
    """The base config flat, by dotted name."""
    return dict(flat(setup.base))


def versions() -> dict[str, str]:
    """The versions that digits depend on."""
    names = ("torch", "optuna", "numpy", "pillow")
    return {name: importlib.metadata.version(name) for name in names}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested config."""
    for key, item in tree.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def distributions(setup: Setup) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's form of the whole space."""
    return {name: distribution(spec) for name, spec in setup.specs().items()}


def trial_config(
    trial: optuna.Trial | optuna.trial.FrozenTrial,
    setup: Setup,
    *,
    runtime: Mapping[str, Any] | None = None,
    data_root: str | None = None,
) -> Config:
    """The config that a trial trains, or trained, with; runtime None: the one it recorded.

    Raises KeyError for a trial that has no seed yet: it has not started.
    """
    return config_for(
        setup,
        trial.params,
        seed=trial.user_attrs[SEED],
        runtime=trial.user_attrs.get(RUNTIME) if runtime is None else runtime,
        data_root=data_root,
    )
