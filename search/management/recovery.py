"""A study made again from what its trials left in the runs folder."""

from __future__ import annotations

import sys

import optuna

from search.management.opening import open_study
from search.study import lineages
from search.study.attributes import JUDGED, LOST, REBUILT, SETUP
from search.study.identity import is_marked
from search.study.lookup import load_setup
from search.study.run_records import RecordedStudy
from search.study.setup import StudyError
from search.study.shared_state import set_total
from search.study.wording import counted
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
        # somebody's own is refused, unless it is as good as new
        study = optuna.load_study(study_name=name, storage=storage)
        is_marked(study, "name another --storage, or delete that study first")
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


def print_rebuilt(study: optuna.Study, found: RecordedStudy, worker: str) -> None:
    """What came back, and the way on. worker: the command of one."""
    for line in found.problems:
        print(f"note: {line}", file=sys.stderr)
    trials = study.get_trials(deepcopy=False)
    lost = [trial for trial in trials if LOST in trial.user_attrs]
    states = [trial.state.name.lower() for trial in trials if LOST not in trial.user_attrs]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
    best = lineages.best_of(trials)
    score = load_setup(study).score_name
    print(
        f"study {study.study_name}: {counted(len(states), 'trial')} came back"
        f" ({', '.join(parts) or 'none'})"
        + ("" if best is None else f"; best: trial {best.number}, {score} {best.value:.4f}")
    )
    if lost:
        numbers = ", ".join(str(trial.number) for trial in lost[:10])
        print(
            f"lost: {counted(len(lost), 'trial')} ({numbers}{', ...' if len(lost) > 10 else ''}),"
            " uncounted: those had not begun, or were copies, which --from takes again"
        )
    done, total = len(lineages.finished(trials)), found.total
    print(f"{done} of {total or '?'} finished; to go on: the same search.run command as before, or")
    print(f"  {worker}")
