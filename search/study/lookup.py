"""Finding a study of the store: by name, or the latest search."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna

from search.study.attributes import IMPORTED, SETUP, is_imported
from search.study.names import is_repeats
from search.study.setup import Setup, StudyError
from storage.optuna_internals import id_of_study
from storage.rdb import LeasedStorage


def named_study(storage: LeasedStorage, name: str) -> optuna.Study:
    """An existing study of any kind, to look at. Raises StudyError, with the nearest name."""
    study = study_or_none(storage, name)
    if study is None:
        names = [other.study_name for other in storage.get_all_studies()]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'no studies'}"
        raise StudyError(f'no study "{name}" in the store: {hint}')
    return study


def load_setup(study: optuna.Study) -> Setup:
    """What the study remembers. Raises StudyError for a study that search.run did not make."""
    stored = study.user_attrs.get(SETUP)
    if stored is None:
        imported = is_imported(study.user_attrs)
        whose = "holds imported runs" if imported else "was not made by search.run"
        raise StudyError(
            f'study "{study.study_name}" {whose}, so its configs are not known: name another study'
        )
    return Setup.from_json(stored)


def study_or_none(storage: LeasedStorage, name: str) -> optuna.Study | None:
    """An existing study of any kind. Raises StorageError where two trials have one number."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    storage.check_numbers(id_of_study(study))
    return study


@contextmanager
def deletion_refused(storage: LeasedStorage, name: str) -> Iterator[None]:
    """Raise StudyError where the block ends since somebody has deleted the study meanwhile."""
    try:
        yield
    except KeyError:
        if name in {study.study_name for study in storage.get_all_studies()}:
            raise
        raise StudyError(f'study "{name}" was deleted while it was running') from None


def chosen_study(storage: LeasedStorage, given: str | None, tell: Callable[[str], None]) -> str:
    """The study that the user named, else the latest search, of which `tell` gets a line.

    Raises StudyError if there is none.
    """
    if given is not None:
        return given
    name = latest_study(storage)
    tell(f"study {name} (the latest; another: --study NAME)")
    return name


def is_search(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether a study is one that search.run made: no repeats, and nothing imported."""
    return SETUP in attrs and not (is_repeats(name) or attrs.get(IMPORTED))


def latest_study(storage: LeasedStorage) -> str:
    """The search with the latest activity; repeats and imported studies are left out.

    Raises StudyError if there is none.
    """
    for activity in storage.studies_by_activity():
        if is_search(activity.name, storage.get_study_user_attrs(activity.study_id)):
            return activity.name
    raise StudyError("the store holds no search yet; start one with python -m search.run")
