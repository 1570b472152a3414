"""What to search next: ranges to widen or to narrow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import space
from search.results.evidence import CEILING, Evidence, smoothed
from search.results.trials import Outcome
from search.results.wording import listed, number
from search.study.names import is_repeats
from search.study.search_space import Spec, Value, describe, resolve
from search.study.setup import Setup, config_for
from search.study.wording import counted
from trainer.errors import ConfigError

Range = space.Float | space.Int

# fewer complete trials than this say nothing about a range
LEAST = 10
# of the range, at either end: what lies there lies at the edge
EDGE = 0.1
# of a range, what a widened one gains: the longest that can be trained
_GAINS = (0.5, 0.25, 0.1)
# a range that would lose less than this share of itself stays
_LEAST_CUT = 0.2
# fewer trials leave nothing to take the other parameters out of
_LEAST_TO_CUT = 30


@dataclass(frozen=True)
class Change:
    """Another range for a parameter. why: a clause with numbers."""

    name: str
    before: Range
    after: Range
    why: str

    @property
    def text(self) -> str:
        wider = self.after.low < self.before.low or self.after.high > self.before.high
        verb = "widen" if wider else "narrow"
        return (
            f"{verb} {self.name} from {describe(self.before)} to {describe(self.after)}: {self.why}"
        )


def advice_sentences(seen: Evidence) -> list[str]:
    """What the next search should do otherwise, and why."""
    results = seen.results
    if is_repeats(results.name):
        return ["These are repeats of chosen configurations: they give no ranges for a search."]
    if results.setup is None:
        return [_for_imported(seen)]
    complete = len(seen.complete)
    if complete < LEAST:
        return [
            f"With {counted(complete, 'complete trial')} no range can be judged, ten are needed: go"
            " on with the same study."
        ]
    found = changes(seen)
    if not found:
        return [
            f"No range asks for a change after {complete} complete trials: nowhere do the best few"
            " lie at an edge, and no part of a range is shown to be worse. Go on with the same"
            " study, or repeat the best with other seeds (python -m search.confirm)."
        ]
    return [f"For the next search: {'; '.join(change.text for change in found)}."]


def _for_imported(seen: Evidence) -> str:
    near = seen.core
    above = [group for group in seen.levels if (group.weight or 0.0) > CEILING][:1]
    weights = sorted({group.weight or 0.0 for group in [*near, *above]})
    if len(weights) < 2:
        return (
            "These are imported results on a score of their own, so no search can start from them;"
            " run the configurations of interest again, several seeds each."
        )
    values = ",".join(number(weight) for weight in weights)
    return (
        "These are imported results on a score of their own, so no search can start from them. To"
        " decide between the dice weights, repeat them with fresh seeds and all else equal: python"
        f" -m search.confirm --compare dice_weight={values} (add --data with the faces' folder)."
    )


# ------------------------------------------------------------------------------------- ranges


def changes(seen: Evidence) -> list[Change]:
    """Ranges that the next search should have otherwise. Empty where the data ask for none."""
    setup, complete = seen.results.setup, seen.complete
    if setup is None or len(complete) < LEAST:
        return []
    found = []
    for name, spec in setup.specs().items():
        if isinstance(spec, space.Choice) or name in setup.fixed:
            continue
        having = [one for one in complete if _has_effect(one, name)]
        change = _widened(setup, name, spec, having) or _narrowed(name, spec, having)
        if change is not None:
            found.append(change)
    return found


def _has_effect(outcome: Outcome, name: str) -> bool:
    """Whether a trial has a number there that acted: the ramp does nothing under a constant."""
    inert = name == "dice_ramp" and outcome.config.get("loss.dice_schedule") == "constant"
    return isinstance(outcome.params.get(name), (int, float)) and not inert


def _widened(setup: Setup, name: str, spec: Range, having: Sequence[Outcome]) -> Change | None:
    """The range widened at an end where the best few lie."""
    few = having[: max(3, min(10, round(0.1 * len(having))))]
    needed = max(3, math.ceil(2 * len(few) / 3))
    for side in ("lower", "upper"):
        # a value taken from the base config does not show where the search was drawn to
        outer = [
            one
            for one in few
            if _is_at_edge(spec, float(one.params[name]), side)
            and one.params[name] != setup.defaults.get(name)
        ]
        if len(outer) < needed:
            continue
        wider = next(
            (
                it
                for share in _GAINS
                if (it := _stretched(spec, side, share)) and _is_legal(setup, name, it)
            ),
            None,
        )
        if wider is None:
            return None
        values = listed([number(float(one.params[name])) for one in outer])
        why = f"{len(outer)} of the best {len(few)} trials lie in its {side} tenth ({values})"
        return Change(name, spec, wider, why)
    return None


def _is_at_edge(spec: Range, value: float, side: str) -> bool:
    low, high = (math.log(end) if spec.log else end for end in (spec.low, spec.high))
    share = ((math.log(value) if spec.log else value) - low) / (high - low)
    return share <= EDGE if side == "lower" else share >= 1 - EDGE


def _stretched(spec: Range, side: str, share: float) -> Range | None:
    """The range longer by a share of itself at one end; None where that is no change."""
    low, high = (math.log(end) if spec.log else float(end) for end in (spec.low, spec.high))
    more = share * (high - low)
    low, high = (low - more, high) if side == "lower" else (low, high + more)
    if spec.log:
        low, high = math.exp(low), math.exp(high)
    elif spec.low >= 0:
        low = max(0.0, low)
    return _with_ends(
        spec, low if side == "lower" else spec.low, high if side == "upper" else spec.high
    )


def _with_ends(spec: Range, low: float, high: float) -> Range | None:
    """The range with ends rounded as a user would write them; None where none changes."""
    if isinstance(spec, space.Int):
        low, high = round(low), round(high)
        new: Range = dataclasses.replace(spec, low=low, high=max(high, low + 1))
    else:
        low, high = (float(f"{end:.3g}") for end in (low, high))
        new = dataclasses.replace(spec, low=low, high=high)
    return None if new == spec else new


def _is_legal(setup: Setup, name: str, spec: Range) -> bool:
    try:
        config = config_for(setup, setup.defaults, seed=0)
        resolve(config, fix_texts(setup), range_texts(setup, {name: spec}))
    except ConfigError:
        return False
    return True


def _narrowed(name: str, spec: Range, having: Sequence[Outcome]) -> Change | None:
    """The range without the parts whose mean score lies below the top's, bands apart."""
    found = smoothed(having, name, log=spec.log) if len(having) >= _LEAST_TO_CUT else None
    if found is None:
        return None
    curve, _ = found
    kept = curve.x[curve.high >= curve.low.max()]
    best = float(having[0].params[name])
    low, high = _padded(spec, min(best, float(kept[0])), max(best, float(kept[-1])))
    # beyond the trials nothing is known
    low = low if low > curve.x[0] else spec.low
    high = high if high < curve.x[-1] else spec.high
    if _width(spec, low, high) > (1 - _LEAST_CUT) * _width(spec, spec.low, spec.high):
        return None
    after = _with_ends(spec, low, high)
    if after is None:
        return None
    why = (
        f"the mean score is highest at {number(curve.best)}, and outside it lies below that with"
        f" 95 % bands that do not meet ({len(having)} complete trials)"
    )
    return Change(name, spec, after, why)


def _padded(spec: Range, low: float, high: float) -> tuple[float, float]:
    """A range with a tenth of the whole more at either end: what is near the top may be as good."""
    more = EDGE * _width(spec, spec.low, spec.high)
    if spec.log:
        return max(low / math.exp(more), spec.low), min(high * math.exp(more), spec.high)
    return max(low - more, spec.low), min(high + more, spec.high)


def _width(spec: Range, low: float, high: float) -> float:
    return math.log(high / low) if spec.log else high - low


# ------------------------------------------------------------------------------- as flags


def fix_texts(setup: Setup) -> list[str]:
    return [f"{name}={flag_text(value)}" for name, value in setup.fixed.items()]


def range_texts(setup: Setup, changed: Mapping[str, Range]) -> list[str]:
    """Every range that a plain run would not have."""
    plain = space.concrete(space.SPACE, setup.epochs)
    found = []
    for name, spec in setup.specs().items():
        wanted: Spec = changed.get(name, spec)
        if not isinstance(wanted, space.Choice) and wanted != plain.get(name):
            end = ":log" if wanted.log else ""
            found.append(f"{name}={flag_text(wanted.low)}:{flag_text(wanted.high)}{end}")
    return found


def flag_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
