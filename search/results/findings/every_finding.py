"""What a study shows, in sentences: each computed, none beyond what the trials bear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from search.results.evidence import Evidence
from search.results.findings.comparisons import (
    comparison_sentences,
    difference_sentences,
    state_sentences,
)
from search.results.findings.dice_weight import dice_sentences
from search.results.findings.next_ranges import advice_sentences
from search.results.findings.parameters import (
    class_sentences,
    importance_sentences,
    restart_sentences,
    schedule_sentences,
)
from search.results.findings.pruning_and_queue import enqueued_sentences, pruning_sentences
from search.results.findings.training import (
    balance_sentences,
    convergence_sentences,
    optimisation_sentences,
)


@dataclass(frozen=True)
class Finding:
    """One sentence or a few of a topic, plain text without markup."""

    topic: str
    text: str


def _untestable_sentences(seen: Evidence) -> list[str]:
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


# topic -> its sentences, in the order of the report
_TOPICS: dict[str, Callable[[Evidence], list[str]]] = {
    "standing": lambda seen: [*state_sentences(seen), *(f"{it}." for it in seen.results.troubles)],
    "comparison": comparison_sentences,
    "differences": difference_sentences,
    "dice": dice_sentences,
    "optimisation": optimisation_sentences,
    "balance": balance_sentences,
    "convergence": convergence_sentences,
    "restarts": restart_sentences,
    "schedules": schedule_sentences,
    "importances": importance_sentences,
    "classes": class_sentences,
    "pruning": pruning_sentences,
    "enqueued": enqueued_sentences,
    "untestable": _untestable_sentences,
    "advice": advice_sentences,
}
TOPICS = tuple(_TOPICS)
_WITHOUT_COMPLETE = ("standing", "restarts", "pruning", "enqueued", "untestable", "advice")


def findings(evidence: Evidence) -> list[Finding]:
    """What the report says of a study, in the order of `TOPICS`; a topic may have several.

    Where no trial is complete, only some topics have something to say.
    """
    topics = TOPICS if evidence.complete else _WITHOUT_COMPLETE
    return [Finding(topic, text) for topic in topics for text in _TOPICS[topic](evidence)]
