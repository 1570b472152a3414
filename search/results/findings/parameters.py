"""What the trials bear on restarts, dice schedules, parameters and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import TrialState

import space
from search.results.evidence import Evidence
from search.results.statistics.estimates import Estimate, mean_difference, rank_correlation
from search.results.trials import Cycles, Outcome, cycles_of
from search.results.wording import difference_text, listed, rho, some
from search.study.search_space import as_number
from search.study.wording import counted

SCHEDULE = "loss.dice_schedule"
# classes named of each kind
_CLASSES = 3


# ----------------------------------------------------------------------------- warm restarts


def restart_sentences(seen: Evidence) -> list[str]:
    """Whether warm restarts were tried to the end of their last cycle, and what they brought."""
    having = [(one, own) for one in seen.results.scored() if (own := cycles_of(one)) is not None]
    if not having:
        return ["No trial that ended had warm restarts, so nothing is known of them."]
    done = [one for one, own in having if own.done]
    if not done:
        pruned = [own for one, own in having if one.pruned]
        runs = [
            f"{one.name} {_stop_text(one, own)}"
            for one, own in having
            if one.state != TrialState.PRUNED
        ]
        listed_runs = [*runs[:6], *([f"and {len(runs) - 6} more"] if len(runs) > 6 else [])]
        return [
            f"Warm restarts were never tried to their end: of {counted(len(having), 'trial')} with"
            " them none was trained to the end of its last cycle, so nothing is known of what they"
            f" bring. {'; '.join([*_pruned_clauses(pruned), *listed_runs])}."
        ]
    text = (
        f"{len(done)} of {counted(len(having), 'trial')} with warm restarts"
        f" {'was' if len(done) == 1 else 'were'} trained to the end of the last cycle"
    )
    cut = [one.name for one in done if one.still_rising]
    if cut:
        text += f"; still rising at the end: {some(cut)}"
    return [f"{text}.", _restart_gain_sentence(seen)]


def _pruned_clauses(runs: Sequence[Cycles]) -> list[str]:
    """How far those came that were pruned, in a clause; none where none was."""
    if not runs:
        return []
    least, most = min(own.trained for own in runs), max(own.trained for own in runs)
    after = f"{least}" if least == most else f"{least} to {most}"
    verb, noun = "was" if len(runs) == 1 else "were", "epoch" if after == "1" else "epochs"
    return [f"{len(runs)} {verb} pruned after {after} {noun}"]


def _stop_text(outcome: Outcome, cycles: Cycles) -> str:
    ends = ", ".join(f"{end:.4g}" for end in cycles.ends)
    text = f"stopped after {cycles.trained} of {cycles.planned} planned epochs"
    if not cycles.plan_is_whole:
        text += ", a plan that itself ends within a cycle,"
    text += (
        f" with {counted(cycles.whole_cycles, 'whole cycle')} (T_0 {cycles.t_0:g}, T_mult"
        f" {cycles.t_mult:g}: cycles end at {ends})"
    )
    return text + (" and ended while still rising" if outcome.still_rising else "")


def restart_gain(seen: Evidence) -> Estimate | None:
    """Mean score with restarts less that without; None with fewer than three of either.

    None too where no trial with them was trained to the end of its last cycle: forecasts alone do
    not tell what restarts bring.
    """
    with_them, without = _by_restarts(seen)
    if not any(one.complete for one in with_them):
        return None
    return mean_difference(seen.scores_of(with_them), seen.scores_of(without))


def _by_restarts(seen: Evidence) -> tuple[list[Outcome], list[Outcome]]:
    """Judged trials with restarts and without.

    Those only whose training ends, or would end, with a cycle.
    """
    cycles = [(one, cycles_of(one)) for one in seen.judged]
    return (
        [
            one
            for one, own in cycles
            if own is not None and (own.done or (one.pruned and own.plan_is_whole))
        ],
        [one for one, own in cycles if own is None],
    )


def _restart_gain_sentence(seen: Evidence) -> str:
    with_them, without = _by_restarts(seen)
    found = restart_gain(seen)
    if found is None:
        return (
            "Whether restarts help is not decided:"
            f" {seen.counted_text(with_them)} with them and {len(without)} without,"
            " where each side needs three."
        )
    verdict = {1: "Restarts score higher", -1: "Restarts score lower", 0: "Whether restarts help"}
    end = "" if found.sign else " is not decided"
    ended = [*with_them, *without]
    guessed = sum(not one.complete for one in ended)
    noun = "trials" if guessed else "complete trials"
    pruned = f" ({counted(guessed, 'pruned trial')} at their forecast ends)" if guessed else ""
    text = (
        f"{verdict[found.sign]}{end}: {len(with_them)} {noun} with them less"
        f" {len(without)} without{pruned}, {difference_text(found)}; the trials differ in all else"
        " too."
    )
    numbers = [1.0 if (own := cycles_of(one)) is None else float(len(own.ends)) for one in ended]
    by_number = rank_correlation(numbers, seen.scores_of(ended))
    return text if by_number is None else f"{text} Number of cycles with score: {rho(by_number)}."


# ------------------------------------------------------------------------- dice schedules


def _by_schedule(seen: Evidence) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for one in seen.judged:
        found.setdefault(str(one.config.get(SCHEDULE, "constant")), []).append(one)
    return found


def schedule_gain(seen: Evidence) -> Estimate | None:
    """Mean score of dice weights that move less constant ones; None with fewer than three."""
    own = _by_schedule(seen)
    constant = own.pop("constant", [])
    moving = [one for trials in own.values() for one in trials]
    return mean_difference(seen.scores_of(moving), seen.scores_of(constant))


def schedule_sentences(seen: Evidence) -> list[str]:
    """Whether a dice weight that moves during training beats one that stays."""
    by_schedule = _by_schedule(seen)
    constant = by_schedule.pop("constant", [])
    moving = [one for own in by_schedule.values() for one in own]
    if not moving:
        return [
            "No trial with a reading had a dice weight that moves, so whether that helps"
            " is not tested."
        ]
    shown = {"constant": constant, **dict(sorted(by_schedule.items()))}
    means = listed(
        [
            f"{name} {float(seen.scores_of(own).mean()):.4f} ({len(own)})"
            for name, own in shown.items()
            if own
        ]
    )
    which = seen.counted_text(seen.judged).rstrip(",") if seen.ends else "complete trials"
    text = f"Mean score by dice schedule ({which}): {means}."
    found = schedule_gain(seen)
    if found is None:
        return [f"{text} Moving against constant is not decided: each side needs three trials."]
    verdict = {
        1: "Moving scores higher",
        -1: "Moving scores lower",
        0: "Neither is better for sure",
    }
    return [
        f"{text} {verdict[found.sign]}: moving less constant {difference_text(found)}; the trials"
        " differ in all else too."
    ]


# ---------------------------------------------------------------------------- importances


def importance_sentences(seen: Evidence) -> list[str]:
    """How much of the scores' variance each parameter explains, and whether the order is sure."""
    found = seen.importance
    if not found:
        return [
            f"Which parameter matters is not known: {seen.counted_text(seen.judged)}"
            " with parameters, where ten are needed."
        ]
    shares = [
        f"{name} {own.value:.2f} ({own.low:.2f} to {own.high:.2f})" for name, own in found.items()
    ]
    text = (
        f"Share of the variance between the scores of {seen.counted_text(seen.judged)} that each"
        " parameter explains alone (in brackets the middle 90 % of resampled trials):"
        f" {listed(shares)}."
    )
    return [f"{text} {_order_sentence(found)}"]


