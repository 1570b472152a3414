"""The placeholders of a command line: `python main.py --config {config} --resume {resume}`."""

from __future__ import annotations

import difflib
import shlex
import string
from collections.abc import Mapping

from trainer.errors import UserError

KNOWN = ("config", "out", "seed", "device", "epochs", "resume")


def words_of(command: str) -> list[str]:
    """The words of a command line, no shell involved. Raises UserError for what is misspelt."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--command {command}: {error}: close the quote") from None
    if not words:
        raise UserError('--command: empty; give one, as in "python main.py --config {config}"')
    for word in words:
        placeholders_of(word)
    return words


def placeholders_of(word: str) -> set[str]:
    """Names of the placeholders in a text. Raises UserError for an unknown one."""
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(word) if name is not None}
    except ValueError as error:
        raise UserError(f"--command: {word}: {error}: write {{{{ and }}}} for braces") from None
    for name in found:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
            hint = f"write {{{near[0]}}}" if near else f"there are {', '.join(KNOWN)}"
            raise UserError(
                f"--command: {{{name}}} is no placeholder: {hint}; {{{{ and }}}} stand for braces"
            )
    return found


def filled(words: list[str], values: Mapping[str, str | None]) -> list[str]:
    """The words with their placeholders filled in.

    One whose value is None is left out, and with it the option before it:

    >>> filled(["fit.py", "--resume", "{resume}", "--seed={seed}"], {"resume": None, "seed": "3"})
    ['fit.py', '--seed=3']
    """
    made: list[str] = []
    for word in words:
        names = placeholders_of(word)
        if any(values[name] is None for name in names):
            if word == "{resume}" and made and made[-1].startswith("-"):
                made.pop()
            continue
        made.append(word.format_map(values))
    return made
