"""What the trials bear on restarts, dice schedules, parameters and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import TrialState

from search.results.evidence import Evidence
from search.results.statistics.estimates import Estimate, mean_difference, rank_correlation
from search.results.trials import Cycles, Outcome, cycles_of
from search.results.wording import difference_text, listed, rho, some
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
    return [f"{text}.", _restart_gain_sentence(seen, having)]


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


def _restart_gain_sentence(seen: Evidence, having: Sequence[tuple[Outcome, Cycles]]) -> str:
    cycles = {one.number: own for one, own in having}
    ended = [one for one in seen.complete if one.number not in cycles or cycles[one.number].done]
    with_them = [one.value or 0.0 for one in ended if one.number in cycles]
    without = [one.value or 0.0 for one in ended if one.number not in cycles]
    found = mean_difference(with_them, without)
    if found is None:
        return (
            "Whether restarts help is not decided:"
            f" {counted(len(with_them), 'complete trial')} with them and {len(without)} without,"
            " where each side needs three."
        )
    verdict = {1: "Restarts score higher", -1: "Restarts score lower", 0: "Whether restarts help"}
    end = "" if found.sign else " is not decided"
    text = (
        f"{verdict[found.sign]}{end}: {len(with_them)} complete trials with them less"
        f" {len(without)} without, {difference_text(found)}; the trials differ in all else too."
    )
    by_number = rank_correlation(
        [float(len(cycles[one.number].ends)) if one.number in cycles else 1.0 for one in ended],
        [one.value or 0.0 for one in ended],
    )
    return text if by_number is None else f"{text} Number of cycles with score: {rho(by_number)}."


# ------------------------------------------------------------------------- dice schedules


def schedule_sentences(seen: Evidence) -> list[str]:
    """Whether a dice weight that moves during training beats one that stays."""
    by_schedule: dict[str, list[float]] = {}
    for one in seen.complete:
        by_schedule.setdefault(str(one.config.get(SCHEDULE, "constant")), []).append(
            one.value or 0.0
        )
    constant = by_schedule.pop("constant", [])
    moving = [value for own in by_schedule.values() for value in own]
    if not moving:
        return [
            "No complete trial had a dice weight that moves during training, so whether that helps"
            " is not tested."
        ]
    shown = {"constant": constant, **dict(sorted(by_schedule.items()))}
    means = listed(
        [f"{name} {float(np.mean(own)):.4f} ({len(own)})" for name, own in shown.items() if own]
    )
    text = f"Mean score by dice schedule (complete trials): {means}."
    found = mean_difference(moving, constant)
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
    """How much each parameter mattered for reaching the top, and whether the order is sure."""
    found = seen.importance
    if not found:
        return [
            f"Which parameter matters is not known: {counted(len(seen.complete), 'complete trial')}"
            " with parameters, where ten are needed."
        ]
    shares = [
        f"{name} {own.value:.2f} ({own.low:.2f} to {own.high:.2f})" for name, own in found.items()
    ]
    text = (
        "Share of each parameter in reaching the best tenth (PED-ANOVA; in brackets the middle 90 %"
        f" of resampled trials): {listed(shares)}."
    )
    return [f"{text} {_order_sentence(found)}"]


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
