"""The service: Optuna meets the trainer here, and nowhere else.

For a notebook: `from search import load`. It is loaded when first asked for, so that importing a
command costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.notebook import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    from search.notebook import load

    return load
