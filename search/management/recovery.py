"""A study made again from what its trials left in the runs folder."""

from __future__ import annotations

import optuna

from search.management.opening import open_study
from search.study.attributes import JUDGED, REBUILT, SETUP
from search.study.identity import refuse_foreign
from search.study.run_records import RecordedStudy
from search.study.setup import StudyError
from search.study.shared_state import set_total
from storage import LeasedStorage
from storage.optuna_internals import id_of_study


def rebuilt(storage: LeasedStorage, found: RecordedStudy) -> optuna.Study:
    """Make one study in the store. Raises StudyError where it has trials there already."""
    name = found.setup.name
    _make_room(storage, name)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study.set_user_attr(REBUILT, found.setup.uid)
    for number, row in sorted(found.rows.items()):
        study.add_trial(row)
        if len(study.get_trials(deepcopy=False)) != number + 1:
            raise StudyError("the store was away and holds a trial twice: repeat this command")
    for number, events in found.events.items():
        trial_id = storage.get_trial_id_from_study_id_trial_number(id_of_study(study), number)
        storage.restore_events(id_of_study(study), trial_id, events)
    _pass_over(storage, id_of_study(study), found.token)
    if found.total is not None:
        set_total(study, found.total)
    if found.judged is not None:
        study.set_user_attr(JUDGED, found.judged)
    # only now can anybody work on it
    study.set_user_attr(SETUP, found.setup.to_json())
    return open_study(storage, found.setup)


def _make_room(storage: LeasedStorage, name: str) -> None:
    """Delete what an interrupted rebuild, or a run without trials, has left under this name."""
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return
    attrs = storage.get_study_user_attrs(study_id)
    half_made = REBUILT in attrs and SETUP not in attrs
    if not half_made and SETUP not in attrs:
        # somebody's own: only one that is as good as new makes room
        refuse_foreign(
            optuna.load_study(study_name=name, storage=storage),
            "name another --storage, or delete that study first",
        )
    if not half_made and (storage.get_all_trials(study_id) or storage.live_claims(study_id)):
        raise StudyError(
            f'the store has a study "{name}" with trials already, and two are never mixed: name'
            " another --storage, or delete that study first"
        )
    storage.delete_study(study_id)


def _pass_over(storage: LeasedStorage, study_id: int, last: int) -> None:
    """Use up the tokens to `last`: claims write where no earlier one did, and later ones win."""
    token = None
    while token is None or token < last:
        token = storage.take_slot(study_id, None, "rebuild")
        assert token is not None, "a place without a budget is always free"
        storage.release(token)
