"""The documents of the project, and how a reader finds a place in them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted(
        path
        for folder in ("search", "trainer", "storage", "scripts", "tests")
        for path in (ROOT / folder).rglob("README.md")
    ),
]


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def section(heading: str) -> str:
    """The part of a document below the heading, up to the next heading.

    heading: without the leading #. Raises AssertionError unless exactly one document has it.
    """
    pattern = rf"^#+ {re.escape(heading)}$\n(.*?)(?=^#+ |\Z)"
    found = [
        match.group(1)
        for path in DOCUMENTS
        for match in re.finditer(pattern, path.read_text(encoding="utf-8"), re.M | re.S)
    ]
    assert len(found) == 1, f"{len(found)} documents have the heading {heading!r}"
    return found[0]


def anchors(path: Path) -> set[str]:
    """What a link into the document may name after its #, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
