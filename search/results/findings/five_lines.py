"""The answer in five lines: what to use, what it is worth, what mattered, what did not, what next.

The top of every report, whatever shows it: page, Markdown, terminal, notebook.
"""

from __future__ import annotations

from search.results.answer import passed_over_text, results_answer, worth_text
from search.results.evidence import Evidence
from search.results.findings.dice_weight import sure_optimum
from search.results.findings.next_search import advice_sentences, changes
from search.results.findings.parameters import restart_gain, schedule_gain, sure_first, trends
from search.results.wording import listed, number
from search.study.names import is_repeats
from search.study.wording import params_text
from search.trainers.configs import with_meaning


def answer_sentences(seen: Evidence) -> list[str]:
    """The five lines. Empty for repeats, whose highest score is mere luck, and imported results."""
    results = seen.results
    found = None if is_repeats(results.name) else results_answer(results)
    if found is None or results.setup is None:
        return []
    passed = passed_over_text(found, results.rows)
    directions = {name: own.sign for name, own in trends(seen).items()}
    how = {
        name: "higher is better" if sign > 0 else "lower is better"
        for name, sign in directions.items()
        if sign
    }
    # restarts and Dice are our own trainer's
    ours = results.setup.program is None
    gains = {}
    if ours:
        gains = {"restarts": restart_gain(seen), "moving dice weights": schedule_gain(seen)}
    for what, own in gains.items():
        if own is not None and own.sign:
            how[what] = "they help" if own.sign > 0 else "they cost"
    # not along a line, but as other sections have it
    optimum, first = sure_optimum(seen) if ours else None, sure_first(seen)
    if optimum is not None:
        how.setdefault("dice_weight", f"best near {number(optimum)}")
    for change in changes(seen):
        if not change.wider:
            how.setdefault(change.name, "a part of its range is worse")
    mattered = [f"{name} ({text})" for name, text in how.items()]
    if first is not None and first not in how:
        mattered.append(first)
    most = "" if first is None else f"; {first} most"
    rest = [name for name in (*directions, *gains) if name not in {*how, first}]
    basis = seen.counted_text(seen.judged).rstrip(",")
    basis += f"; {seen.left_out_text}" if seen.left_out_text else ""
    used = params_text(with_meaning(results.setup, found.trial.params))
    return [
        f"Use trial {found.trial.number}: {used}.",
        f"It is worth {worth_text(found)}{f' ({passed})' if passed else ''}.",
        f"What mattered: {listed(mattered) or 'nothing that can be told from chance'}{most}"
        f" ({basis}).",
        f"What was not shown to matter: {listed(rest) or 'nothing'}.",
        f"What next: {_next_text(seen)}",
    ]


def _next_text(seen: Evidence) -> str:
    said = advice_sentences(seen)[0]
    start = "For the next search: "
    return said.removeprefix(start) if said.startswith(start) else said[:1].lower() + said[1:]
