"""Optuna's own contract suite for storages, on both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase

from storage import LeasedStorage, open_storage
from tests.support.marks import long


# a study puts Optuna's cache in front, which calls other methods
@pytest.fixture(
    params=[
        "sqlite_url bare",
        long("sqlite_url cached"),
        long("postgres_url bare"),
        long("postgres_url cached"),
    ]
)
def storage(request: pytest.FixtureRequest) -> Iterator[optuna.storages.BaseStorage]:
    url, kind = request.param.split()
    opened: LeasedStorage = open_storage(request.getfixturevalue(url))
    yield opened if kind == "bare" else optuna.storages.get_storage(opened)
    opened.close()


class TestContract(StorageTestCase):
    pass
