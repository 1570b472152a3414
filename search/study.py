"""A study and what it remembers: the identity that makes its trials comparable.

`Setup` is stored with the study. Opening it again with anything that would change what a score
means is refused in one line; ranges, fixed values, sampler, pruner and revival may change.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib.metadata
import re
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

import space
from search import lineage, spaces
from search.names import (
    BEAT_S,
    GRACE_S,
    JUDGED,
    REBUILT,
    SETUP,
    TOTAL,
    is_imported,
    is_repeats,
    is_search,
)
from search.outlook import Outlook
from search.prior import outlook_of
from search.pruner import PRUNERS, make_pruner
from search.sampler import SAMPLERS, make_sampler
from search.spaces import Searched, Spec, Value, describe, distribution, format_value, same_kind
from storage.rdb import LeasedStorage
from trainer.config import Config, base_identity, config_from_dict, key_path, to_dict
from trainer.errors import UserError
from trainer.presets import DEMO_WARNING
from trainer.streams import command_line, shown

if TYPE_CHECKING:
    from trainer.data.dataset import DataSummary

METRIC = "f_score per image, training grid"
METRIC_NAMES = ["f_score"]
# where Optuna keeps them
_METRIC_NAMES = "study:metric_names"
# how a study searches may change from run to run
CHANGEABLE = ("sampler", "pruner", "revive", "prune_risk")
SAMPLER, PRUNER, REVIVE, PRUNE_RISK = "gp", "restart-aware", "auto", 0.05
DRAIN, LEASE = "drain", "lease"
# studies of a store that a new one looks at, the latest ones
_EARLIER = 12
# part of no identity: where the data lie, and what every trial or the search itself decides
_NOT_IDENTITY = ("data.root", "training.seed", "training.early_stopping_patience")


class StudyError(UserError):
    """A study that does not exist, or that was made for something else."""


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know.

    base: the config without experiment, runtime, searched keys, data root and seeds.
    runtime: what the person asked for (auto where nothing). space: name -> parameter as JSON.
    fixed: name -> value. defaults: name -> what a trial takes that does not name it.
    data: root, name, fingerprint, train, val. revive: how many pruned trials may go on, or "auto".
    prune_risk: accepted risk, in (0, 1), of an answer that is worse by more than the noise between
    seeds. uid: of this study alone, so that files left by a deleted one of the same name are not
    taken for its own.
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
    prune_risk: float = PRUNE_RISK
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def draws(self) -> bool:
        """Whether the sampler goes on where the queue is empty: repeats are all asked for."""
        return not is_repeats(self.name)

    def specs(self) -> dict[str, Spec]:
        """The searched parameters, in the order of the space."""
        # PostgreSQL may keep JSON objects in another order, so the order is stored as a list
        read = {name: space.from_json(spec) for name, spec in self.space.items()}
        return {n: spec for n, spec in read.items() if not isinstance(spec, space.EpochShare)}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"order": list(self.space)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Setup:
        """The inverse of `to_json`; keys of later versions are left out."""
        names = {known.name for known in dataclasses.fields(cls)}
        values = {name: item for name, item in stored.items() if name in names}
        values["space"] = {name: stored["space"][name] for name in stored["order"]}
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
) -> Setup:
    """The setup of a study from what the command line came to. Raises StudyError."""
    if shown(name) != name:
        raise StudyError(
            f"--study {shown(name)}: a study's name is text in UTF-8, since stores hold no other;"
            " name it otherwise"
        )
    for what, given, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if given not in known:
            raise StudyError(f"--{what} {given}: not one of {', '.join(known)}")
    config = searched.config
    whole = to_dict(config)
    return Setup(
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
    )


def base_of(searched: Searched) -> dict[str, Any]:
    """The base config that a study remembers: see `Setup`."""
    return base_identity(searched.config, without=[*searched.specs, *_NOT_IDENTITY])


def agreed(storage: LeasedStorage, setup: Setup, *, explicit: Collection[str] = ()) -> Setup:
    """The setup that the study will have: as given, with what an existing study holds on to.

    explicit: which of "seed" and `CHANGEABLE` the person gave; for the others what is stored
    holds. Raises StudyError that names each difference and the way on.
    """
    study = _existing(storage, setup.name)
    if study is None:
        return setup
    stored = study.user_attrs.get(SETUP)
    if stored is not None:
        refuse_direction(
            study,
            f"give this run another name with --study NAME (add --from {setup.name} to take its"
            " trials over)",
        )
        return _agreed(Setup.from_json(stored), setup, explicit)
    if is_imported(study.user_attrs):
        raise StudyError(
            f'study "{setup.name}" holds imported runs, which cannot go on: name another with'
            " --study"
        )
    refuse_foreign(study)
    return setup


def refuse_direction(study: optuna.Study, way_on: str = "name another with --study") -> None:
    """Raise StudyError unless the study has one objective, to be maximized.

    A search in it would look for the worst. way_on: what to do about it.
    """
    wrong = _wrong_direction(study)
    if wrong is not None:
        raise StudyError(f'study "{study.study_name}" {wrong}: {way_on}')


def refuse_foreign(
    study: optuna.Study, way_on: str = "name another with --study", maker: str = "search.run"
) -> None:
    """Raise StudyError unless a study of somebody's own making is as good as new.

    way_on: what to do about it. maker: which command makes those that are wanted.
    """
    attrs = study.user_attrs
    system = study._storage.get_study_system_attrs(study._study_id)
    metrics = system.pop(_METRIC_NAMES, METRIC_NAMES)
    # a note that was written in the dashboard is no program's
    others = sorted([*attrs, *(key for key in system if not key.startswith("dashboard:"))])
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    why = _wrong_direction(study)
    if why is not None:
        pass
    elif REBUILT in attrs:
        why = "was left half made by search.rebuild, which can be repeated"
    elif states:
        kinds = ", ".join(f"{states.count(kind)} {kind}" for kind in dict.fromkeys(states))
        why = f"holds trials of another program ({kinds})"
    elif metrics != METRIC_NAMES:
        why = f"has the metric {', '.join(map(str, metrics))}"
    elif others:
        why = f"has attributes of another program ({', '.join(others[:3])})"
    else:
        return
    raise StudyError(f'study "{study.study_name}" was not made by {maker}, it {why}: {way_on}')


def _wrong_direction(study: optuna.Study) -> str | None:
    found = [direction.name.lower().replace("_", " ") for direction in study.directions]
    if found == ["maximize"]:
        return None
    several = f"{len(found)} objectives ({', '.join(found)})"
    what = f"the direction {found[0]}" if len(found) == 1 else several
    return f"has {what}, and scores here are one objective to maximize"


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


def load_study(storage: LeasedStorage, name: str) -> optuna.Study:
    """An existing search, ready to ask and tell. Raises StudyError, with the nearest name."""
    study = named_study(storage, name)
    setup = load_setup(study)
    equip(study, setup)
    return study


def named_study(storage: LeasedStorage, name: str) -> optuna.Study:
    """An existing study of any kind, to look at. Raises StudyError, with the nearest name."""
    study = _existing(storage, name)
    if study is None:
        names = [other.study_name for other in storage.get_all_studies()]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'no studies'}"
        raise StudyError(f'no study "{name}" in the store: {hint}')
    return study


def equip(study: optuna.Study, setup: Setup) -> None:
    """Give a study its sampler and pruner, which share what they know of it."""
    outlook = functools.cache(lambda: outlook_on(study, setup))
    study.sampler = make_sampler(setup, outlook)
    study.pruner = make_pruner(setup, outlook)


def outlook_on(study: optuna.Study, setup: Setup) -> Outlook:
    """A fresh outlook on a study, which starts from the latest other ones of its store too."""
    storage = study._storage
    earlier = (
        (past, storage.get_all_trials(other._study_id, deepcopy=False))
        for other in storage.get_all_studies()[: -_EARLIER - 1 : -1]
        if other.study_name != setup.name
        and is_search(other.study_name, other.user_attrs)
        and (past := Setup.from_json(other.user_attrs[SETUP])).metric == setup.metric
    )
    return outlook_of(setup, earlier)


def load_setup(study: optuna.Study) -> Setup:
    """What the study remembers. Raises StudyError for a study that search.run did not make."""
    stored = study.user_attrs.get(SETUP)
    if stored is None:
        imported = is_imported(study.user_attrs)
        whose = "holds imported runs" if imported else "was not made by search.run"
        raise StudyError(
            f'study "{study.study_name}" {whose}, so its configs are not known: name another study'
        )
    return Setup.from_json(stored)


def take_up(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A row that storage has just started, as a trial to suggest and report with."""
    # Optuna's cache knows only rows that it has read
    study.get_trials(deepcopy=False)
    return optuna.trial.Trial(study, trial_id)


