"""optuna-dashboard on this store, with contact sheets and configs of the trials."""

from __future__ import annotations

import argparse
import sys

from search.commands import add_runs, add_storage, command, options_of
from search.web.password import HOST, PASSWORD, PORT
from trainer.cli import Parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.dashboard", description=__doc__)
    add_storage(it)
    add_runs(it, "folder of the artifacts (runs)")
    it.add_argument(
        "--host",
        default=HOST,
        metavar="H",
        help=f"address to serve at; other than this machine alone needs a password ({HOST})",
    )
    it.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"(default: {PORT}, or a free one where that is taken)",
    )
    it.add_argument(
        "--password-file",
        metavar="FILE",
        help=f"its first line is the password; or set {PASSWORD} in the environment",
    )
    it.add_argument(
        "--read-only", action="store_true", help="refuse whatever would change the store"
    )
    it.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name under which the dashboard is called (repeatable)",
    )
    it.add_argument(
        "--path-prefix",
        default="",
        metavar="PATH",
        help="path of a proxy under which the dashboard is called, /optuna say",
    )
    it.add_argument(
        "--parent", type=int, metavar="PID", help="end when this parent process has ended"
    )
    return it


def _main(args: argparse.Namespace) -> None:
    from search.web.server import ServerOptions, serve

    serve(options_of(ServerOptions, args))


main = command(parser, _main)

if __name__ == "__main__":
    sys.exit(main())
