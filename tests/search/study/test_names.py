from __future__ import annotations

from pathlib import Path

import pytest

from search.study.attributes import IMPORTED
from search.study.lookup import latest_study
from search.study.names import default_name
from search.study.setup import StudyError
from storage import LeasedStorage
from tests.support.studies import play, setup_of, store, study_of


def searched(storage: LeasedStorage, name: str) -> None:
    play(study_of(storage, name), storage, setup_of(name), 1)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("synthetic", "synthetic-demo-48"),
        ("my faces (2)", "my-faces-2-demo-48"),
        ("../..", "..-..-demo-48"),
        ("///", "data-demo-48"),
    ],
)
def test_a_study_is_named_after_data_preset_and_size(data: str, name: str) -> None:
    assert default_name(data, "demo", 48) == name


def test_the_study_whose_trial_ended_last_is_the_latest(tmp_path: Path) -> None:
    storage = store(tmp_path)
    searched(storage, "old")
    searched(storage, "new")
    assert latest_study(storage) == "new"
    searched(storage, "old")
    assert latest_study(storage) == "old"


def test_a_study_that_has_not_begun_is_not_the_latest(tmp_path: Path) -> None:
    storage = store(tmp_path)
    searched(storage, "begun")
    study_of(storage, "empty")
    assert latest_study(storage) == "begun"


def test_repeats_imported_and_foreign_studies_are_never_the_latest(tmp_path: Path) -> None:
    storage = store(tmp_path)
    searched(storage, "faces")
    searched(storage, "faces-confirm")
    searched(storage, "by-hand")
    study_of(storage, "by-hand").set_user_attr(IMPORTED, True)
    storage.create_new_study([study_of(storage, "faces").direction], "of another program")
    assert latest_study(storage) == "faces"


def test_a_store_without_a_search_names_the_command_that_starts_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no search yet; start one with python -m search\.run"):
        latest_study(store(tmp_path))
