"""What was once concluded by hand about the dice weight, each with what the trials bear.

Of three runs with one seed each it was said that 1.5 is the optimum, that one should never go
above 2.0, that 2.0 trains worse and less steadily, that CE serves large parts and Dice small ones,
and that fast is not better. Every sentence here is computed; "supported" and "refuted" are said
where an interval carries them, for the values that were tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.results.evidence import (
    CEILING,
    OPTIMUM,
    Evidence,
    Group,
    confounders_text,
    differ_in_dice_alone,
    levels_text,
    other_differences,
    sides,
)
from search.results.statistics.smoothing import Smooth, run_around
from search.results.trials import Outcome
from search.results.wording import listed, number, scores
from search.study.wording import counted

# a dice weight so near to another is no other optimum
_NEAR = 0.25
# trials of either side of a limit, without which a curve says nothing about it
_EACH_SIDE = 3
_UNTESTED = f"no complete trial was trained with dice_weight {number(OPTIMUM)}"


def dice_sentences(seen: Evidence) -> list[str]:
    """The optimum and how flat it is, then the two theses."""
    tried = sorted({weight for one in seen.complete if (weight := one.dice_weight) is not None})
    if not tried:
        return ["The optimum of the dice weight is undetermined: no complete trial tells its own."]
    if len(tried) == 1:
        text = f"All complete trials had dice_weight {number(tried[0])}"
        return [f"{text}, so its optimum is undetermined and nothing is known above or below."]
    lines = [_level_optimum_sentence(seen)] if len(seen.repeated) > 1 else []
    if seen.curve is not None:
        lines.append(_curve_optimum_sentence(seen, seen.curve))
    return [
        *(lines or [_no_optimum_sentence(seen, tried)]),
        _optimum_verdict(seen),
        _ceiling_verdict(seen, tried),
    ]


def _no_optimum_sentence(seen: Evidence, tried: Sequence[float]) -> str:
    why = (
        "the runs were chosen by hand, and no two dice weights have repeats with other seeds"
        if seen.results.imported
        else "that is too few for a curve"
    )
    return (
        f"The optimum of the dice weight is undetermined: {counted(len(tried), 'value')} from"
        f" {number(tried[0])} to {number(tried[-1])} in"
        f" {counted(len(seen.complete), 'complete trial')}; {why}."
    )


def _curve_optimum_sentence(seen: Evidence, curve: Smooth) -> str:
    low, high = curve.best_span
    text = (
        f"Over {seen.counted_text(_along_dice(seen))} with dice_weight"
        f" {number(curve.x[0])} to {number(curve.x[-1])}"
        f"{', linear effects of the other parameters taken out,' if curve.cleared else ''}"
        f" the mean score is highest at {number(curve.best)}; 95 % of the resamples have it between"
        f" {number(low)} and {number(high)}"
    )
    if _is_wide(curve):
        text += ", more than half of what was tried: the optimum is undetermined"
    elif _is_at_edge(curve):
        text += ", which reaches the edge of what was tried: the optimum may lie beyond it"
    return f"{text}. {_flatness_sentence(seen, curve)}"


def sure_optimum(seen: Evidence) -> float | None:
    """Where the score is highest, if that is determined and lies inside what was tried."""
    curve = seen.curve
    return None if curve is None or _is_wide(curve) or _is_at_edge(curve) else curve.best


def _is_wide(curve: Smooth) -> bool:
    low, high = curve.best_span
    return bool(high - low > (curve.x[-1] - curve.x[0]) / 2)


def _is_at_edge(curve: Smooth) -> bool:
    (low, high), step = curve.best_span, curve.x[1] - curve.x[0]
    return bool(high >= curve.x[-1] - step or low <= curve.x[0] + step)


def _along_dice(seen: Evidence) -> list[Outcome]:
    return [one for one in seen.judged if one.dice_weight is not None]


def _flatness_sentence(seen: Evidence, curve: Smooth) -> str:
    if seen.noise is not None:
        top = int(curve.mean.argmax())
        left, right = run_around(top, curve.mean >= curve.mean[top] - seen.noise)
        text = (
            f"From {number(curve.x[left])} to {number(curve.x[right])} it lies within one standard"
            f" deviation between seeds ({seen.noise:.4f}) of its top"
        )
    else:
        text = (
            f"From {number(curve.flat[0])} to {number(curve.flat[1])} it cannot be told from its"
            " top; how that compares with the noise between seeds is unknown, for no"
            " configuration was repeated"
        )
    left_out = seen.left_out_text
    return f"{text} ({left_out})." if left_out else f"{text}."


def _level_optimum_sentence(seen: Evidence) -> str:
    best = max(seen.repeated, key=lambda group: group.mean)
    beaten = [group for group in seen.repeated if seen.beats(best, group)]
    unbeaten = [group for group in seen.repeated if group not in beaten]
    text = f"Of the dice weights with several seeds {best.level} has the highest mean"
    if len(unbeaten) == 1:
        text += ", and it beats each other one"
    elif beaten:
        text += f"; it beats {listed([group.level for group in beaten])}, not " + listed(
            [group.level for group in unbeaten if group is not best]
        )
    else:
        text += ", but beats none of the others: the optimum is undetermined among them"
    if seen.noise is not None:
        near = [group for group in seen.repeated if group.mean >= best.mean - seen.noise]
        text += (
            f"; within one standard deviation between seeds ({seen.noise:.4f}) of it:"
            f" {listed([group.level for group in near])}"
        )
    ends = (seen.repeated[0], seen.repeated[-1])
    if any(group in unbeaten for group in ends) and beaten:
        text += "; that reaches the edge of what was tested, so the optimum may lie beyond"
    return f"{text}.{confounders_text(seen.repeated)}"


def _optimum_verdict(seen: Evidence) -> str:
    thesis = f'"{number(OPTIMUM)} is the optimum"'
    own = next((group for group in seen.repeated if group.weight == OPTIMUM), None)
    others = [group for group in seen.repeated if group is not own]
    if own is not None and others:
        better = [group for group in others if seen.beats(group, own)]
        worse = [group for group in others if seen.beats(own, group)]
        if better and differ_in_dice_alone([own, *better]):
            beat = _beat_verb(better)
            return f"{thesis} is refuted: {levels_text(better)} {beat} it, all else equal."
        if len(worse) == len(others) and differ_in_dice_alone(seen.repeated):
            return (
                f"{thesis} is supported within the tested values: it beats {levels_text(worse)},"
                " all else equal."
            )
        undecided = [group for group in others if group not in better and group not in worse]
        why = (
            f"it cannot be told from {levels_text(undecided)}"
            if undecided
            else "what was compared differs in more than the dice weight"
        )
        return _open_text(thesis, why)
    if seen.curve is not None:
        return _optimum_verdict_of_curve(thesis, seen.curve)
    near = seen.core
    if not any(group.weight == OPTIMUM for group in near):
        return _open_text(thesis, _UNTESTED)
    reached = f"reached {scores([group.mean for group in near])} {_seeds_text(near)}"
    return _open_text(thesis, f"{levels_text(near)} {reached}{_confounders_clause(near)}")


def _optimum_verdict_of_curve(thesis: str, curve: Smooth) -> str:
    if not curve.x[0] <= OPTIMUM <= curve.x[-1]:
        return _open_text(thesis, _UNTESTED)
    at = int(np.abs(curve.x - OPTIMUM).argmin())
    if curve.high[at] < curve.low.max():
        better = curve.x[int(curve.low.argmax())]
        return (
            f"{thesis} is refuted: around {number(better)} the mean score is higher, and their 95 %"
            " bands do not meet."
        )
    far = np.abs(curve.x - OPTIMUM) > _NEAR
    if far.any() and curve.high[far].max() < curve.low[at]:
        return (
            f"{thesis} is supported within the tested values: further than {_NEAR:g} away the mean"
            " score is lower, and the 95 % bands do not meet."
        )
    left, right = map(number, curve.flat)
    return _open_text(thesis, f"what cannot be told from the top reaches from {left} to {right}")


def _ceiling_verdict(seen: Evidence, tried: Sequence[float]) -> str:
    thesis = f'"Never above {number(CEILING)}"'
    if tried[-1] <= CEILING:
        why = f"no complete trial went above; the highest is {number(tried[-1])}"
        return _open_text(thesis, why)
    if tried[0] > CEILING:
        why = f"every complete trial went above; the lowest is {number(tried[0])}"
        return _open_text(thesis, why)
    below, above = sides(seen.repeated)
    if below and above:
        return _ceiling_verdict_of_levels(seen, thesis, below, above)
    if seen.curve is not None:
        return _ceiling_verdict_of_curve(seen, thesis, seen.curve)
    below, above = sides(seen.levels)
    if not (below and above):
        return _open_text(thesis, "its two sides were not tried alike in all else")
    pair = [below[-1], above[0]]
    second_higher = above[0].mean > below[-1].mean
    rest = "".join(
        f"; {group.level_name} was still rising at its end"
        for group in pair
        if any(one.still_rising for one in group.outcomes)
    )
    return _open_text(
        thesis,
        f"{above[0].level_name} reached {above[0].mean:.4f} and {below[-1].level}"
        f" {below[-1].mean:.4f} {_seeds_text(pair)}"
        f"{', so the higher weight even scored higher' if second_higher else ''}"
        f"{_confounders_clause(pair)}{rest}",
    )


def _ceiling_verdict_of_levels(
    seen: Evidence, thesis: str, below: Sequence[Group], above: Sequence[Group]
) -> str:
    best = max(below, key=lambda group: group.mean)
    compared = [best, *above]
    winners = [group for group in above if seen.beats(group, best)]
    losers = [group for group in above if seen.beats(best, group)]
    means = listed([f"{group.level}: {group.mean:.4f}" for group in compared])
    if winners and differ_in_dice_alone([best, *winners]):
        return (
            f"{thesis} is refuted: {levels_text(winners)} {_beat_verb(winners)} {best.level}, the"
            f" best that is not above, all else equal (means {means})."
        )
    if len(losers) == len(above) and differ_in_dice_alone(compared):
        return (
            f"{thesis} is supported within the tested values: {best.level_name} beats"
            f" {listed([group.level for group in losers])}, all else equal, so higher is worse"
            f" there (means {means})."
        )
    if winners or len(losers) == len(above):
        direction = "higher" if winners else "lower"
        return (
            f"{thesis} is neither supported nor refuted for the dice weight alone: above it the"
            f" configurations score {direction} (means {means}){_confounders_clause(compared)}."
        )
    undecided = [group for group in above if group not in losers]
    return _open_text(
        thesis,
        f"{levels_text(undecided)} cannot be told from {best.level}, the best that is not above"
        f" (means {means})",
    )


def _ceiling_verdict_of_curve(seen: Evidence, thesis: str, curve: Smooth) -> str:
    weights = [one.dice_weight or 0.0 for one in _along_dice(seen)]
    over, under = sum(w > CEILING for w in weights), sum(w <= CEILING for w in weights)
    noun = "trial" if seen.ends else "complete trial"
    counts = f"{counted(over, noun)} above, {under} not above"
    right = curve.x > CEILING
    if min(over, under) < _EACH_SIDE or right.all() or not right.any():
        return _open_text(thesis, f"{counts}, which is too few")
    if curve.low[~right].max() > curve.high[right].max():
        best = number(curve.x[int(np.where(right, -np.inf, curve.low).argmax())])
        return (
            f"{thesis} is supported within the tested values: everywhere above it the mean score is"
            f" lower than around {best}, and the 95 % bands do not meet ({counts})."
        )
    if curve.low[right].max() > curve.high[~right].max():
        best = number(curve.x[int(np.where(right, curve.low, -np.inf).argmax())])
        return (
            f"{thesis} is refuted: around {best} the mean score is higher than anywhere that is not"
            f" above, and the 95 % bands do not meet ({counts})."
        )
    why = f"the 95 % bands of the mean score on both sides meet ({counts})"
    return _open_text(thesis, why)


def _open_text(thesis: str, why: str) -> str:
    return f"{thesis} is neither supported nor refuted: {why}."


def _beat_verb(groups: Sequence[Group]) -> str:
    return "beats" if len(groups) == 1 else "beat"


def _seeds_text(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.scores) for group in groups})
    if counts == [1]:
        return "at one seed each"
    return f"at {counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"at {counts[0]} seeds"


def _confounders_clause(groups: Sequence[Group]) -> str:
    apart = other_differences(groups)
    return f", and the runs differ in {apart} too" if apart else ""
