"""What is printed where it cannot be shown, and where nobody takes it: real pipes and locales."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial

from search.strategy.loading import load_study
from tests.support.data_folders import course
from tests.support.marks import long
from tests.support.shells import LOCALES, command, locale_of, surroundings
from tests.support.studies import TINY, play, setup_of, store, study_of
from trainer.config import Config, to_yaml, with_values
from trainer.streams import command_line, shown

EPOCHS = 3
STORAGE = ("--storage", "sqlite:///search.db")


def process(folder: Path, words: list[str], **options: Any) -> subprocess.Popen[str]:
    env = surroundings(options.pop("more", None))
    return subprocess.Popen(words, cwd=folder, env=env, text=True, **options)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of a training of a second."""
    values = {**TINY, "epochs": EPOCHS, "early_stopping_patience": None}
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(with_values(Config(), values)), encoding="utf-8")
    return path


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A folder with a store of three finished trials."""
    storage = store(tmp_path)
    play(study_of(storage), storage, setup_of(), 3)
    return tmp_path


def training(tiny: Path) -> list[str]:
    return command("trainer.train", "--config", tiny, "--device", "cpu", "--out", "out")


def epochs_of(folder: Path) -> int:
    return len(json.loads((folder / "out" / "history.json").read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------- nobody takes it


def test_a_training_whose_reader_leaves_goes_on_to_its_end(tmp_path: Path, tiny: Path) -> None:
    with process(tmp_path, training(tiny), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert "3 epochs" in child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait() == 0
    assert epochs_of(tmp_path) == EPOCHS


@pytest.mark.long
def test_a_search_whose_reader_leaves_goes_on_to_its_end(tmp_path: Path, tiny: Path) -> None:
    words = ("--trials", "2", "--workers", "1", "--sampler", "random", "--plain")
    # both streams into one pipe, as with `2>&1 | head`
    with process(
        tmp_path,
        command("search.run", "--config", tiny, *words, *STORAGE),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() != ""
        child.stdout.close()
        assert child.wait() == 0
    study = load_study(store(tmp_path), "synthetic-demo-16")
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "COMPLETE"]


def test_a_repaired_copy_is_whole_though_nobody_reads(tmp_path: Path) -> None:
    course(tmp_path / "data", [f"f{number}" for number in range(12)], 32)
    words = command("trainer.check", "--data", "data", "--repair", "copy")
    with process(tmp_path, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait() == 0
    assert len(list((tmp_path / "copy" / "train" / "images").iterdir())) == 12


@pytest.mark.parametrize(
    "words",
    [
        ("search.export", "--format", "csv"),
        long(("search.queue", "list")),
        long(("search.compare", "faces", "faces2")),
        ("search.run", "--help"),
    ],
)
def test_a_short_command_whose_reader_leaves_ends_without_a_word(
    searched: Path, words: tuple[str, ...]
) -> None:
    study_of(store(searched), "faces2")
    words = words if "--help" in words else (*words, *STORAGE)
    with process(
        searched, command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        told = child.stderr.read()
        assert (child.wait(), "error" in told, "Traceback" in told) == (0, False, False), told


@pytest.mark.long
def test_a_training_goes_on_where_its_log_has_no_room(tmp_path: Path, tiny: Path) -> None:
    with open("/dev/full", "wb") as full:
        child = process(tmp_path, training(tiny), stdout=full, stderr=subprocess.PIPE)
        _, told = child.communicate()
    assert child.returncode == 0
    assert told == (
        "note: standard output did not take all lines (No space left on device); free some space\n"
    )
    assert epochs_of(tmp_path) == EPOCHS


def shell(folder: Path, text: str, *, more: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        ["sh", "-c", text.replace("PYTHON", f"'{sys.executable}'")],
        cwd=folder,
        env=surroundings(more),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (">/dev/full", "No space left on device"),
        long(">&-", "closed"),
        long(">&- <&-", "closed"),
    ],
)
def test_an_export_that_nobody_takes_is_an_error(searched: Path, to: str, why: str) -> None:
    for words in ("search.export", "search.export --format csv", "search.queue list"):
        done = shell(searched, f"PYTHON -m {words} {' '.join(STORAGE)} {to}")
        assert done.returncode == 2, (words, done.stderr)
        assert f"error: standard output did not take all lines ({why})" in done.stderr
        assert "Traceback" not in done.stderr


def test_help_that_nobody_takes_is_an_error(tmp_path: Path) -> None:
    done = shell(tmp_path, "PYTHON -m search.run --help >/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: standard output did not take all lines")


@pytest.mark.long
def test_a_training_without_any_stream_is_a_training(tmp_path: Path, tiny: Path) -> None:
    words = command_line(training(tiny))
    done = shell(tmp_path, f"{words} <&- >&- 2>&-")
    assert done.returncode == 0
    assert epochs_of(tmp_path) == EPOCHS


def test_closed_descriptors_are_filled_so_that_no_file_gets_them(tmp_path: Path) -> None:
    code = (
        "import os; from trainer.streams import settle; settle()\n"
        "handle = os.open('mine', os.O_WRONLY | os.O_CREAT)\n"
        "open('said', 'w').write(str(handle))\n"
        # what a library in C does
        "os.write(2, b'warning'); os.write(1, b'warning')\n"
        "os.close(handle)"
    )
    assert shell(tmp_path, f'PYTHON -c "{code}" <&- >&- 2>&-').returncode == 0
    assert int((tmp_path / "said").read_text()) > 2
    assert (tmp_path / "mine").read_bytes() == b""


# --------------------------------------------------------------------------- it cannot be shown


def test_what_an_encoding_lacks_is_printed_as_something_else(tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.streams import settle; settle()\n"
        "print('M\\xfcller, M\\udcfcller, \\u2b50, 3\\xd72, \\xb1.1, a\\u2026, \\u5b9e')"
    )
    expected = {
        "strict": "Müller, M\\xfcller, ⭐, 3×2, ±.1, a…, 实",
        "C": "M\\xfcller, M\\xfcller, *, 3x2, +-.1, a~, \\u5b9e",
        "latin-1": "Müller, M\\xfcller, *, 3×2, ±.1, a~, \\u5b9e",
    }
    for name, line in expected.items():
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=surroundings(locale_of(name, tmp_path)),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode("latin-1" if name == "latin-1" else "utf-8") == line + "\n"


NOTE = "\u2b50 Müller \u5b9e M\udcfcller"


@pytest.mark.long
def test_an_export_is_the_same_file_in_every_locale(searched: Path) -> None:
    named = create_trial(
        value=0.99,
        params=load_study(store(searched), "faces").get_trials()[0].params,
        distributions=load_study(store(searched), "faces").get_trials()[0].distributions,
        user_attrs={"seed": 1, "note": NOTE},
    )
    load_study(store(searched), "faces").add_trial(named)
    words = command("search.export", "--format", "csv", *STORAGE)
    for name in LOCALES:
        done = subprocess.run(
            words,
            cwd=searched,
            env=surroundings(locale_of(name, searched)),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert "\u2b50 Müller \u5b9e M\\xfcller" in done.stdout.decode("utf-8"), name


def test_a_command_can_be_pasted_whatever_its_words_hold(tmp_path: Path) -> None:
    words = [
        "plain",
        "my faces",
        "it's",
        "M\udcfcller",
        "two\nlines\ttab",
        "back\\slash\udcff'",
        "$HOME",
    ]
    if subprocess.run(["bash", "-c", "true"], capture_output=True).returncode:
        pytest.skip("no bash")
    code = "import os, sys; open('said', 'wb').write(b'|'.join(map(os.fsencode, sys.argv[1:])))"
    line = command_line([sys.executable, "-c", code, *words])
    assert "\n" not in line
    assert line == shown(line)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    assert (tmp_path / "said").read_bytes() == b"|".join(map(os.fsencode, words))