def set_total(study: optuna.Study, total: int) -> None:
    """How many finished trials the study should reach."""
    study.set_user_attr(TOTAL, total)


@dataclass(frozen=True)
class Lease:
    """Beat and grace period, in seconds, of all who work on a study: each judges the others."""

    beat_s: float = BEAT_S
    grace_s: float = GRACE_S

    def changed(self, beat_s: float | None, grace_s: float | None) -> Lease:
        """With what a person gave instead. Raises UserError unless beats fit into the grace."""
        lease = Lease(beat_s or self.beat_s, grace_s or self.grace_s)
        if lease.beat_s > lease.grace_s / 2:
            raise UserError(
                f"--beat-s {lease.beat_s:g} with --grace-s {lease.grace_s:g}: a worker that misses"
                " one beat would count as dead; make --grace-s at least twice --beat-s"
            )
        return lease


def lease_of(storage: LeasedStorage, name: str) -> Lease:
    """What the study's workers keep to; the default for a study that is not there yet."""
    study = _existing(storage, name)
    return Lease(**({} if study is None else study.user_attrs.get(LEASE, {})))


def set_lease(study: optuna.Study, lease: Lease) -> None:
    """What workers that start from now on keep to."""
    study.set_user_attr(LEASE, dataclasses.asdict(lease))


