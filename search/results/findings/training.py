"""How the dice weight acts on training: train F and gap, parts of the face, speed, steadiness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from search.results.evidence import Evidence, Group, confounders_text, levels_text
from search.results.statistics.estimates import Estimate, mean_difference, rank_correlation
from search.results.trials import Outcome
from search.results.wording import difference_text, listed, rho, scores
from search.study.wording import counted

Metric = Callable[[Outcome], float | None]


def optimisation_sentences(seen: Evidence) -> list[str]:
    """Whether a dice weight acts on what is learned or on what carries over, and how steadily."""
    known = [one for one in seen.complete if _train_f(one) is not None]
    if not known:
        return ["Optimisation or generalisation cannot be told: no complete trial has a train F."]
    lines = []
    if seen.levels:
        lines.append(_train_sentence_of_levels(seen))
    if len(seen.repeated) > 1:
        lines += _cause_sentences(seen)
    else:
        lines.append(_train_sentence_of_ranks(seen, known))
    return lines


def _train_f(outcome: Outcome) -> float | None:
    return outcome.metric("train_f_at_best")


def _gap(outcome: Outcome) -> float | None:
    return outcome.metric("gap")


def _known(group: Group, metric: Metric) -> list[float]:
    """The metric of each of the group's trials that has it."""
    return [value for one in group.outcomes if (value := metric(one)) is not None]


def _means(groups: Sequence[Group], metric: Metric) -> list[float]:
    """The metric's mean over each group's trials; NaN where none has it."""
    return [float(np.mean(own)) if (own := _known(group, metric)) else np.nan for group in groups]


def _train_sentence_of_levels(seen: Evidence) -> str:
    shown = seen.shown
    train, gap = _means(shown, _train_f), _means(shown, _gap)
    single = all(len(group.scores) == 1 for group in shown)
    return (
        f"Train F at the best epoch of {levels_text(shown)}: {scores(train)}; train-val gap"
        f" {listed([f'{value:+.4f}' for value in gap])}"
        f"{', at one seed each, which decides nothing' if single else ''}."
    )


def _cause_sentences(seen: Evidence) -> list[str]:
    best = max(seen.repeated, key=lambda group: group.mean)
    lines = []
    for other in seen.repeated:
        if not seen.beats(best, other):
            continue
        train = mean_difference(_known(other, _train_f), _known(best, _train_f))
        gap = mean_difference(_known(other, _gap), _known(best, _gap))
        if train is None or gap is None:
            continue
        lines.append(
            f"{other.level_name} against {best.level}: train F {difference_text(train)}; gap"
            f" {difference_text(gap)}. {_cause_text(-train.sign, gap.sign)}"
            f"{confounders_text([best, other])}"
        )
    return lines or [
        "Optimisation or generalisation is not decided: no dice weight with three seeds or more is"
        " beaten by another."
    ]


def _cause_text(train_worse: int, gap_wider: int) -> str:
    """train_worse, gap_wider: 1 where the interval says so, else not."""
    if train_worse > 0 and gap_wider > 0:
        return "That is worse in optimisation and in generalisation."
    if train_worse > 0:
        return "That points to the optimisation: it fits even the training images worse."
    if gap_wider > 0:
        return "That points to generalisation: it fits the training images, and the gap is wider."
    return "Whether it is the optimisation or the generalisation is not decided."


def _train_sentence_of_ranks(seen: Evidence, known: Sequence[Outcome]) -> str:
    having = [one for one in known if one.dice_weight is not None]
    weights = [one.dice_weight or 0.0 for one in having]
    train = rank_correlation(weights, [_train_f(one) or 0.0 for one in having])
    gap = rank_correlation(weights, [_gap(one) or 0.0 for one in having])
    if train is None or gap is None:
        return (
            "Whether a higher dice weight acts on optimisation or on generalisation is not"
            f" decided: {counted(len(having), 'complete trial')} with train F and a dice weight,"
            " too few or too alike."
        )
    cause = _cause_text(-train.sign, gap.sign)
    if seen.results.imported:
        cause = (
            "Neither tells optimisation from generalisation: these runs differ in more than the"
            " dice weight."
        )
    return f"Dice weight with train F: {rho(train)}; with the train-val gap: {rho(gap)}. {cause}"


def balance_sentences(seen: Evidence) -> list[str]:
    """CE's share of the loss against the F-score of large and of small parts."""
    lines = []
    for part, thesis, sign in (
        ("large", "CE's share serves large parts", 1),
        ("small", "Dice's share serves small parts", -1),
    ):
        name = f"f_{part}"
        having = [
            (share, float(one.attrs[name]))
            for one in seen.complete
            if one.attrs.get(name) is not None and (share := one.ce_share) is not None
        ]
        if not having:
            lines.append(
                f'"{thesis}" cannot be tested: no complete trial has the F-score of {part} parts.'
            )
            continue
        found = rank_correlation([one for one, _ in having], [f for _, f in having])
        if found is None:
            lines.append(
                f'"{thesis}" is neither supported nor refuted: {counted(len(having), "trial")},'
                " too few or too alike in their CE:Dice ratio."
            )
            continue
        lines.append(
            f'"{thesis}" is {_verdict_text(found, sign)}: CE\'s share of the loss with the F-score'
            f" of {part} parts, {rho(found)}."
        )
    return lines


