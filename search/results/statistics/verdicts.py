"""Comparisons of repeated configurations in one plain sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Literal, NamedTuple

from search.results.statistics.intervals import Pair
from search.results.wording import listed
from search.study.wording import counted

Relation = Literal["open", "equal", "beat"]
_RELATIONS: tuple[Relation, ...] = ("open", "equal", "beat")

_TOGETHER = {2: "both", 3: "all three", 4: "all four", 5: "all five"}


class Statement(NamedTuple):
    """What holds between configurations: `beaten` is empty unless the relation is "beat"."""

    relation: Relation
    names: list[str]
    beaten: list[str]


def sentence(scores: Mapping[str, Sequence[float]], pairs: Sequence[Pair]) -> str:
    """What the pairs say, in one plain sentence without a full stop: each pair, and no more.

    scores, pairs: as given to `compare` and as returned by it.
    """
    means = {name: fmean(own) for name, own in scores.items() if own}
    names = sorted(means, key=lambda name: -means[name])
    if not names:
        return "nothing was repeated"
    counts = [len(scores[name]) for name in names]
    low, high = min(counts), max(counts)
    seeds = counted(low, "seed") if low == high else f"{low} to {high} seeds"
    if len(names) == 1:
        return f"only {names[0]} was repeated, with {seeds}"
    clauses: list[str] = []
    before: Statement | None = None
    for statement in _statements(names, pairs):
        relation, those, losers = statement
        if relation == "beat":
            again = before is not None and those == before.names
            who = (_TOGETHER.get(len(those)) if again else None) or listed(those)
            all_others = 2 < len(losers) == len(names) - 1
            whom = "all others" if all_others else listed(losers)
            clauses.append(f"{who} {'beats' if len(those) == 1 else 'beat'} {whom}")
        elif relation == "equal":
            clauses.append(f"{listed(those)} are equal for practical purposes")
        elif before is not None and before.relation == "open":
            clauses.append(f"nor can {listed(those)}")
        else:
            clauses.append(f"{listed(those)} cannot be told apart")
        before = statement
    clauses[0] += f" after {seeds}"
    return "; ".join(clauses).replace("; nor can", ", nor can")


def _statements(names: Sequence[str], pairs: Iterable[Pair]) -> list[Statement]:
    """What all pairs say, those with the best configuration first.

    names: the best mean first.
    """
    undecided: dict[Relation, set[frozenset[str]]] = {"open": set(), "equal": set()}
    beaten: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.ranked:
            better, worse = pair.ranked
            beaten.setdefault(better, set()).add(worse)
        else:
            relation: Relation = "equal" if pair.verdict == "equal" else "open"
            undecided[relation].add(frozenset((pair.first, pair.second)))
    statements = [
        Statement(relation, group, [])
        for relation, joined in undecided.items()
        for group in _groups(names, joined)
    ]
    for losers in {frozenset(own) for own in beaten.values()}:
        winners = [name for name in names if beaten.get(name) == losers]
        beaten_names = [name for name in names if name in losers]
        statements.append(Statement("beat", winners, beaten_names))
    return sorted(
        statements,
        key=lambda it: (
            names.index(it.names[0]),
            _RELATIONS.index(it.relation),
            -len(it.names),
            it,
        ),
    )


def _groups(names: Sequence[str], joined: set[frozenset[str]]) -> list[list[str]]:
    """Groups of which every two are joined, such that each joined two are in one of them."""
    groups: list[list[str]] = []
    for couple in combinations(names, 2):
        if frozenset(couple) in joined and not any({*couple} <= {*group} for group in groups):
            group = list(couple)
            for name in names:
                if all(frozenset((name, member)) in joined for member in group):
                    group.append(name)
            groups.append(sorted(group, key=names.index))
    return groups
