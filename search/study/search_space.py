"""From `space.py` and the command line to what Optuna is asked for.

`resolve` merges the space with `--fix` and `--range`; `distribution` makes Optuna's form of one
parameter. A fixed parameter keeps its full distribution: Optuna refuses a one-choice categorical
in a study that has had more choices.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import space
from space import Choice, Float, Int
from trainer.config import (
    Config,
    get,
    is_integer,
    is_numeric,
    key_path,
    read_value,
    spelt,
    with_values,
    words_of,
)
from trainer.errors import ConfigError
from trainer.notation import decimal

Spec: TypeAlias = space.Concrete
Value: TypeAlias = space.Value

# what a trial is measured by or run on: the same for all trials of a study
NOT_SEARCHED = ("epochs", "image_size", "synthetic_images", "seed", "early_stopping_patience")


@dataclass(frozen=True)
class Searched:
    """What one run searches.

    specs: name -> range or choices, of every searched parameter. fixed: those of them that
    `--fix` holds. config: the base config, with `--fix` of keys that are not searched written in.
    """

    specs: dict[str, Spec]
    fixed: dict[str, Value]
    config: Config

    def defaults(self) -> dict[str, Value]:
        """What a first or enqueued trial takes for a searched key that it does not name.

        The base config's value, or the nearest end where that lies outside; `--fix` before both.
        """
        found: dict[str, Value] = {}
        for name, spec in self.specs.items():
            value = get(self.config, name)
            if name == "T_0" and value is None:
                value = self.config.training.epochs
            found[name] = nearest_end(value, spec)
        return {**found, **self.fixed}


def resolve(
    config: Config,
    fixes: Sequence[str] = (),
    ranges: Sequence[str] = (),
    *,
    table: Mapping[str, Any] | None = None,
) -> Searched:
    """Merge the space (default `space.SPACE`) with `--fix` and `--range` texts.

    `--range` narrows or widens a numeric parameter, or adds any other numeric key of the config;
    it keeps the logarithmic scale of `space.py`. `T_0=low:high` makes T_0 an integer of whole
    epochs. `--fix` of a key that is not searched changes the base config. Raises ConfigError that
    names the parameter, its value and the fix.
    """
    specs = dict(space.concrete(space.SPACE if table is None else table, config.training.epochs))
    for name in specs:
        _check_key(name, specs)
    for text in ranges:
        name, spec = _range(text, specs)
        specs[name] = spec
    fixed: dict[str, Value] = {}
    for text in fixes:
        name, value = _fix(text, specs)
        if name in specs:
            fixed[name] = inside(name, value, specs[name], what="--fix ")
        else:
            config = with_values(config, {name: value})
    _check_ends(config, specs, fixed)
    return Searched(specs, fixed, config)


def distribution(spec: Spec) -> BaseDistribution:
    """Optuna's form of a parameter."""
    if isinstance(spec, Float):
        return FloatDistribution(spec.low, spec.high, log=spec.log)
    if isinstance(spec, Int):
        return IntDistribution(spec.low, spec.high, log=spec.log)
    return CategoricalDistribution(spec.choices)


def drawn(specs: Mapping[str, Spec], place: Callable[[], float]) -> dict[str, Value]:
    """A configuration at random, even in each parameter. place: draws from [0, 1).

    >>> drawn({"dropout": Float(0.0, 0.4), "T_0": Choice((24, 12))}, lambda: 0.5)
    {'dropout': 0.2, 'T_0': 12}
    """
    return {name: value_at_share(spec, place()) for name, spec in specs.items()}


def value_at_share(spec: Spec, place: float) -> Value:
    """The value at a share of a parameter's range, in [0, 1], even in its scale."""
    if isinstance(spec, Choice):
        return spec.choices[int(place * len(spec.choices))]
    low, high = (math.log(end) if spec.log else end for end in (spec.low, spec.high))
    value = low + place * (high - low)
    value = math.exp(value) if spec.log else value
    # a logarithm and back may miss an end by a digit
    return round(value) if isinstance(spec, Int) else min(max(value, spec.low), spec.high)


def matching(value: object, spec: Spec) -> Value | None:
    """`value` as the parameter records it, or None where it lies outside.

    A choice among numbers is met within a thousandth, so that 6.667 stands for 20/3.

    >>> matching(2, Float(0.5, 4.0)), matching(5, Float(0.5, 4.0))
    (2.0, None)
    >>> matching(6.667, Choice((20, 10, 20 / 3)))
    6.666666666666667
    """
    if isinstance(spec, Choice):
        for choice in spec.choices:
            if is_number(choice) and is_number(value):
                if math.isclose(float(choice), float(value), rel_tol=1e-3):
                    return choice
            elif choice == value and type(choice) is type(value):
                return choice
        return None
    if not is_number(value) or not spec.low <= value <= spec.high:
        return None
    if isinstance(spec, Int):
        return int(value) if float(value).is_integer() else None
    return float(value)


