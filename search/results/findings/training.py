"""How the dice weight acts on training: train F and gap, parts of the face, speed, steadiness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from search.results.findings.judged_study import (
    Evidence,
    core,
    level,
    level_name,
    levels_text,
    not_alike,
)
from search.results.findings.wording import difference, listed, rho, scores
from search.results.statistics.evidence import (
    Estimate,
    common_wait,
    fall_after,
    instability,
    mean_difference,
    peak,
    rank_correlation,
    wait_of,
)
from search.results.statistics.groups import Group, dice_weight, rising
from search.results.trials import Outcome
from search.study.wording import counted


def optimisation(seen: Evidence) -> list[str]:
    """Whether a dice weight acts on what is learned or on what carries over, and how steadily."""
    known = [one for one in seen.complete if _figure(one, "train_f_at_best") is not None]
    if not known:
        return ["Optimisation or generalisation cannot be told: no complete trial has a train F."]
    lines = []
    if seen.levels:
        lines.append(_train_by_level(seen))
    if len(seen.repeated) > 1:
        lines += _train_of_levels(seen)
    else:
        lines.append(_train_by_rank(seen, known))
    return lines


def _figure(outcome: Outcome, name: str) -> float | None:
    value = outcome.metrics.get(name)
    return None if value is None else float(value)


def _means(groups: Sequence[Group], figure: Callable[[Outcome], float | None]) -> list[float]:
    """The figure's mean over each group's trials; NaN where none has it."""
    found = []
    for group in groups:
        own = [value for one in group.outcomes if (value := figure(one)) is not None]
        found.append(float(np.mean(own)) if own else float("nan"))
    return found


def _train_by_level(seen: Evidence) -> str:
    shown = core(seen.levels) if len(seen.repeated) < 2 else seen.repeated
    train = _means(shown, lambda one: _figure(one, "train_f_at_best"))
    gap = _means(shown, lambda one: _figure(one, "gap"))
    single = all(len(group.scores) == 1 for group in shown)
    return (
        f"Train F at the best epoch of {levels_text(shown)}: {scores(train)}; train-val gap"
        f" {listed([f'{value:+.4f}' for value in gap])}"
        f"{', at one seed each, which decides nothing' if single else ''}."
    )


def _train_of_levels(seen: Evidence) -> list[str]:
    best = max(seen.repeated, key=lambda group: group.mean)
    lines = []
    for other in seen.repeated:
        if not seen.beats(best, other):
            continue
        train = mean_difference(_all(other, "train_f_at_best"), _all(best, "train_f_at_best"))
        gap = mean_difference(_all(other, "gap"), _all(best, "gap"))
        if train is None or gap is None:
            continue
        lines.append(
            f"{level_name(other)} against {level(best)}: train F {difference(train)}; gap"
            f" {difference(gap)}. {_cause(-train.sign, gap.sign)}{not_alike([best, other])}"
        )
    return lines or [
        "Optimisation or generalisation is not decided: no dice weight with three seeds or more is"
        " beaten by another."
    ]


def _all(group: Group, name: str) -> list[float]:
    return [value for one in group.outcomes if (value := _figure(one, name)) is not None]


def _cause(train_worse: int, gap_wider: int) -> str:
    """train_worse, gap_wider: 1 where the interval says so, else not."""
    if train_worse > 0 and gap_wider > 0:
        return "That is worse in optimisation and in generalisation."
    if train_worse > 0:
        return "That points to the optimisation: it fits even the training images worse."
    if gap_wider > 0:
        return "That points to generalisation: it fits the training images, and the gap is wider."
    return "Whether it is the optimisation or the generalisation is not decided."


def _train_by_rank(seen: Evidence, known: Sequence[Outcome]) -> str:
    having = [one for one in known if dice_weight(one) is not None]
    weights = [dice_weight(one) or 0.0 for one in having]
    train = rank_correlation(weights, [_figure(one, "train_f_at_best") or 0.0 for one in having])
    gap = rank_correlation(weights, [_figure(one, "gap") or 0.0 for one in having])
    if train is None or gap is None:
        return (
            "Whether a higher dice weight acts on optimisation or on generalisation is not"
            f" decided: {counted(len(having), 'complete trial')} with train F and a dice weight,"
            " too few or too alike."
        )
    cause = _cause(-train.sign, gap.sign)
    if seen.results.imported:
        cause = (
            "Neither tells optimisation from generalisation: these runs differ in more than the"
            " dice weight."
        )
    return f"Dice weight with train F: {rho(train)}; with the train-val gap: {rho(gap)}. {cause}"


def balance(seen: Evidence) -> list[str]:
    """CE's share of the loss against the F-score of large and of small parts."""
    lines = []
    for part, claim, sign in (
        ("large", "CE's share serves large parts", 1),
        ("small", "Dice's share serves small parts", -1),
    ):
        name = f"f_{part}"
        having = [
            (share, float(one.attrs[name]))
            for one in seen.complete
            if one.attrs.get(name) is not None and (share := _ce_share(one)) is not None
        ]
        if not having:
            lines.append(
                f'"{claim}" cannot be tested: no complete trial has the F-score of {part} parts.'
            )
            continue
        found = rank_correlation([one for one, _ in having], [f for _, f in having])
        if found is None:
            lines.append(
                f'"{claim}" is neither supported nor refuted: {counted(len(having), "trial")},'
                " too few or too alike in their CE:Dice ratio."
            )
            continue
        lines.append(
            f'"{claim}" is {_verdict(found, sign)}: CE\'s share of the loss with the F-score of'
            f" {part} parts, {rho(found)}."
        )
    return lines


