"""Where the messages of a command go, and what its options hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from search import confirm, run, worker
from search.commands import messages, options_of
from search.execution.options import RunOptions
from search.management.options import StudyOptions
from search.study.lookup import named_study
from tests.support.studies import real_study, store
from trainer.errors import UserError

LOG = logging.getLogger("search.somewhere")


def test_a_message_is_shown_as_it_is_and_nothing_of_it_stays_set_up() -> None:
    shown: list[str] = []
    before = logging.getLogger("search").handlers[:]
    with messages(shown.append):
        LOG.info("50 % of [it]")
    LOG.info("later")
    assert shown == ["50 % of [it]"]
    assert logging.getLogger("search").handlers == before


def test_a_log_in_json_has_an_object_a_line_with_all_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest keeps what reaches the root logger, and xdist cannot send what is not UTF-8
    monkeypatch.setattr(logging.getLogger("search"), "propagate", False)
    file = tmp_path / "new" / "log"
    with messages(lambda text: None, log=str(file), log_format="json", study="faces"):
        LOG.info("begun")
        LOG.warning("a\nb \udcff", extra={"trial": 3, "worker": "host:17"})
    first, second = map(json.loads, file.read_text().splitlines())
    time = datetime.fromisoformat(first.pop("time"))
    assert time.tzinfo == UTC
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert first == {
        "level": "INFO",
        "message": "begun",
        "study": "faces",
        "trial": None,
        "worker": None,
    }
    assert second["message"] == "a\nb \udcff"
    assert (second["level"], second["trial"], second["worker"]) == ("WARNING", 3, "host:17")


def test_a_log_in_text_is_appended_to_and_ends_with_what_ended_the_command(tmp_path: Path) -> None:
    shown: list[str] = []
    file = tmp_path / "log"
    file.write_text("of yesterday\n")

    def ended() -> None:
        with messages(shown.append, log=str(file), worker="host:17"):
            LOG.info("trial 3: a\nb", extra={"trial": 3})
            raise UserError("the disk is full")

    with pytest.raises(UserError):
        ended()
    lines = file.read_text().splitlines()
    assert lines[0] == "of yesterday"
    assert lines[1].endswith(" INFO trial=3 worker=host:17: trial 3: a b")
    assert lines[2].endswith(" ERROR worker=host:17: UserError: the disk is full")
    # `guarded` prints it
    assert shown == ["trial 3: a\nb"]


@pytest.mark.long
def test_a_worker_logs_its_trials_to_the_file_and_prints_the_same_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=1)
    file = tmp_path / "log.jsonl"
    words = RunOptions(
        f"sqlite:///{tmp_path}/search.db",
        str(tmp_path / "runs"),
        log=str(file),
        log_format="json",
    ).worker_words(study.study_name)
    assert worker.main(words) == 0
    (entry,) = map(json.loads, file.read_text().splitlines())
    (trial,) = named_study(storage, study.study_name).get_trials()
    assert entry["message"].startswith(f"trial 0: COMPLETE, {trial.value:.4f}")
    assert (entry["study"], entry["trial"]) == (study.study_name, 0)
    assert entry["worker"].count(":") == 1
    assert capsys.readouterr().out == f"{entry['message']}\n"


@pytest.mark.parametrize("log", [".", "file/log"])
def test_a_log_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    (tmp_path / "file").touch()
    store(tmp_path)
    words = ["--storage", f"sqlite:///{tmp_path}/search.db", "--study", "faces"]
    assert worker.main([*words, "--log", str(tmp_path / log)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}")


@pytest.mark.parametrize(
    ("main", "words"),
    [(run.main, []), (worker.main, ["--storage", "sqlite:///none.db", "--study", "faces"])],
)
def test_a_format_of_a_log_that_is_not_written_is_refused_in_one_line(
    main: Callable[[Sequence[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--log-format", "json"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --log-format json: of which file? add --log FILE")


def test_every_option_of_a_run_has_its_flag() -> None:
    args = run.parser().parse_args(["--no-priors", "--workers", "auto", "--fix", "dropout=0.1"])
    for kind in (RunOptions, StudyOptions):
        assert set(kind.__dataclass_fields__) <= set(vars(args))
    study = options_of(StudyOptions, args)
    assert (study.priors, study.fix, study.ranges) == (False, ["dropout=0.1"], [])
    assert options_of(RunOptions, args).trials == 40


def test_repeats_run_with_the_defaults_of_a_search() -> None:
    options = options_of(RunOptions, confirm.parser().parse_args(["--workers", "3"]))
    plain = options_of(RunOptions, run.parser().parse_args(["--workers", "3"]))
    assert (options.workers, options.device, options.launcher) == (3, "auto", "local")
    assert options.__dict__ | {"trials": 40} == plain.__dict__
