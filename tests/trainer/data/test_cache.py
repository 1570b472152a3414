"""Where decoded faces are kept: with a home, without one, and for a user whom nobody knows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.marks import proof
from tests.support.shells import command, stranger, surroundings
from tests.support.studies import TINY
from trainer.config import Config, to_yaml, with_values
from trainer.data import cache
from trainer.data.cache import cache_folder, usable_home
from trainer.errors import DataError

NAME = "face-parsing-search"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("FACE_PARSING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    cache._temporary.cache_clear()
    yield
    cache._temporary.cache_clear()


def test_variables_go_before_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / NAME
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x") / NAME
    monkeypatch.setenv("FACE_PARSING_CACHE", "/own")
    assert cache_folder() == Path("/own")


@pytest.mark.parametrize("home", ["/", "absent", "file", None])
def test_without_a_home_it_is_the_temporary_folder_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    home: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    if home is None:
        # as in a container: no variable, no entry in the list of users
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
        monkeypatch.setattr(cache, "_is_own", lambda folder: True)
    else:
        monkeypatch.setenv("HOME", home if home == "/" else str(tmp_path / home))
    assert usable_home() is None
    folder = cache_folder()
    assert cache_folder() == folder == tmp_path / f"{NAME}-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == (
        f"note: no home that can be written to, so decoded faces are kept in {folder};"
        " set HOME, or name a folder in FACE_PARSING_CACHE\n"
    )


def test_a_folder_of_somebody_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{NAME}-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="belongs to somebody else; set HOME, or name a folder in"):
        cache_folder()


def test_without_any_folder_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="neither a home nor a temporary folder .* in FACE_PARSING"):
        cache_folder()


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's own."""
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.long
@pytest.mark.parametrize("home", ["/", "read-only", proof(None)])
def test_a_user_whom_nobody_knows_searches_and_trains(work: Path, home: str | None) -> None:
    as_them = stranger()
    (work / "read-only").mkdir()
    (work / "tmp").mkdir()
    for folder in (work, work / "tmp"):
        folder.chmod(0o777)
    values = {**TINY, "epochs": 1, "early_stopping_patience": None}
    (work / "tiny.yaml").write_text(to_yaml(with_values(Config(), values)), encoding="utf-8")
    env = surroundings({"TMPDIR": str(work / "tmp")})
    for name in ("HOME", "FACE_PARSING_CACHE", "MPLCONFIGDIR"):
        env.pop(name, None)
    if home is not None:
        env["HOME"] = home if home == "/" else str(work / home)
    note = f"note: no home that can be written to, so decoded faces are kept in {work}/tmp/"

    def run(*words: str) -> str:
        done = subprocess.run(
            [*as_them, *command(*words)], cwd=work, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    told = run("trainer.train", "--config", "tiny.yaml", "--device", "cpu", "--out", "out")
    assert told.startswith(note)
    # nothing of matplotlib's either
    assert told.count("\n") == 1, told
    if home is None:
        flags = ("--trials", "1", "--workers", "1", "--sampler", "random", "--plain")
        told = run("search.run", "--config", "tiny.yaml", *flags)
        assert told.startswith(note)
        assert told.count("\n") == 1, told
        assert "is in report.html" in run("search.report")
