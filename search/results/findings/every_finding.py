"""What a study shows, in sentences: each computed, none beyond what the trials bear."""

from __future__ import annotations

from collections.abc import Callable

from search.results.evidence import Evidence
from search.results.findings import (
    comparisons,
    dice_weight,
    five_lines,
    next_search,
    parameters,
    pruning_and_queue,
    training,
)


def _untestable_sentences(seen: Evidence) -> list[str]:
    """What no number of trials of this study can answer."""
    noise = (
        "no configuration was repeated, so not even that is known"
        if seen.noise is None
        else f"that spread is {seen.noise:.4f} here"
    )
    setup = seen.results.setup
    own = setup is not None and setup.program is not None
    if setup is None or own:
        part = "the data that the program scores on" if own else "one validation part"
    else:
        part = f"the same {setup.data['val']} images"
    luck = [
        "Repeats with other seeds show only how far trainings of one configuration end apart;"
        f" {noise}."
    ]
    weights = [
        "Whether a dice weight leads into a better or worse local optimum cannot be tested: a score"
        " shows where a training ended, not the landscape around it. Repeats with other seeds show"
        f" only how far trainings of one configuration end apart; {noise}.",
    ]
    return [
        *(luck if own else weights),
        f"Every score is of {part}: whether an order of configurations holds on another split, on"
        " the test part or at another image size cannot be told from it.",
        "Each interval holds by itself, in 95 %: of twenty differences that are none, one looks"
        " like one. Only comparisons of repeats keep their error over all of them.",
    ]


# topic -> its sentences, in the order of the report
_TOPICS: dict[str, Callable[[Evidence], list[str]]] = {
    "answer": five_lines.answer_sentences,
    "standing": lambda seen: [
        *comparisons.state_sentences(seen),
        *(f"{it}." for it in seen.results.troubles),
    ],
    "comparison": comparisons.comparison_sentences,
    "differences": comparisons.difference_sentences,
    "parameters": parameters.parameter_sentences,
    "dice": dice_weight.dice_sentences,
    "optimisation": training.optimisation_sentences,
    "balance": training.balance_sentences,
    "convergence": training.convergence_sentences,
    "restarts": parameters.restart_sentences,
    "schedules": parameters.schedule_sentences,
    "importances": parameters.importance_sentences,
    "classes": parameters.class_sentences,
    "pruning": pruning_and_queue.pruning_sentences,
    "enqueued": pruning_and_queue.enqueued_sentences,
    "untestable": _untestable_sentences,
    "advice": next_search.advice_sentences,
}
TOPICS = tuple(_TOPICS)
_WITHOUT_COMPLETE = ("standing", "restarts", "pruning", "enqueued", "untestable", "advice")


# what is said of faces, of their loss and of its schedules
_OF_FACES = ("dice", "optimisation", "balance", "restarts", "schedules", "classes")


def findings(evidence: Evidence) -> dict[str, list[str]]:
    """What the report says of a study: topic -> sentences, plain text, in the order of `TOPICS`.

    Where no trial is complete, only some topics have something to say.
    """
    topics = TOPICS if evidence.complete else _WITHOUT_COMPLETE
    setup = evidence.results.setup
    if setup is not None and setup.program is not None:
        topics = tuple(topic for topic in topics if topic not in _OF_FACES)
    return {topic: said for topic in topics if (said := _TOPICS[topic](evidence))}
