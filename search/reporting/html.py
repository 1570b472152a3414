"""A report as one HTML page, readable offline and printable: nothing is fetched from anywhere.

The figures' library is packed into the page. Only the page's own two scripts may run, whatever a
name or note in it says.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from search.reporting.document import Document, Flag, Table

_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?%?|\d+:\d+|-")


def page(document: Document) -> str:
    """The whole page as text."""
    drawings: dict[str, Any] = {}
    sections = [section for section in document.sections if not section.empty]
    plots = {
        section.key: [_plot(figure, drawings) for figure in section.figures] for section in sections
    }
    script, library = _asset("report.js"), get_plotlyjs() if drawings else ""
    return (
        _environment()
        .get_template("report.html")
        .render(
            document=document,
            sections=sections,
            plots=plots,
            policy=_policy(script, library),
            style=_asset("report.css"),
            drawings=drawings,
            library=_packed(library),
            script=script,
        )
    )


def _environment() -> Environment:
    """Templates in which all text is escaped that is not marked as safe."""
    made = Environment(
        loader=PackageLoader("search.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    made.filters["base64"] = _base64
    made.filters["numeric_columns"] = _numeric_columns
    made.tests["flag"] = lambda cell: isinstance(cell, Flag)
    return made


def _plot(figure: Any, drawings: dict[str, Any]) -> dict[str, Any]:
    """Where a figure is drawn; its content joins `drawings`.

    Title and subtitle become text, which breaks into lines where a drawing's would be cut off.
    """
    drawing = json.loads(figure.to_json())
    layout = drawing["layout"]
    title = layout.pop("title", {})
    # what stood above the axes is gone
    layout["margin"] = {**layout.get("margin", {}), "t": 16}
    name = f"figure-{len(drawings)}"
    drawings[name] = {"data": drawing["data"], "layout": layout}
    return {
        "name": name,
        "height": int(layout.get("height", 360)),
        # plotly's texts are escaped already
        "title": Markup(title.get("text", "")),
        "subtitle": Markup(title.get("subtitle", {}).get("text", "")),
    }


def _numeric_columns(table: Table) -> list[bool]:
    """Whether all cells of a column are numbers, for each column."""
    columns = zip(*table.rows, strict=True)
    numeric = [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]
    return numeric or [False] * len(table.headings)


def _policy(*scripts: str) -> str:
    """What the page may load and run: its own, nothing else."""
    hashes = (_base64(hashlib.sha256(it.encode()).digest()) for it in scripts)
    allowed = " ".join(f"'sha256-{it}'" for it in hashes)
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"
    )


def _asset(name: str) -> str:
    return resources.files("search.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _packed(text: str) -> str:
    # without a time: the same study gives the same page
    return _base64(gzip.compress(text.encode(), 9, mtime=0))
