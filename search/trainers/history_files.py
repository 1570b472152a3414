"""A file in which a program keeps its scores by epoch, in any of the usual forms.

A JSON list of objects, one an epoch; a JSON object of lists, one a figure; lines of JSON; CSV. It
may grow or be written anew at each epoch; what is half written is looked at again.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.trainers.growing_files import GrowingFile, Watched, parsed
from search.trainers.readings import EPOCH_KEYS, Reading, Readings, at, epoch_of, leaves

# of a file's keys, in a message
_NAMED = 8
_BOM = b"\xef\xbb\xbf"
_COMMA = re.compile(r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$")


class HistoryFile:
    """One history. score_key: dotted where it is nested, `val.f_score`. readings: are added to."""

    def __init__(self, path: Path, score_key: str, readings: Readings) -> None:
        self.path = path
        self._score_key = score_key
        self._readings = readings
        self._watched, self._growing = Watched(path), GrowingFile(path)
        self._delimiter, self._headings = ",", [""]
        self._keys: dict[str, None] = {}
        self._before: list[Mapping[str, Any]] = []
        self._half = False

    def new(self, *, ended: bool = False) -> Iterator[Reading]:
        """What has come since the last look. ended: the program has; a last line needs no end."""
        # a program that has ended may have written in the last tick
        if not (self._watched.changed() or ended):
            return
        for row in self._rows(ended):
            if at(row, self._score_key) not in (None, ""):
                yield from self._readings.of_row(row, self._score_key)
            elif not len(self._readings):
                self._keys |= dict.fromkeys(name for name, _ in leaves(row))

    def why_nothing(self) -> str:
        """Why there is no reading, as one line; the nearest keys where the score's is not there."""
        where, keys = f"{self.path}: ", list(self._keys)
        if self._half:
            return where + "what stands there is no whole JSON"
        if not keys or self._score_key in keys:
            return where + ("; ".join(self._readings.odd) or "no epoch stands in it")
        leaf = self._score_key.rpartition(".")[2]
        near = [key for key in keys if key.rpartition(".")[2] == leaf]
        near += difflib.get_close_matches(self._score_key, keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        more = ", ..." if len(keys) > _NAMED else ""
        return (
            f"{where}no {self._score_key!r} in it: {hint}--score-key takes one of"
            f" {', '.join(keys[:_NAMED])}{more}"
        )

    def _rows(self, ended: bool) -> Iterable[Mapping[str, Any]]:
        """The rows to look at: the new lines, or all of a file that is one JSON value."""
        try:
            with self.path.open("rb") as file:
                lines = (line for line in file if line.strip())
                first = next(lines, b"").strip().removeprefix(_BOM)
                if not first:
                    # emptied to be written anew: what it becomes is not known yet
                    return []
                if not first.startswith((b"[", b"{")):
                    return self._of_csv(ended)
                if next(lines, b"").startswith(b"{") and isinstance(parsed(first), Mapping):
                    return self._of_lines(ended)
                file.seek(0)
                data = parsed(file.read())
        except OSError:
            # it was taken away between two looks
            return []
        self._half = data is None
        return [] if self._half else self._of_whole(data)

    # --------------------------------------------------------------------------- files that grow

    def _of_lines(self, ended: bool) -> Iterator[Mapping[str, Any]]:
        lines = self._growing.lines(ended=ended)
        if self._growing.from_start:
            self._readings.begin(len(lines))
        for line in lines:
            row = parsed(line)
            if isinstance(row, Mapping):
                yield row
            else:
                self._readings.pass_over(f"{line.decode(errors='replace')!r} is no JSON object")

    def _of_csv(self, ended: bool) -> Iterator[Mapping[str, Any]]:
        lines = [
            line.decode("utf-8-sig", errors="replace") for line in self._growing.lines(ended=ended)
        ]
        if lines and self._growing.from_start:
            heading = lines.pop(0)
            self._readings.begin(len(lines))
            self._delimiter = max(",;\t", key=heading.count)
            self._headings = [name.strip() for name in self._cells(heading)]
            self._keys |= dict.fromkeys(self._headings)
        for line in lines:
            cells = self._cells(line)
            if len(cells) == len(self._headings):
                yield dict(zip(self._headings, cells, strict=True))
            else:
                self._readings.pass_over(f"{line!r} has not {len(self._headings)} cells")

    def _cells(self, line: str) -> list[str]:
        cells = next(csv.reader([line], delimiter=self._delimiter), [])
        if self._delimiter == ",":
            return cells
        # as spreadsheets write numbers in much of Europe
        return [_COMMA.sub(r"\1.\2", cell) for cell in cells]

    # ------------------------------------------------------------- files that are one JSON value

    def _of_whole(self, data: Any) -> Iterator[Mapping[str, Any]]:
        rows: Sequence[Any] = data if isinstance(data, list) else []
        if isinstance(data, Mapping):
            lists = {name: own for name, own in leaves(data) if isinstance(own, list)}
            first, _, rest = self._score_key.partition(".")
            if self._score_key in lists:
                rows = self._transposed(lists)
            elif rest and isinstance(data.get(first), list):
                # as in `log_history.eval_f1`
                rows = [
                    {**row, self._score_key: at(row, rest)}
                    for row in data[first]
                    if isinstance(row, Mapping)
                ]
            else:
                rows = [data]
        return self._numbered([row for row in rows if isinstance(row, Mapping)])

    def _transposed(self, lists: Mapping[str, list[Any]]) -> list[Mapping[str, Any]]:
        scores = lists[self._score_key]
        given = next((lists[key] for key in EPOCH_KEYS if key in lists), None)
        # one list is written after the other, so that one may be an epoch ahead
        if given is not None and abs(len(given) - len(scores)) > 1:
            self._readings.pass_over(
                f"{len(given)} epochs and {len(scores)} scores: the scores are counted from 1"
            )
            given = None
        if given is not None:
            scores = scores[: len(given)]
        others = {name: own for name, own in lists.items() if name not in EPOCH_KEYS}
        return [
            {
                **{name: own[place] for name, own in others.items() if place < len(own)},
                **({} if given is None else {"epoch": given[place]}),
            }
            for place in range(len(scores))
        ]

    def _numbered(self, rows: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The rows to look at; those with a score that name no epoch are counted from the first."""
        before, self._before = self._before, rows
        if before and rows[: len(before)] == before:
            # the counting goes on as well
            return iter(rows[len(before) :])
        unnamed = [
            row
            for row in rows
            if epoch_of(row) is None and at(row, self._score_key) not in (None, "")
        ]
        if unnamed:
            self._readings.begin(len(unnamed))
        return iter(rows)
