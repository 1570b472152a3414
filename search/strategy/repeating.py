"""Leading configurations trained again with fresh seeds, from what pruning has saved.

The highest score of a study is partly luck, and a second seed tells more of a leading
configuration than its neighbours do. A repeat is a row with the attribute `repeats`: it has the
parameters of the trial that it repeats and a seed of its own, is never pruned and not counted, and
its score is evidence of that trial alone. `best_repeat` depends on the trials alone, so that the
same evidence always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.strategy.answers import LEAST
from search.strategy.configurations import evidence
from search.strategy.forecast.priors import KeptForecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.forecast.true_means import TrueMeans
from search.strategy.saved_epochs import saved, spent
from search.study import lineages
from search.study.attributes import COPIED_FROM, GAIN, REPEATS
from search.study.search_space import Spec
from search.study.setup import Setup

# a smaller gain, in standard deviations between seeds, is not worth a training
_LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Repeat:
    """A trial to repeat. gain: by how much that may be expected to improve the true mean of the
    answer, in standard deviations between seeds.
    """

    number: int
    gain: float


def best_repeat(
    rows: Sequence[FrozenTrial],
    specs: Mapping[str, Spec],
    study_forecast: StudyForecast,
    *,
    epochs: int,
    share: float,
) -> Repeat | None:
    """The trial whose repeat may be expected to improve the answer most.

    None while a trial runs or waits, and where the allowance holds no further training, the
    complete trials are too few, or the gain is too small. rows: the study's, as they are. specs:
    what is searched. study_forecast: of the study. epochs: budget of a trial. share: of the epochs
    that pruning has saved and revivals have not spent.
    """
    waited_for = any(not row.state.is_finished() and REPEATS not in row.user_attrs for row in rows)
    if waited_for or allowance(rows, epochs, share) < epochs:
        return None
    study_forecast.update(rows)
    trained = evidence(rows, specs, study_forecast)
    if sum(len(one.complete) for one in trained) < LEAST:
        return None
    # one that is under way tells soon; one that failed or was withdrawn is not tried again
    open_ones = {
        row.user_attrs[REPEATS] for row in lineages.repeats(rows) if lineages.score_of(row) is None
    }
    gains = TrueMeans(specs, [one.shown for one in trained]).gains_of_repeats(
        [place for place, one in enumerate(trained) if one.complete]
    )
    found = max(
        (
            Repeat(trained[place].complete[0].number, gain)
            for place, gain in gains.items()
            if not any(trial.number in open_ones for trial in trained[place].complete)
        ),
        key=lambda repeat: (repeat.gain, -repeat.number),
        default=None,
    )
    return None if found is None or found.gain < _LEAST_GAIN else found


def allowance(rows: Sequence[FrozenTrial], epochs: int, share: float) -> float:
    """Epochs that repeats may still take. Those under way count as whole trainings."""
    taken = sum(
        len(row.intermediate_values) if row.state.is_finished() else epochs
        for row in lineages.repeats(rows)
        if COPIED_FROM not in row.user_attrs
    )
    return share * max(0, saved(rows, epochs) - spent(rows, epochs)) - taken


def repeat_row(trial: FrozenTrial, gain: float) -> FrozenTrial:
    """A running row that trains the configuration of `trial` again. gain: see `Repeat`."""
    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={REPEATS: trial.number, GAIN: gain},
    )


class Repeats:
    """Looks for the next repeat of a study, once for each state of it."""

    def __init__(self, kept: KeptForecast) -> None:
        self._kept = kept
        self._seen: tuple[Setup, int, int] | None = None
        self._found: Repeat | None = None

    def next(self, trials: Sequence[FrozenTrial], setup: Setup, total: int) -> Repeat | None:
        """See `best_repeat`. total: finished trials wanted."""
        if setup.spend_saved == 0 or len(lineages.finished(trials)) < total:
            return None
        # numbers only rise, and what is finished changes no more
        seen = (setup, len(trials), sum(trial.state.is_finished() for trial in trials))
        if seen != self._seen:
            self._found = best_repeat(
                trials,
                setup.specs(),
                self._kept.of(setup),
                epochs=setup.epochs,
                share=setup.spend_saved,
            )
            self._seen = seen
        return self._found
