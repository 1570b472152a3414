"""The store: URL -> engine -> Optuna storage with claims and leases. SQLAlchemy lives here.

The public names are loaded when first asked for, so that `import storage` and `--help` cost
nothing: only `errors` and `url` do without SQLAlchemy and Optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from storage.errors import LeaseLost, StorageError
from storage.url import for_optuna, parse_url, redact, redact_words

if TYPE_CHECKING:
    from storage.claims import Claim
    from storage.events import Cause, TrialEvent
    from storage.heartbeat import Heartbeat
    from storage.rdb import LeasedStorage, open_storage
    from storage.reaper import Reaper, ReaperThread

_WHERE = {
    "Cause": "storage.events",
    "Claim": "storage.claims",
    "TrialEvent": "storage.events",
    "Heartbeat": "storage.heartbeat",
    "LeasedStorage": "storage.rdb",
    "ReaperThread": "storage.reaper",
    "Reaper": "storage.reaper",
    "open_storage": "storage.rdb",
}

__all__ = [
    "Cause",
    "Claim",
    "Heartbeat",
    "LeaseLost",
    "LeasedStorage",
    "Reaper",
    "ReaperThread",
    "StorageError",
    "TrialEvent",
    "for_optuna",
    "open_storage",
    "parse_url",
    "redact",
    "redact_words",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'storage' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
