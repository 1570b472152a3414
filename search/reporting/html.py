"""A report as one HTML page, readable offline and printable: nothing is fetched from anywhere.

The figures' library is packed into the page. Only the page's own two scripts may run, whatever a
name or note in it says.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from search.reporting.document import Document, Flag, Picture, Section, Table

# rows of one table on paper: see the style sheet
_PRINTED = 40
# more columns than this are printed across
_WIDE = 12
# a longer text may be broken in a cell
_LONG = 40
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?%?|\d+:\d+|-")


def page(document: Document) -> str:
    """The whole page as text."""
    drawings: dict[str, Any] = {}
    sections = [one for one in document.sections if not one.empty]
    body = "\n".join(_section(section, drawings) for section in sections)
    script, library = _asset("report.js"), get_plotlyjs() if drawings else ""
    title = html.escape(document.title)
    facts = "".join(
        f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>"
        for label, text in document.facts
    )
    links = "".join(
        f'<li><a href="#{html.escape(one.key)}">{html.escape(one.title)}</a></li>'
        for one in sections
    )
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script, library)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_asset("report.css")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<dl class="facts">{facts}</dl>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<script type="application/json" id="figures">{_inert(drawings)}</script>
<script type="text/plain" id="library">{_packed(library)}</script>
<script>{script}</script>
</body>
</html>
"""


def _policy(*scripts: str) -> str:
    """What the page may load and run: its own, nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(it.encode()).digest()).decode() for it in scripts)
    allowed = " ".join(f"'sha256-{it}'" for it in hashes)
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"
    )


def _asset(name: str) -> str:
    return resources.files("search.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    # without a time: the same study gives the same page
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _inert(content: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ------------------------------------------------------------------------------- parts


def _section(section: Section, drawings: dict[str, Any]) -> str:
    parts = [f'<section id="{html.escape(section.key)}">', f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in section.sentences]
    parts += [f"<pre>{html.escape(command)}</pre>" for command in section.commands]
    if section.figures:
        small = " small" if len(section.figures) > 1 else ""
        drawn = "".join(_figure(figure, drawings) for figure in section.figures)
        parts.append(f'<div class="figures{small}">{drawn}</div>')
    parts += [_picture(picture) for picture in section.pictures]
    parts += [_table(table) for table in section.tables]
    return "\n".join([*parts, "</section>"])


def _figure(figure: Any, drawings: dict[str, Any]) -> str:
    """Title and subtitle as text, which breaks into lines where a drawing's would be cut off."""
    drawing = json.loads(figure.to_json())
    layout = drawing["layout"]
    title = layout.pop("title", {})
    # what stood above the axes has left
    layout["margin"] = {**layout.get("margin", {}), "t": 16}
    name = f"figure-{len(drawings)}"
    drawings[name] = {"data": drawing["data"], "layout": layout}
    # plotly's texts are escaped already
    head, reading = title.get("text", ""), title.get("subtitle", {}).get("text", "")
    height = int(layout.get("height", 360))
    return (
        f"<figure><figcaption><h3>{head}</h3><p>{reading}</p></figcaption>"
        f'<div class="plot" data-figure="{name}" style="height:{height}px" role="img"'
        f' aria-label="{html.escape(html.unescape(head))}">drawn by a script</div></figure>'
    )


def _picture(picture: Picture) -> str:
    content = base64.b64encode(picture.jpeg).decode()
    alt = html.escape(picture.alt)
    return (
        f'<figure><img src="data:image/jpeg;base64,{content}" alt="{alt}">'
        f"<figcaption><p>{alt}</p></figcaption></figure>"
    )


def _table(table: Table) -> str:
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)]
    numeric = numeric or [False] * len(table.headings)
    heads = "".join(
        f'<th scope="col"{_class(number=is_number)}>{_heading(heading, table.sortable)}</th>'
        for heading, is_number in zip(table.headings, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(_cell(cell, is_number) for cell, is_number in zip(row, numeric, strict=True))
        + "</tr>"
        for row in table.rows
    )
    many = len(table.rows) > _PRINTED
    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    note = f'<p class="printed">printed: the first {_PRINTED} of {len(table.rows)} rows</p>'
    kind = _class(scroll=True, many=many, wide=len(table.headings) > _WIDE)
    return (
        f'<div{kind} tabindex="0"><table>{caption}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>" + (note if many else "")
    )


def _heading(text: str, sortable: bool) -> str:
    text = html.escape(text)
    return f'<button type="button">{text}</button>' if sortable else text


def _cell(text: str, is_number: bool) -> str:
    shown = html.escape(text)
    shown = f"<mark>{shown}</mark>" if isinstance(text, Flag) else shown
    return f"<td{_class(number=is_number, long=len(text) > _LONG)}>{shown}</td>"


def _class(**names: bool) -> str:
    held = " ".join(name for name, holds in names.items() if holds)
    return f' class="{held}"' if held else ""


def _is_numeric(column: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(cell) for cell in column)
