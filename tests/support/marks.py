"""Marks of single cases."""

from __future__ import annotations

from typing import Any

import pytest


def long(*values: Any) -> Any:
    """A case of a parametrized test that only `scripts/test --all` runs."""
    return pytest.param(*values, marks=pytest.mark.long)


def proof(*values: Any) -> Any:
    """A case of a parametrized test that only `scripts/test -m proof` runs."""
    return pytest.param(*values, marks=pytest.mark.proof)
