"""The state of a study, which configurations can be told apart, and what else differs in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import TrialState

from search.results.evidence import (
    Evidence,
    Group,
    differ_in_dice_alone,
    differing_settings,
    levels_text,
    settings_text,
    sides,
)
from search.results.statistics.intervals import Pair, interval
from search.results.statistics.verdicts import sentence
from search.results.trials import Outcome
from search.results.wording import listed, scores, some
from search.study.attributes import CANCELLED
from search.study.lineages import diverged, repeats
from search.study.wording import counted

# so many of the best are compared, and so many configurations with repeats
_BEST, _MOST_REPEATED = 3, 12


# ------------------------------------------------------------------------------------- state


def state_sentences(seen: Evidence) -> list[str]:
    """How many trials there are in which state, and the best one."""
    results = seen.results
    if not results.outcomes:
        return [f"Study {results.name} has no trial yet, so there is nothing to judge."]
    states = [_state(one) for one in results.outcomes]
    counts = listed([f"{states.count(state)} {state}" for state in dict.fromkeys(states)])
    lines = [f"Study {results.name}: {counted(len(states), 'trial')}, {counts}."]
    best = next(iter(seen.complete), None)
    if best is None or best.value is None:
        parked = next(iter(results.scored()), None)
        lines.append("No trial is complete, so there is no answer yet and nothing to compare.")
        if parked is not None and parked.value is not None:
            lines.append(
                f"The furthest is {parked.name}, {_state(parked)} with {parked.value:.4f}"
                f" ({results.metric})."
            )
        return lines
    at = best.metrics.get("best_epoch")
    text = f"The best is {best.name} with {best.value:.4f} ({results.metric})"
    text += f", at epoch {at} of {best.budget} planned" if at else ""
    others = len(seen.complete) - 1
    if others:
        text += (
            f". It is the highest of {len(seen.complete)}, so a repeat with another seed is likely"
            " to score lower"
        )
    lines.append(f"{text}.")
    if best.still_rising:
        lines.append(
            f"{_capital(best.name)} was still rising at its end: longer training may bring more."
        )
    if best.continued is not None:
        lines.append(
            f"{_capital(best.name)} is continued from another run ({best.continued}), so it had"
            " more training than its own epochs."
        )
    return lines


def _state(outcome: Outcome) -> str:
    if outcome.attrs.get(CANCELLED):
        return "cancelled"
    if outcome.pruned and diverged(outcome.row):
        return "diverged"
    return "failed" if outcome.state == TrialState.FAIL else outcome.state.name.lower()


# --------------------------------------------------------------------------------- comparison


def comparison_sentences(seen: Evidence) -> list[str]:
    """Which configurations are better than which, where seeds allow to say so."""
    return [
        *_level_sentences(seen),
        *_repeat_sentences(seen),
        *_best_sentences(seen),
        _noise_sentence(seen),
    ]


def _level_sentences(seen: Evidence) -> list[str]:
    if len(seen.repeated) > 1:
        by_level = {group.level_name: group.scores for group in seen.repeated}
        lines = [_repeats_text(by_level, seen.pairs, seen.looks[1])]
        if not differ_in_dice_alone(seen.repeated):
            lines[0] += " They differ in more than the dice weight: see the differences."
        single = [group for group in seen.levels if group not in seen.repeated]
        if single:
            lines.append(
                f"{_capital(levels_text(single))} ({scores([one.mean for one in single])}) has one"
                " seed, so how it compares cannot be judged."
            )
        return lines
    shown = seen.core
    if len(shown) < 2:
        return []
    names = listed([group.name for group in shown])
    lines = [
        f"{_capital(levels_text(shown))} cannot be told apart at"
        f" {_seeds(shown)}: {scores([group.mean for group in shown])} ({names})."
    ]
    rest = [group for group in seen.levels if group not in shown]
    if rest:
        lines.append(
            f"Nor can {levels_text(rest)}: {scores([group.mean for group in rest])}"
            f" ({listed([group.name for group in rest])})."
        )
    return lines


def _repeats_text(repeats: Mapping[str, Sequence[float]], pairs: Sequence[Pair], looks: int) -> str:
    """The sentence, the means with their intervals, and the size of each decided difference."""
    text = f"{_capital(sentence(repeats, pairs))}."
    means = []
    for name, own in repeats.items():
        found = interval(own, looks=looks)
        assert found is not None
        means.append(f"{name} {found.mean:.4f} ({found.low:.4f} to {found.high:.4f})")
    text += f" Means with 95 % intervals over seeds: {listed(means)}."
    decided = [
        f"{pair.first} less {pair.second} {pair.difference:+.4f} ({pair.low:+.4f} to"
        f" {pair.high:+.4f})"
        for pair in pairs
        if pair.ranked
    ]
    if decided:
        text += f" Decided differences, their intervals valid together: {listed(decided)}."
    return text


def _repeat_sentences(seen: Evidence) -> list[str]:
    """Configurations with several seeds that are not compared by their dice weight."""
    if len(seen.repeated) > 1:
        return []
    repeated = [group for group in seen.groups if len(group.scores) > 1][:_MOST_REPEATED]
    if len(repeated) < 2:
        return []
    by_name = {group.name: group.scores for group in repeated}
    return [_repeats_text(by_name, seen.pairs_of(by_name), seen.looks[1])]


def _best_sentences(seen: Evidence) -> list[str]:
    best = seen.groups[:_BEST]
    single = [group for group in best if len(group.scores) == 1]
    if len(best) < 2 or not single:
        return []
    ranking = listed([f"{group.name} ({group.mean:.4f})" for group in best])
    text = f"The best configurations are {ranking}. "
    if len(single) == len(best):
        return [f"{text}At one seed each, which of them is the best cannot be judged."]
    rest = listed([group.name for group in single])
    return [f"{text}How {rest} compares cannot be judged from one seed."]


def _noise_sentence(seen: Evidence) -> str:
    if seen.noise is None:
        return (
            "The noise between seeds is unknown, for no configuration was trained twice: no"
            " difference here can be called real."
        )
    configurations, trials = len(seen.by_seed), sum(map(len, seen.by_seed))
    repeated = seen.results.repeats or repeats(seen.results.rows)
    again = ", repeats of chosen trials among them" if repeated else ""
    text = (
        f"The noise between seeds is {seen.noise:.4f} (standard deviation,"
        f" {counted(trials, 'trial')} of {counted(configurations, 'configuration')}{again})"
    )
    if trials - configurations < 4:
        text += ", known too poorly to judge other differences by"
    return f"{text}."


def _seeds(groups: Sequence[Group]) -> str:
    most = max(len(group.scores) for group in groups)
    return "one seed each" if most == 1 else "so few seeds"


def _capital(text: str) -> str:
    """A sentence's first letter; names of parameters and runs keep theirs."""
    return text if "_" in text.split(" ")[0] else text[:1].upper() + text[1:]


