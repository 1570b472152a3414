"""Surroundings that people bring: locales, users and pipes; and how a command refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LOCALES = ("utf-8", "strict", "C", "POSIX", "latin-1")


def locale_of(name: str, folder: Path) -> dict[str, str]:
    """Variables for a locale; the test is skipped, with the reason, where it cannot be made.

    utf-8: C.UTF-8. strict: the same with a stream that refuses what UTF-8 cannot hold, as Python
    has in en_US.UTF-8. C, POSIX: real ones, with ASCII streams. latin-1: en_US.ISO-8859-1.
    """
    if name in ("utf-8", "strict"):
        strict = {"PYTHONIOENCODING": "utf-8:strict"} if name == "strict" else {}
        return {"LC_ALL": "C.UTF-8", **strict}
    own = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if name in ("C", "POSIX"):
        return {"LC_ALL": name, **own}
    place = folder / "locales"
    place.mkdir(exist_ok=True)
    made = place / "en_US.ISO-8859-1"
    if not made.exists():
        if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/en_US").is_file():
            pytest.skip(
                "no Latin-1 locale can be made: localedef and the package locales are needed"
            )
        subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)], check=True)
    return {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(place), **own}


def command(module: str, *words: object) -> list[str]:
    """A command of ours, for a child process."""
    return [sys.executable, "-m", module, *(os.fspath(word) for word in words)]  # type: ignore[call-overload]


def surroundings(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    own = {"PYTHONPATH": str(ROOT), "FACE_PARSING_CACHE": str(folder / "cache")}
    return {**kept, **own, **(more or {})}


def stranger() -> list[str]:
    """Words before a command: as a user without an entry in the list of users.

    They may read and enter everything, for Python itself may lie in the home of root, and write
    only where everybody may. The test is skipped, with the reason, where nobody can become them.
    """
    ids = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    ids += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*ids, "true"], stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("only root can run a command as another user, by setpriv of util-linux")
    return ids


def one_line(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *words: object
) -> str:
    """The one line, and nothing else on stderr, with which a command refuses what it was given."""
    capsys.readouterr()
    try:
        code = command([str(word) for word in words])
    except SystemExit as ended:
        code = int(str(ended.code))
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err
