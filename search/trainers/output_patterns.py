"""`--score`: a pattern over what a program prints, such as `Epoch {epoch} {any} F: {score}`."""

from __future__ import annotations

import difflib
import re
import string
from collections import deque
from collections.abc import Iterator

from search.trainers.readings import Reading, Readings
from trainer.errors import UserError

_NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?)\b)"
_KNOWN = {"score": f"(?P<score>{_NUMBER})", "epoch": r"(?P<epoch>\d+)", "any": ".*?"}
# colours and other orders to a terminal
_ORDERS = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_ENDS = re.compile(rb"[\r\n]")
# bytes of a line that are looked at, its last ones
_LONGEST = 1 << 13
# a word that says what a number is, not a unit behind one
_WORD = re.compile(r"(?<![\w.])[^\W\d_]{2,}(?!\w)")
# of the lines that came last, in a message
_REMEMBERED, _SHOWN = 5, 200


class OutputPattern:
    """Finds scores in the output of a program, which comes in any pieces.

    pattern: text with {score}, and {epoch} and {any} (whatever stands there) as wanted; all else is
    literal, but a run of blanks matches any. {{ and }} are braces. A line that is drawn over and
    over, by carriage returns, tells once, when it ends, what it told last; with {epoch} also once
    it goes on to the next epoch. Without {epoch} each line that tells is an epoch, unless the last
    word before what matches is another than at first ("Best F-Score" is no "F-Score"). after,
    from_zero: see `Readings`. Raises UserError for a pattern that cannot be read.
    """

    def __init__(self, pattern: str, *, after: int = 0, from_zero: bool = False) -> None:
        self.pattern = pattern
        self._regex, self._literal = _compiled(pattern)
        self._numbered = "epoch" in self._regex.groupindex
        self._rest = b""
        self._drawn: tuple[str | None, str] | None = None
        self._word: str | None = None
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self.readings = Readings(after=after, from_zero=from_zero)

    @property
    def odd(self) -> list[str]:
        """What was passed over, in short."""
        return self.readings.odd

    def feed(self, output: bytes) -> list[Reading]:
        """What a piece of output tells."""
        return list(self._feed(output))

    def end(self) -> list[Reading]:
        """What a last line tells that has no end, once the program has ended."""
        return list(self._feed(b"\n"))

    def why_nothing(self) -> str:
        """Why there is no reading, as one line, with the last lines."""
        lines = "; ".join(repr(line) for line in self._last) or "nothing was printed"
        return f'--score "{self.pattern}": found in no line; the last ones: {lines}'

    def _feed(self, output: bytes) -> Iterator[Reading]:
        text = _ORDERS.sub(b"", self._rest + output)
        start = 0
        # of a flood of other lines, only the last one is looked at
        if self._literal not in text:
            start = max(text.rfind(b"\n", 0, -1), text.rfind(b"\r", 0, -1), -1) + 1
            if b"\n" in text[:start]:
                yield from self._ended()
        for found in _ENDS.finditer(text, start):
            yield from self._drew(text[start : found.start()])
            if found[0] == b"\n":
                yield from self._ended()
            start = found.end()
        self._rest = text[start:][-_LONGEST:]

    def _drew(self, line: bytes) -> Iterator[Reading]:
        """A line as it stands when it ends, or is about to be drawn over."""
        if line and not line.isspace():
            self._last.append(line[-_SHOWN:].decode(errors="replace").strip())
        if self._literal not in line:
            return
        text = line[-_LONGEST:].decode(errors="replace")
        match = self._regex.search(text)
        if match is None:
            return
        if self._numbered:
            if self._drawn is not None and self._drawn[0] != match["epoch"]:
                yield from self._ended()
            self._drawn = match["epoch"], match["score"]
        elif self._is_same(text[: match.start()], text):
            self._drawn = None, match["score"]

    def _ended(self) -> Iterator[Reading]:
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            yield from self.readings.of(*drawn)

    def _is_same(self, before: str, line: str) -> bool:
        """Whether the last word before a match is that before the first one."""
        word = next(reversed(_WORD.findall(before)), "").casefold()
        if self._word is None:
            self._word = word
        if word == self._word:
            return True
        self.readings.pass_over(f"{line.strip()!r}, since {word or 'no word'!r} stands before it")
        return False


def _compiled(pattern: str) -> tuple[re.Pattern[str], bytes]:
    """The pattern, and a word that is in every line that matches."""

    def refused(why: str) -> UserError:
        return UserError(f'--score "{pattern}": {why}')

    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise refused(f"{error}; write {{{{ for a brace") from None
    made, words, seen = "", [""], []
    for literal, name, _, _ in parts:
        made += "".join(
            r"\s+" if piece.isspace() else re.escape(piece) for piece in re.split(r"(\s+)", literal)
        )
        words += literal.split()
        if name is None:
            continue
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.4)
            hint = f"write {{{near[0]}}}" if near else "there are {score}, {epoch} and {any}"
            raise refused(f"no placeholder {{{name}}}; {hint}")
        if name in seen and name != "any":
            raise refused(f"{{{name}}} stands there twice; keep one")
        seen.append(name)
        made += _KNOWN[name]
    if "score" not in seen:
        raise refused('it needs {score}, as in "Val F-Score: {score}"')
    return re.compile(made), max(words, key=len).encode()