def trends(seen: Evidence) -> dict[str, Estimate]:
    """Rank correlation of each searched number with the score, name -> with its interval.

    The intervals hold together, in 95 % (Bonferroni). Empty for runs chosen by hand.
    """
    setup = seen.results.setup
    if setup is None:
        return {}
    names = [name for name, spec in setup.specs().items() if _is_ordered(spec)]
    found = {}
    for name in names:
        having = [one for one in seen.judged if as_number(one.params.get(name)) is not None]
        values = [float(one.params[name]) for one in having]
        own = rank_correlation(values, seen.scores_of(having), 1 - 0.05 / len(names))
        if own is not None:
            found[name] = own
    return found


def _is_ordered(spec: space.Concrete) -> bool:
    return not isinstance(spec, space.Choice) or all(
        not isinstance(it, bool) and as_number(it) is not None for it in spec.choices
    )


def parameter_sentences(seen: Evidence) -> list[str]:
    """Along which searched numbers the score rises or falls."""
    found = trends(seen)
    if not found:
        return []
    decided = [
        f"{'higher' if own.sign > 0 else 'lower'} {name} scores higher ({own.value:+.2f}, interval"
        f" {own.low:+.2f} to {own.high:+.2f})"
        for name, own in found.items()
        if own.sign
    ]
    others = listed([name for name, own in found.items() if not own.sign])
    text = (
        f"Rank correlation with the score over {seen.counted_text(seen.judged)} with intervals that"
        " hold together in 95 %: "
    )
    if not decided:
        return [f"{text}no trend is decided ({others})."]
    rest = f"; no trend is decided for {others}" if others else ""
    return [f"{text}{listed(decided)}{rest}. The trials differ in all else too."]


def sure_first(seen: Evidence) -> str | None:
    """The parameter that matters most, where the intervals carry it."""
    names = list(found := seen.importance or {})
    if len(names) < 2 or any(found[name].high >= found[names[0]].low for name in names[1:]):
        return None
    return names[0]


def _order_sentence(found: dict[str, Estimate]) -> str:
    names = list(found)
    if len(names) < 2:
        return "There is no other parameter to set it against."
    first, others = names[0], names[1:]
    competitors = [name for name in others if found[name].high >= found[first].low]
    if competitors:
        return f"Whether {first} matters more than {listed(competitors)} is not decided."
    return f"{first} matters most."


# -------------------------------------------------------------------------------- classes


def class_sentences(seen: Evidence) -> list[str]:
    """The best trial's classes beside the median of all complete ones."""
    best = seen.results.best
    if best is None or not best.per_class:
        return ["Scores of single classes were not kept for the best trial."]
    own = {name: value for name, value in best.per_class.items() if value is not None}
    if not own:
        return ["No class has a score in the best trial."]
    lowest = sorted(own, key=lambda name: own[name])[:_CLASSES]
    text = (
        f"Lowest classes of {best.name}: {listed([f'{name} {own[name]:.3f}' for name in lowest])}."
    )
    others = [one for one in seen.complete if one.per_class]
    apart = {}
    for name, value in own.items():
        known = [score for one in others if (score := one.per_class.get(name)) is not None]
        apart[name] = value - float(np.median(known))
    if len(others) < 3:
        return [f"{text} Too few other trials kept theirs for a median."]
    order = sorted(apart, key=lambda name: -apart[name])
    ahead = [f"{name} ({apart[name]:+.3f})" for name in order if apart[name] > 0]
    behind = [f"{name} ({apart[name]:+.3f})" for name in order[::-1] if apart[name] < 0]
    return [
        f"{text} Against the median of {counted(len(others), 'complete trial')} it gains most in"
        f" {listed(ahead[:_CLASSES]) or 'none'} and loses most in"
        f" {listed(behind[:_CLASSES]) or 'none'}; at one seed, so by chance perhaps."
    ]
