"""Fixtures for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage import LeasedStorage, open_storage


@pytest.fixture
def storage(store_url: str) -> Iterator[LeasedStorage]:
    """An empty store of each kind."""
    opened = open_storage(store_url)
    yield opened
    opened.close()
