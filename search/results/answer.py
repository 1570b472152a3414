"""The answer of a search, in one place for export, note, report, card and terminal.

Which trial to use, and what its configuration is worth: the expected score with a fresh seed beside
the score that this training reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial

from search.results.trials import Results
from search.strategy.answers import Answer, answer_of
from search.strategy.forecast.priors import make_study_forecast
from search.study import lineages
from search.study.lookup import load_setup
from search.study.names import is_repeats
from search.study.repeats import scores_of_repeats
from search.study.setup import Setup


def study_answer(study: optuna.Study) -> Answer | None:
    """The answer of a search, or of repeats; None without a complete trial. Raises StudyError."""
    setup = load_setup(study)
    return _answer(study.get_trials(deepcopy=False), setup, scores_of_repeats(study, setup))


def results_answer(results: Results) -> Answer | None:
    """The same of results that were read; None too where they were imported."""
    if results.setup is None:
        return None
    return _answer(results.rows, results.setup, results.repeats)


def _answer(
    rows: Sequence[FrozenTrial], setup: Setup, repeats: Mapping[str, Sequence[float]]
) -> Answer | None:
    """repeats: label of a trial -> scores with fresh seeds."""
    if is_repeats(setup.name):
        # of several seeds of one configuration the highest is the best weights there are
        best = lineages.best_of(rows)
        return None if best is None else Answer(best)
    again = {
        one.number: repeats[label]
        for one in lineages.merged(rows)
        if (label := f"trial {one.number}") in repeats
    }
    return answer_of(rows, setup.specs(), make_study_forecast(setup), again)


def worth_text(answer: Answer) -> str:
    """What the answer is worth, beside what its training reached."""
    reached = f"{lineages.value(answer.trial):.4f}"
    if answer.expected is None:
        return f"{reached} with one seed; a fresh seed may score lower"
    return (
        f"{answer.expected:.4f} ± {answer.error:.4f} expected with a fresh seed; this training"
        f" reached {reached}"
    )


def passed_over_text(answer: Answer, rows: Sequence[FrozenTrial]) -> str | None:
    """A sentence on a trial that reached more than the answer; None where none did."""
    highest = lineages.best_of(rows)
    if highest is None or highest.number == answer.trial.number:
        return None
    return (
        f"trial {highest.number} reached more, {lineages.value(highest):.4f}, which its neighbours"
        f" and the noise between seeds make look like luck (search.export --trial {highest.number})"
    )
