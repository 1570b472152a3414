"""The documents name every command and every flag, and nothing that does not exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, anchors, prose, section
from tests.support.paths import ROOT
from trainer.config import leaf_keys

ALL_TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
COMMANDS = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in ("search", "trainer")
    for path in (ROOT / folder).glob("*.py")
    # the packed run.py speaks for itself in the leaderboard's zip
    if path.stem != "solution" and '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def help_text(command: str) -> str:
    """What `python -m command --help` prints."""
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_there_are_commands_to_look_at() -> None:
    assert {"search.run", "search.export", "trainer.train", "trainer.check"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_part_about_a_command_names_its_flags_and_no_others(command: str) -> None:
    flag = r"(?<![\w-])--[a-z][a-z-]*"
    documented = section(f"`python -m {command}`")
    if command == "search.run":
        documented += section("A training program of your own")
    flags = set(re.findall(flag, help_text(command)))
    shared = section("What all commands share") if command.startswith("search.") else ""
    assert flags - {"--help"} <= set(re.findall(flag, documented + shared))
    assert set(re.findall(rf"^\| `({flag})", documented, re.M)) <= flags


def test_every_module_that_a_document_says_to_run_exists() -> None:
    named = set(re.findall(r"python -m ((?:search|trainer)\.\w+)", ALL_TEXT))
    assert named <= set(COMMANDS)


def test_every_file_of_ours_that_a_document_names_exists() -> None:
    named = set(re.findall(r"`((?:scripts|tests|search|trainer|storage)/[\w./-]+)`", ALL_TEXT))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.is_relative_to(ROOT), target
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_the_first_document_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_key_of_the_config_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", section("The config")))
    keys = {part for key in leaf_keys() for part in key.split(".")}
    assert keys - documented == set()


def test_the_map_says_of_each_folder_what_its_docstring_says() -> None:
    rows = dict(
        re.findall(r"^\| `(search/\w+)/` \| (.*) \|$", section("The map of the house"), re.M)
    )
    inits = sorted((ROOT / "search").glob("*/__init__.py"))
    assert rows == {str(path.parent.relative_to(ROOT)): first_sentence(path) for path in inits}


def first_sentence(path: Path) -> str:
    """The first line of a module's docstring as the map has it."""
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
    return first[0].lower() + first[1:].rstrip(".")