def inside(name: str, value: object, spec: Spec, *, what: str = "") -> Value:
    """`value` as the parameter records it. Raises ConfigError naming the range and the fix."""
    found = matching(value, spec)
    if found is not None:
        return found
    if isinstance(spec, Choice):
        known = ", ".join(format_value(choice) for choice in spec.choices)
        fix = "; --range T_0=low:high takes whole epochs, in a new study" if name == "T_0" else ""
        raise ConfigError(
            f"{what}{name}={format_value(value)}: not one of {known}: name one of them{fix}"
        )
    if is_number(value) and not spec.low <= value <= spec.high:
        low, high = min(spec.low, value), max(spec.high, value)
        raise ConfigError(
            f"{what}{name}={format_value(value)}: outside {spec.low:g}..{spec.high:g}: "
            f"name a value inside, or widen it with --range {name}={low:g}:{high:g}"
        )
    kind = "a whole number" if isinstance(spec, Int) else "a number"
    raise ConfigError(f"{what}{name}={format_value(value)}: not {kind}: write {name}={spec.low:g}")


def nearest_end(value: Value, spec: Spec) -> Value:
    """The value of the range that lies nearest; for choices, the nearest number or the first."""
    found = matching(value, spec)
    if found is not None:
        return found
    if isinstance(spec, Choice):
        numbers = [choice for choice in spec.choices if is_number(choice)]
        if is_number(value) and numbers:
            return min(numbers, key=lambda choice: abs(choice - value))
        return spec.choices[0]
    if not is_number(value):
        return spec.low
    held = min(max(float(value), spec.low), spec.high)
    return round(held) if isinstance(spec, Int) else held


def widened(spec: Spec, value: object) -> Spec | None:
    """The parameter with its range stretched to hold `value`; None where no stretching helps."""
    if matching(value, spec) is not None:
        return spec
    if isinstance(spec, Choice) or not is_number(value):
        return None
    if (isinstance(spec, Int) and not float(value).is_integer()) or (spec.log and value <= 0):
        return None
    if isinstance(spec, Int):
        return replace(spec, low=min(spec.low, int(value)), high=max(spec.high, int(value)))
    return replace(spec, low=min(spec.low, value), high=max(spec.high, value))


def same_kind(one: Spec, other: Spec) -> bool:
    """Whether only low and high differ: all that may change within a study."""
    if isinstance(one, Choice) or isinstance(other, Choice):
        return one == other
    return type(one) is type(other) and one.log == other.log


def describe(spec: Spec) -> str:
    """A parameter in a few words.

    >>> describe(Float(1e-5, 1e-2, log=True)), describe(Choice(("step", "linear")))
    ('1e-05..0.01 log', 'step | linear')
    """
    if isinstance(spec, Choice):
        return " | ".join(format_value(choice) for choice in spec.choices)
    kind = " whole" if isinstance(spec, Int) else ""
    return f"{spec.low:g}..{spec.high:g}{kind}{' log' if spec.log else ''}"


def format_value(value: object) -> str:
    """A value as users would write it: 6.66667, linear."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; yes and no are none, though Python takes them for such."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_number(value: object) -> float | None:
    """A finite number, also one that an old YAML reader took for text; None for all else."""
    number = decimal(value) if isinstance(value, str) else value
    return float(number) if is_number(number) else None


def short(key: str) -> str:
    """A key of a config as users say it; one of another trainer's as it is.

    >>> short("loss.dice_weight"), short("model.name"), short("training.use_amp")
    ('dice_weight', 'model.name', 'training.use_amp')
    """
    try:
        return canonical(key, list(space.SPACE))
    except ConfigError:
        return key


def canonical(name: str, known: Sequence[str]) -> str:
    """The one name of a key: as `space.py` writes it, else the leaf alone where that is unique.

    Raises ConfigError for an unknown key, with the nearest of `known` and of the config's keys.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    try:
        path = key_path(name)
    except ConfigError as error:
        if near:
            raise ConfigError(f"{name}: no such parameter: did you mean {near[0]}?") from None
        raise error
    for other in known:
        if key_path(other) == path:
            return other
    try:
        return path[-1] if key_path(path[-1]) == path else ".".join(path)
    except ConfigError:
        return ".".join(path)


def _check_key(name: str, specs: Mapping[str, Spec]) -> None:
    path = key_path(name)
    if path[0] in ("experiment", "runtime", "search") or path[-1] in NOT_SEARCHED:
        raise ConfigError(
            f"{name}: the same in every trial of a study, so it cannot be searched: "
            "set it in the config or with its own flag"
        )


