"""What is used here of Optuna without being part of its public interface, all in one place.

Its tables, the ids of its rows, and the methods that the public ones of `RDBStorage` and its
cache end in: a new version of Optuna is adapted to here and nowhere else.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Container, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import Connection

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

STUDIES = cast(sa.Table, models.StudyModel.__table__)
TRIALS = cast(sa.Table, models.TrialModel.__table__)
STUDY_USER_ATTRS = cast(sa.Table, models.StudyUserAttributeModel.__table__)
STUDY_SYSTEM_ATTRS = cast(sa.Table, models.StudySystemAttributeModel.__table__)
USER_ATTRS = cast(sa.Table, models.TrialUserAttributeModel.__table__)
SYSTEM_ATTRS = cast(sa.Table, models.TrialSystemAttributeModel.__table__)
VALUES = cast(sa.Table, models.TrialValueModel.__table__)
PARAMS = cast(sa.Table, models.TrialParamModel.__table__)
STEPS = cast(sa.Table, models.TrialIntermediateValueModel.__table__)
ALL_TABLES: Sequence[sa.Table] = tuple(models.BaseModel.metadata.tables.values())

TrialRow, StudyRow = models.TrialModel, models.StudyModel

# a reported value -> what its columns hold, for none of them holds NaN or an infinity
stored_report = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
# and back; the same for a trial's result
step_value_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
result_of = models.TrialValueModel.stored_repr_to_value

# the key of a study's system attribute that holds the names of its objectives
METRIC_NAMES_KEY = "study:metric_names"


def storage_of(study: optuna.Study) -> BaseStorage:
    return study._storage


def id_of_study(study: optuna.Study | FrozenStudy) -> int:
    return study._study_id


def id_of_trial(trial: optuna.Trial | FrozenTrial) -> int:
    return trial._trial_id


def replace_report(trial: optuna.Trial, step: int, value: float) -> None:
    """Report a step anew: `Trial.report` keeps the first value of each."""
    trial.storage.set_trial_intermediate_value(trial._trial_id, step, value)
    # what a pruner is shown
    trial._cached_frozen_trial.intermediate_values[step] = value


def system_attrs_of(study: optuna.Study) -> dict[str, Any]:
    """A study's system attributes, which its public interface no longer shows."""
    return study._storage.get_study_system_attrs(study._study_id)


class StudyView:
    """A study whose trials are shown through `trials_of`; everything else is the study's own."""

    def __init__(
        self, study: optuna.Study, trials_of: Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]
    ) -> None:
        self._study = study
        self._trials_of = trials_of
        self._shown: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._shown is None:
            self._shown = self._trials_of(self._study.get_trials(deepcopy=False))
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    # Optuna's own samplers and pruners read through this one
    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)


def _guarded(method: F, *, reading: bool) -> F:
    @functools.wraps(method)
    def call(self: GuardedRDBStorage, *args: Any, **kwargs: Any) -> Any:
        return self.guarded(lambda: method(self, *args, **kwargs), reading=reading)

    return cast(F, call)


def _reads(method: F) -> F:
    return _guarded(method, reading=True)


def _writes(method: F) -> F:
    return _guarded(method, reading=False)


def _fenced(method: F) -> F:
    """A write to a trial."""

    @functools.wraps(method)
    def call(self: GuardedRDBStorage, trial_id: int, *args: Any, **kwargs: Any) -> Any:
        return self.guarded(lambda: method(self, trial_id, *args, **kwargs), trial_id=trial_id)

    return cast(F, call)


class GuardedRDBStorage(RDBStorage):
    """RDBStorage of which every call to the database goes through `guarded`."""

    # trial_id -> number of those that Optuna's cache asks for again
    _unfinished: dict[int, int]

    def guarded(
        self, attempt: Callable[[], R], *, reading: bool = False, trial_id: int | None = None
    ) -> R:
        """Run one call. reading: it writes nothing. trial_id: of the trial that it writes to."""
        raise NotImplementedError

    def read_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        also: Collection[int],
        after: int,
    ) -> list[FrozenTrial]:
        """A study's trials with ids above `after`, and those in `also`; states: only these."""
        raise NotImplementedError

    # `_create_new_trial`, `_set_trial_param` and `_get_best_trial_id` are what Optuna's public
    # methods and its cache end in; so is `_get_trials`, below
    create_new_study = _writes(RDBStorage.create_new_study)
    set_study_user_attr = _writes(RDBStorage.set_study_user_attr)
    set_study_system_attr = _writes(RDBStorage.set_study_system_attr)
    _create_new_trial = _writes(RDBStorage._create_new_trial)

    get_study_id_from_name = _reads(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _reads(RDBStorage.get_study_name_from_id)
    get_study_directions = _reads(RDBStorage.get_study_directions)
    get_all_studies = _reads(RDBStorage.get_all_studies)
    get_trial_param = _reads(RDBStorage.get_trial_param)
    get_trial_id_from_study_id_trial_number = _reads(
        RDBStorage.get_trial_id_from_study_id_trial_number
    )
    _get_best_trial_id = _reads(RDBStorage._get_best_trial_id)

    _set_trial_param = _fenced(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _fenced(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _fenced(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _fenced(RDBStorage.set_trial_system_attr)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """What Optuna's cache does not have yet."""
        after = trial_id_greater_than
        asked_again = {trial_id for trial_id in included_trial_ids if trial_id <= after}
        trials = self.read_trials(study_id, states, asked_again, after)
        if states is None:
            missing = included_trial_ids - {trial._trial_id for trial in trials}
            trials += [_deleted(trial_id, self._unfinished.pop(trial_id)) for trial_id in missing]
            for trial in trials:
                if trial.state.is_finished():
                    self._unfinished.pop(trial._trial_id, None)
                else:
                    self._unfinished[trial._trial_id] = trial.number
        return trials

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> models.TrialModel:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        # Optuna counts rows, and gives a number twice where somebody deleted one by SQL
        trial.number = free_number(session.connection(), study_id, cast(int, trial.trial_id))
        return trial

    def session(self) -> AbstractContextManager[Any]:
        """A transaction of Optuna's own kind: its errors are Optuna's too."""
        return _create_scoped_session(self.scoped_session)

    def added(self, session: Any, study_id: int, row: FrozenTrial | None) -> tuple[int, int]:
        """(trial_id, number) of a new running trial, like `row` where one is given."""
        trial = self._get_prepared_new_trial(study_id, row, session)
        session.flush()
        return cast(int, trial.trial_id), cast(int, trial.number)


def free_number(connection: Connection, study_id: int, trial_id: int | None = None) -> int:
    """The lowest number above those of all trials of the study but `trial_id`."""
    others = sa.select(sa.func.max(TRIALS.c.number)).where(TRIALS.c.study_id == study_id)
    if trial_id is not None:
        others = others.where(TRIALS.c.trial_id != trial_id)
    highest = connection.execute(others).scalar_one()
    return 0 if highest is None else int(highest) + 1


def _deleted(trial_id: int, number: int) -> FrozenTrial:
    """What stands for a trial whose row was deleted while it ran or waited.

    Optuna's cache would go on showing it as it was, and whoever waits for its end would for ever.
    """
    frozen = create_trial(state=TrialState.FAIL, user_attrs={"reason": "its row was deleted"})
    frozen.number, frozen._trial_id = number, trial_id
    return frozen
