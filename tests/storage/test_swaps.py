from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import optuna

from storage import open_storage
from storage.optuna_internals import id_of_study


def test_of_changes_of_the_same_state_one_is_made(store_url: str) -> None:
    storage = open_storage(store_url)
    study = optuna.create_study(storage=storage)
    study.set_user_attr("setup", {"n": 0, "text": "é"})
    stores = [open_storage(store_url) for _ in range(4)]

    def change(place: int) -> bool:
        before, after = {"text": "é", "n": 0}, {"n": place + 1, "text": "é"}
        return stores[place].swap_study_attr(id_of_study(study), "setup", before, after)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(change, range(4)))
    assert sum(done) == 1
    kept = optuna.load_study(study_name=study.study_name, storage=open_storage(store_url))
    assert kept.user_attrs["setup"] == {"n": done.index(True) + 1, "text": "é"}
    # asked once more after a lost answer, and a key that is not there
    assert change(done.index(True))
    assert not storage.swap_study_attr(id_of_study(study), "other", None, 1)
