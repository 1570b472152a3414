"""How the figures look, and what they have in common.

Colours hold on light and dark ground; page and dashboard set the text's own. Names are escaped:
plotly reads tags and entities in every text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from optuna.distributions import FloatDistribution, IntDistribution

from search.results.statistics.estimates import Estimate
from search.results.statistics.intervals import Interval
from search.results.trials import Outcome, Results

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b82d6", "#e2762f", "#2a9d78", "#9a66c9", "#8b919a"
BAND = "rgba(226, 118, 47, 0.28)"
_GRID = "rgba(139, 145, 154, 0.25)"
_TEXT = "#7b818a"
# so many complete trials say where the scores of interest lie
_LEAST_FOR_AXIS = 5
# so many of the best trials bear their names
_NAMED = 6
# so many marks cover each other, and what is drawn over them
_CROWD = 200


def shown(text: object) -> str:
    """Text that plotly shows as it is.

    >>> shown("<b> & $x$")
    '&lt;b&gt; &amp; $x$'
    """
    return html.escape(" ".join(str(text).split()), quote=False)


def blank(title: str, subtitle: str, x: str, y: str, *, height: int = 360) -> go.Figure:
    """An empty figure. title: what it shows; subtitle: how to read it, and what it rests on."""
    figure = go.Figure()
    figure.update_layout(
        # without the template's 7 kB in every figure
        template=None,
        title={"text": shown(title), "subtitle": {"text": shown(subtitle)}, "x": 0},
        height=height,
        margin={"l": 60, "r": 16, "t": 64, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": _TEXT},
        # below the axis and its title, however tall the figure
        legend={"orientation": "h", "y": -56 / (height - 112), "yanchor": "top", "x": 0},
        hovermode="closest",
        colorway=[BLUE, ORANGE, GREEN, PURPLE, GREY],
    )
    figure.update_xaxes(title={"text": shown(x), "standoff": 6}, exponentformat="e")
    figure.update_yaxes(title={"text": shown(y), "standoff": 10})
    return styled(figure)


def styled(figure: go.Figure) -> go.Figure:
    """Its axes in the common look; again after axes were added."""
    line = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "automargin": True}
    figure.update_xaxes(**line)
    figure.update_yaxes(**line)
    return figure


def whole_numbers(figure: go.Figure, span: int) -> None:
    """No ticks between two epochs or trials. span: how many the axis shows."""
    if span <= 10:
        figure.update_xaxes(dtick=1)


def rounded(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """Numbers as short as a screen needs them; None where they are no number."""
    return [
        None if it is None or not math.isfinite(it) else round(float(it), digits) for it in values
    ]


def significant(values: Iterable[float]) -> list[float]:
    """Numbers to five figures, for parameters that span decades."""
    return [float(f"{it:.5g}") for it in values]


def points(
    trials: Sequence[Outcome], x: Sequence[Any], y: Sequence[float | None], **options: Any
) -> go.Scatter:
    """A marker a trial, which tells its name and figures where the pointer rests."""
    crowded = {"size": 5, "opacity": 0.4} if len(trials) > _CROWD else {}
    marker = {"size": 7, "color": BLUE, "opacity": 0.75, **options.pop("marker", {}), **crowded}
    return go.Scatter(
        x=list(x),
        y=rounded(y),
        mode="markers",
        marker=marker,
        text=[shown(one.name) for one in trials],
        hovertemplate="%{text}<br>%{x}: %{y:.4f}<extra></extra>",
        **options,
    )


def add_trials(figure: go.Figure, trials: Sequence[Outcome], value: Callable[..., Any]) -> None:
    """A mark for each trial at its `value` and score: full for complete ones, open for pruned."""
    pruned = {"color": GREY, "symbol": "circle-open", "size": 6, "opacity": 0.6}
    for marker, chosen in (
        (pruned, [one for one in trials if not one.complete]),
        ({}, [one for one in trials if one.complete]),
    ):
        if chosen:
            x = [value(one) for one in chosen]
            x = x if isinstance(x[0], (str, int)) else significant(x)
            figure.add_trace(points(chosen, x, [one.value for one in chosen], marker=marker))


def error_bars(middles: Sequence[float], spans: Iterable[Estimate | Interval]) -> dict[str, Any]:
    """Plotly's bars around the middles, out to the ends of their intervals."""
    ends = [(middle, span.low, span.high) for middle, span in zip(middles, spans, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded(high - middle for middle, _, high in ends),
        "arrayminus": rounded(middle - low for middle, low, _ in ends),
    }


def name_tags(trials: Sequence[Outcome], x: Sequence[float]) -> go.Scatter:
    """Names above the markers of the first few trials, each where it covers no other."""
    y = [one.value or 0.0 for one in trials]
    # in pixels of a figure as wide as the page
    across, up = 850 / ((max(x) - min(x)) or 1), 230 / ((max(y) - min(y)) or 1)
    placed: list[tuple[int, float, float, str]] = []
    for i, one in enumerate(trials[:_NAMED]):
        width, left = 6.8 * len(one.name), across * (x[i] - min(x))
        # at either end a name leans inwards
        lean = (left < width / 2) - (left > 850 - width / 2)
        centre = left + lean * width / 2
        if all(
            abs(centre - other) > (width + reach) / 2 or up * abs(y[i] - y[j]) > 14
            for j, other, reach, _ in placed
        ):
            side = {1: "top right", 0: "top center", -1: "top left"}[lean]
            placed.append((i, centre, width, side))
    return go.Scatter(
        x=[x[i] for i, *_ in placed],
        y=rounded(y[i] for i, *_ in placed),
        # an invisible marker keeps the name off the one below
        mode="markers+text",
        marker={"size": 9, "opacity": 0},
        text=[shown(trials[i].name) for i, *_ in placed],
        textposition=[side for *_, side in placed],
        cliponaxis=False,
        hoverinfo="skip",
    )


def score_range(trials: Sequence[Outcome]) -> list[float] | None:
    """Where the scores of interest lie; None without any.

    Trials that were pruned early would press the others flat, and so would a wide interval.
    """
    complete = [one for one in trials if one.complete]
    chosen = complete if len(complete) >= _LEAST_FOR_AXIS else trials
    scores = sorted(one.value for one in chosen if one.value is not None)
    if not scores:
        return None
    low, high = scores[len(scores) // 50], scores[-1]
    room = max(high - low, 1e-3)
    return [low - 0.15 * room, high + 0.1 * room]


def below(trials: Sequence[Outcome], span: Sequence[float] | None) -> str:
    """A word on the trials that lie below the axis."""
    hidden = sum(one.value is not None and one.value < span[0] for one in trials) if span else 0
    return f"; {hidden} lower ones are not shown" if hidden else ""


def on_log_scale(name: str, results: Results) -> bool:
    """Whether a parameter is looked at by its order of magnitude: as it was searched.

    Of imported runs that is not known: then what they span decides.
    """
    values = [one.params[name] for one in results.scored() if name in one.params]
    if any(isinstance(it, str) or it is None or it <= 0 for it in values):
        return False
    for one in results.outcomes:
        known = one.row.distributions.get(name)
        if isinstance(known, (FloatDistribution, IntDistribution)) and known.log:
            return True
    return results.imported and max(values) >= 50 * min(values)
