"""Whether two setups make comparable trials: one rule, and what refuses a study that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

import space
from search.study.attributes import REBUILT, SETUP, is_imported
from search.study.program import Program
from search.study.search_space import describe, format_value, same_kind, widened
from search.study.setup import CHANGEABLE, Setup, StudyError, base_values
from storage.optuna_internals import METRIC_NAMES_KEY, system_attrs_of
from trainer.streams import command_line

METRIC_NAMES = ["f_score"]


def metric_names(setup: Setup) -> list[str]:
    """What the dashboard calls the values of a study."""
    return METRIC_NAMES if setup.program is None else [setup.program.label]


# of a program, what its scores rest on; how it is stopped may change
_OF_PROGRAMS = ("kind", "call", "history", "score_key", "pattern", "seed_key", "only_if")

# what a score rests on besides the config: which pictures in which parts, how predictions are
# scored and on what grid, and how long was trained
_FACTS: dict[str, Callable[[Setup], Any]] = {
    "data": lambda setup: setup.data["fingerprint"],
    "metric": lambda setup: setup.metric,
    "grid": lambda setup: base_values(setup).get("data.image_size"),
    "epochs": lambda setup: setup.epochs,
    "program": lambda setup: None if setup.program is None else setup.program.call,
}


def differing_facts(one: Setup, other: Setup, *facts: str) -> list[str]:
    """Those of the facts by which scores of two setups do not compare, in the order given.

    facts: of "data" (fingerprint of pictures and split), "metric", "grid", "epochs", "program".
    """
    return [fact for fact in facts if _FACTS[fact](one) != _FACTS[fact](other)]


@dataclass(frozen=True)
class KeyDifference:
    """A key of the base config, which neither searches, with both values.

    shared: whether both have it; a value is None where a setup has not.
    """

    key: str
    before: Any
    now: Any
    shared: bool


def differing_keys(one: Setup, other: Setup) -> list[KeyDifference]:
    """Keys of the base configs that differ, sorted; what one of the two searches is none."""
    searched = {setup.key_of(name) for setup in (one, other) for name in setup.specs()}
    old, new = base_values(one), base_values(other)
    return [
        KeyDifference(key, old.get(key), new.get(key), key in old and key in new)
        for key in sorted((old.keys() | new.keys()) - searched)
        if old.get(key) != new.get(key)
    ]


def identity_differences(stored: Setup, new: Setup) -> list[str]:
    """Every difference of identity, each as "KEY THEN, this run has NOW"; empty if there is none.

    Changed ranges (low, high) are none.
    """
    found = [
        f"{one.key} {format_value(one.before)}, this run has {format_value(one.now)}"
        for one in differing_keys(stored, new)
    ]
    found += [
        f"{what} {then}, this run has {now}"
        for what, then, now in _differing_programs(stored.program, new.program)
    ]
    texts: dict[str, Callable[[Setup], str]] = {"data": _data_text, "metric": lambda s: s.metric}
    for fact in differing_facts(stored, new, *texts):
        found.append(f"{fact} {texts[fact](stored)}, this run has {texts[fact](new)}")
    old_specs, new_specs = stored.specs(), new.specs()
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


def summarised(differences: Sequence[str]) -> str:
    """The first few differences in one line."""
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more


def resolved_setup(
    study: optuna.Study | None, new: Setup, *, explicit: Collection[str] = ()
) -> Setup:
    """The setup that the study will have: `new`, with what an existing study holds on to.

    study: the existing one of that name. explicit: which of "seed" and `CHANGEABLE` the user gave;
    for the others what is stored holds. Raises StudyError that names each difference and what to do
    about it.
    """
    if study is None:
        return new
    if is_imported(study.user_attrs):
        raise StudyError(
            f'study "{new.name}" holds imported runs, which cannot go on: name another with --study'
        )
    if not is_marked(study):
        return new
    refuse_direction(
        study,
        f"give this run another name with --study NAME (add --from {new.name} to take its"
        " trials over)",
    )
    stored = Setup.from_json(study.user_attrs[SETUP])
    found = identity_differences(stored, new)
    if "seed" in explicit and stored.seed != new.seed:
        found.insert(0, f"seed {stored.seed}, this run has {new.seed}")
    if found:
        raise StudyError(
            f'study "{stored.name}" has {summarised(found)}: give this run another name with'
            f" --study NAME (add --from {command_line([stored.name])} to take its trials over)"
        )
    kept = {name: getattr(stored, name) for name in CHANGEABLE if name not in explicit}
    new = dataclasses.replace(new, seed=stored.seed, uid=stored.uid, **kept)
    return dataclasses.replace(
        new, space={**new.space, **_widened(stored, new)}, widened=stored.widened
    )


def _widened(stored: Setup, new: Setup) -> dict[str, dict[str, Any]]:
    """The ranges that the study has widened since, but for those that the user gives now."""
    specs, found = new.specs(), dict[str, dict[str, Any]]()
    for one in stored.widened:
        name, after = one["name"], one["after"]
        if name not in specs or name in new.given:
            continue
        for end in (after["low"], after["high"]):
            specs[name] = widened(specs[name], end) or specs[name]
        found[name] = space.to_json(specs[name])
    return found


def refuse_direction(study: optuna.Study, way_on: str = "name another with --study") -> None:
    """Raise StudyError unless the study has one objective, to be maximized.

    A search in it would look for the worst. way_on: what to do about it.
    """
    wrong = _wrong_direction(study)
    if wrong is not None:
        raise StudyError(f'study "{study.study_name}" {wrong}: {way_on}')


def is_marked(
    study: optuna.Study,
    way_on: str = "name another with --study",
    maker: str = "search.run",
    mark: str = SETUP,
) -> bool:
    """Whether a study has the mark of its maker; False for one that is as good as new.

    maker: the command that makes those that are wanted, and sets the attribute `mark` before any
    trial. Raises StudyError for any other study. way_on: what to do about it.
    """
    # the mark last: a study that is made at this very moment has it before its first trial
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    system = system_attrs_of(study)
    attrs = study.user_attrs
    if mark in attrs:
        return True
    metrics = system.pop(METRIC_NAMES_KEY, METRIC_NAMES)
    # a note that was written in the dashboard is no program's
    others = sorted([*attrs, *(key for key in system if not key.startswith("dashboard:"))])
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
        return False
    raise StudyError(f'study "{study.study_name}" was not made by {maker}, it {why}: {way_on}')


def _wrong_direction(study: optuna.Study) -> str | None:
    found = [direction.name.lower().replace("_", " ") for direction in study.directions]
    if found == ["maximize"]:
        return None
    several = f"{len(found)} objectives ({', '.join(found)})"
    what = f"the direction {found[0]}" if len(found) == 1 else several
    return f"has {what}, and scores here are one objective to maximize"


def _differing_programs(
    one: Program | None, other: Program | None
) -> Iterator[tuple[str, object, object]]:
    """What differs in how two studies train: name of it, then and now."""
    if one is None or other is None:
        if one is not other:
            then, now = ("our own trainer" if it is None else it.call for it in (one, other))
            yield "the program", then, now
        return
    for what in _OF_PROGRAMS:
        then, now = getattr(one, what), getattr(other, what)
        if then != now:
            yield what.replace("_", " "), then, now


def _data_text(setup: Setup) -> str:
    data = setup.data
    return (
        f"{data['name']} ({data['train']} train, {data['val']} val, "
        f"fingerprint {str(data['fingerprint'])[:8]})"
    )
