"""The figures of a study, by the topic of the sentences that they stand beside.

Titles say what a figure shows, subtitles how to read it. `search.reporting.figures.parameters` and
`search.reporting.figures.curves` hold the larger ones.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter

import plotly.graph_objects as go

from search.reporting.figures.curves import curves_figure, schedules_figure
from search.reporting.figures.drawing import (
    BLUE,
    GREY,
    ORANGE,
    add_trials,
    below,
    blank,
    error_bars,
    name_tags,
    points,
    rounded,
    score_range,
    shown,
    whole_numbers,
)
from search.reporting.figures.parameters import (
    balance_figure,
    dice_figure,
    optimisation_figure,
    parameter_figures,
)
from search.results.evidence import Evidence
from search.results.statistics.intervals import interval
from search.results.trials import Outcome, Results
from search.study import lineages


def figures(evidence: Evidence) -> dict[str, go.Figure]:
    """Topic -> figure, where there is something to draw; `parameter NAME` for each that varied."""
    results = evidence.results
    trials = results.scored()
    found = {
        "standing": _scores_figure(results),
        **parameter_figures(evidence),
        "dice": dice_figure(evidence),
        "optimisation": optimisation_figure(results),
        "balance": balance_figure(results),
        "convergence": _convergence_figure(trials),
        "restarts": curves_figure(trials),
        "schedules": schedules_figure(trials),
        "importances": _importance_figure(evidence),
        "classes": _classes_figure(results),
        "pruning": _epochs_figure(trials),
    }
    drawn = {topic: figure for topic, figure in found.items() if figure is not None}
    if results.setup is not None and (score := results.setup.own_score) is not None:
        for figure in drawn.values():
            _name_scores(figure, score)
    return drawn


def _name_scores(figure: go.Figure, score: str) -> None:
    """Call the values on the axes as another program does."""

    def rename(axis: go.layout.YAxis) -> None:
        if axis.title.text in ("best val F", "val F", "F-score"):
            axis.title.text = axis.title.text.replace("val F", score).replace("F-score", score)

    figure.for_each_yaxis(rename)


def _scores_figure(results: Results) -> go.Figure | None:
    trials = sorted(results.scored(), key=lambda one: one.number)
    if len(trials) < 2 or results.imported:
        # imported runs have no order that means anything
        return None
    span = score_range(trials)
    figure = blank(
        "Score of each trial, in their order",
        "full: complete; open: pruned; line: the best so far" + below(trials, span),
        "trial",
        "best val F",
    )
    complete = [one for one in trials if one.complete]
    add_trials(figure, trials, attrgetter("number"))
    best = list(itertools.accumulate((one.value or 0.0 for one in complete), max))
    figure.add_trace(
        go.Scatter(
            x=[one.number for one in complete],
            y=rounded(best),
            mode="lines",
            line={"shape": "hv", "color": ORANGE, "width": 2},
            hoverinfo="skip",
        )
    )
    whole_numbers(figure, trials[-1].number)
    figure.update_yaxes(range=span)
    figure.update_layout(showlegend=False)
    return figure


def _convergence_figure(trials: Sequence[Outcome]) -> go.Figure | None:
    complete = [one for one in trials if one.complete and one.metrics.get("best_epoch")]
    if len(complete) < 2:
        return None
    figure = blank(
        "Convergence epoch against score",
        "complete trials; crosses: still rising at the end; squares: started from the weights of"
        " another run",
        "epoch of the best score",
        "best val F",
    )
    continued = [one for one in complete if one.continued]
    fresh = [one for one in complete if not one.continued]
    for chosen, symbol, colour in (
        ([one for one in fresh if not one.still_rising], "circle", BLUE),
        ([one for one in fresh if one.still_rising], "x", ORANGE),
        (continued, "square-open", GREY),
    ):
        if not chosen:
            continue
        epochs = [one.metrics["best_epoch"] for one in chosen]
        marker = {"symbol": symbol, "color": colour}
        figure.add_trace(points(chosen, epochs, [one.value for one in chosen], marker=marker))
    best = [one.metrics["best_epoch"] for one in complete]
    figure.add_trace(name_tags(complete, best))
    whole_numbers(figure, max(best) - min(best))
    figure.update_layout(showlegend=False)
    return figure


def _importance_figure(evidence: Evidence) -> go.Figure | None:
    found = evidence.importance
    if not found:
        return None
    # the first of a horizontal chart stands at its foot
    names, shares = list(found)[::-1], list(found.values())[::-1]
    figure = blank(
        "Importance of each parameter",
        "share of the variance between the scores of"
        f" {evidence.counted_text(evidence.judged).rstrip(',')} that it explains alone; orange: the"
        " middle 90 % of resampled trials",
        "share",
        "",
        height=130 + 34 * len(names),
    )
    figure.add_trace(
        go.Bar(
            x=rounded(own.value for own in shares),
            y=[shown(name) for name in names],
            orientation="h",
            marker={"color": BLUE},
            error_x={
                **error_bars([own.value for own in shares], shares),
                "color": ORANGE,
            },
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    figure.update_yaxes(type="category")
    return figure


def _classes_figure(results: Results) -> go.Figure | None:
    best = results.best
    if best is None or not best.per_class:
        return None
    complete = [one for one in results.complete() if one.per_class]
    names = list(best.per_class)
    medians = [
        statistics.median(known)
        if (known := [it for one in complete if (it := one.per_class.get(name)) is not None])
        else None
        for name in names
    ]
    figure = blank(
        f"F of each class: {best.name} beside the median",
        f"pooled over the validation part at each trial's best epoch; median of {len(complete)}"
        " complete trials",
        "F-score",
        "",
        height=150 + 24 * len(names),
    )
    labels = [shown(name) for name in names]
    line = {"symbol": "line-ns-open", "size": 11, "color": GREY, "line": {"width": 3}}
    dot = {"symbol": "circle", "size": 9, "color": BLUE}
    for name, values, marker in (
        ("median", medians, line),
        (best.name, [best.per_class[name] for name in names], dot),
    ):
        figure.add_trace(
            go.Scatter(
                x=rounded(values, 4),
                y=labels,
                mode="markers",
                name=shown(name),
                marker=marker,
                hovertemplate="%{y}: %{x:.3f}<extra></extra>",
            )
        )
    figure.update_yaxes(type="category", autorange="reversed", dtick=1)
    return figure


def _epochs_figure(trials: Sequence[Outcome]) -> go.Figure | None:
    if all(one.complete for one in trials):
        return None
    figure = blank("Epochs that each trial was trained", "", "epochs trained", "trials", height=320)
    cut = [one for one in trials if not one.complete]
    for name, chosen, colour in (
        ("complete", [one for one in trials if one.complete], BLUE),
        ("pruned", [one for one in cut if not lineages.diverged(one.row)], GREY),
        ("diverged", [one for one in trials if lineages.diverged(one.row)], ORANGE),
    ):
        counts = Counter(max(one.curve, default=0) for one in chosen)
        if counts:
            epochs = sorted(counts)
            figure.add_trace(
                go.Bar(
                    x=epochs,
                    y=[counts[epoch] for epoch in epochs],
                    name=name,
                    marker={"color": colour},
                    hovertemplate="%{y} after epoch %{x}<extra></extra>",
                )
            )
    figure.update_layout(barmode="stack")
    whole_numbers(figure, max(max(one.curve, default=0) for one in trials))
    return figure


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