def total_of(study: optuna.Study) -> int | None:
    """The target number of finished trials; None where no run has set it."""
    return study.user_attrs.get(TOTAL)


def drain(study: optuna.Study) -> None:
    """Ask every worker and supervisor of the study to put its trial back and to end."""
    study.set_user_attr(DRAIN, uuid.uuid4().hex)


def drain_mark(study: optuna.Study) -> str | None:
    """A mark that changes with each `drain`."""
    return study.user_attrs.get(DRAIN)


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
    off: in a search that is the pruner's work. runtime None: as the person asked. Raises
    ConfigError for values that cannot be trained together.
    """
    whole = _nested_copy(setup.base)
    values: dict[str, Any] = {
        **params,
        "data.root": data_root or setup.data["root"],
        "training.seed": seed,
        "training.early_stopping_patience": None,
    }
    for name, value in values.items():
        place = whole
        path = key_path(name)
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    if whole["loss"].get("dice_schedule") == "constant":
        whole["loss"]["dice_ramp"] = 0.0
    whole["experiment"] = {"name": setup.name}
    whole["runtime"] = dict(setup.runtime if runtime is None else runtime)
    return config_from_dict(whole, where=f"study {setup.name}")


def base_values(setup: Setup) -> dict[str, Any]:
    """The base config flat, by dotted name."""
    return dict(flat(setup.base))


def search_record(setup: Setup, row: FrozenTrial) -> dict[str, Any]:
    """The `search` section that goes with a trial's config: where it came from."""
    score, epoch = _best_epoch(row)
    return {
        "study": setup.name,
        "study_uid": setup.uid,
        "trial": row.number,
        "value": score,
        "f_score_full": row.user_attrs.get("f_score_full"),
        "epoch": epoch,
        "metric": setup.metric,
        "seed": row.user_attrs.get("seed"),
        "data": {key: setup.data[key] for key in ("name", "fingerprint", "train", "val")},
        "preset": setup.preset,
        **({"note": DEMO_WARNING} if setup.preset == "demo" else {}),
        "versions": dict(setup.versions),
        "searched": list(setup.space),
        "fixed": dict(setup.fixed),
        "params": dict(row.params),
    }


def _best_epoch(row: FrozenTrial) -> tuple[float | None, int | None]:
    """Score and number of the best epoch of a row's whole training."""
    if row.state.is_finished() and "best_epoch" in row.user_attrs:
        # of a revived trial it may lie in an earlier row
        return row.user_attrs["best_val_f"], row.user_attrs["best_epoch"]
    curve = row.intermediate_values
    best = max(curve, key=lambda epoch: (curve[epoch], -epoch)) if curve else None
    return lineage.value(row), best