# -------------------------------------------------------------------------------- differences


def difference_sentences(seen: Evidence) -> list[str]:
    """What else differs between the configurations that a sentence compares."""
    lines = [_differences_sentence(groups) for groups in _compared_sets(seen)]
    cut = [one.name for one in seen.complete if one.still_rising]
    if cut:
        lines.append(f"Still rising at the end: {some(cut, 12)}.")
    continued = [f"{one.name} (from {one.continued})" for one in seen.complete if one.continued]
    if continued:
        lines.append(f"Continued from another run: {some(continued, 12)}.")
    return lines


def _compared_sets(seen: Evidence) -> list[list[Group]]:
    """The sets of configurations that are compared with one another, each once."""
    shown = seen.shown
    sets = [list(shown)] if len(shown) > 1 else []
    below, above = sides(seen.levels)
    if below:
        highest = below[-1]
        sets += [[highest, one] for one in above if highest not in shown or one not in shown]
    sets += [[group, shown[0]] for group in below if shown and group not in shown]
    best = list(seen.groups[:_BEST])
    if len(best) > 1 and not any(all(one in own for one in best) for own in sets):
        sets.append(best)
    return sets


def _differences_sentence(groups: Sequence[Group]) -> str:
    by_dice = len({group.weight for group in groups}) == len(groups)
    names = listed(
        [
            f"{group.level_name} ({group.name})"
            if by_dice and group.weight is not None
            else group.name
            for group in groups
        ]
    )
    found = differing_settings(groups, but=("loss.dice_weight",) if by_dice else ())
    if not found:
        return f"{_capital(names)} differ in nothing else."
    return f"{_capital(names)} differ {'also ' if by_dice else ''}in {settings_text(found)}."
