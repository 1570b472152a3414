"""Whether two setups make comparable trials: one rule, and what refuses a study that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import optuna

import space
from search.study.attributes import REBUILT, SETUP
from search.study.names import is_imported
from search.study.search_space import (
    describe,
    format_value,
    same_kind,
)
from storage.rdb import LeasedStorage
from trainer.config import key_path
from trainer.streams import command_line

if TYPE_CHECKING:
    pass
from search.study.lookup import study_or_none
from search.study.setup import CHANGEABLE, Setup, StudyError, flat
from storage.optuna_internals import system_attrs_of

METRIC_NAMES = ["f_score"]


# where Optuna keeps them
_METRIC_NAMES = "study:metric_names"


def agreed(storage: LeasedStorage, setup: Setup, *, explicit: Collection[str] = ()) -> Setup:
    """The setup that the study will have: as given, with what an existing study holds on to.

    explicit: which of "seed" and `CHANGEABLE` the person gave; for the others what is stored
    holds. Raises StudyError that names each difference and the way on.
    """
    study = study_or_none(storage, setup.name)
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
    system = system_attrs_of(study)
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
