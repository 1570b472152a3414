"""What a study shows, in sentences: each computed, none beyond what the trials bear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.results.findings.comparisons import comparison, differences, standing
from search.results.findings.dice_weight import dice
from search.results.findings.judged_study import Evidence
from search.results.findings.next_ranges import advice, advice_command
from search.results.findings.parameters import classes, importances, restarts, schedules
from search.results.findings.pruning_and_queue import enqueued, pruning
from search.results.findings.training import balance, convergence, optimisation
from search.results.trials import Results

# topic -> who speaks of it, in the order of the report
_TOPICS: dict[str, Callable[[Evidence], list[str]]] = {
    "standing": lambda seen: [*standing(seen), *(f"{it}." for it in seen.results.troubles)],
    "comparison": comparison,
    "differences": differences,
    "dice": dice,
    "optimisation": optimisation,
    "balance": balance,
    "convergence": convergence,
    "restarts": restarts,
    "schedules": schedules,
    "importances": importances,
    "classes": classes,
    "pruning": pruning,
    "enqueued": enqueued,
    "untestable": lambda seen: untestable(seen),
    "advice": advice,
}
TOPICS = tuple(_TOPICS)

__all__ = ["TOPICS", "Finding", "advice_command", "findings"]


@dataclass(frozen=True)
class Finding:
    """One sentence or a few of a topic, plain text without markup."""

    topic: str
    text: str


def findings(results: Results) -> list[Finding]:
    """What the report says of a study, in the order of `TOPICS`; a topic may speak twice.

    Where nothing is complete, only the standing, the queue and the advice have something to say.
    """
    seen = Evidence(results)
    topics: Sequence[str] = TOPICS
    if not seen.complete:
        topics = ("standing", "restarts", "pruning", "enqueued", "untestable", "advice")
    return [Finding(topic, text) for topic in topics for text in _TOPICS[topic](seen)]


def untestable(seen: Evidence) -> list[str]:
    """What no number of trials of this study can answer."""
    noise = (
        "no configuration was repeated, so not even that is known"
        if seen.noise is None
        else f"that spread is {seen.noise:.4f} here"
    )
    setup = seen.results.setup
    part = "one validation part" if setup is None else f"the same {setup.data['val']} images"
    return [
        "Whether a dice weight leads into a better or worse local optimum cannot be tested: a score"
        " shows where a training ended, not the landscape around it. Repeats with other seeds show"
        f" only how far trainings of one configuration end apart; {noise}.",
        f"Every score is of {part}: whether an order of configurations holds on another split, on"
        " the test part or at another image size cannot be told from it.",
        "Each interval holds by itself, in 95 %: of twenty differences that are none, one looks"
        " like one. Only comparisons of repeats keep their error over all of them.",
    ]