def _range(text: str, specs: Mapping[str, Spec]) -> tuple[str, Spec]:
    written = text.partition("=")[0].strip()
    name = canonical(written, list(specs))
    present = specs.get(name)
    if isinstance(present, Choice) and name != "T_0":
        raise ConfigError(
            f"--range {text}: {name} is a choice among {describe(present)}, not a range: "
            f"hold one with --fix {name}=..., or edit space.py"
        )
    _check_key(name, specs)
    if present is None and not is_numeric(name):
        raise ConfigError(
            f"--range {text}: {name} is not a number, so it has no range: "
            f"set it with --fix {name}=..., or add a Choice to space.py"
        )
    whole = name == "T_0" or (present is None and is_integer(name))
    return name, range_of(text, present, whole=whole)


def range_of(text: str, present: Spec | None, *, whole: bool) -> Float | Int:
    """The range that `--range` gives a parameter; it keeps the scale that it has.

    whole: whether one without a range takes whole numbers. Raises ConfigError.
    """
    kept = None if isinstance(present, Choice) else present
    try:
        spec = _ends(text, whole=whole if kept is None else isinstance(kept, Int))
        return replace(spec, log=True) if kept is not None and kept.log else spec
    except ValueError as error:
        raise ConfigError(f"--range {text}: {error}") from None


def _ends(text: str, *, whole: bool) -> Float | Int:
    """`name=low:high[:log]` as a range. Raises ValueError with one line."""
    _, equals, ends = text.partition("=")
    parts = [part.strip() for part in ends.split(":")]
    if not equals or not (len(parts) == 2 or (len(parts) == 3 and parts[2] == "log")):
        raise ValueError("it is not name=low:high or name=low:high:log")
    low, high = map(decimal, parts[:2])
    if low is None or high is None:
        raise ValueError("the ends must be numbers, as in dice_weight=1:2")
    if not whole:
        return Float(float(low), float(high), len(parts) == 3)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError("it takes whole numbers, as in T_0=1:10")
    return Int(low, high, len(parts) == 3)


def value_of(name: str, text: str, where: str) -> Value:
    """A parameter's value from a flag, as its key takes it. where: the flag, for messages.

    Raises ConfigError if it is none.
    """
    value = spelt(name, read_value(name, text, where))
    wordy = isinstance(value, str) and is_numeric(name) and value not in words_of(name)
    if wordy or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(
            f"{where}: {value!r} is not a number: write a finite one in decimal, such as 0.2"
        )
    if not isinstance(value, (str, bool, int, float)):
        raise ConfigError(f"{where}: one value is needed, as in dropout=0.2")
    return value


def _fix(text: str, specs: Mapping[str, Spec]) -> tuple[str, Value]:
    written, equals, value = (part.strip() for part in text.partition("="))
    if not (written and equals and value):
        raise ConfigError(f"--fix {text}: it is not name=value, for example dropout=0.2")
    name = canonical(written, list(specs))
    if name not in specs and key_path(name)[-1] in NOT_SEARCHED:
        flag = "--" + key_path(name)[-1].replace("_", "-")
        fix = flag if key_path(name)[-1] in ("epochs", "image_size", "seed") else "the config"
        raise ConfigError(f"--fix {text}: the same in every trial of a study: use {fix}")
    return name, value_of(name, value, f"--fix {text}")


def _check_ends(config: Config, specs: Mapping[str, Spec], fixed: Mapping[str, Value]) -> None:
    """Both ends of every range must be trainable, so that no trial can fail on its draw."""

    def ends(name: str, absent: float) -> tuple[float, float]:
        if name in fixed:
            return float(fixed[name]), float(fixed[name])
        spec = specs.get(name)
        if spec is None or isinstance(spec, Choice):
            return absent, absent
        return float(spec.low), float(spec.high)

    # the schedule is judged below, on its own: a ramp needs a level and a schedule to be legal
    alone = {name for name in specs if name not in ("dice_weight", "dice_schedule", "dice_ramp")}
    for name in alone:
        spec = specs[name]
        for value in spec.choices if isinstance(spec, Choice) else (spec.low, spec.high):
            try:
                with_values(config, {name: value})
            except ConfigError as error:
                raise ConfigError(f"range {name}={describe(spec)}: {error}") from None
    level_low, _ = ends("dice_weight", config.loss.dice_weight)
    ramp_low, ramp_high = ends("dice_ramp", config.loss.dice_ramp)
    schedule = specs.get("dice_schedule")
    dynamic = fixed.get("dice_schedule", config.loss.dice_schedule) != "constant" or (
        isinstance(schedule, Choice) and "dice_schedule" not in fixed
    )
    reach = max(abs(ramp_low), abs(ramp_high)) / 2 if dynamic else 0.0
    # ranges that just touch zero (1 and -2..2) are fine in spite of rounding
    if level_low - reach < -1e-9:
        raise ConfigError(
            f"dice_weight from {level_low:g} with dice_ramp {ramp_low:g}..{ramp_high:g}: the "
            f"schedule would start or end at {level_low - reach:g}, below 0: "
            f"raise dice_weight to {reach:g} or narrow dice_ramp to +-{2 * level_low:g}"
        )
