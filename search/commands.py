"""What the commands share: their flags, how they begin, and where their messages go.

Nothing heavy is imported before the arguments are read: `--help` need not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from search.study.names import BEAT_S, GRACE_S, RUNS, STORAGE
from trainer.cli import N, checked, guarded, one_line, whole
from trainer.errors import UserError

if TYPE_CHECKING:
    from storage import LeasedStorage

# `python -m` runs a command under the name __main__
LOG = logging.getLogger("search")
# the default first
FORMATS = ("text", "json")
A = TypeVar("A")
Options = TypeVar("Options")
_FIELDS = ("study", "trial", "worker")

# ------------------------------------------------------------------------------------- arguments


def add_storage(flags: argparse._ActionsContainer, about: str = f"({STORAGE})") -> None:
    """The flag --storage."""
    flags.add_argument("--storage", default=STORAGE, metavar="URL", help=about)


def add_runs(flags: argparse._ActionsContainer, about: str, default: str | None = RUNS) -> None:
    """The flag --runs."""
    flags.add_argument("--runs", default=default, metavar="DIR", help=about)


def add_study(
    flags: argparse._ActionsContainer, about: str = "(default: the one with the latest activity)"
) -> None:
    """The flag --study."""
    flags.add_argument("--study", metavar="NAME", help=about)


def add_log(flags: argparse._ActionsContainer, whose: str = "") -> None:
    """The flags --log and --log-format; see `messages`."""
    flags.add_argument("--log", metavar="FILE", help=f"append every message to FILE as well{whose}")
    flags.add_argument(
        "--log-format",
        choices=FORMATS,
        default=FORMATS[0],
        help="how a message stands in FILE: text (default), or json, an object a line with time"
        " (UTC), level, message, study, trial and worker",
    )


def check_log(it: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a format of a log that is not written."""
    if args.log is None and args.log_format != FORMATS[0]:
        it.error(f"--log-format {args.log_format}: of which file? add --log FILE")


def add_program(it: argparse.ArgumentParser) -> None:
    """The flags of a training program of the user's."""
    own = it.add_argument_group(
        "a training program of your own",
        "a command or a function trains instead of our trainer; --config is its config, and the"
        " sampled values are written at their dotted keys",
    )
    own.add_argument(
        "--command",
        metavar="CMD",
        help="run CMD per trial, without a shell; {config}, {out}, {seed}, {device}, {epochs} and"
        " {resume} are filled in where they stand",
    )
    own.add_argument(
        "--trainer",
        dest="function",
        metavar="M:F",
        help="call function F of module M per trial, in the worker: F(config, *, report, out,"
        " seed, resume_from), those of them that it takes",
    )
    own.add_argument(
        "--history",
        metavar="GLOB",
        help="CMD tells its scores in this file: JSON list of epochs or object of lists, JSON"
        " lines or CSV (default: lines of JSON in the file that SEARCH_REPORT names, as"
        " search.reporting_client writes them)",
    )
    own.add_argument("--score-key", metavar="KEY", help="with --history: where the score stands")
    own.add_argument(
        "--score",
        dest="pattern",
        metavar="TEXT",
        help='CMD prints its scores: "Val F-Score: {score}", with {epoch} where that stands',
    )
    own.add_argument("--metric", metavar="NAME", help="what the score is called")
    own.add_argument("--direction", metavar="D", help="maximize (default) or minimize")
    own.add_argument(
        "--resume-file",
        metavar="GLOB",
        help="the newest match in a trial's folder is what it goes on from: {resume}, resume_from",
    )
    own.add_argument(
        "--stop-grace-s",
        type=seconds,
        metavar="S",
        help="between asking CMD to end (SIGTERM) and ending it (default: 10)",
    )
    own.add_argument(
        "--epoch-timeout",
        dest="epoch_timeout_s",
        type=seconds,
        metavar="S",
        help="a trial fails whose CMD prints and reports nothing for so long (default: never)",
    )
    own.add_argument(
        "--space",
        dest="space_file",
        type=Path,
        metavar="FILE",
        help="the search space: Python with SPACE, or YAML",
    )
    own.add_argument(
        "--choice",
        dest="choices",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="search one of several values; may be repeated",
    )
    own.add_argument(
        "--new-key", action="store_true", help="keys may be searched that the config has not"
    )


