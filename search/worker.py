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
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from search.commands import LOG, add_lease, add_log, add_runs, check_log, messages, run_command
from search.study.names import owner_name
from trainer.cli import Parser, whole

_WAIT_S = 120.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker until its study is done; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--prewarmed"]:
        words = _handed_over()
        if not words:
            # the run was over before it began
            return 0
    it = parser()
    args = it.parse_args(words)
    check_log(it, args)
    if args.prewarmed:
        it.error("--prewarmed stands alone: the other arguments come by standard input")
    # after parsing: `--help` must not wait for torch
    from search.execution.stop_requests import AtOnce

    try:
        return run_command(lambda: _main(args))
    except AtOnce:
        return 130


def _main(args: argparse.Namespace) -> int:
    from search.execution.stop_requests import WorkerSignals
    from search.execution.worker_context import WorkerContext
    from search.execution.worker_loop import work
    from search.strategy.loading import load_study
    from search.study.lookup import load_setup
    from search.study.shared_state import lease_of
    from search.trainers.contract import Machine
    from search.trainers.selection import trainer_of
    from storage import open_storage

    owner, show = owner_name(os.getpid()), partial(print, flush=True)
    with (
        messages(show, log=args.log, log_format=args.log_format, study=args.study, worker=owner),
        WorkerSignals() as signals,
    ):
        storage = open_storage(
            args.storage,
            create=False,
            # often nobody looks on when a worker starts: a server that is away comes back
            wait_s=_WAIT_S,
            tell=LOG.info,
        )
        study = load_study(storage, args.study)
        context = WorkerContext(
            storage=storage,
            study=study,
            runs=Path(args.runs),
            signals=signals,
            trainer=trainer_of(load_setup(study), Machine(args.device, args.threads, args.data)),
            stop_after=args.stop_after,
            stop_when_settled=args.stop_when_settled,
            lease=lease_of(storage, args.study).changed(args.beat_s, args.grace_s),
            parent=args.parent,
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
    # CUDA reads its own when it is first used
    os.environ.update(order["environment"])
    return list(order["words"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.worker", description=__doc__.splitlines()[0])
    it.add_argument("--storage", required=True, metavar="URL", help="the study's store")
    it.add_argument("--study", required=True, metavar="NAME", help="the study to work for")
    add_runs(it, "folder of checkpoints and artifacts")
    it.add_argument("--device", help="auto, cpu or cuda[:i]; default: as the study says")
    it.add_argument("--threads", type=whole(1), metavar="N", help="CPU threads to use")
    it.add_argument("--data", metavar="DIR", help="where the study's data lie on this machine")
    it.add_argument(
        "--stop-after", type=whole(1), metavar="K", help="end when K trials brought no better"
    )
    it.add_argument(
        "--stop-when-settled",
        action="store_true",
        help="end when no further trial may be expected to improve the answer",
    )
    add_lease(it)
    it.add_argument(
        "--parent", type=int, metavar="PID", help="leave when this parent process has ended"
    )
    add_log(it)
    it.add_argument(
        "--prewarmed",
        action="store_true",
        help="alone: import everything, then take the arguments from standard input; search.run"
        " starts its first worker so, while it is still planning",
    )
    return it


if __name__ == "__main__":
    raise SystemExit(main())
