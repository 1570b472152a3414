"""Fixtures for every test, and one environment for all: torch and its kin get one thread, since
tests share few cores, and what a user's shell says of widths, colours, proxies and passwords is not
what is tested.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

from trainer.cli import limit_spinning

for name in (
    *("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *(f"{kind}_proxy" for kind in ("http", "https", "all")),
    *(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL")),
    *("RAY_ADDRESS", "SEARCH_DASHBOARD_PASSWORD"),
):
    os.environ.pop(name, None)
# faces are drawn and decoded once for all tests, those of other processes too
own_cache = "FACE_PARSING_TEST_CACHE" not in os.environ
if own_cache:
    os.environ["FACE_PARSING_TEST_CACHE"] = tempfile.mkdtemp(prefix="faces-")
os.environ["FACE_PARSING_CACHE"] = os.environ["FACE_PARSING_TEST_CACHE"]
# before any test imports torch or numpy
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# a command in this process sets it too: what a test finds must not depend on those before it
limit_spinning()
# a shell's background job ignores Ctrl-C, and so would every process that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

from tests.support import fork_server, postgres  # noqa: E402

# what takes a process half a minute and more, the longest first
LONG = (
    *("test_run.py", "test_confirm.py", "test_failures.py", "test_storage_contract.py"),
    *("test_check.py", "test_worker.py", "test_ray_launcher.py", "test_streams.py"),
    *("test_every_key.py", "test_revival.py", "test_replay.py", "test_templates.py"),
    *("test_samplers.py", "test_cache.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="the tests marked long too, whose processes are started in earnest, not forked",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--all") and config.option.markexpr == "not proof and not long":
        config.option.markexpr = "not proof"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Processes are forked, but for those of long tests: what a fork would hide shows there."""
    if item.get_closest_marker("long") or item.get_closest_marker("proof"):
        fork_server.uninstall()
    else:
        fork_server.install()


def pytest_unconfigure() -> None:
    fork_server.end()
    if own_cache:
        shutil.rmtree(os.environ["FACE_PARSING_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: else one process works on the last of them while the others wait."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A running server; the test is skipped, with the reason, where none can be started."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(postgres.server())
        except Exception as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error!r}")
        yield running


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """The URL of an empty PostgreSQL schema."""
    return postgres.new_schema(postgres_server)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, once for each kind of database."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))
