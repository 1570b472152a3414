"""The dashboard's password, from a file or the environment, and its usual address."""

from __future__ import annotations

import os
import stat
import sys

from trainer.errors import UserError

HOST = "127.0.0.1"
PORT = 8080
PASSWORD = "SEARCH_DASHBOARD_PASSWORD"


def password_of(file: str | None) -> str | None:
    """The password, if one was given; no process that this one starts inherits it."""
    source, password = PASSWORD, os.environ.pop(PASSWORD, None)
    if file is not None:
        source = f"--password-file {file}"
        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as opened:
                others_read = os.fstat(opened.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH)
                password = opened.readline().rstrip("\r\n")
        except OSError as error:
            raise UserError(
                f"{source}: {error.strerror}; name a file whose first line is the password"
            ) from None
        if others_read:
            print(
                f"warning: {source}: others on this machine can read it; chmod 600 fixes that",
                file=sys.stderr,
                flush=True,
            )
    if password is not None and not password.strip():
        raise UserError(f"{source}: empty; the password must be in its first line")
    return password
