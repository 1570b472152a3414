"""A study of many long trials in a store, for the benches of what such a study costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import add_count, add_json
from trainer.cli import Parser, progress_bar

if TYPE_CHECKING:
    from search.strategy.forecast.curve_banks import Recorded
    from search.study.setup import Setup

NAME = "large"
# of the trials, those that are trained to their end; the others stop at a quarter of the budget
_WHOLE_SHARE = 0.3


def setup_for(epochs: int) -> Setup:
    """A study of the default space on the built-in faces."""
    from search.study.search_space import resolve
    from search.study.setup import make_setup
    from trainer.config import Config, with_values
    from trainer.data.dataset import DataSummary

    config = with_values(Config(), {"epochs": epochs})
    return make_setup(NAME, resolve(config), DataSummary("synthetic", 400, 50, 50, "0" * 16))


def row_of(curve: Recorded, epochs: int, spread: dict[str, Any], whole: bool, lift: float) -> Any:
    """A recorded training stretched to another budget, moved a little, as a finished row."""
    import numpy as np
    from optuna.trial import TrialState, create_trial

    own = len(curve.val_f)
    at = np.arange(1, epochs + 1) * own / epochs
    scores = np.clip(np.interp(at, np.arange(1, own + 1), curve.val_f) + lift, 0, 1).tolist()
    values = dict(enumerate(scores[: None if whole else epochs // 4], 1))
    t_0 = float(curve.params["T_0"]) * epochs / own
    params = {
        **curve.params,
        "T_0": min(spread["T_0"].choices, key=lambda choice: abs(choice - t_0)),
    }
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        value=max(scores) if whole else None,
        params=params,
        distributions=spread,
        intermediate_values=values,
    )


def filled(url: str, setup: Setup, trials: int) -> None:
    """Make the study with so many finished trials."""
    import random

    import sqlalchemy as sa

    from search.management.opening import open_study
    from search.strategy.forecast.curve_banks import read_bank
    from search.strategy.forecast.priors import BANKS
    from search.study.setup import distributions
    from search.study.shared_state import set_total
    from storage import open_storage
    from storage.optuna_internals import STEPS, id_of_study, stored_report

    bank, rng = read_bank(BANKS[0]), random.Random(0)
    storage = open_storage(url)
    study = open_study(storage, setup)
    set_total(study, trials + 1)
    spread = distributions(setup)
    with progress_bar("filling the store") as tick:
        for number in range(trials):
            whole = rng.random() < _WHOLE_SHARE
            row = row_of(rng.choice(bank), setup.epochs, spread, whole, rng.gauss(0, 0.003))
            # all at once: Optuna would look for each of them before it writes it
            scores, row.intermediate_values = row.intermediate_values, {}
            trial_id = storage.create_new_trial(id_of_study(study), row)
            values = [
                {"trial_id": trial_id, "step": step, **_stored(stored_report(score))}
                for step, score in scores.items()
            ]
            with storage.engine.begin() as connection:
                connection.execute(sa.insert(STEPS), values)
            tick(number + 1, trials)


def _stored(pair: Any) -> dict[str, Any]:
    return dict(zip(("intermediate_value", "intermediate_value_type"), pair, strict=True))


def parser(prog: str, description: str | None) -> Parser:
    """The command line: how large the study is, and where the figures go."""
    it = Parser(prog=prog, description=description)
    add_count(it, "--trials", 1000, "finished trials")
    add_count(it, "--epochs", 150, "budget of each")
    add_json(it)
    return it