def _ce_share(outcome: Outcome) -> float | None:
    weight = dice_weight(outcome)
    ce = outcome.config.get("loss.ce_weight", 1.0)
    if weight is None or not isinstance(ce, (int, float)) or ce + weight <= 0:
        return None
    return ce / (ce + weight)


def _verdict(found: Estimate, sign: int) -> str:
    if found.sign == 0:
        return "neither supported nor refuted"
    return "supported" if found.sign == sign else "refuted"


def convergence(seen: Evidence) -> list[str]:
    """Best epoch against score, then how trials fall after it and how unsteady they are."""
    return [_fast(seen), *_falls(seen), *_unsteady(seen)]


def _fast(seen: Evidence) -> str:
    claim = '"Fast is not better"'
    fresh = [one for one in seen.complete if one.continued is None and peak(one) is not None]
    # of a run that was cut off nobody knows when it would have peaked
    peaked = [one for one in fresh if not rising(one) or max(one.curve) >= one.budget]
    found = rank_correlation(
        [float(peak(one) or 0) for one in peaked], [one.value or 0.0 for one in peaked]
    )
    cut = len(fresh) - len(peaked)
    left_out = f"; {counted(cut, 'trial')} left out, cut off while still rising" if cut else ""
    if found is None:
        return (
            f"{claim} is undecided: {counted(len(peaked), 'complete trial')} that started afresh"
            f" and peaked, too few or too alike in their best epoch{left_out}."
        )
    verdict = {1: "supported", -1: "refuted", 0: "undecided"}[found.sign]
    told = {1: "; who peaked later scored higher", -1: "; who peaked earlier scored higher", 0: ""}
    text = f"{claim} is {verdict}: best epoch with score, {rho(found)}{told[found.sign]}{left_out}"
    if len({one.budget for one in peaked}) > 1:
        text += "; they planned different numbers of epochs, which moves the best epoch as well"
    return f"{text}."


def _falls(seen: Evidence) -> list[str]:
    """Degradation, measured alike: the same number of epochs after the best for all."""
    shown = core(seen.levels) if len(seen.repeated) < 2 else seen.repeated
    kept = [group for group in shown if all(wait_of(one) > 0 for one in group.outcomes)]
    if len(kept) > 1:
        ones = [one for group in kept for one in group.outcomes]
        wait = common_wait(ones)
        falls = _means(kept, lambda one: fall_after(one, wait))
        own = listed([_span(sorted({wait_of(one) for one in group.outcomes})) for group in kept])
        text = (
            f"Degradation {counted(wait, 'epoch')} after the best, the longest wait that all have"
            f" (they were trained on for {own}): {levels_text(kept)} fell by {scores(falls)}"
        )
        return [f"{text}{_compared(seen, kept, lambda one: fall_after(one, wait), 'falls')}."]
    waits = [(one, waited) for one in seen.complete if (waited := wait_of(one)) > 0]
    if len(waits) < 2:
        return ["Degradation cannot be compared: fewer than two trials were trained past a peak."]
    wait = int(np.median([waited for _, waited in waits]))
    ones = [one for one, waited in waits if waited >= wait]
    falls = [fall_after(one, wait) or 0.0 for one in ones]
    text = (
        f"Degradation {counted(wait, 'epoch')} after the best: median"
        f" {float(np.median(falls)):.4f} over the {counted(len(ones), 'complete trial')} that"
        " were trained on for so long"
    )
    return [f"{text}{_by_weight(ones, falls)}."]


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _unsteady(seen: Evidence) -> list[str]:
    shown = core(seen.levels) if len(seen.repeated) < 2 else seen.repeated
    if len(shown) > 1:
        values = _means(shown, instability)
        text = (
            f"Instability (standard deviation of the changes from epoch to epoch) of"
            f" {levels_text(shown)}: {scores(values)}"
        )
        return [f"{text}{_compared(seen, shown, instability, 'is less stable')}."]
    having = [(one, value) for one in seen.complete if (value := instability(one)) is not None]
    if len(having) < 2:
        return []
    ones, values = [one for one, _ in having], [value for _, value in having]
    text = f"Instability: median {float(np.median(values)):.4f} from epoch to epoch"
    return [f"{text}{_by_weight(ones, values)}."]


def _compared(
    seen: Evidence, groups: Sequence[Group], figure: Callable[[Outcome], float | None], what: str
) -> str:
    """The claim that 2.0, or the highest weight here, does worse in a figure than 1.5."""
    own = {
        level_name(group): [v for one in group.outcomes if (v := figure(one)) is not None]
        for group in groups
    }
    if any(len(values) < 2 for values in own.values()):
        return ", at one seed each, which decides nothing"
    found = [
        # the higher figure is the worse one
        (pair.first, pair.second) if pair.verdict == "first" else (pair.second, pair.first)
        for pair in seen.compared(own)
        if pair.verdict in ("first", "second")
    ]
    if not found:
        return "; no two of them can be told apart"
    more = "more " if what == "falls" else ""
    rest = listed([f"{worse} {what} {more}than {better}" for worse, better in found])
    return f"; {rest}, by more than chance"


def _by_weight(outcomes: Sequence[Outcome], values: Sequence[float]) -> str:
    having = [
        (w, v)
        for one, v in zip(outcomes, values, strict=True)
        if (w := dice_weight(one)) is not None
    ]
    found = rank_correlation([w for w, _ in having], [v for _, v in having])
    if found is None:
        return "; too few trials to set it against the dice weight"
    told = {1: "it grows with the dice weight", -1: "it shrinks with the dice weight"}
    return f"; {told.get(found.sign, 'no trend with the dice weight is decided')} ({rho(found)})"
