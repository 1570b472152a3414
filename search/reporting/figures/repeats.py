"""The figure of configurations that were repeated with fresh seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from search.reporting.figures.drawing import BLUE, ORANGE, blank, error_bars, rounded, shown
from search.results.statistics.intervals import interval


def repeats_figure(scores: Mapping[str, Sequence[float]], looks: int = 1) -> go.Figure | None:
    """Every score and the mean's interval of each repeated configuration; None without scores.

    looks: how often the scores were to be looked at, see
    `search.results.statistics.intervals.interval`.
    """
    known = {label: list(of) for label, of in scores.items() if of}
    if not known:
        return None
    # the first of a horizontal chart stands at its foot
    ordered = sorted(known, key=lambda label: statistics.fmean(known[label]))
    figure = blank(
        "Repeated with fresh seeds",
        "points: one seed each; diamonds: mean and 95 % interval",
        "score",
        "",
        height=140 + 44 * len(ordered),
    )
    for label in ordered:
        figure.add_trace(
            go.Scatter(
                x=rounded(known[label]),
                y=[shown(label)] * len(known[label]),
                mode="markers",
                marker={"color": BLUE, "size": 7, "opacity": 0.6},
                hovertemplate="%{x:.4f}<extra></extra>",
            )
        )
    spans = {label: interval(known[label], looks=looks) for label in ordered}
    known_spans = {label: span for label, span in spans.items() if span is not None}
    means = [span.mean for span in known_spans.values()]
    figure.add_trace(
        go.Scatter(
            x=rounded(means),
            y=[shown(label) for label in known_spans],
            error_x=error_bars(means, known_spans.values()),
            mode="markers",
            marker={"color": ORANGE, "symbol": "diamond", "size": 10},
            hovertemplate="mean %{x:.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(type="category")
    figure.update_layout(showlegend=False)
    return figure
