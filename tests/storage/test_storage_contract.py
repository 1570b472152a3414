"""Optuna's own contract suite for storages, on both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase

from storage import LeasedStorage, open_storage


@pytest.fixture(params=["bare", "cached"])
def storage(
    store_url: str, request: pytest.FixtureRequest
) -> Iterator[optuna.storages.BaseStorage]:
    opened: LeasedStorage = open_storage(store_url)
    # a study puts Optuna's cache in front, which calls other methods
    yield opened if request.param == "bare" else optuna.storages.get_storage(opened)
    opened.close()


class TestContract(StorageTestCase):
    pass
