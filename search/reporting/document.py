"""A report as data: sections of sentences, tables, figures, pictures and commands.

`search.reporting.html` writes it as HTML, `search.reporting.markdown` as Markdown. All text is
plain: the writers escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Flag(str):
    """A cell that asks for attention."""


@dataclass(frozen=True)
class Table:
    """title: what it shows, a few words. sortable: whether a click on a heading sorts it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    sortable: bool = False


@dataclass(frozen=True)
class Picture:
    """A JPEG file's bytes, and its content in words."""

    jpeg: bytes
    alt: str


@dataclass(frozen=True)
class Section:
    """figures: plotly figures whose title and subtitle say what they show."""

    key: str
    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()

    @property
    def empty(self) -> bool:
        return not (self.sentences or self.tables or self.figures or self.pictures or self.commands)


@dataclass(frozen=True)
class Document:
    """facts: label and text, what a reader must know before the rest."""

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
