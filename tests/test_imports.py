"""Who may import whom, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import space
from tests.support.paths import ROOT
from trainer.config import key_path

HOUSE = {"space", "trainer", "storage", "search"}

# room -> what it may import besides the standard library and itself
ALLOWED = {
    "space": set(),
    "trainer": {"torch", "numpy", "PIL", "pydantic", "yaml", "rich", "matplotlib"},
    "storage": {"sqlalchemy", "optuna", "alembic", "psycopg"},
    "search": {
        *HOUSE,
        *("torch", "numpy", "optuna", "optuna_dashboard", "rich", "scipy", "plotly", "yaml"),
        *("pandas", "pydantic", "ray", "waitress", "jinja2", "markupsafe"),
    },
}


def files(room: str) -> list[Path]:
    """Every source file of a room."""
    return [ROOT / "space.py"] if room == "space" else sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Top-level names that a file imports, inside functions too, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    assert files(room)
    allowed = ALLOWED[room] | {room} | set(sys.stdlib_module_names)
    strange = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(room)
        for name, line in imported(path)
        if name not in allowed
    ]
    assert strange == []


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "sly.py"
    file.write_text("def f():\n    from optuna.trial import Trial\n    return Trial\n")
    assert list(imported(file)) == [("optuna", 2)]


def test_every_searched_name_lands_on_a_key_of_the_config() -> None:
    for name in (*space.SPACE, *space.BASE):
        assert key_path(name)
    assert set(space.BASE) == set(space.SPACE)


def modules() -> list[str]:
    """Every module of ours, dotted."""
    paths = [path for room in ALLOWED for path in files(room)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    # a template that runs outside this project is not a module of it
    return [name.removesuffix(".__init__") for name in names]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_every_module_prints_nothing_and_sets_no_logging_up() -> None:
    code = (
        "import importlib, logging, signal, threading\n"
        "before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)\n"
        f"for name in {modules()!r}: importlib.import_module(name)\n"
        "assert logging.getLogger().handlers == []\n"
        "assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))\n"
        "assert threading.active_count() == 1\n"
    )
    assert run(code) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("space", "trainer.config", "trainer.presets", "trainer.cli", "storage", "storage.url"),
        *("search.study.names", "search.run", "search.export", "search.queue", "search.dashboard"),
        *("search.rebuild", "search.clean", "search.worker", "search.compare", "search.confirm"),
        "search.report",
        *("search", "search.notebook"),
        *("trainer.train", "trainer.evaluate", "trainer.predict", "trainer.check", "trainer.probe"),
    ],
)
def test_a_command_answers_help_without_waiting_for_heavy_packages(name: str) -> None:
    heavy = ("torch", "optuna", "sqlalchemy", "matplotlib", "scipy", "plotly", "pandas")
    code = f"import sys, {name}\nprint([m for m in {heavy!r} if m in sys.modules])"
    assert run(code).strip() == "[]"
