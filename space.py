"""The search space: the one file to edit for another search.

`SPACE` names what is searched and between which ends; any numeric key of the trainer's config may
be added by its name, for example `"learning_rate": Float(1e-4, 5e-3, log=True)`. `FIRST_TRIALS`
are configurations worth trying before a sampler chooses any. For one study only, the same is said
on the command line: `--range learning_rate=1e-4:5e-3:log`, `--fix dropout=0.2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | bool


def _check_ends(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"ends must be finite numbers, got low={low}, high={high}")
    if low >= high:
        raise ValueError(f"low must be below high, got low={low}, high={high}")
    if log and low <= 0:
        raise ValueError(f"log scale needs low > 0, got low={low}")


@dataclass(frozen=True)
class Float:
    """A real number between low and high, both included; log: even in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, self.log)


@dataclass(frozen=True)
class Int:
    """A whole number between low and high, both included."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, self.log)


@dataclass(frozen=True)
class Choice:
    """One of several values without an order."""

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(self.choices) < 1 or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"Choice: choices must be there and differ, got {self.choices}")


@dataclass(frozen=True)
class EpochShare:
    """The epoch budget divided by one of `parts`: cycles of equal length, the last one whole."""

    parts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parts or min(self.parts) < 1 or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"EpochShare: parts must be whole, 1 or more, got {self.parts}")


Concrete = Float | Int | Choice
Spec = Concrete | EpochShare

SPACE: dict[str, Spec] = {
    # mean level over training; "never above 2" is a prior here, not a wall
    "dice_weight": Float(0.5, 4.0),
    "dice_schedule": Choice(("constant", "step", "linear", "cosine")),
    # end minus start of the schedule; sampled always, so that the joint model keeps it
    "dice_ramp": Float(-0.6, 0.6),
    "label_smoothing": Float(0.0, 0.2),
    "dropout": Float(0.0, 0.4),
    "weight_decay": Float(1e-5, 1e-2, log=True),
    # so that no training ends at a high learning rate; 1 is plain cosine
    "T_0": EpochShare((1, 2, 3, 4, 5, 6)),
}


@dataclass(frozen=True)
class Over:
    """A number of epochs given as the budget divided by `parts`."""

    parts: int


# what a first or enqueued trial takes for everything that it does not name
BASE: dict[str, Value | Over] = {
    "dice_weight": 1.5,
    "dice_schedule": "constant",
    "dice_ramp": 0.0,
    "label_smoothing": 0.0,
    "dropout": 0.15,
    "weight_decay": 1e-4,
    "T_0": Over(1),
}


@dataclass(frozen=True)
class FirstTrial:
    """A configuration to try first: what differs from BASE, and why it is here."""

    params: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    # the user's own forecast, on their own score, which is not comparable with ours
    prediction: str | None = None


FIRST_TRIALS: tuple[FirstTrial, ...] = (
    FirstTrial({}, "dice 1.5, the best of the hand-made runs", "0.6889 measured, own score"),
    FirstTrial({"T_0": Over(6)}, "dice 1.5 with warm restarts", "0.690-0.695, own score"),
    FirstTrial(
        {"label_smoothing": 0.1, "dropout": 0.2, "T_0": Over(6)},
        "the final advice: dice 1.5, smoothing, more dropout, warm restarts",
        "0.695-0.705, own score",
    ),
    FirstTrial(
        {"dice_schedule": "step", "dice_ramp": 0.4},
        "dynamic dice weight 1.3 / 1.5 / 1.7 in three equal phases",
        "may be better than a constant weight",
    ),
    FirstTrial(
        {"label_smoothing": 0.1, "dropout": 0.2, "weight_decay": 2e-4},
        "dice 1.5 with stronger regularisation",
        "0.692-0.698, own score",
    ),
    FirstTrial({"dice_weight": 1.0}, "dice 1.0", "0.6819 measured, own score"),
    FirstTrial({"dice_weight": 2.0}, "dice 2.0", "0.6702 measured, own score"),
    FirstTrial({"dice_weight": 1.6}, "fine step above 1.5", "0.687-0.691, own score"),
    FirstTrial({"dice_weight": 1.4}, "fine step below 1.5", "0.686-0.689, own score"),
    FirstTrial({"dice_weight": 1.7}, "above 1.5", "0.685-0.689, own score"),
    FirstTrial({"dice_weight": 1.3}, "below 1.5", "0.685-0.688, own score"),
)


def epochs_over(epochs: int, parts: int) -> float | int:
    """The budget divided by `parts`: an int where it is whole.

    >>> epochs_over(150, 6), epochs_over(20, 6)
    (25, 3.3333333333333335)
    """
    return epochs // parts if epochs % parts == 0 else epochs / parts


def concrete(space: Mapping[str, Spec], epochs: int) -> dict[str, Concrete]:
    """The space for a budget of `epochs`: every EpochShare becomes a Choice of epochs."""
    return {
        name: Choice(tuple(epochs_over(epochs, n) for n in spec.parts))
        if isinstance(spec, EpochShare)
        else spec
        for name, spec in space.items()
    }


def first_trials(epochs: int) -> list[FirstTrial]:
    """FIRST_TRIALS as complete configurations for a budget of `epochs`, in their order."""
    return [
        FirstTrial(
            {n: _plain(v, epochs) for n, v in {**BASE, **trial.params}.items()},
            trial.note,
            trial.prediction,
        )
        for trial in FIRST_TRIALS
    ]


def _plain(value: Any, epochs: int) -> Any:
    return epochs_over(epochs, value.parts) if isinstance(value, Over) else value


_KINDS: dict[str, Any] = {"float": Float, "int": Int, "choice": Choice, "epoch_share": EpochShare}


def to_json(spec: Spec) -> dict[str, Any]:
    """A range or choice as plain data; `from_json` gives it back."""
    kind = next(name for name, known in _KINDS.items() if type(spec) is known)
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(spec).items()
    }
    return {"kind": kind, **values}


def from_json(data: Mapping[str, Any]) -> Spec:
    """What `to_json` wrote. Raises ValueError on another kind."""
    values = dict(data)
    kind = values.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"kind of a range: {kind!r} is none of {', '.join(_KINDS)}")
    spec: Spec = _KINDS[kind](
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
    return spec
