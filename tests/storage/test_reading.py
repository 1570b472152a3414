"""Trials read by plain statements: the same as Optuna reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage import LeasedStorage, reading
from tests.support.claimed import new_study, start

SPACE = {
    "dice_weight": FloatDistribution(0.5, 4.0),
    "T_0": CategoricalDistribution([12, 6.0, "none", None, True]),
    "batch": IntDistribution(2, 8, log=True),
}


def rows() -> list[FrozenTrial]:
    """One of every state, with what is rare in them."""
    params = {"dice_weight": 1.5, "T_0": None, "batch": 4}
    return [
        create_trial(
            values=[math.inf, -0.5],
            params=params,
            distributions=SPACE,
            user_attrs={"note": {"ä": [1, None]}, "b": 2},
            system_attrs={"fixed": params},
            intermediate_values={3: math.nan, 1: -math.inf, 2: 0.1 + 0.2},
        ),
        create_trial(state=TrialState.WAITING, system_attrs={"fixed": 1}),
        create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.25}),
        create_trial(state=TrialState.FAIL, user_attrs={"reason": "x"}),
        create_trial(
            state=TrialState.RUNNING, params={"T_0": 12}, distributions={"T_0": SPACE["T_0"]}
        ),
    ]


def as_optuna(storage: LeasedStorage) -> optuna.storages.RDBStorage:
    url = storage.engine.url.render_as_string(hide_password=False)
    return optuna.storages.RDBStorage(url)


def whole(trials: Sequence[FrozenTrial]) -> list[str]:
    """Everything that they hold, NaN too, in the order of the parameters."""
    return [
        f"{sorted(vars(one).items(), key=lambda item: item[0])!r} {list(one.params)}"
        for one in trials
    ]


@pytest.mark.parametrize("most", [reading._MOST_IDS, 2])
def test_trials_are_read_as_optuna_reads_them(
    storage: LeasedStorage, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(reading, "_MOST_IDS", most)
    both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    # rows of another study lie in between
    study_id, other_id = storage.create_new_study(both, "faces"), new_study(storage, "other")
    ids = []
    for row in rows():
        ids.append(storage.create_new_trial(study_id, row))
        storage.create_new_trial(other_id, create_trial(value=0.5, intermediate_values={1: 0.5}))
    theirs = as_optuna(storage)
    assert whole(storage.get_all_trials(study_id)) == whole(theirs.get_all_trials(study_id))
    for states in ((TrialState.COMPLETE,), (TrialState.PRUNED, TrialState.WAITING), ()):
        ours = storage.get_all_trials(study_id, states=states)
        assert whole(ours) == whole(theirs.get_all_trials(study_id, states=states))
    storage.set_study_user_attr(study_id, "total", [40, "ä"])
    for one in (storage, theirs):
        assert one.get_study_user_attrs(study_id) == {"total": [40, "ä"]}
        assert one.get_study_system_attrs(study_id) == {}
    for trial_id in ids:
        assert storage.get_trial_user_attrs(trial_id) == theirs.get_trial_user_attrs(trial_id)
        assert storage.get_trial_system_attrs(trial_id) == theirs.get_trial_system_attrs(trial_id)
        assert whole([storage.get_trial(trial_id)]) == whole([theirs.get_trial(trial_id)])
    # what Optuna's cache asks for: some again, and the later ones
    for again, after in ((set[int](), ids[1]), ({ids[1]}, ids[3]), (set(ids[:3]), ids[2])):
        ours = storage._get_trials(study_id, (*TrialState,), again, after)
        assert whole(ours) == whole(theirs._get_trials(study_id, None, again, after))
    theirs.remove_session()
    theirs.engine.dispose()


def test_what_is_not_there_is_a_key_error(storage: LeasedStorage) -> None:
    study_id = new_study(storage)
    assert storage.get_all_trials(study_id) == []
    for ask in (
        lambda: storage.get_all_trials(study_id + 1),
        lambda: storage.get_trial(1000),
        lambda: storage.get_trial_system_attrs(1000),
        lambda: storage.get_study_user_attrs(study_id + 1),
    ):
        with pytest.raises(KeyError):
            ask()


def test_a_trial_that_runs_is_read_with_what_it_has_by_now(storage: LeasedStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="faces", direction="maximize")
    _, trial_id = start(storage, study._study_id)
    for step in range(3):
        storage.set_trial_intermediate_value(trial_id, step, 0.5)
        (trial,) = study.get_trials(deepcopy=False)
        assert len(trial.intermediate_values) == step + 1
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert study.best_value == 0.5
