"""A pruner's verdict in numbers, and how a row ended where only the row itself is left to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.study.attributes import attributes_of
from search.study.lineages import utc
from storage.events import OF_STATE, TrialEvent


@dataclass(frozen=True)
class Verdict:
    """Why a trial was pruned after `epoch` of `epochs`. All scores and chances are in [0, 1].

    rule: name of the pruner. best: highest score so far. The rest is known of restart-aware alone.
    forecast, deviation: of the score at which the trial would end. against: what it has to beat,
    the best complete trial or the highest forecast of a running one. to_come: how many trials not
    yet begun it has to beat as well. chance: of ending above all of them. needed: the least chance
    at which it would have gone on.
    """

    rule: str
    epoch: int
    epochs: int
    best: float
    forecast: float | None = None
    deviation: float | None = None
    against: float | None = None
    to_come: int | None = None
    chance: float | None = None
    needed: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is known, for an attribute; the inverse is `verdict_of`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def text(self) -> str:
        """In one line.

        >>> Verdict("median", 4, 24, 0.7).text()
        'at epoch 4 of 24, best 0.7000: below what the median rule asks for'
        >>> Verdict("restart-aware", 4, 24, 0.7, 0.771, 0.006, 0.79, 3, 0.003, 0.021).text()
        'at epoch 4 of 24, forecast 0.7710 ± 0.0060 against 0.7900 and 3 trials to come, \
chance 0.3 %, asked for at least 2.1 %'
        """
        at = f"at epoch {self.epoch} of {self.epochs}"
        if None in (self.forecast, self.deviation, self.against, self.chance, self.needed):
            return f"{at}, best {self.best:.4f}: below what the {self.rule} rule asks for"
        others = f" and {self.to_come} trial{'s' * (self.to_come != 1)} to come"
        return (
            f"{at}, forecast {self.forecast:.4f} ± {self.deviation:.4f} against"
            f" {self.against:.4f}{others if self.to_come else ''}, chance {percent(self.chance)},"
            f" asked for at least {percent(self.needed)}"
        )


def verdict_of(kept: Mapping[str, Any] | None) -> Verdict | None:
    """The verdict of an attribute or an event's detail; None where that holds none."""
    try:
        return Verdict(**(kept or {}))
    except TypeError:
        return None


def percent(share: float | None) -> str:
    """A small share.

    >>> percent(0.021), percent(0.00004), percent(None)
    ('2.1 %', 'under 0.01 %', '-')
    """
    if share is None:
        return "-"
    return "under 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"


def end_of(row: FrozenTrial, cause: str, *, token: int | None = None) -> TrialEvent | None:
    """The end of a finished row as an event; None for another row. token: of its last claim."""
    if not row.state.is_finished() or row.datetime_complete is None:
        return None
    attrs = attributes_of(row.user_attrs)
    kind = OF_STATE[row.state]
    if attrs.stopped and kind == "pruned":
        kind = "stopped"
    if attrs.cancelled and kind == "failed":
        kind = "cancelled"
    detail: Mapping[str, Any] = {}
    if row.state == TrialState.COMPLETE:
        detail = {"value": row.value}
    elif verdict_of(attrs.verdict):
        detail = attrs.verdict or {}
    elif attrs.reason:
        detail = {"error": attrs.reason}
    if attrs.copied_from:
        cause = f"copied from {attrs.copied_from}"
    ended = utc(row.datetime_complete)
    return TrialEvent(row.number, kind, cause, detail, token, None, ended)
