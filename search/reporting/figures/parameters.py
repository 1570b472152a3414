"""Score, fit and loss parts along the searched parameters, the Dice weight before all."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import plotly.graph_objects as go

from search.reporting.figures.drawing import (
    BAND,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    add_trials,
    below,
    blank,
    error_bars,
    on_log_scale,
    points,
    rounded,
    score_range,
    shown,
    significant,
    styled,
)
from search.results.evidence import Evidence, smoothed
from search.results.statistics.intervals import interval
from search.results.statistics.smoothing import Smooth, smooth
from search.results.trials import Outcome, Results
from search.study.attributes import F_LARGE, F_SMALL
from search.study.search_space import as_number, format_value
from search.study.wording import counted

# so few distinct values are shown one by one
_FEW = 8
# of two scores the interval is wider than any figure
_LEAST_IN_GROUP = 3
Measure = Callable[[Outcome], float | None]
_dice_weight: Measure = attrgetter("dice_weight")


def parameter_figures(evidence: Evidence) -> dict[str, go.Figure]:
    """Score against each parameter that varied: `parameter NAME` -> figure.

    Bands rest on the complete trials, and on pruned ones at their forecast ends.
    """
    results = evidence.results
    names = dict.fromkeys(name for one in results.scored() for name in one.params)
    found = {f"parameter {name}": _parameter(name, evidence) for name in names}
    return {key: figure for key, figure in found.items() if figure is not None}


def _parameter(name: str, evidence: Evidence) -> go.Figure | None:
    results = evidence.results
    trials = [one for one in results.scored() if one.params.get(name) is not None]
    values = {one.params[name] for one in trials}
    if len(values) < 2:
        return None
    if any(isinstance(value, str) or as_number(value) is None for value in values):
        return _along(name, trials, lambda one: shown(format_value(one.params[name])))
    log = on_log_scale(name, results)
    complete = [one for one in trials if one.complete]
    few = len({one.params[name] for one in complete}) <= _FEW
    # runs chosen by hand changed several things together: no curve takes that apart
    judged = [one for one in evidence.judged if one.params.get(name) is not None]
    curve = None
    if not (few or results.imported):
        curve = smoothed(judged, name, evidence.scores_of, log=log)
    counts = evidence.counted_text(judged)
    return _along(name, trials, lambda one: float(one.params[name]), curve, counts, log=log)


def dice_figure(evidence: Evidence) -> go.Figure | None:
    """Score along the Dice weight, with its optimum and how flat it is."""
    known = [one for one in evidence.results.scored() if _dice_weight(one) is not None]
    if len({_dice_weight(one) for one in known}) < 2:
        return None
    curve = evidence.curve
    judged = [one for one in evidence.judged if _dice_weight(one) is not None]
    counts = evidence.counted_text(judged)
    figure = _along("dice_weight", known, _dice_weight, curve, counts)
    figure.update_layout(height=420)
    if curve is not None:
        figure.update_layout(
            title_subtitle_text=f"{_optimum_text(curve)}; {figure.layout.title.subtitle.text}"
        )
        left, right = curve.flat
        figure.add_vrect(x0=left, x1=right, fillcolor=GREEN, opacity=0.12, line_width=0)
        figure.add_vline(x=curve.best, line={"color": GREEN, "width": 2, "dash": "dash"})
    return figure


def _along(
    name: str,
    trials: Sequence[Outcome],
    value: Callable[[Outcome], Any],
    curve: Smooth | None = None,
    judged: str = "",
    *,
    log: bool = False,
) -> go.Figure:
    """Score along a number, or by the choices of a parameter.

    trials: those that have it. value: text where it is a choice. curve: the local mean, of the
    trials that `judged` counts.
    """
    complete = [one for one in trials if one.complete]
    x = [value(one) for one in complete]
    y = [one.value or 0.0 for one in complete]
    choices = isinstance(value(trials[0]), str)
    grouped = curve is None and (choices or len(set(x)) <= _FEW)
    span, count = score_range(trials), counted(len(complete), "complete trial")
    if curve is not None:
        reading = f"line and band: local mean of {judged.rstrip(',')}, its 95 % interval"
        reading += ", linear effects of the other parameters taken out" if curve.cleared else ""
    elif grouped:
        reading = _groups_reading(x)
    else:
        reading = f"{count}, too few or chosen by hand: no band"
    figure = blank(
        f"Score against {name}", reading + below(trials, span), name, "best val F", height=320
    )
    add_trials(figure, trials, value)
    if curve is not None:
        _add_band(figure, curve, ORANGE, BAND)
    elif grouped:
        _add_groups(figure, x, y)
    if choices:
        figure.update_xaxes(type="category")
    elif log:
        values = [value(one) for one in trials]
        # within a decade or two the ticks between are needed
        wide = max(values) > 100 * min(values)
        figure.update_xaxes(type="log", dtick=1 if wide else None)
    figure.update_yaxes(range=span)
    figure.update_layout(showlegend=False)
    return figure


def _optimum_text(curve: Smooth) -> str:
    low, high = curve.best_span
    left, right = curve.flat
    return (
        f"highest at {curve.best:.2f} (dashed; 95 % of resamples: {low:.2f} to {high:.2f});"
        f" shaded, {left:.2f} to {right:.2f}: cannot be told from it"
    )


def _groups_reading(values: Sequence[Any]) -> str:
    if not values:
        return "no trial is complete: only pruned ones are shown"
    if max(Counter(values).values()) < _LEAST_IN_GROUP:
        return f"{len(values)} complete, fewer than {_LEAST_IN_GROUP} at each value: no intervals"
    return (
        "diamonds: mean of the complete trials at a value and its 95 % interval, where there are"
        f" {_LEAST_IN_GROUP}; they differ in all else"
    )


def _add_groups(figure: go.Figure, x: Sequence[Any], y: Sequence[float]) -> None:
    groups: dict[Any, list[float]] = {}
    for value, score in zip(x, y, strict=True):
        groups.setdefault(value, []).append(score)
    spans = {
        value: interval(scores) if len(scores) >= _LEAST_IN_GROUP else None
        for value, scores in groups.items()
    }
    known = {value: span for value, span in spans.items() if span is not None}
    if not known:
        return
    means = [statistics.fmean(groups[value]) for value in known]
    figure.add_trace(
        go.Scatter(
            x=list(known),
            y=rounded(means),
            error_y=error_bars(means, known.values()),
            mode="markers",
            marker={"symbol": "diamond", "size": 10, "color": ORANGE},
            text=[f"mean of {len(groups[value])}" for value in known],
            hovertemplate="%{text}: %{y:.4f}<extra></extra>",
        )
    )


def _add_band(
    figure: go.Figure, curve: Smooth, colour: str, band: str | None, **options: Any
) -> None:
    x = significant(curve.x)
    if band is not None:
        figure.add_trace(
            go.Scatter(
                x=[*x, *x[::-1]],
                y=[*rounded(curve.high), *rounded(curve.low[::-1])],
                fill="toself",
                fillcolor=band,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                **options,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=rounded(curve.mean),
            mode="lines",
            line={"color": colour, "width": 2.5},
            hoverinfo="skip",
            showlegend=False,
            **options,
        )
    )


# ------------------------------------------------------------------------------- several measures


def optimisation_figure(results: Results) -> go.Figure | None:
    """Train F, validation F and the parts of the loss at the best epoch, by Dice weight."""
    trials = results.scored()
    scores: dict[str, Measure] = {
        "train F": lambda one: one.metric("train_f_at_best"),
        "val F": lambda one: one.metric("best_val_f"),
    }
    losses = {"train CE": _at_best("train_ce"), "train Dice": _at_best("train_dice")}
    scores = {name: measure for name, measure in scores.items() if _varies(trials, measure)}
    losses = {name: measure for name, measure in losses.items() if _varies(trials, measure)}
    if "train F" not in scores and not losses:
        return None
    rows = [(title, own) for title, own in (("F-score", scores), ("loss", losses)) if own]
    figure = blank(
        "Fit to the training data by Dice weight",
        "each complete trial at its best epoch; a low train F means the optimisation fell short, a"
        f" wide gap that it did not carry over{_lines_text(results)}",
        "dice_weight",
        rows[0][0],
        height=300 * len(rows),
    )
    for number, (title, measures) in enumerate(rows):
        axis = "y" if number == 0 else "y2"
        _add_measures(figure, results, _dice_weight, measures, yaxis=axis)
        if len(rows) == 2:
            low, high = ((0.56, 1.0), (0.0, 0.44))[number]
            figure.update_layout(
                {f"yaxis{axis[1:]}": {"domain": [low, high], "title": {"text": title}}}
            )
    figure.update_xaxes(anchor=axis)
    return styled(figure)


def balance_figure(results: Results) -> go.Figure | None:
    """F of large and of small parts against the share of Dice in the loss."""
    trials = results.scored()
    parts: dict[str, Measure] = {
        "large parts (background, skin, hair)": lambda one: as_number(one.attrs.get(F_LARGE)),
        "small parts (eyes, brows, nose, lips, mouth)": lambda one: as_number(
            one.attrs.get(F_SMALL)
        ),
    }
    if not any(_varies(trials, measure, dice_share) for measure in parts.values()):
        return None
    figure = blank(
        "CE:Dice ratio against large and small parts",
        f"pooled F of each complete trial at its best epoch{_lines_text(results)}",
        "share of Dice in the loss, % (60 is CE:Dice 40:60)",
        "F-score",
    )
    _add_measures(figure, results, dice_share, parts)
    return figure


def dice_share(one: Outcome) -> float | None:
    """Per cent of the loss's weights that Dice has."""
    return None if one.ce_share is None else 100 * (1 - one.ce_share)