def trial_record(setup: Setup, row: FrozenTrial, study_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """`search_record` with all that makes the row and its study again: see `search.rebuild`.

    row: as it is, or as it is about to end. study_attrs: of its study. The setup is whole: a config
    under a constant schedule does not tell the ramp of its base.
    """
    return search_record(setup, row) | {
        "row": {
            "state": row.state.name,
            "started": _utc_text(row.datetime_start),
            "ended": _utc_text(row.datetime_complete),
            "written": datetime.now(UTC).isoformat(),
            "curve": dict(row.intermediate_values),
            "distributions": {
                name: optuna.distributions.distribution_to_json(known)
                for name, known in row.distributions.items()
            },
            "user_attrs": dict(row.user_attrs),
            "system_attrs": {
                # the file is one of the artifacts, so it cannot name them
                key: item
                for key, item in row.system_attrs.items()
                if not key.startswith("artifacts:")
            },
        },
        "setup": setup.to_json(),
        TOTAL: study_attrs.get(TOTAL),
        JUDGED: study_attrs.get(JUDGED),
    }


def _utc_text(moment: datetime | None) -> str | None:
    return None if moment is None else lineage.utc(moment).isoformat()


def trial_folder(runs: Path, study_name: str, number: int) -> Path:
    """Where a trial's files lie: `runs/<study>/<number>`; each claim writes in a folder below.

    A name that is no plain folder name is written with underscores and a short hash.
    """
    plain = re.sub(r"[^\w.-]", "_", study_name)
    if plain != study_name or plain.strip(".") == "" or plain == "artifacts":
        plain = f"{plain[:80]}-{hashlib.sha256(study_name.encode()).hexdigest()[:8]}"
    return Path(runs) / plain / str(number)


def differences(stored: Setup, new: Setup) -> list[str]:
    """Every difference of identity, each as "KEY THEN, this run has NOW"; empty if there is none.

    Changed ranges (low, high) are none.
    """
    old_specs, new_specs = stored.specs(), new.specs()
    searched = {".".join(key_path(name)) for name in (*old_specs, *new_specs)}
    old_base, new_base = dict(flat(stored.base)), dict(flat(new.base))
    found = []
    for key in sorted((old_base.keys() | new_base.keys()) - searched):
        before, now = old_base.get(key), new_base.get(key)
        if before != now:
            found.append(f"{key} {format_value(before)}, this run has {format_value(now)}")
    if stored.data["fingerprint"] != new.data["fingerprint"]:
        found.append(f"data {_data_text(stored)}, this run has {_data_text(new)}")
    if stored.metric != new.metric:
        found.append(f"metric {stored.metric}, this run has {new.metric}")
    for name in sorted(old_specs.keys() | new_specs.keys()):
        was, is_now = old_specs.get(name), new_specs.get(name)
        if was is None and is_now is not None:
            found.append(f"{name} not searched, this run searches {describe(is_now)}")
        elif is_now is None and was is not None:
            found.append(f"{name} searched in {describe(was)}, this run does not search it")
        elif was is None or is_now is None or same_kind(was, is_now):
            continue
        # shares of another budget are no news: the epochs have been named already
        elif not (isinstance(is_now, space.Choice) and stored.epochs != new.epochs):
            found.append(f"{name} as {describe(was)}, this run has {describe(is_now)}")
    return found


def some_of(found: Sequence[str]) -> str:
    """The first few differences in one line."""
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def versions() -> dict[str, str]:
    """The versions that digits depend on."""
    names = ("torch", "optuna", "numpy", "pillow")
    return {name: importlib.metadata.version(name) for name in names}


def _existing(storage: LeasedStorage, name: str) -> optuna.Study | None:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    storage.check_numbers(study._study_id)
    return study


def _agreed(stored: Setup, new: Setup, explicit: Collection[str]) -> Setup:
    found = differences(stored, new)
    if "seed" in explicit and stored.seed != new.seed:
        found.insert(0, f"seed {stored.seed}, this run has {new.seed}")
    if found:
        raise StudyError(
            f'study "{stored.name}" has {some_of(found)}: give this run another name with --study'
            f" NAME (add --from {command_line([stored.name])} to take its trials over)"
        )
    kept = {name: getattr(stored, name) for name in CHANGEABLE if name not in explicit}
    return dataclasses.replace(new, seed=stored.seed, uid=stored.uid, **kept)


def _data_text(setup: Setup) -> str:
    data = setup.data
    return (
        f"{data['name']} ({data['train']} train, {data['val']} val, "
        f"fingerprint {str(data['fingerprint'])[:8]})"
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested config."""
    for key, item in tree.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _nested_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _nested_copy(item) if isinstance(item, Mapping) else item for key, item in tree.items()
    }


def distributions(setup: Setup) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's form of the whole space."""
    return {name: distribution(spec) for name, spec in setup.specs().items()}


def fixed_values(setup: Setup) -> dict[str, Value]:
    """The fixed values as their parameters record them. Raises ConfigError if one is outside."""
    specs = setup.specs()
    return {name: spaces.inside(name, value, specs[name]) for name, value in setup.fixed.items()}
