"""The README names every command and every flag, and nothing that does not exist."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
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
        timeout=60,
    )
    return done.stdout


def section(command: str) -> str:
    """The README's part about one command: from its heading to the next one."""
    match = re.search(
        rf"^#+ .*`python -m {re.escape(command)}`.*?$(.*?)(?=^#+ |\Z)", README, re.M | re.S
    )
    assert match, f"README.md has no heading with `python -m {command}`"
    return match.group(1)


def test_there_are_commands_to_look_at() -> None:
    assert {"search.run", "search.export", "trainer.train", "trainer.check"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_stands_in_its_part_of_the_readme(command: str) -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_text(command))) - {"--help"}
    told = set(re.findall(r"--[a-z][a-z-]*", section(command)))
    assert flags - told == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_names_no_flag_that_a_command_does_not_have(command: str) -> None:
    rows = re.findall(r"^\| `(--[a-z][a-z-]*)", section(command), re.M)
    assert set(rows) - set(re.findall(r"--[a-z][a-z-]*", help_text(command))) == set()


def test_every_module_that_the_readme_tells_to_run_exists() -> None:
    named = set(re.findall(r"python -m ((?:search|trainer)\.\w+)", README))
    assert named <= set(COMMANDS)


def test_every_file_of_ours_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:scripts|tests|search|trainer|storage)/[\w./-]+)`", README))
    assert {name for name in named if not (ROOT / name).exists()} == set()