def _lines_text(results: Results) -> str:
    return "" if results.imported else "; the lines are local means"


def _add_measures(
    figure: go.Figure,
    results: Results,
    value: Measure,
    measures: dict[str, Measure],
    **options: Any,
) -> None:
    colours = [BLUE, ORANGE] if options.get("yaxis", "y") == "y" else [GREEN, PURPLE]
    for (name, measure), colour in zip(measures.items(), colours, strict=False):
        chosen = _with_both(results.scored(), value, measure)
        if not chosen:
            continue
        x = [value(one) or 0.0 for one in chosen]
        y = [measure(one) or 0.0 for one in chosen]
        marker = {"color": colour, "size": 6, "opacity": 0.6}
        figure.add_trace(points(chosen, significant(x), y, name=name, marker=marker, **options))
        curve = None if results.imported else smooth(np.array(x), np.array(y))
        if curve is not None:
            _add_band(figure, curve, colour, None, **options)


def _with_both(trials: Sequence[Outcome], value: Measure, measure: Measure) -> list[Outcome]:
    return [
        one
        for one in trials
        if one.complete and value(one) is not None and measure(one) is not None
    ]


def _varies(trials: Sequence[Outcome], measure: Measure, value: Measure = _dice_weight) -> bool:
    return len({value(one) for one in _with_both(trials, value, measure)}) >= 2


def _at_best(name: str) -> Measure:
    return lambda one: one.series.get(name, {}).get(one.metrics.get("best_epoch") or 0)
