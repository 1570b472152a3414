"""One worker: takes a place of the budget, trains one trial under a lease, repeats.

    python -m search.worker --storage URL --study NAME --runs DIR

The supervisor (`search.run`) starts these; on another machine the same command joins the search.
It ends with code 0 when the budget is used up or it was asked to leave (its trial then waits in
the queue), with 2 and one line where the user has to fix something.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from search.commands import LOG, add_log, messages, run_command
from search.study.names import owner_name
from trainer.cli import Parser

_WAIT_S = 120.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker until its study is done; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--prewarmed"]:
        words = _handed_over()
        if not words:
            # the run was over before it began
            return 0
    options = _parser().parse_args(words)
    if options.prewarmed:
        _parser().error("--prewarmed stands alone: the other arguments come by standard input")
    # after parsing: `--help` must not wait for torch
    from search.execution.stop_requests import AtOnce

    try:
        return run_command(lambda: _main(options))
    except AtOnce:
        return 130


def _main(options: argparse.Namespace) -> int:
    from search.execution.stop_requests import WorkerSignals
    from search.execution.worker_context import WorkerContext
    from search.execution.worker_loop import work
    from search.strategy.loading import load_study
    from search.study.shared_state import lease_of
    from storage import open_storage

    owner, show = owner_name(os.getpid()), partial(print, flush=True)
    with (
        messages(
            show,
            log=options.log,
            log_format=options.log_format,
            study=options.study,
            worker=owner,
        ),
        WorkerSignals() as signals,
    ):
        storage = open_storage(
            options.storage,
            create=False,
            # often nobody looks on when a worker starts: a server that is away comes back
            wait_s=_WAIT_S,
            tell=LOG.info,
        )
        study = load_study(storage, options.study)
        lease = lease_of(storage, options.study).changed(options.beat_s, options.grace_s)
        context = WorkerContext(
            storage=storage,
            study=study,
            runs=Path(options.runs),
            signals=signals,
            device=options.device,
            threads=options.threads,
            data_root=options.data,
            stop_after=options.stop_after,
            beat_s=lease.beat_s,
            grace_s=lease.grace_s,
            parent=options.parent,
            owner=owner,
        )
        return work(context)


def _handed_over() -> list[str]:
    """Import what takes long, then wait for arguments and the log to write to; empty: none came."""
    import search.execution.trial_runner  # noqa: F401

    order = json.loads(sys.stdin.readline() or "{}")
    if not order:
        return []
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    return list(order["words"])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m search.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--storage", required=True, metavar="URL", help="the study's store")
    parser.add_argument("--study", required=True, metavar="NAME", help="the study to work for")
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="folder of checkpoints and artifacts"
    )
    parser.add_argument("--device", help="auto, cpu or cuda[:i]; default: as the study says")
    parser.add_argument("--threads", type=_positive(int), metavar="N", help="CPU threads to use")
    parser.add_argument("--data", metavar="DIR", help="where the study's data lie on this machine")
    parser.add_argument(
        "--stop-after", type=_positive(int), metavar="K", help="end when K trials brought no better"
    )
    parser.add_argument(
        "--beat-s",
        type=_positive(float),
        metavar="S",
        help="seconds between beats; default: as the study says",
    )
    parser.add_argument(
        "--grace-s",
        type=_positive(float),
        metavar="S",
        help="seconds of silence after which a trial goes to somebody else; default: as the study"
        " says",
    )
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="leave when this parent process has ended"
    )
    add_log(parser)
    parser.add_argument(
        "--prewarmed",
        action="store_true",
        help="alone: import everything, then take the arguments from standard input; search.run"
        " starts its first worker so, while it is still planning",
    )
    return parser


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: a number above 0 is needed")
        return number

    # argparse names the type in its message
    read.__name__ = kind.__name__
    return read


if __name__ == "__main__":
    raise SystemExit(main())
