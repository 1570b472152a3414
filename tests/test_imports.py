"""Who may import whom, and that importing does nothing."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import space
from tests.support.paths import ROOT
from trainer.config import key_path

HOUSE = {"space", "trainer", "storage", "search"}

# room -> what it may import besides the standard library and itself
ALLOWED = {
    "space": set(),
    "trainer": {"torch", "numpy", "PIL", "pydantic", "yaml", "rich", "matplotlib", "triton"},
    "storage": {"sqlalchemy", "optuna", "alembic", "psycopg"},
    "search": {
        *HOUSE,
        *("torch", "numpy", "optuna", "optuna_dashboard", "rich", "scipy", "plotly", "yaml"),
        *("pandas", "pydantic", "ray", "waitress", "jinja2", "markupsafe"),
    },
}

# folder of search/ -> the other folders that it may import, type-checking imports included
FOLDERS = {
    "study": set(),
    "trainers": {"study"},
    "strategy": {"study", "trainers"},
    "execution": {"study", "trainers", "strategy"},
    "management": {"study", "trainers", "strategy"},
    "results": {"study", "trainers", "strategy"},
    "confirmation": {"study", "trainers", "results", "execution", "management"},
    "reporting": {"study", "trainers", "results", "confirmation"},
    "importing": {"study", "results"},
    "web": set(),
}
# modules directly in search/, lines of a module, and modules from a command down to a leaf
COMMANDS, LINES, LAYERS = 15, 400, 11


def files(room: str) -> list[Path]:
    """Every source file of a room."""
    return [ROOT / "space.py"] if room == "space" else sorted((ROOT / room).rglob("*.py"))


@functools.cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import in a file, inside functions too."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Top-level names that a file imports, with their lines."""
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif node.module and not node.level:
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


def names_of(path: Path, known: Set[str]) -> Iterator[str]:
    """Those of the known modules that a file imports, type-checking imports included."""
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif node.module in known:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else str(node.module)


def imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    paths = [path for room in ALLOWED for path in files(room)]
    named = dict(zip(modules(), paths, strict=True))
    return {name: set(names_of(path, named.keys())) - {name} for name, path in named.items()}


def folder(module: str) -> str | None:
    """The folder of search/ that a module lies in; None for commands and other rooms."""
    parts = module.split(".")
    return parts[1] if parts[0] == "search" and parts[1:2] and parts[1] in FOLDERS else None


def test_a_folder_of_search_imports_only_what_it_may_and_nothing_imports_a_command() -> None:
    found = [path.name for path in (ROOT / "search").iterdir() if (path / "__init__.py").is_file()]
    assert set(found) == set(FOLDERS)
    strange = [
        f"{module} imports {name}"
        for module, known in imports().items()
        if (home := folder(module)) is not None
        for name in known
        if name.startswith("search") and folder(name) not in FOLDERS[home] | {home}
    ]
    assert strange == []


def test_no_circle_and_no_long_way_from_a_command_to_a_leaf() -> None:
    graph = imports()
    depth: dict[str, int] = {}

    def layers(module: str, way: tuple[str, ...] = ()) -> int:
        assert module not in way, " -> ".join((*way, module))
        if module not in depth:
            below = (layers(name, (*way, module)) for name in graph[module])
            depth[module] = module.startswith("search") + max(below, default=0)
        return depth[module]

    deep = {name: layers(name) for name in graph if name.startswith("search")}
    assert {name: number for name, number in deep.items() if number > LAYERS} == {}


def test_the_folders_stay_small_and_say_what_belongs_in_them() -> None:
    assert len(list((ROOT / "search").glob("*.py"))) <= COMMANDS
    long = {
        str(path.relative_to(ROOT)): lines
        for room in ALLOWED
        for path in files(room)
        if (lines := path.read_text(encoding="utf-8").count("\n")) > LINES
    }
    assert long == {}
    for package in (*(f"search.{name}" for name in FOLDERS), "trainer", "trainer.data", "storage"):
        text = (ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
        assert len(ast.get_docstring(ast.parse(text)) or "") > 80, package


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
        *("search.report", "search.import_results", "search", "search.notebook"),
        *("trainer.train", "trainer.evaluate", "trainer.predict", "trainer.check", "trainer.probe"),
    ],
)
def test_a_command_answers_help_without_waiting_for_heavy_packages(name: str) -> None:
    heavy = ("torch", "optuna", "sqlalchemy", "matplotlib", "scipy", "plotly", "pandas")
    code = (
        f"import sys, {name}\n"
        f"if hasattr({name}, 'parser'): {name}.parser().format_help()\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert run(code).strip() == "[]"