def add_lease(flags: argparse._ActionsContainer) -> None:
    """The flags --beat-s and --grace-s; see `search.study.shared_state.Lease`."""
    flags.add_argument(
        "--beat-s",
        type=seconds,
        metavar="S",
        help=f"seconds between the beats of a worker (default: the study's, else {BEAT_S:g})",
    )
    flags.add_argument(
        "--grace-s",
        type=seconds,
        metavar="S",
        help="seconds of silence after which a worker's trial goes to another one (default: the"
        f" study's, else {GRACE_S:g})",
    )


def or_auto(read: Callable[[str], N], auto: A) -> Callable[[str], N | A]:
    """For argparse: reads what `read` does, and `auto`."""

    def either(text: str) -> N | A:
        return auto if text == "auto" else read(text)

    # argparse names the function in its messages
    either.__name__ = read.__name__
    return either


seconds = checked(float, lambda n: 0 < n < math.inf, "a number of seconds above 0", name="seconds")
# how many workers; None: as many as fit
worker_count = or_auto(whole(1), None)


def options_of(kind: type[Options], args: argparse.Namespace) -> Options:
    """The options of a dataclass `kind`, as the arguments of the same names say."""
    named = vars(args)
    known = [it.name for it in fields(kind) if it.name in named]  # type: ignore[arg-type]
    return kind(**{name: named[name] for name in known})


# ----------------------------------------------------------------------------------- how it begins


def command(
    parser: Callable[[], argparse.ArgumentParser],
    body: Callable[[argparse.Namespace], None],
    *,
    printed: Callable[[argparse.Namespace], bool] = lambda args: False,
) -> Callable[..., int]:
    """The entry point of a command: takes its words, default `sys.argv`; returns the exit code.

    printed: as in `run_command`.
    """

    def main(words: Sequence[str] | None = None) -> int:
        args = parser().parse_args(words)

        def run() -> int:
            body(args)
            return 0

        return run_command(run, printed=printed(args))

    return main


def run_command(body: Callable[[], int], *, printed: bool = False) -> int:
    """Run a command's body, after its arguments are read; see `trainer.cli.guarded`."""
    import optuna

    from storage import StorageError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return guarded(body, errors=(StorageError,), printed=printed)


def study_name(storage: LeasedStorage, given: str | None, *, quiet: bool = False) -> str:
    """The study that the user named, else the latest search, with a note on standard error.

    Raises StudyError if there is none.
    """
    from search.study.lookup import chosen_study

    note = (lambda line: None) if quiet else partial(print, file=sys.stderr)
    return chosen_study(storage, given, note)


def check_writable(runs: Path) -> None:
    """Make the folder of --runs. Raises UserError where nothing can be written to it."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--runs {runs}: not a folder; name a folder") from None
    if not os.access(runs, os.W_OK):
        raise UserError(f"--runs {runs}: cannot be written to; name another folder")


# ---------------------------------------------------------------------------------------- messages


@contextmanager
def messages(
    show: Callable[[str], None],
    *,
    log: str | None = None,
    log_format: str = "text",
    study: str | None = None,
    worker: str | None = None,
) -> Iterator[None]:
    """Show the messages of `search` while the block runs; the one place where logging is set up.

    show: gets the text of each. log: file that gets each as a line as well, and what ended the
    block; log_format: one of FORMATS. study, worker: of all records that name none of their own.
    """
    shown = _Handler(lambda record: show(record.getMessage()))
    handlers = [shown]
    before = LOG.level
    if log is not None:
        path = Path(log)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        common = {"study": study, "trial": None, "worker": worker}
        handlers.append(_Handler(partial(_append, descriptor, log_format, common)))
    for handler in handlers:
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        # `guarded` shows it
        LOG.removeHandler(shown)
        if log is not None:
            LOG.error(f"{type(error).__name__}: {one_line(error)}")
        raise
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
        LOG.setLevel(before)
        if log is not None:
            os.close(descriptor)


class _Handler(logging.Handler):
    """Hands each record to a function."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record)


def _append(
    descriptor: int, log_format: str, common: Mapping[str, Any], record: logging.LogRecord
) -> None:
    known = {name: getattr(record, name, common[name]) for name in _FIELDS}
    entry = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "message": record.getMessage(),
        **known,
    }
    if log_format == "json":
        line = json.dumps(entry)
    else:
        named = "".join(f" {name}={value}" for name, value in known.items() if value is not None)
        line = f"{entry['time']} {entry['level']}{named}: {one_line(entry['message'])}"
    # one write a line, for the processes of a run share the file; a full disk costs no trial
    with suppress(OSError):
        os.write(descriptor, f"{line}\n".encode("utf-8", "backslashreplace"))