def _verdict_text(found: Estimate, sign: int) -> str:
    if found.sign == 0:
        return "neither supported nor refuted"
    return "supported" if found.sign == sign else "refuted"


def convergence_sentences(seen: Evidence) -> list[str]:
    """Best epoch against score, then how trials fall after it and how unsteady they are."""
    return [_speed_sentence(seen), *_fall_sentences(seen), *_instability_sentences(seen)]


def _speed_sentence(seen: Evidence) -> str:
    thesis = '"Fast is not better"'
    fresh = [one for one in seen.complete if one.continued is None and one.peak is not None]
    # when a run that was cut off would have peaked is not known
    peaked = [one for one in fresh if not one.still_rising or max(one.curve) >= one.budget]
    found = rank_correlation(
        [float(one.peak or 0) for one in peaked], [one.value or 0.0 for one in peaked]
    )
    cut = len(fresh) - len(peaked)
    left_out = f"; {counted(cut, 'trial')} left out, cut off while still rising" if cut else ""
    if found is None:
        return (
            f"{thesis} is undecided: {counted(len(peaked), 'complete trial')} that started afresh"
            f" and peaked, too few or too alike in their best epoch{left_out}."
        )
    verdict = {1: "supported", -1: "refuted", 0: "undecided"}[found.sign]
    trend = {1: "; who peaked later scored higher", -1: "; who peaked earlier scored higher", 0: ""}
    text = (
        f"{thesis} is {verdict}: best epoch with score, {rho(found)}{trend[found.sign]}{left_out}"
    )
    if len({one.budget for one in peaked}) > 1:
        text += "; they planned different numbers of epochs, which moves the best epoch as well"
    return f"{text}."


def _fall_sentences(seen: Evidence) -> list[str]:
    """Degradation, measured alike: the same number of epochs after the best for all."""
    shown = seen.shown
    kept = [group for group in shown if all(one.epochs_after_peak > 0 for one in group.outcomes)]
    if len(kept) > 1:
        ones = [one for group in kept for one in group.outcomes]
        wait = min(one.epochs_after_peak for one in ones)
        falls = _means(kept, lambda one: one.fall_after(wait))
        spans = listed(
            [_span(sorted({one.epochs_after_peak for one in group.outcomes})) for group in kept]
        )
        text = (
            f"Degradation {counted(wait, 'epoch')} after the best, the longest wait that all have"
            f" (they were trained on for {spans}): {levels_text(kept)} fell by {scores(falls)}"
        )
        return [f"{text}{_worse_text(seen, kept, lambda one: one.fall_after(wait), 'falls')}."]
    waits = [(one, waited) for one in seen.complete if (waited := one.epochs_after_peak) > 0]
    if len(waits) < 2:
        return ["Degradation cannot be compared: fewer than two trials were trained past a peak."]
    wait = int(np.median([waited for _, waited in waits]))
    ones = [one for one, waited in waits if waited >= wait]
    falls = [one.fall_after(wait) or 0.0 for one in ones]
    text = (
        f"Degradation {counted(wait, 'epoch')} after the best: median"
        f" {float(np.median(falls)):.4f} over the {counted(len(ones), 'complete trial')} that"
        " were trained on for so long"
    )
    return [f"{text}{_trend_text(ones, falls)}."]


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _instability_sentences(seen: Evidence) -> list[str]:
    shown = seen.shown
    if len(shown) > 1:
        values = _means(shown, lambda one: one.instability)
        text = (
            f"Instability (standard deviation of the changes from epoch to epoch) of"
            f" {levels_text(shown)}: {scores(values)}"
        )
        return [f"{text}{_worse_text(seen, shown, lambda one: one.instability, 'is less stable')}."]
    having = [(one, value) for one in seen.complete if (value := one.instability) is not None]
    if len(having) < 2:
        return []
    ones, values = [one for one, _ in having], [value for _, value in having]
    text = f"Instability: median {float(np.median(values)):.4f} from epoch to epoch"
    return [f"{text}{_trend_text(ones, values)}."]


def _worse_text(seen: Evidence, groups: Sequence[Group], metric: Metric, verb: str) -> str:
    """Which levels are worse than which in a metric of which more is worse, by more than chance."""
    own = {group.level_name: _known(group, metric) for group in groups}
    if any(len(values) < 2 for values in own.values()):
        return ", at one seed each, which decides nothing"
    # more is worse
    found = [ranked for pair in seen.pairs_of(own) if (ranked := pair.ranked)]
    if not found:
        return "; no two of them can be told apart"
    more = "more " if verb == "falls" else ""
    rest = listed([f"{worse} {verb} {more}than {better}" for worse, better in found])
    return f"; {rest}, by more than chance"


def _trend_text(outcomes: Sequence[Outcome], values: Sequence[float]) -> str:
    having = [
        (w, v)
        for one, v in zip(outcomes, values, strict=True)
        if (w := one.dice_weight) is not None
    ]
    found = rank_correlation([w for w, _ in having], [v for _, v in having])
    if found is None:
        return "; too few trials to set it against the dice weight"
    trend = {1: "it grows with the dice weight", -1: "it shrinks with the dice weight"}
    return f"; {trend.get(found.sign, 'no trend with the dice weight is decided')} ({rho(found)})"
