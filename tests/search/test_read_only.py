"""Every command that only looks works on a store that may not be written to."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from search import compare, export, load, queue, report
from tests.search.web.test_dashboard import ask
from tests.storage.test_sqlite import files, without_powers
from tests.support.marks import long
from tests.support.studies import play, running, setup_of, store, study_of


@pytest.fixture(params=[long("no log"), "log"])
def foreign(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder and a store with two studies that nobody but their owner may write to.

    With a log: as while the owner is at work, or after kill -9.
    """
    folder = Path(tempfile.mkdtemp(prefix="foreign-"))
    life = folder / "life"
    life.mkdir()
    with closing(store(life)) as storage:
        for name in ("faces", "others"):
            play(study_of(storage, name, pruner="none"), storage, setup_of(name), trials=2)
        if request.param == "log":
            for file in life.iterdir():
                shutil.copy(file, folder / file.name)
    if request.param == "no log":
        shutil.copy(life / "search.db", folder / "search.db")
    shutil.rmtree(life)
    assert len(files(folder)) == (3 if request.param == "log" else 1)
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def out() -> Iterator[Path]:
    """A folder that everybody may write to."""
    folder = Path(tempfile.mkdtemp(prefix="out-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


LOOKING: dict[str, Callable[[str, Path], int]] = {
    "report": lambda url, out: report.main(
        ["--storage", url, "--study", "faces", "--out", str(out / "report.html")]
    ),
    "export": lambda url, out: export.main(
        ["--storage", url, "--study", "faces", "--format", "csv", "--out", str(out / "all.csv")]
    ),
    "compare": lambda url, out: compare.main(["faces", "others", "--storage", url]),
    "queue list": lambda url, out: queue.main(["list", "--storage", url]),
    "load": lambda url, out: len(load("faces", url).table()) - 2,
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every command has run once: another user may not be able to read what they import."""
    folder = tmp_path_factory.mktemp("imported")
    with closing(store(folder)) as storage:
        for name in ("faces", "others"):
            play(study_of(storage, name, pruner="none"), storage, setup_of(name), trials=2)
    for look in LOOKING.values():
        assert look(f"sqlite:///{folder}/search.db", folder) == 0


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("command", LOOKING)
def test_a_command_that_only_looks_works_on_somebody_elses_store(
    foreign: Path, out: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{foreign}/search.db"
    before = files(foreign)
    with without_powers():
        code = LOOKING[command](url, out)
    told = capsys.readouterr()
    assert code == 0, told.err
    if command in ("report", "export"):
        (written,) = out.iterdir()
        assert "dice_weight" in written.read_text()
    assert files(foreign) == before


def test_what_would_write_to_somebody_elses_store_is_refused_with_what_can_look(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(foreign)
    with without_powers():
        words = ["add", "--set", "dice_weight=1.5", "--storage", f"sqlite:///{foreign}/search.db"]
        assert queue.main(words) == 2
    err = capsys.readouterr().err
    assert "it is read-only: make the file and its folder writable, name another, or look" in err
    assert err.count("\n") == 1
    assert files(foreign) == before


def test_the_dashboard_shows_a_store_on_a_read_only_file_system(foreign: Path, out: Path) -> None:
    # in a name space of its own, whose mounts end with the process
    mounting = f"mount --bind {foreign} {foreign} && mount -o remount,ro,bind {foreign} && "
    before = ["unshare", "--mount", "sh", "-c", mounting + 'exec "$@"', "sh"]
    try:
        subprocess.run([*before, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no read-only mount can be made here: {error}")
    url = f"sqlite:///{foreign}/search.db"
    had = files(foreign)
    words = ["--storage", url, "--runs", str(foreign / "runs"), "--port", "0"]
    with running(out, "search.dashboard", *words, before=before) as refused:
        _, err = refused.communicate(timeout=120)
        assert (refused.returncode, err.count("\n")) == (2, 1)
        assert "search.dashboard --read-only" in err
    with running(out, "search.dashboard", *words, "--read-only", before=before) as process:
        assert process.stdout is not None
        address = process.stdout.readline()
        port = int(address.rstrip("/\n").rpartition(":")[2])
        for path in ("/api/studies", "/api/studies/1"):
            status, _, body = ask(port, "GET", path)
            assert (status, b"faces" in body) == (200, True)
    assert files(foreign) == had
