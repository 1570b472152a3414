"""A report as Markdown: its text and tables, without figures and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from search.reporting.document import Document, Section, Table
from search.study.wording import _longest_run, escaped


def markdown(document: Document) -> str:
    """The whole report; every name, note and value in it stays text."""
    lines = [f"# {escaped(document.title)}", ""]
    lines += [f"- **{escaped(label)}**: {escaped(text)}" for label, text in document.facts]
    for section in document.sections:
        if parts := body(section):
            lines += ["", f"## {escaped(section.title)}", *parts]
    return "\n".join(lines) + "\n"


def body(section: Section) -> list[str]:
    """Lines of what a section holds, an empty one before each part."""
    parts: list[str] = []
    for sentence in section.sentences:
        # a number and a dot, a dash or a plus at its start would begin a list
        parts += ["", re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escaped(sentence))]
    for table in section.tables:
        parts += _table(table)
    for command in section.commands:
        fence = "`" * max(3, _longest_run(command) + 1)
        parts += ["", f"{fence}sh", command, fence]
    return parts


def _table(table: Table) -> list[str]:
    title = ["", f"**{escaped(table.title)}**"] if table.title else []
    rule = ["---" for _ in table.headings]
    return [
        *title,
        "",
        *(_row(cells) for cells in ([escaped(it) for it in table.headings], rule)),
        *(_row([escaped(cell) for cell in row]) for row in table.rows),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
