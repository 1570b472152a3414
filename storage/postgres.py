"""PostgreSQL: how to connect so that a lost server or a sleeping worker blocks nobody."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import StorageError
from storage.url import EXAMPLES, StoreUrl

# A worker that is stopped in mid-transaction keeps its row locks, and the reaper would wait for
# them: the server ends such a transaction by itself.
IDLE_IN_TRANSACTION_MS = 10_000

# a dead network is noticed in about 25 s, not in hours
_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def engine_options(url: StoreUrl) -> dict[str, Any]:
    """Keyword arguments of create_engine; what the URL itself sets stays as it is.

    Raises StorageError for a malformed URL or a missing driver.
    """
    try:
        given = make_url(url.text)
    except (ArgumentError, ValueError):
        # the message of SQLAlchemy may repeat the URL with its password
        raise StorageError(f"storage {url.shown!r} is not a well-formed URL: {EXAMPLES}") from None
    if not given.database:
        raise StorageError(f"storage {url.shown!r} names no database: {EXAMPLES}")
    try:
        import psycopg  # noqa: F401 - an optional extra, asked for only where it is needed
    except ImportError:
        raise StorageError(
            f"storage {url.shown!r} needs a driver: pip install 'psycopg[binary]'"
        ) from None
    return {
        "connect_args": {key: value for key, value in _CONNECT.items() if key not in given.query},
        # no ping before each use: a lost connection is found by the call itself, which is repeated
        "isolation_level": "READ COMMITTED",
        "hide_parameters": True,
    }


def listen(engine: Engine) -> None:
    """Set up every new connection of `engine`."""

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
        connection.commit()
